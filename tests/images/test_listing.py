"""Local images listed, labelled and sampled without Spark: the same as with it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lookalike import LookalikeError, images
from lookalike.images.inputs import folder_entries
from lookalike.images.inputs.label_matching import LabelCounts
from lookalike.images.inputs.labels import open_labels
from lookalike.images.inputs.listing import (
    IMAGE,
    LISTING,
    label_images,
    list_images,
    read_listing,
    sample_paths,
    write_inputs,
)
from lookalike.images.inputs.spark_reader import _labels_of
from lookalike.spark import local_uri, session

FILES = (
    "100%.jpg",
    "a b.jpg",
    "a.jpg",
    "one/d.jpg",
    "one/same.jpg",
    "sub/%2541.jpg",
    "sub/b.jpg",
    "sub/c.jpg",
    "sub/deep/e.jpg",
    "top.jpg",
    "two/same.jpg",
    "two\nlines/f\n.jpg",
    "under/top.jpg",
    "Å/日本.jpg",
)
BROKEN = "sub/gone.jpg"

Outcome = tuple[list[dict[str, Any]], int] | str


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which names matter; nobody looks into the files."""
    root = tmp_path_factory.mktemp("photos")
    for name in FILES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (root / BROKEN).symlink_to("nowhere.jpg")
    return root


def with_spark(photos: Path, given: Path | None, staging: Path) -> Outcome:
    """Label a listing as what only Spark can read is labelled."""
    list_images(images.locate(photos), staging / "list")
    frame, done = session().read.parquet(local_uri(staging / "list")), LabelCounts()
    if given is not None:
        try:
            by_path, done = _labels_of(frame, open_labels(given), staging, str(photos))
            frame = frame.drop("label").join(by_path, "path", "left")
        except LookalikeError as error:
            return str(error)
    rows = frame.select(*LISTING.names).collect()
    return sorted((row.asDict() for row in rows), key=lambda row: int(row["id"])), done.unused


def without_spark(photos: Path, given: Path | None, staging: Path) -> Outcome:
    list_images(images.locate(photos), staging / "list")
    done = LabelCounts()
    if given is not None:
        try:
            done = label_images(staging / "list", one_by_one(open_labels(given)), str(photos))
        except LookalikeError as error:
            return str(error)
    return pq.read_table(staging / "list").to_pylist(), done.unused


