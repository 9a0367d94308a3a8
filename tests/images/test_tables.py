"""Tables of images: every layout that is met, and no file of one that spoils the rest."""

import csv
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import lookalike
from helpers.small import small_network
from lookalike import Index, images
from lookalike.cli import app
from lookalike.errors import ImageError, LookalikeError
from lookalike.images.inputs.listing import read_listing, write_inputs
from lookalike.images.inputs.location import locate
from lookalike.images.inputs.scan import ScannedFile
from lookalike.images.inputs.source import Source
from lookalike.images.inputs.spark_tables import read_only, table_frames
from lookalike.images.inputs.tables import ROWS, inspect_files, read_parts, shards
from lookalike.images.synthetic import DrawnCollection
from lookalike.ingest import Options, build_index
from lookalike.ingest.export import write_embeddings
from lookalike.spark import session, short_error

NANOS = pa.timestamp("ns")
PHOTOS = [bytes([65 + at]) * (at + 1) for at in range(6)]
WHOLE = pa.table({"image": pa.array(PHOTOS, pa.binary())})


def rows_of(source: Source, folder: Path, *, content: bool = True) -> dict[str, dict[str, Any]]:
    """Read a table as Spark's tasks do, and each cell once more as a query does."""
    listing = folder / "listing.parquet"
    write_inputs(shards(source), listing)
    files = [row for batch in read_listing(listing) for row in batch.to_pylist()]
    parts = [row for batch in inspect_files(source, files) for row in batch.to_pylist()]
    batches = list(read_parts(source, parts, content=content))
    rows = pa.Table.from_batches(batches, ROWS).to_pylist()
    found = {row["path"]: row for row in rows}
    assert len(found) == len(rows), "each row once"
    for path, row in found.items() if content else ():
        if row["reason"] is None:
            assert images.read(source, path) == row["content"]
        else:
            with pytest.raises(ImageError):
                images.read(source, path)
    return found


def contents(rows: dict[str, dict[str, Any]]) -> dict[str, bytes]:
    return {path: row["content"] for path, row in rows.items() if row["reason"] is None}


def labels(rows: dict[str, dict[str, Any]]) -> list[str | None]:
    return [row["label"] for row in rows.values()]


def write(file: Path, column: pa.Array = WHOLE["image"], **others: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": column, **others}), file)
    return file


@pytest.mark.parametrize(
    ("given", "files"),
    [
        ("", ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"]),
        ("", ["T.PARQUET"]),
        ("", ["t.parquet.gzip", "u.parquet.snappy", "v.parq", "w.pq"]),
        ("T.PARQUET", ["T.PARQUET"]),
        ("t.parquet.gzip", ["t.parquet.gzip"]),
        ("data/*.parquet", ["data/a.parquet", "data/b.parquet"]),
        ("data/train-*.parquet", ["data/train-0.parquet"]),
        ("*/*.parquet", ["one/a.parquet", "two/a.parquet"]),
        ("**/*.parquet", ["one/two/a.parquet", "three/b.parquet"]),
        ("", ["label=cat/x.parquet", "label=dog/x.parquet"]),
        ("", ["a b+c%41#1é.parquet", "x/y z/[1].parquet"]),
        ("[1].parquet", ["[1].parquet"]),
    ],
)
def test_where_tables_lie(tmp_path: Path, given: str, files: list[str]) -> None:
    for file in files:
        write(tmp_path / "t" / file)
    if "train-*" in given:
        write(tmp_path / "t/data/test-0.parquet")
    # What Spark leaves beside its files, and what a repository has beside its data.
    for name in ("_SUCCESS", "README.md", ".x.parquet.crc", "_delta_log/0.checkpoint.parquet"):
        (tmp_path / "t" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "t" / name).write_bytes(b"")
    source = locate(tmp_path / "t" / given)
    assert source.kind == "table"
    wanted: dict[str, bytes] = {}
    for file in files:
        name = os.path.relpath(tmp_path / "t" / file, source.root).replace("%", "%25")
        wanted |= {f"{name}#{row}": photo for row, photo in enumerate(PHOTOS)}
    assert contents(rows_of(source, tmp_path)) == wanted


def test_several_files_are_one_table(tmp_path: Path) -> None:
    files = [write(tmp_path / "t" / name) for name in ("a/x.parquet", "b/x.PARQUET")]
    source = locate(files)
    assert (source.kind, source.root, source.names) == (
        "table",
        str(tmp_path / "t"),
        ("a/x.parquet", "b/x.PARQUET"),
    )
    assert len(rows_of(source, tmp_path)) == 12
    with pytest.raises(LookalikeError, match="images and tables are given"):
        locate([*files, tmp_path / "x.png"])
    with pytest.raises(LookalikeError, match="give their folder, or a glob in quotes"):
        locate([tmp_path / f"{at}.parquet" for at in range(1000)])


def test_a_table_beside_images_is_answered(tmp_path: Path) -> None:
    write(tmp_path / "data" / "x.parquet")
    assert locate(tmp_path).kind == "table"
    (tmp_path / "logo.png").write_bytes(b"")
    with pytest.raises(LookalikeError, match="holds images and a table of images") as caught:
        locate(tmp_path)
    assert "\n" not in str(caught.value)
    assert '`image_column="image"`' in str(caught.value)
    assert locate(tmp_path, image_column="image").kind == "table"
    assert locate(f"{tmp_path}/*.png").kind == "files"
    shutil.rmtree(tmp_path / "data")
    pq.write_table(pa.table({"file_name": ["logo.png"]}), tmp_path / "metadata.parquet")
    assert locate(tmp_path).kind == "files", "a table of no images, beside images"


VECTORS = {
    "list of vectors": pa.list_(pa.float32()),
    "large list of vectors": pa.large_list(pa.float32()),
    "fixed list of vectors": pa.list_(pa.float32(), 2),
}


def bad_shards(folder: Path) -> dict[str, str]:
    """Write a bad file of each kind; return what its reason says."""
    whole = write(folder / "whole.parquet").read_bytes()
    (folder / "empty.parquet").write_bytes(b"")
    (folder / "footer.parquet").write_bytes(whole[:-20])
    (folder / "half.parquet").write_bytes(whole[: len(whole) // 2])
    (folder / "magic.parquet").write_bytes(b"PAR1" * 3)
    (folder / "zeros.parquet").write_bytes(bytes(len(whole)))
    (folder / "text.parquet").write_text("id,image\n1,x.png\n")
    os.mkfifo(folder / "pipe.parquet")
    (folder / "link.parquet").symlink_to("nowhere.parquet")
    write(folder / "string.parquet", pa.array(["a", "b"]))
    write(folder / "int.parquet", pa.array([1, 2]))
    write(folder / "list.parquet", pa.array([[1], [2]]))
    write(folder / "struct.parquet", pa.array([{"data": b"x"}]))
    pq.write_table(pa.table({"picture": PHOTOS}), folder / "lacks.parquet")
    for name, kind in VECTORS.items():
        pq.write_table(pa.table({"v": pa.array([[1.0, 2.0]], kind)}), folder / f"{name}.parquet")
    return {
        **dict.fromkeys(
            ["empty", "footer", "half", "magic", "zeros", "text"], "not a complete Parquet file"
        ),
        "pipe": "not a regular file",
        "link": "broken link",
        "string": "holds string, no image bytes",
        "int": "holds int64, no image bytes",
        "list": "no image bytes",
        "struct": "no image bytes",
        "lacks": "no column 'image', it has picture",
        **dict.fromkeys(VECTORS, "with image_column, or vectors with embedding_column"),
    }


@pytest.mark.parametrize("content", [True, False])
def test_a_bad_file_is_a_reason_and_the_rest_is_read(tmp_path: Path, content: bool) -> None:
    wanted = bad_shards(tmp_path / "t")
    # No rows are no fault.
    write(tmp_path / "t" / "none.parquet", pa.array([], pa.binary()))
    rows = rows_of(locate(tmp_path / "t"), tmp_path, content=content)
    good = [f"whole.parquet#{row}" for row in range(len(PHOTOS))]
    reasons = {path: row["reason"] for path, row in rows.items() if row["reason"]}
    assert sorted(rows) == sorted([*good, *(f"{name}.parquet" for name in wanted)])
    for name, words in wanted.items():
        assert words in reasons[f"{name}.parquet"]
        assert reasons[f"{name}.parquet"].isprintable()


def test_a_damaged_page_costs_its_own_rows(tmp_path: Path) -> None:
    file = tmp_path / "t" / "x.parquet"
    file.parent.mkdir()
    cells = [bytes(np.random.default_rng(at).integers(0, 256, 500, np.uint8)) for at in range(30)]
    table = pa.table({"image": cells, "label": [str(at) for at in range(30)]})
    pq.write_table(table, file, row_group_size=10, compression="zstd", use_dictionary=False)
    start = pq.ParquetFile(file).metadata.row_group(1).column(0).data_page_offset
    damaged = bytearray(file.read_bytes())
    damaged[start + 5 : start + 2000] = bytes(1995)
    file.write_bytes(damaged)
    rows = rows_of(locate(file.parent, label_column="label"), tmp_path)
    assert len(rows) == 30
    lost = [path for path, row in rows.items() if row["reason"]]
    assert lost == [f"x.parquet#{row}" for row in range(10, 20)]
    assert contents(rows) == {
        f"x.parquet#{at}": cell for at, cell in enumerate(cells) if not 10 <= at < 20
    }


KINDS: dict[str, pa.Array] = {
    "binary": pa.array([*PHOTOS, None], pa.binary()),
    "large binary": pa.array([*PHOTOS, None], pa.large_binary()),
    "view": pa.array([*PHOTOS, None], pa.binary_view()),
    "dictionary": pa.array([*PHOTOS, None], pa.binary()).dictionary_encode(),
    "struct": pa.array(
        [*({"bytes": photo, "path": f"{photo[:1]!r}.jpg"} for photo in PHOTOS), None],
        pa.struct({"bytes": pa.binary(), "path": pa.string()}),
    ),
    "struct of views": pa.array(
        [*({"path": None, "bytes": photo} for photo in PHOTOS), {"path": None, "bytes": None}],
        pa.struct({"path": pa.string_view(), "bytes": pa.binary_view()}),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("codec", ["none", "snappy", "gzip", "zstd"])
def test_however_bytes_are_stored(tmp_path: Path, kind: str, codec: str) -> None:
    (tmp_path / "t").mkdir()
    # A time in nanoseconds is what Spark refuses a whole table for.
    seen = pa.array([1] * 7, NANOS)
    table = pa.table({"seen": seen, "image": KINDS[kind], "label": [*"abcdef", None]})
    rows_a_group = 7 if "views" in kind else 2  # which Arrow does not write in parts
    file = tmp_path / "t/x.parquet"
    pq.write_table(table, file, row_group_size=rows_a_group, compression=codec)
    rows = rows_of(locate(tmp_path / "t", label_column="label"), tmp_path)
    assert contents(rows) == {f"x.parquet#{row}": photo for row, photo in enumerate(PHOTOS)}
    assert rows["x.parquet#6"]["reason"] == "empty cell"
    assert labels(rows) == [*"abcdef", None]


def test_a_row_group_of_many_rows(tmp_path: Path) -> None:
    cells = [b"%d" % at for at in range(10_000)]
    write(tmp_path / "t/x.parquet", pa.array(cells))
    source = locate(tmp_path / "t")
    shards = [{"path": "x.parquet", "size": None, "modified": None, "reason": None}]
    (looked,) = inspect_files(source, shards)
    batches = list(read_parts(source, looked.to_pylist(), content=True))
    assert [cell.as_py() for batch in batches for cell in batch["content"]] == cells
    assert max(batch.num_rows for batch in batches) <= 64
    assert images.read(source, "x.parquet#9999") == b"9999"


READ = r"""
import re, sys
from lookalike.images.inputs.parquet_shard import Shard
from lookalike.images.inputs.file_opening import open_file
with open_file(sys.argv[1]) as file:
    rows = sum(cells.rows for cells in Shard(file, "image").cells(0))
peak = re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())
print(rows, int(peak[1]) // 1024)
"""


@pytest.mark.parametrize("encoding", ["RLE_DICTIONARY", "DELTA_BYTE_ARRAY"])
def test_pages_that_unpack_to_more_than_they_say(tmp_path: Path, encoding: str) -> None:
    """Cells of 8 MB, all alike: some kB in the file, 256 MB where all are unpacked at once."""
    cells: pa.Array = pa.array([bytes(2**23)] * 32, pa.binary())
    how: dict[str, Any] = {"use_dictionary": False, "column_encoding": {"image": encoding}}
    if encoding == "RLE_DICTIONARY":
        cells, how = cells.dictionary_encode(), {"dictionary_pagesize_limit": 2**30}
    file = tmp_path / "x.parquet"
    table = pa.table({"image": cells})
    pq.write_table(table, file, compression="zstd", store_schema=False, **how)
    assert file.stat().st_size < 100_000
    done = subprocess.run([sys.executable, "-c", READ, file], capture_output=True, text=True)
    rows, megabytes = map(int, done.stdout.split())
    assert rows == 32
    assert megabytes < 330, done


@pytest.mark.parametrize(
    "column", ["meta.image", "`meta.image`", "meta.pictures.image", "`meta`.`pictures`.image"]
)
@pytest.mark.parametrize("struct", [False, True])
def test_names_with_dots(tmp_path: Path, column: str, struct: bool) -> None:
    cells = [{"bytes": photo, "path": "x"} for photo in PHOTOS] if struct else PHOTOS
    other = [b"another"] * 6
    if "pictures" in column:
        meta = [{"pictures": {"image": c, "kind": k}} for c, k in zip(cells, "abcdef", strict=True)]
        table, label = pa.table({"image": other, "meta": meta}), "meta.pictures.kind"
    else:  # a column of that name counts more than a field in another
        nested = [{"image": b"nested", "kind": kind} for kind in "abcdef"]
        table, label = pa.table({"meta": nested, "meta.image": cells, "n": other}), "meta.kind"
    (tmp_path / "t").mkdir()
    pq.write_table(table, tmp_path / "t/x.parquet")
    source = locate(tmp_path / "t", image_column=column, label_column=label)
    rows = rows_of(source, tmp_path)
    assert list(contents(rows).values()) == PHOTOS
    assert labels(rows) == [*"abcdef"]


def hugging_face(features: str) -> dict[bytes, bytes]:
    return {b"huggingface": b'{"info": {"features": {%s}}}' % features.encode()}


OWLS = '"label": {"names": ["cat", "dog", "owl"], "_type": "ClassLabel"}'


@pytest.mark.parametrize(
    ("column", "metadata", "wanted"),
    [
        (pa.array([2, 0, None, -1, 7]), OWLS, ["owl", "cat", None, None, "7"]),
        (pa.array([2, 0, None, 1, 1], pa.uint8()), OWLS, ["owl", "cat", None, "dog", "dog"]),
        (pa.array([2, 0, 1, 1, 1]), '"label": {"_type": "Value"}', [*"20111"]),
        (pa.array([2, 0, 1, 1, 1]), '"label": {"names": [1, 2]}', [*"20111"]),
        (pa.array([2, 0, 1, 1, 1]), '"label": ' + "[" * 100_000, [*"20111"]),
        (pa.array(["owl", " cat ", "", None, "2"]), OWLS, ["owl", "cat", None, None, "2"]),
        (pa.array([1.0, float("nan"), 2.5, None, 3]), "", ["1", None, "2.5", None, "3"]),
        (pa.array([b"owl", b"\xff", None, b"", b"a"]), "", ["owl", "\ufffd", None, None, "a"]),
        (pa.array(["a", "b", "a", None, "b"]).dictionary_encode(), "", ["a", "b", "a", None, "b"]),
        (pa.array([True, False, None, True, True]), "", ["true", "false", None, "true", "true"]),
    ],
)
def test_labels_of_a_column(
    tmp_path: Path, column: pa.Array, metadata: str, wanted: list[str | None]
) -> None:
    (tmp_path / "t").mkdir()
    table = pa.table({"image": PHOTOS[:5], "label": column})
    pq.write_table(table.replace_schema_metadata(hugging_face(metadata)), tmp_path / "t/x.parquet")
    for content in (True, False):
        source = locate(tmp_path / "t", label_column="label")
        assert labels(rows_of(source, tmp_path, content=content)) == wanted


def test_labels_of_folders(tmp_path: Path) -> None:
    for name in ("cat", "a%20dog%2Fwolf", "__HIVE_DEFAULT_PARTITION__"):
        write(tmp_path / f"t/split=train/label={name}/x.parquet", pa.array([b"x"]))
    for content in (True, False):
        rows = rows_of(locate(tmp_path / "t", label_column="label"), tmp_path, content=content)
        found = {path.split("/")[1]: row["label"] for path, row in rows.items()}
        assert found == {
            "label=__HIVE_DEFAULT_PARTITION__": None,
            "label=a%2520dog%252Fwolf": "a dog/wolf",
            "label=cat": "cat",
        }
    one = locate(tmp_path / "t/split=train/label=cat", label_column="label")
    assert labels(rows_of(one, tmp_path)) == ["cat"]


def test_labels_of_different_types(tmp_path: Path) -> None:
    for at, kind in enumerate((pa.int32(), pa.int64(), pa.string(), pa.float64())):
        write(tmp_path / f"t/{at}.parquet", pa.array([b"x"]), label=pa.array([7]).cast(kind))
    write(tmp_path / "t/4.parquet", pa.array([b"x"]))
    write(tmp_path / "t/5.parquet", pa.array([b"x"]), label=[[1]])
    rows = rows_of(locate(tmp_path / "t", label_column="label"), tmp_path)
    assert labels(rows) == ["7", "7", "7", "7", None, None]
    assert "no labels: choose another" in rows["5.parquet"]["reason"]


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    """A folder with a table of names of files, some of which lie in it."""
    folder = tmp_path / "t"
    (folder / "data/images").mkdir(parents=True)
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "t-secret.png").write_bytes(b"secret")
    (folder / "data/images/a.png").write_bytes(b"beside the table")
    (folder / "root.png").write_bytes(b"below the root")
    (folder / "link.png").symlink_to("root.png")
    return folder


def named(folder: Path, names: Sequence[str | None], *, only: bool = False) -> Source:
    cells = [{"path": name} if only else {"bytes": None, "path": name} for name in names]
    kind = {} if only else {"bytes": pa.binary()}
    write(folder / "data/x.parquet", pa.array(cells, pa.struct({**kind, "path": pa.string()})))
    return locate(folder, image_column="image")


@pytest.mark.parametrize("only", [False, True])
def test_cells_that_name_files(beside: Path, tmp_path: Path, only: bool) -> None:
    inside = ["images/a.png", "root.png", "../root.png", f"{beside}/root.png", "link.png"]
    source = named(beside, [*inside, "gone.png", None, "images"], only=only)
    rows = rows_of(source, tmp_path)
    beside_it, below = b"beside the table", b"below the root"
    assert [*contents(rows).values()] == [beside_it, below, below, below, below]
    reasons = [row["reason"] for row in rows.values()][5:]
    assert reasons == ["no such file", "empty cell", "not a regular file"]


def test_no_cell_names_a_file_outside(beside: Path, tmp_path: Path) -> None:
    outside = ["../../secret.png", f"{tmp_path}/secret.png", f"{beside}/../secret.png"]
    outside += [
        f"{beside}-secret.png",
        f"file://{tmp_path}/secret.png",
        "images/../../../secret.png",
    ]
    outside += ["http://127.0.0.1/x.png", "\0", "/etc/passwd"]
    rows = rows_of(named(beside, outside), tmp_path)
    assert len(rows) == len(outside)
    assert {row["content"] for row in rows.values()} == {None}
    assert {row["reason"] for row in rows.values()} == {
        "its cell names a file outside the folder of the table"
    }
    # The same of a URI, to which no listing led.
    for root in (f"file://{beside}", f"file://{beside}/data/x.parquet"):
        source = Source("table", root, ("",), "image")
        for row in range(len(outside)):
            with pytest.raises(ImageError, match="outside the folder of the table"):
                images.read(source, f"file:{beside}/data/x.parquet#{row}")
    named(beside, ["images/a.png"])
    for root in (f"file://{beside}", f"file://{beside}/data/x.parquet"):
        source = Source("table", root, ("",), "image")
        assert images.read(source, f"file:{beside}/data/x.parquet#0") == b"beside the table"


# On Spark, into an index.


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Options:
    return replace(small_network(tmp_path_factory.mktemp("network")), spark=None)


@pytest.fixture(scope="module")
def photos(drawn: DrawnCollection) -> list[bytes]:
    return [path.read_bytes() for path in sorted(drawn.photos.rglob("*.jpg"))[:6]]


def shown(index: Index) -> dict[str, bytes]:
    """Read what an index has again, as its pages and thumbnails do."""
    source = index._table.source
    paths = [row["path"] for s in index._table.segments for row in s.rows.to_pylist()]
    return {path: images.read(source, path) for path in paths}


def label_of(index: Index) -> dict[str, str | None]:
    return {row["path"]: row["label"] for s in index._table.segments for row in s.rows.to_pylist()}


@pytest.mark.parametrize("uri", [False, True], ids=["folder", "uri"])
def test_a_table_with_bad_files_is_indexed(
    tmp_path: Path, photos: list[bytes], uri: bool, small: Options
) -> None:
    folder = tmp_path / "a t"
    wanted = bad_shards(folder)
    (folder / "whole.parquet").unlink()
    label = pa.array([0, 1], pa.int32())
    for name, kind in {"cat": pa.int32(), "a dog": pa.int64()}.items():
        file = folder / f"kind={name}" / "x+1%41#é.PARQUET"
        write(file, pa.array(photos[:2]), label=label.cast(kind), seen=pa.array([1, 2], NANOS))
    given = f"file://{folder}" if uri else folder
    options = replace(small, image_column="image", label_column="label", spark=True)
    stored, report = build_index(given, tmp_path / "x.index", options)
    assert (report.images, report.skipped) == (4, len(wanted))
    reasons = {path.rpartition("/")[2]: reason for path, reason in stored.skipped()}
    assert sorted(reasons) == sorted(f"{name}.parquet" for name in wanted)
    assert all(words in reasons[f"{name}.parquet"] for name, words in wanted.items())
    index = Index(stored)
    before = f"file:{folder}/" if uri else ""
    names = [
        f"{before}kind={kind}/x+1%2541#é.PARQUET#{r}" for kind in ("a dog", "cat") for r in (0, 1)
    ]
    assert shown(index) == dict(zip(names, photos[:2] * 2, strict=True))
    assert label_of(index) == dict(zip(names, "0101", strict=True))


def test_a_file_that_is_whole_later_is_taken_then(
    tmp_path: Path, photos: list[bytes], small: Options
) -> None:
    folder, out = tmp_path / "t", tmp_path / "x.index"
    write(folder / "a.parquet", pa.array(photos[:2]))
    whole = write(folder / "b.parquet", pa.array(photos[2:4])).read_bytes()
    (folder / "b.parquet").write_bytes(whole[:-9])
    for step in (lookalike.create_index, lookalike.create_index):  # the second time nothing is new
        index = step(folder, out, **vars(small))
        assert (len(index), index._table.counts()) == (2, (2, 1))
        assert index._table.version == 0
    (folder / "b.parquet").write_bytes(whole)
    done = index.add(folder, **vars(small))
    assert (done.new, done.same, index._table.counts()) == (2, 2, (4, 0))
    assert list(shown(index).values()) == photos[:4]
    # Half written once more, its rows are not gone; of other columns, they are.
    (folder / "b.parquet").write_bytes(whole[:-9])
    done = index.sync(**vars(small))
    assert (done.new, done.removed, index._table.counts()) == (1, 0, (4, 1))
    pq.write_table(pa.table({"picture": photos}), folder / "b.parquet")
    done = index.sync(**vars(small))
    assert (done.changed, done.removed, index._table.counts()) == (1, 2, (2, 1))
    (folder / "b.parquet").unlink()
    assert index.sync(**vars(small)).removed == 1
    assert index._table.counts() == (2, 0)


def test_a_table_of_nothing_is_an_error(tmp_path: Path, small: Options) -> None:
    bad_shards(tmp_path / "t")
    (tmp_path / "t/whole.parquet").unlink()
    (tmp_path / "none").mkdir()
    write(tmp_path / "rowless/x.parquet", pa.array([], pa.binary()))
    for given, words in {
        "t": r"no image can be read from .*t: empty.parquet: unreadable: not a complete",
        "none": "no Parquet files in",
        "rowless": "it has no rows",
        "t/int.parquet": "int.parquet: column 'image' holds int64, no image bytes: choose another",
    }.items():
        options = replace(small, image_column="image")
        for build in (build_index, write_embeddings):
            with pytest.raises(LookalikeError, match=words) as caught:
                build(tmp_path / given, tmp_path / "out", options)
            assert "\n" not in str(caught.value)
            assert len(str(caught.value)) < 500
    assert not (tmp_path / "out").exists()


def test_a_file_system_that_no_store_has(tmp_path: Path, small: Options) -> None:
    options = replace(small, image_column="image", spark=True)
    with pytest.raises(LookalikeError, match=r"unknown store viewfs://: choose file://, s3://"):
        build_index("viewfs://tables/data", tmp_path / "x.index", options)
    assert not (tmp_path / "x.index").exists()


def test_an_error_of_spark_is_one_line() -> None:
    java = "An error occurred while calling o101.load.\n: java.lang.RuntimeException: "
    java += "java.lang.ClassNotFoundException: Class x.S3A not found\n\tat x.Y(Z.java:27)\n"
    java += "Caused by: java.lang.ClassNotFoundException: Class x.S3A not found\n\tat x.Y(Z.java)"
    python = (
        "\nCaused by: org.apache.spark.api.python.PythonException: Traceback (most recent call "
    )
    python += (
        'last):\n  File "x.py", line 1, in task\nValueError: no such thing\n\n\tat x.Y(Z.java)'
    )
    for said, wanted in {
        "[PATH_NOT_FOUND] Path does not exist: file:/x\n+- Plan": "[PATH_NOT_FOUND] Path does not "
        "exist: file:/x",
        java: "java.lang.ClassNotFoundException: Class x.S3A not found",
        java + python: "ValueError: no such thing",
        "": "Exception",
    }.items():
        assert short_error(Exception(said)) == wanted


def test_only_files_with_wanted_rows_are_read(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write(tmp_path / f"t/{name}.parquet")
    (tmp_path / "t/d.parquet").write_text("no table")
    frame = table_frames(session(), locate(tmp_path / "t"), tmp_path).images
    found = (ScannedFile(path) for path in ("b.parquet#3", "d.parquet"))
    write_inputs(found, tmp_path / "wanted.parquet")
    read_only(tmp_path / "wanted.parquet", tmp_path)
    rows = frame.collect()
    assert {row["path"].split("#")[0] for row in rows} == {"b.parquet", "d.parquet"}
    assert [row["content"] for row in rows] == [*PHOTOS, None]


@pytest.mark.parametrize("names", [["train-*.parquet"], ["train-0.parquet", "train-1.parquet"]])
def test_what_an_index_was_made_of_is_looked_at_again(
    tmp_path: Path, photos: list[bytes], small: Options, names: list[str]
) -> None:
    for name in ("train-0", "train-1", "test-0"):
        write(tmp_path / f"t/{name}.parquet", pa.array([photos[0]]))
    index = lookalike.create_index(
        [tmp_path / "t" / n for n in names], tmp_path / "x.index", **vars(small)
    )
    assert (len(index), index.sync(**vars(small)).same) == (2, 2)
    write(tmp_path / "t/train-2.parquet", pa.array([photos[1]]))
    assert index.sync(**vars(small)).new == (1 if len(names) == 1 else 0)
    (tmp_path / "t/train-1.parquet").unlink()
    if len(names) == 1:
        assert index.sync(**vars(small)).removed == 1
    else:
        with pytest.raises(LookalikeError, match=r"no such table: .*train-1\.parquet"):
            index.sync(**vars(small))
        assert len(index) == 2


def test_the_command_line_takes_globs_and_says_what_is_skipped(
    tmp_path: Path, photos: list[bytes], small: Options
) -> None:
    write(tmp_path / "data/train-0.parquet", pa.array(photos[:2]), label=["a", "b"])
    (tmp_path / "data/train-1.parquet").write_text("no table")
    write(tmp_path / "data/test-0.parquet", pa.array(photos))
    command = ["embed", f"{tmp_path}/data/train-*.parquet", "--out", str(tmp_path / "x.csv")]
    command += [
        "--label-column",
        "label",
        "--model",
        str(small.model),
        "--weights",
        str(small.weights),
    ]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "2 images embedded" in done.output
    assert "1 skipped" in done.output
    with (tmp_path / "x.csv").open(newline="") as file:
        assert [row[:2] for row in csv.reader(file)][1:] == [
            ["train-0.parquet#0", "a"],
            ["train-0.parquet#1", "b"],
        ]
    skipped = (tmp_path / "x.csv.skipped.csv").read_text()
    assert "train-1.parquet" in skipped
    assert "not a complete Parquet file" in skipped