def one_by_one(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Cut batches into single rows: what belongs together must be found across them."""
    return (batch.slice(row, 1) for batch in batches for row in range(batch.num_rows))


@pytest.mark.parametrize(
    ("text", "wanted", "unused"),
    [
        pytest.param(None, {}, 0, id="no labels"),
        pytest.param(
            "a.jpg,red\nb.jpg,007\n日本.jpg,Citroën\n",
            {"a.jpg": "red", "sub/b.jpg": "007", "Å/日本.jpg": "Citroën"},
            0,
            id="names",
        ),
        pytest.param(
            "./a.jpg,red\nsub//b.jpg,tan\nsub/deep/e.jpg,blue\n",
            {"a.jpg": "red", "sub/b.jpg": "tan", "sub/deep/e.jpg": "blue"},
            0,
            id="paths",
        ),
        pytest.param(
            "b.jpg,name\nsub/b.jpg,path\none/d.jpg,path\nd.jpg,name\n",
            {"sub/b.jpg": "path", "one/d.jpg": "path"},
            0,
            id="a path counts more than a name",
        ),
        pytest.param(
            "deep/e.jpg,red\ne.jpg,blue\n", {"sub/deep/e.jpg": "blue"}, 1, id="half a path"
        ),
        pytest.param(
            "a.jpg,red\nb.jpg,tan\na.jpg,red\nnone.jpg,x\nnone.jpg,x\n",
            {"a.jpg": "red", "sub/b.jpg": "tan"},
            1,
            id="the same twice",
        ),
        pytest.param(
            "one/same.jpg,red\ntwo/same.jpg,blue\ntop.jpg,tan\nunder/top.jpg,tan\n",
            {
                "one/same.jpg": "red",
                "two/same.jpg": "blue",
                "top.jpg": "tan",
                "under/top.jpg": "tan",
            },
            0,
            id="names of two, by their paths",
        ),
        pytest.param(
            "same.jpg,blue\none/same.jpg,red\n",
            {"one/same.jpg": "red", "two/same.jpg": "blue"},
            0,
            id="a name of two, one by its path",
        ),
        pytest.param(
            "same.jpg,x\none/same.jpg,red\ntwo/same.jpg,blue\n",
            {"one/same.jpg": "red", "two/same.jpg": "blue"},
            0,
            id="a name of two, both by their paths",
        ),
        pytest.param(
            "none.jpg,x\none/a.jpg,x\nA.jpg,x\na.JPG,x\nsub,x\na.jpg,red\n",
            {"a.jpg": "red"},
            5,
            id="unused",
        ),
        pytest.param(
            '100%.jpg,red\na b.jpg,blue\n%2541.jpg,tan\n"f\n.jpg","two\nlines"\n100%25.jpg,x\n',
            {
                "100%25.jpg": "red",
                "a b.jpg": "blue",
                "sub/%252541.jpg": "tan",
                "two%0Alines/f%0A.jpg": "two\nlines",
            },
            1,
            id="odd names",
        ),
        pytest.param(
            '"two\nlines/f\n.jpg",red\nsub/%2541.jpg,tan\n',
            {"two%0Alines/f%0A.jpg": "red", "sub/%252541.jpg": "tan"},
            0,
            id="odd paths",
        ),
        pytest.param("gone.jpg,red\n", {BROKEN: "red"}, 0, id="a broken link"),
        pytest.param(
            "SUB\\B.jpeg,red\nA\u030a/日本,tan\n ONE/Same.jpg, blue \nc,1.0\nA.JPG,nan\n",
            {"sub/b.jpg": "red", "Å/日本.jpg": "tan", "one/same.jpg": "blue", "sub/c.jpg": "1.0"},
            0,
            id="by parts of names",
        ),
        pytest.param(
            "/elsewhere/pics/one/d.jpg,1.0\n/elsewhere/pics/sub/deep/e.png,NaN\n/e/a.jpg,2\n",
            {"one/d.jpg": "1", "a.jpg": "2"},
            0,
            id="in other folders",
        ),
    ],
)
@pytest.mark.long
def test_labels_as_with_spark(
    photos: Path, tmp_path: Path, text: str | None, wanted: dict[str, str], unused: int
) -> None:
    given = None if text is None else label_file(tmp_path, text)
    outcome = without_spark(photos, given, tmp_path)
    assert outcome == with_spark(photos, given, tmp_path)
    assert not isinstance(outcome, str)
    rows, count = outcome
    assert {row["path"]: row["label"] for row in rows if row["label"] is not None} == wanted
    assert count == unused
    assert [row["id"] for row in rows] == list(range(len(FILES) + 1))
    assert {row["path"]: row["reason"] for row in rows if row["reason"]} == {BROKEN: "broken link"}
    for row in rows:
        if row["path"] != BROKEN:
            status = (photos / images.decode_path(row["path"])).stat()
            assert (row["size"], row["modified"]) == (0, status.st_mtime_ns)


NAMES = ("a/1.jpg", "a/2.JPG", "b/1.jpg", "b/3.png", "b/3.jpg", "Zoë.webp", "x.y.jpg", "k\\l.jpg")


@pytest.mark.parametrize(
    ("text", "wanted", "unused", "loose", "missing"),
    [
        ("A/1.JPG,x\na/2.jpg,y\n", {"a/1.jpg": "x", "a/2.JPG": "y"}, 0, 0, 0),
        ("a\\1.jpg,x\n.\\B\\1.jpg,y\n", {"a/1.jpg": "x", "b/1.jpg": "y"}, 0, 0, 0),
        ("zoe\u0308.webp,x\n", {"Zoë.webp": "x"}, 0, 0, 0),
        ("ZOË,x\nx.y,y\nk/l,z\n", {"Zoë.webp": "x", "x.y.jpg": "y", "k\\l.jpg": "z"}, 0, 3, 0),
        ("root/a/1.jpg,x\nroot/b/1.jpg,y\n", {"a/1.jpg": "x", "b/1.jpg": "y"}, 0, 0, 0),
        ("/the/root/a/1.jpg,x\nfile:///the/root/b/1.jpg,y\n", "a/1.jpg=x b/1.jpg=y", 0, 0, 0),
        ("./../root/a/1.jpg,x\n../b/1.jpg,y\n", "a/1.jpg=x b/1.jpg=y", 0, 0, 0),
        ("c:\\my pics\\a\\1.jpg,x\nc:\\my pics\\b\\1.jpg,y\n", "a/1.jpg=x b/1.jpg=y", 0, 2, 0),
        ("s3://old/a/1,x\ns3://old/b/1,y\n", "a/1.jpg=x b/1.jpg=y", 0, 2, 0),
        # Several photos, several labels: neither.
        ("2,x\n1.JPEG,y\n3,z\n", "a/2.JPG=x", 2, 1, 0),
        ("B/3.PNG,x\nb/3.webp,y\n", "b/3.png=x b/3.jpg=y", 0, 1, 0),
        ("A/2.jpg,x\na/2.jpG,y\na/1,x\nA/1,x\n", "a/1.jpg=x", 2, 2, 0),
        ("p/a/1.jpg,x\nq/a/1.jpg,y\np/b/1.jpg,z\n", "b/1.jpg=z", 2, 1, 0),
        # Other folders count only where nothing else does.
        ("p/a/1.jpg,x\nb/1.jpg,y\n", "b/1.jpg=y", 1, 0, 0),
        # What a table of numbers makes of labels.
        ("a/1,1.0\na/2,2.\nb/1,3\nZoë,nan\n", "a/1.jpg=1 a/2.JPG=2 b/1.jpg=3", 0, 3, 1),
        ("a/1,1.0\na/2,2.50\nb/1,-1e3\nZoë,NA\n", "a/1.jpg=1 a/2.JPG=2.50 b/1.jpg=-1e3", 0, 3, 1),
        ("a/1,1.0\na/2,v2\nb/1,NA\n", "a/1.jpg=1.0 a/2.JPG=v2 b/1.jpg=NA", 0, 3, 0),
        ("a/1,None\na/2,v2\nb/1,null\n", "a/1.jpg=None a/2.JPG=v2 b/1.jpg=null", 0, 3, 0),
        ("a/1,007\na/2,7\nb/1,<NA>\nZoë,NaN\n", "a/1.jpg=007 a/2.JPG=7", 0, 2, 2),
        ("a/1,1.0\na/2,Nan\nb/1,naN\nZoë,2", "a/1.jpg=1 Zoë.webp=2", 0, 2, 2),
        # A word, not a number that is missing.
        ("a/1,Nan\na/2,pita\nb/1,NaN\nZoë,<na>", "a/1.jpg=Nan a/2.JPG=pita Zoë.webp=<na>", 0, 3, 1),
        ("a/1,nan\na/2,pita\nb/1,NAN\nZoë,<NA>", "a/2.JPG=pita", 0, 1, 3),
        ("a/1, red \na/1,red\na/2,re\u0301d", "a/1.jpg=red a/2.JPG=réd", 0, 2, 0),
    ],
)  # fmt: skip
def test_names_that_are_alike(
    tmp_path: Path, text: str, wanted: dict[str, str] | str, unused: int, loose: int, missing: int
) -> None:
    if isinstance(wanted, str):
        wanted = dict(part.split("=") for part in wanted.split(" "))
    (tmp_path / "root").mkdir()
    listing = tmp_path / "list"
    write_inputs(map(images.ScannedFile, NAMES), listing)
    done = label_images(listing, one_by_one(open_labels(label_file(tmp_path, text))), "/the/root")
    rows = pq.read_table(listing).to_pylist()
    assert {row["path"]: row["label"] for row in rows if row["label"] is not None} == wanted
    assert done == LabelCounts(unused, loose, missing)
    assert [row["path"] for row in rows] == list(NAMES)


def test_labels_of_other_photos(tmp_path: Path) -> None:
    """Of a few photos among many: there a label file may well name none of them."""
    listing, given = tmp_path / "list", label_file(tmp_path, "c.jpg,x\nd.jpg,x\n")
    write_inputs(iter([images.ScannedFile("b.jpg")]), listing)
    counts = label_images(listing, open_labels(given), "/", allow_unmatched=True)
    assert counts == LabelCounts(unused=2)
    with pytest.raises(LookalikeError, match=r"labels name 'c\.jpg', images are 'b\.jpg'"):
        label_images(listing, open_labels(given), "/")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(
            "b.jpg,red\na.jpg,red\nb.jpg,tan\na.jpg,blue\na.jpg,red\n",
            "2 names in the label file have more than one label: keep one: a.jpg, b.jpg",
            id="two labels",
        ),
        pytest.param(
            "a.jpg,red\nnone.jpg,red\nnone.jpg,blue\n",
            "1 name in the label file has more than one label: keep one: none.jpg",
            id="two labels for no photo",
        ),
        pytest.param(
            "b.jpg,red\nb.jpg,blue\nsub/b.jpg,tan\n",
            "1 name in the label file has more than one label: keep one: b.jpg",
            id="two labels for a photo labelled by its path",
        ),
        pytest.param(
            "same.jpg,red\n",
            "1 name in the label file fits several photos: give paths instead: same.jpg",
            id="two photos",
        ),
        pytest.param(
            "none.jpg,x\ncars/none.jpg,x\n",
            "no label is of an image here: labels name 'cars/none.jpg', images are '100%25.jpg': "
            "set `image_name` to the column of names, or leave `labels` out",
            id="no photo",
        ),
        pytest.param(
            "SAME,red\nNONE,blue\n",
            "1 name in the label file fits several photos: give paths instead: SAME",
            id="two photos without extension, and nothing else",
        ),
        pytest.param(
            "a.jpg,nan\nb.jpg,NaN\n",
            "the label file holds no labels: leave `labels` out or choose another file",
            id="no labels",
        ),
        pytest.param(
            "top.jpg,red\nsame.jpg,red\none/d.jpg,x\n",
            "2 names in the label file fit several photos: give paths instead: same.jpg, top.jpg",
            id="two photos, of one it is the path",
        ),
        pytest.param(
            "same.jpg,red\nnone.jpg,red\nsame.jpg,blue\n",
            "1 name in the label file has more than one label: keep one: same.jpg",
            id="two labels and two photos",
        ),
        pytest.param(
            "".join(f"{name}.jpg,red\n{name}.jpg,blue\n" for name in "zé%c\U0001f697bZ\uff5ea"),
            "9 names in the label file have more than one label: keep one: "
            "%25.jpg, Z.jpg, a.jpg, b.jpg, c.jpg, ...",
            id="many",
        ),
        pytest.param(
            "".join(f"{name}.jpg,red\n{name}.jpg,blue\n" for name in "\U0001f697\uff5eéz"),
            "4 names in the label file have more than one label: keep one: "
            "z.jpg, é.jpg, \uff5e.jpg, \U0001f697.jpg",
            id="in the order of code points",
        ),
    ],
)
@pytest.mark.long
def test_errors_as_with_spark(photos: Path, tmp_path: Path, text: str, message: str) -> None:
    given = label_file(tmp_path, text)
    assert without_spark(photos, given, tmp_path) == message
    assert with_spark(photos, given, tmp_path) == message


def label_file(folder: Path, rows: str) -> Path:
    path = folder / "labels.csv"
    path.write_text("image,Class\n" + rows, encoding="utf-8")
    return path


def write_listing(folder: Path, rows: int, reason_every: int = 0, group: int = 1500) -> Path:
    """Write a listing as `list_images` does, in several row groups."""
    ids = range(rows)
    reasons = ["broken link" if reason_every and i % reason_every == 0 else None for i in ids]
    columns = {
        "id": list(ids),
        "path": [f"x/{i:06}.jpg" for i in ids],
        "label": [None] * rows,
        "reason": reasons,
        "size": [1000 + i for i in ids],
        "modified": [10**18 + i for i in ids],
    }
    path = folder / "listing.parquet"
    pq.write_table(pa.table(columns, schema=LISTING), path, row_group_size=group)
    return path


def test_batches(tmp_path: Path) -> None:
    listing = write_listing(tmp_path, 5000, reason_every=7)
    names = [f"{row:06}.jpg" for row in range(0, 6000, 2)]
    labels = pa.record_batch({"name": names, "label": [f"of {name}" for name in names]})
    assert label_images(listing, one_by_one(iter([labels])), "/x") == LabelCounts(unused=500)
    given = list(read_listing(listing))
    assert all(batch.schema == IMAGE and batch.num_rows <= 1024 for batch in given)
    rows = [row for batch in given for row in batch.to_pylist()]
    assert [row["id"] for row in rows] == list(range(5000))
    for at, row in enumerate(rows):
        assert row["path"] == f"x/{at:06}.jpg"
        assert row["label"] == (None if at % 2 else f"of {at:06}.jpg")
        assert row["reason"] == (None if at % 7 else "broken link")
        assert (row["size"], row["modified"], row["content"]) == (1000 + at, 10**18 + at, None)


# A part for each of Spark's tasks.


@pytest.mark.parametrize(("rows", "parts"), [(5000, 1), (5000, 3), (5000, 7), (3, 3), (2, 5)])
@pytest.mark.parametrize("group", [1500, 5000])
def test_parts(tmp_path: Path, rows: int, parts: int, group: int) -> None:
    listing = write_listing(tmp_path, rows, reason_every=7, group=group)
    given = [list(read_listing(listing, part, parts)) for part in range(parts)]
    sizes = [sum(batch.num_rows for batch in part) for part in given]
    assert max(sizes) - min(sizes) <= 1
    batches = [batch for part in given for batch in part]
    assert all(batch.schema == IMAGE and 0 < batch.num_rows <= 1024 for batch in batches)
    assert pa.Table.from_batches(batches) == pa.Table.from_batches(read_listing(listing))


def test_a_part_reads_only_its_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = write_listing(tmp_path, 6000, group=1500)
    read = pq.ParquetFile.read_row_group
    groups: list[int] = []

    def counted(file: pq.ParquetFile, group: int) -> pa.Table:
        groups.append(group)
        return read(file, group)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    assert sum(batch.num_rows for batch in read_listing(listing, 1, 3)) == 2000
    assert groups == [1, 2]


# A sample.


@pytest.mark.parametrize("group", [1500, 5000, 65_536])
def test_sample(tmp_path: Path, group: int) -> None:
    listing = write_listing(tmp_path, 70_000, reason_every=3, group=group)
    sample = sample_paths(listing, 1000)
    assert len(sample) == 1000
    assert sample == sorted(set(sample))
    ids = np.array([int(path[2:8]) for path in sample])
    assert (ids % 3 > 0).all()
    assert abs(ids.mean() - 35_000) < 3000  # four deviations: from everywhere
    assert sample == sample_paths(listing, 1000)
    assert sample != sample_paths(listing, 1000, seed=1)


def test_every_input_has_its_chance(tmp_path: Path) -> None:
    listing = write_listing(tmp_path, 12, reason_every=4, group=5)
    drawn = [path for seed in range(600) for path in sample_paths(listing, 3, seed)]
    paths, counts = np.unique(drawn, return_counts=True)
    assert len(paths) == 9
    assert ((counts > 140) & (counts < 260)).all()  # of 200, and five deviations


@pytest.mark.parametrize("count", [9, 10, 1000])
def test_a_sample_of_all(tmp_path: Path, count: int) -> None:
    listing = write_listing(tmp_path, 12, reason_every=4, group=5)
    assert sample_paths(listing, count) == [f"x/{i:06}.jpg" for i in range(12) if i % 4]


def test_a_sample_of_none(tmp_path: Path) -> None:
    assert sample_paths(write_listing(tmp_path, 12), 0) == []
    assert sample_paths(write_listing(tmp_path, 12, reason_every=1), 5) == []


def test_a_sample_of_real_files(photos: Path, tmp_path: Path) -> None:
    list_images(images.locate(photos), tmp_path / "list")
    sample = sample_paths(tmp_path / "list", 100)
    assert sorted(sample) == sorted(images.encode_path(name) for name in FILES)


def test_a_folder_of_any_size_is_listed_in_order(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names that memory does not hold are sorted on disk: odd ones, links and folders too."""
    wanted = list(images.walk(images.locate(photos)))
    assert len(wanted) == len(FILES) + 1
    for most in (1, 2, 3, 5):
        monkeypatch.setattr(folder_entries, "MAX_SORTED_ENTRIES", most)
        assert list(images.walk(images.locate(photos))) == wanted
