"""Building: every input is accounted for, tables read back the same, nothing is left half done."""

import csv
import hashlib
import io
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from helpers.bad_inputs import write_bad_inputs, write_odd_but_good
from helpers.command import run
from helpers.processes import calibrating
from lookalike import ImageEmbedder, Index, LookalikeError, images, lsh, models
from lookalike.images.decoding.preprocessing import DEFAULT
from lookalike.images.inputs.labels import open_labels
from lookalike.images.inputs.listing import label_images, list_images
from lookalike.images.synthetic import DrawnCollection
from lookalike.ingest import Options, Report, build_index, discover_changes, embedding, spark_job
from lookalike.ingest import embedding as running
from lookalike.ingest.export import export_csv, write_embeddings
from lookalike.ingest.options import prepare
from lookalike.ingest.receipts import DiskReceipts, receipts_in
from lookalike.ingest.spark_job import sample_of_frame
from lookalike.ingest.wave_sizes import image_wave, vector_wave
from lookalike.models import SAMPLE_IMAGES, Model, quantization
from lookalike.models.runtimes import processor
from lookalike.search.engines import Engine
from lookalike.search.query import random_query
from lookalike.spark import session
from lookalike.storage import EmbeddingTable, SegmentRecord
from lookalike.storage.remote import open_copy
from lookalike.system.defaults import WAVE_IMAGES
from lookalike.system.progress import OnProgress

GOOD = 50
HEADER = ["image", "label", *(f"e{i}" for i in range(512))]
LABELS = {  # as CSV, pandas and Spark like them least
    "one/same.jpg": 'said "one", twice',
    "two/same.jpg": "two\nlines",
    'it\'s "quoted", twice.jpg': "Citroën",
    "nowhere.jpg": "unused",
}

Build = Callable[..., object]
Rows = list[tuple[str, str | None, npt.NDArray[np.float32]]]


@dataclass(frozen=True)
class Mixed:
    """A folder with good pictures beside inputs of every bad kind, by encoded path."""

    folder: Path
    good: list[str]
    bad: dict[str, str]


def some_photos(drawn: DrawnCollection, count: int, folder: Path) -> Path:
    """Copy the first few drawn photos into a new folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for photo in sorted(drawn.photos.rglob("*.jpg"))[:count]:
        shutil.copy(photo, folder / photo.name)
    return folder


def vectors_of(stored: EmbeddingTable) -> dict[str, npt.NDArray[np.float32]]:
    """Return all embeddings by path."""
    return {
        path: vector
        for segment in stored.segments
        for path, vector in zip(segment.rows["path"].to_pylist(), segment.vectors, strict=True)
    }


def tree(folder: Path) -> dict[str, bytes | None]:
    """Return all that lies in a folder, hidden or not, with its content."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def mix(drawn: DrawnCollection, count: int, folder: Path) -> Mixed:
    """Make a folder with `count` good pictures, the odd ones among them."""
    bad, odd = write_bad_inputs(folder), write_odd_but_good(folder)
    some_photos(drawn, count - len(odd), folder)
    return Mixed(folder, odd + sorted(path.name for path in folder.glob("0*.jpg")), bad)


@pytest.fixture(scope="module")
def mixed(drawn: DrawnCollection, tmp_path_factory: pytest.TempPathFactory) -> Mixed:
    return mix(drawn, GOOD, tmp_path_factory.mktemp("mixed") / "photos")


@pytest.mark.parametrize("road", ["python", "command line"])
def test_every_input_is_embedded_or_has_its_reason(mixed: Mixed, tmp_path: Path, road: str) -> None:
    out = tmp_path / "cars.index"
    if road == "python":
        report = build_index(mixed.folder, out, Options(spark=False))[1]
        assert (report.images, report.skipped) == (GOOD, len(mixed.bad))
    else:
        done = run("index", mixed.folder, "--out", out, "--no-spark")
        assert done.code == 0, done.err
        assert f"{GOOD} images embedded" in done.err
        assert f"{len(mixed.bad)} skipped" in done.err
        assert "Traceback" not in done.err
    assert os.listdir(tmp_path) == ["cars.index"]
    stored = EmbeddingTable.open(out)
    assert stored.counts() == (GOOD, len(mixed.bad))
    assert sorted(vectors_of(stored)) == sorted(mixed.good)
    skipped = list(stored.skipped())
    assert sorted(path for path, _ in skipped) == sorted(mixed.bad)
    assert {path: reason for path, reason in skipped if mixed.bad[path] not in reason} == {}


@pytest.mark.parametrize(
    "spark", [False, pytest.param(True, marks=pytest.mark.long)], ids=["loop", "spark"]
)
def test_progress_says_how_many_were_skipped(
    mixed: Mixed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spark: bool
) -> None:
    shown: list[tuple[int, int | None, str]] = []

    @contextmanager
    def line(text: str, unit: str = "") -> Iterator[OnProgress]:
        yield lambda done, total, note="": shown.append((done, total, note))

    monkeypatch.setattr(spark_job if spark else running, "progress_line", line)
    build_index(mixed.folder, tmp_path / "cars.index", Options(spark=spark))
    total = GOOD + len(mixed.bad)
    assert shown[-1] == (total, total, f"{len(mixed.bad)} skipped")


# Steps 3 and 4: tables.


@dataclass(frozen=True)
class Table:
    """A CSV file of embeddings, and what it was made from."""

    mixed: Mixed
    path: Path
    report: Report


@pytest.fixture(scope="module")
def table(drawn: DrawnCollection, tmp_path_factory: pytest.TempPathFactory) -> Table:
    folder = tmp_path_factory.mktemp("table")
    small, out = mix(drawn, 24, folder / "photos"), folder / "out" / "cars.csv"
    labels = folder / "labels.csv"
    with labels.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "Class"), *LABELS.items()])
    options = Options(labels=labels, spark=False)
    return Table(small, out, write_embeddings(small.folder, out, options))


def read_by_csv(path: Path) -> Rows:
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == HEADER
    return [(row[0], row[1] or None, np.array(row[2:], np.float32)) for row in rows]


def read_by_pandas(path: Path) -> Rows:
    frame = pd.read_csv(path, dtype={"image": str, "label": str}, float_precision="round_trip")
    assert list(frame.columns) == HEADER
    numbers = frame[HEADER[2:]].to_numpy(np.float32)
    labels = [None if pd.isna(label) else str(label) for label in frame["label"]]
    return list(zip(map(str, frame["image"]), labels, numbers, strict=True))


def read_by_spark(path: Path) -> Rows:
    frame = lsh.read_embeddings(session(), path)
    assert frame.columns == HEADER
    return [(row[0], row[1], np.array(row[2:], np.float32)) for row in frame.collect()]


def test_csv_has_a_row_an_image_in_the_order_of_paths(table: Table) -> None:
    mixed, report, rows = table.mixed, table.report, read_by_csv(table.path)
    paths = [path for path, _, _ in rows]
    assert paths == sorted(mixed.good, key=images.decode_path)
    wanted = {name: LABELS.get(name) for name in mixed.good}
    assert {path: label for path, label, _ in rows} == wanted
    counts = (report.images, report.skipped, report.unused_labels)
    assert counts == (len(mixed.good), len(mixed.bad), 1)
    embed = ImageEmbedder()
    again = embed([os.path.join(mixed.folder, images.decode_path(path)) for path in paths])
    found = np.array([vector for _, _, vector in rows])
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(found, again, atol=1e-4)


@pytest.mark.parametrize("read", [read_by_pandas, read_by_spark])
def test_all_readers_read_the_same_csv(table: Table, read: Callable[[Path], Rows]) -> None:
    wanted, found = read_by_csv(table.path), read(table.path)
    assert [row[:2] for row in found] == [row[:2] for row in wanted]
    for (_, _, one), (_, _, other) in zip(wanted, found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_was_skipped_stands_beside_the_csv(table: Table) -> None:
    with (table.path.parent / "cars.csv.skipped.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["path", "reason"]
    assert sorted(path for path, _ in rows) == sorted(table.mixed.bad)
    assert all(table.mixed.bad[path] in reason for path, reason in rows)
    assert sorted(os.listdir(table.path.parent)) == ["cars.csv", "cars.csv.skipped.csv"]


def test_a_csv_of_an_index_reads_back_exactly(index: Index, tmp_path: Path) -> None:
    export_csv(index._table, tmp_path / "cars.csv")
    rows = read_by_csv(tmp_path / "cars.csv")
    stored = vectors_of(index._table)
    assert [path for path, _, _ in rows] == sorted(stored)
    assert all(label for _, label, _ in rows)
    for path, _, vector in rows:
        np.testing.assert_array_equal(vector, stored[path])


def test_parquet_is_read_by_spark_and_pyarrow(drawn: DrawnCollection, tmp_path: Path) -> None:
    photos = some_photos(drawn, 8, tmp_path / "photos")
    (photos / "bad.jpg").touch()
    out = tmp_path / "cars"
    write_embeddings(photos, out, Options(labels=drawn.labels, spark=False))
    by_arrow = pq.read_table(out)
    by_spark = session().read.parquet(str(out))
    assert by_spark.columns == by_arrow.column_names == ["image", "label", "embedding"]
    assert by_spark.schema["embedding"].dataType.simpleString() == "array<float>"
    rows = by_arrow.to_pylist()
    names = [row["image"] for row in rows]
    assert names == sorted(path.name for path in photos.glob("0*.jpg"))
    assert sorted(by_spark.collect()) == sorted(tuple(row.values()) for row in rows)
    assert all(row["label"] for row in rows)
    again = ImageEmbedder()([photos / name for name in names])
    np.testing.assert_allclose([row["embedding"] for row in rows], again, atol=1e-4)
    assert (tmp_path / "cars.skipped.csv").read_text().splitlines()[1:] == [
        '"bad.jpg","empty file"'
    ]


# Labels.


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which names matter; nobody looks into the files."""
    root = tmp_path_factory.mktemp("named")
    names = ("a.jpg", "sub/b.jpg", "sub/c 50%.jpg", "one/same.jpg", "two/same.jpg", "one/d.jpg")
    for name in (*names, "top.jpg", "below/top.jpg"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).touch()
    return root


def joined(photos: Path, text: str, staging: Path) -> tuple[dict[str, str], int]:
    """Return the labels that a label file gives to photos, and how many it has for none."""
    given, listing = staging / "given.csv", staging / "listing.parquet"
    given.write_text(text, encoding="utf-8")
    assert list_images(images.locate(photos), listing) == 8
    unused = label_images(listing, open_labels(given), str(photos)).unused
    rows = pq.read_table(listing).to_pylist()
    assert [row["path"] for row in rows] == sorted(row["path"] for row in rows)
    return {row["path"]: row["label"] for row in rows if row["label"] is not None}, unused


@pytest.mark.parametrize(
    ("text", "wanted", "unused"),
    [
        pytest.param(
            ",x1,y1,x2,y2,Class,image\n"
            "0,1,2,3,4,014,a.jpg\n1,1,2,3,4,014,a.jpg\n"  # the same twice does no harm
            '2,,,,,"a ""red""\ncar",c 50%.jpg\n'
            "3,,,,,name,b.jpg\n4,,,,,path,sub/b.jpg\n"  # a path counts more than a name
            "5,,,,,x,none.jpg\n6,,,,,x,one/a.jpg\n",
            {"a.jpg": "014", "sub/c 50%25.jpg": 'a "red"\ncar', "sub/b.jpg": "path"},
            2,
            id="names",
        ),
        pytest.param(
            "\ufeffimage,Class\r\n./a.jpg,red\r\none/same.jpg,blue\r\ntwo//same.jpg,tan\r\n",
            {"a.jpg": "red", "one/same.jpg": "blue", "two/same.jpg": "tan"},
            0,
            id="paths",
        ),
        pytest.param(
            "image,Class\ntop.jpg,red\nbelow/top.jpg,blue\n",
            {"top.jpg": "red", "below/top.jpg": "blue"},
            0,
            id="a path without a folder",
        ),
    ],
)
def test_labels_find_their_photos(
    named: Path, tmp_path: Path, text: str, wanted: dict[str, str], unused: int
) -> None:
    assert joined(named, text, tmp_path) == (wanted, unused)


@pytest.mark.parametrize(
    ("text", "listed"),
    [
        ("image,Class\nsame.jpg,red\n", ["same.jpg"]),
        ("image,Class\na.jpg,red\nb.jpg,red\na.jpg,blue\nb.jpg,tan\n", ["a.jpg", "b.jpg"]),
    ],
    ids=["ambiguous", "conflicting"],
)
def test_labels_that_could_be_wrong_are_refused(
    named: Path, tmp_path: Path, text: str, listed: list[str]
) -> None:
    with pytest.raises(LookalikeError) as error:
        joined(named, text, tmp_path)
    assert all(name in str(error.value) for name in listed)
    assert "\n" not in str(error.value)


# Tables of image bytes, and what Spark reads by itself.


def assert_pictures_can_be_seen(index: Index, contents: dict[str, bytes]) -> None:
    """Check that stored paths lead back to the bytes, and that hits show all their pictures."""
    source = index._table.source
    assert {path: images.read(source, path) for path in contents} == contents
    hits = index.search(random_query(index._table, 0), len(contents) + 1)
    assert len(hits) == len(contents) - 1
    assert "file is gone" not in hits.html()


def test_parquet_with_a_column_of_bytes(drawn: DrawnCollection, tmp_path: Path) -> None:
    drawings = [path.read_bytes() for path in sorted(drawn.photos.rglob("*.jpg"))[:8]]
    (tmp_path / "tables").mkdir()
    contents: dict[str, bytes] = {}
    given: dict[str, str | None] = {}
    reasons: dict[str, str] = {}
    for number, name in enumerate(("50%41 é.parquet", "part 1+2.parquet")):
        photos = drawings[4 * number : 4 * number + 4]
        cells = pa.array([*photos[:2], None, b"junk", *photos[2:]], pa.binary())
        rows = pa.table({"bytes": cells, "class": ["a", "b", "c", "d", None, "f"]})
        pq.write_table(rows, tmp_path / "tables" / name, row_group_size=2)
        encoded = name.replace("%", "%25")
        paths = [f"{encoded}#{row}" for row in (0, 1, 4, 5)]
        contents |= dict(zip(paths, photos, strict=True))
        given |= dict(zip(paths, ["a", "b", None, "f"], strict=True))
        reasons |= {f"{encoded}#2": "empty cell", f"{encoded}#3": "not an image"}
    options = Options(image_column="bytes", label_column="class", precision="f32")
    stored, report = build_index(tmp_path / "tables", tmp_path / "x.index", options)
    assert (report.images, report.skipped) == (8, 4)
    skipped = dict(stored.skipped())
    assert skipped.keys() == reasons.keys()
    assert all(reason in skipped[path] for path, reason in reasons.items())
    labels = {row["path"]: row["label"] for s in stored.segments for row in s.rows.to_pylist()}
    assert labels == given
    assert_pictures_can_be_seen(Index(stored), contents)


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_parquet_as_hugging_face_lays_it_out(
    drawn: DrawnCollection, tmp_path: Path, scheme: str
) -> None:
    photos = [path.read_bytes() for path in sorted(drawn.photos.rglob("*.jpg"))[:3]]
    cells = [{"bytes": data, "path": "x.jpg"} for data in photos]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    given = [*cells, None, {"bytes": None, "path": "elsewhere.jpg"}]
    file = tmp_path / "train-00000-of-00001.parquet"
    pq.write_table(pa.table({"image": pa.array(given, kind), "label": [7, 8, 9, 0, 0]}), file)
    stored = build_index(f"{scheme}{file}", tmp_path / "x.index", Options(label_column="label"))[0]
    assert stored.counts() == (3, 2)
    assert {reason for _, reason in stored.skipped()} == {"empty cell", "no such file"}
    rows = [row for segment in stored.segments for row in segment.rows.to_pylist()]
    assert [row["label"] for row in rows] == ["7", "8", "9"]
    paths = [str(row["path"]) for row in rows]
    assert all(path.endswith(f"{file.name}#{row}") for row, path in enumerate(paths))
    assert_pictures_can_be_seen(Index(stored), dict(zip(paths, photos, strict=True)))


@pytest.mark.parametrize(
    ("options", "listed"),
    [
        (Options(image_column="picture"), "bytes, class"),
        (Options(image_column="bytes", label_column="kind"), "bytes, class"),
        (Options(image_column="class"), "no image bytes"),
    ],
)
def test_a_table_without_the_column_is_refused(
    tmp_path: Path, options: Options, listed: str
) -> None:
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"bytes": [b"x"], "class": ["a"]}), tmp_path / "in" / "x.parquet")
    with pytest.raises(LookalikeError, match=listed):
        build_index(tmp_path / "in", tmp_path / "x.index", options)
    assert os.listdir(tmp_path) == ["in"]


def test_a_uri_of_a_folder_gives_the_same_vectors(drawn: DrawnCollection, tmp_path: Path) -> None:
    photos = some_photos(drawn, 5, tmp_path / "photos")
    (photos / "00001.jpg").rename(photos / "a b+50%41é.jpg")
    (photos / "text.jpg").write_text("no picture")
    options = Options(precision="f32")
    in_a_loop = replace(options, spark=False)
    local = vectors_of(build_index(photos, tmp_path / "local.index", in_a_loop)[0])
    stored = build_index(f"file://{photos}", tmp_path / "spark.index", options)[0]
    by_spark = vectors_of(stored)
    assert stored.counts() == (5, 1)
    assert "not an image" in next(stored.skipped())[1]
    found = {path.rpartition("/")[2]: vector for path, vector in by_spark.items()}
    for path, vector in local.items():
        np.testing.assert_allclose(found[path], vector, atol=1e-5)

    hits = Index(stored).search(str(photos / "00002.jpg"), 5)
    shown = [hit["path"] for hit in hits.to_dict()["neighbors"]]
    assert sorted(shown) == sorted(f"file:{path}" for path in photos.glob("*[!t].jpg"))
    contents = {f"file:{path}": path.read_bytes() for path in photos.iterdir()}
    readable = {images.encode_path(path): contents[path] for path in shown}
    assert_pictures_can_be_seen(Index(stored), readable)


@pytest.mark.parametrize(
    "given", ["file:///nowhere/at/all", "{}/junk.parquet", "file://{}/junk.parquet"]
)
def test_what_cannot_be_read_is_said_in_a_line(tmp_path: Path, given: str) -> None:
    (tmp_path / "junk.parquet").write_text("no table")
    with pytest.raises(LookalikeError) as error:
        build_index(given.format(tmp_path), tmp_path / "x.index", Options())
    assert "\n" not in str(error.value)
    assert os.listdir(tmp_path) == ["junk.parquet"]


# Where it is written.


def test_an_existing_index_is_replaced_only_when_asked(
    drawn: DrawnCollection, tmp_path: Path
) -> None:
    few, more = (some_photos(drawn, count, tmp_path / str(count)) for count in (2, 3))
    out, options = tmp_path / "out" / "cars.index", Options(spark=False)
    build_index(few, out, options)
    before = tree(out.parent)
    with pytest.raises(LookalikeError, match="already exists"):
        build_index(more, out, options)
    assert tree(out.parent) == before
    stored, report = build_index(more, out, options, overwrite=True)
    assert report.images == stored.counts()[0] == EmbeddingTable.open(out).counts()[0] == 3
    assert os.listdir(out.parent) == ["cars.index"]


@pytest.mark.parametrize("build", [build_index, write_embeddings])
@pytest.mark.parametrize("name", ["photos", "photos.csv"])
def test_a_folder_of_something_else_is_never_replaced(
    drawn: DrawnCollection, tmp_path: Path, build: Build, name: str
) -> None:
    photos = some_photos(drawn, 2, tmp_path / name)
    before = tree(tmp_path)
    with pytest.raises((LookalikeError, OSError)):
        build(photos, photos, Options(), overwrite=True)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("build", [build_index, write_embeddings])
def test_a_failing_run_leaves_everything_as_it_was(
    drawn: DrawnCollection, index: Index, tmp_path: Path, build: Build
) -> None:
    photos = some_photos(drawn, 2, tmp_path / "photos")
    labels = tmp_path / "labels.csv"
    labels.write_text("image,Class\n00001.jpg,red\n00001.jpg,blue\n")
    shutil.copytree(index.path, tmp_path / "old.index")
    before = tree(tmp_path)
    overwrite = build is build_index
    out = tmp_path / ("old.index" if overwrite else "new.csv")
    with pytest.raises(LookalikeError, match="more than one label"):
        build(photos, out, Options(labels=labels), overwrite=overwrite)
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("folder", "may_refuse"),
    [("50% é", False), ("a [1] {b,c} *?", True), ("50%41", True), ("not-utf8-\udcff", True)],
)
@pytest.mark.parametrize(
    "engines", [("exact",), pytest.param(("spark-lsh", "spark-lsh"), marks=pytest.mark.long)]
)
def test_an_index_lies_in_a_folder_of_any_name_or_it_is_refused(
    drawn: DrawnCollection,
    tmp_path: Path,
    folder: str,
    may_refuse: bool,
    engines: tuple[Engine, ...],
) -> None:
    photos = some_photos(drawn, 3, tmp_path / "50%41 [1] \udcff")
    out = tmp_path / folder / "cars.index"
    try:
        build_index(photos, out, Options(labels=drawn.labels, spark=False))
    except LookalikeError as error:
        assert may_refuse, error
        assert "\n" not in str(error)
        assert not out.parent.exists() or os.listdir(out.parent) == []
        return
    for engine in engines:  # the second time the hash model comes from the disk
        index = Index(EmbeddingTable.open(out))
        assert len(index.search(str(photos / "00001.jpg"), engine=engine)) == 2


def test_an_index_without_a_single_picture_can_be_asked(
    drawn: DrawnCollection, index: Index, tmp_path: Path
) -> None:
    photo = tmp_path / "photos" / "bad.jpg"
    photo.parent.mkdir()
    shutil.copy(next(drawn.photos.rglob("*.jpg")), photo)
    empty = Index(build_index(photo.parent, tmp_path / "x.index", Options(spark=False))[0])
    photo.write_text("no picture any more")
    empty.sync()
    assert len(empty) == 0
    assert len(empty.search(random_query(index._table, 0).vector)) == 0
    with pytest.raises(LookalikeError, match="no embedded image"):
        random_query(empty._table, 0)


def test_what_is_wrong_is_said_before_spark_starts(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    (tmp_path / "wrong.csv").write_text("name,Class\na.jpg,red\n")
    (tmp_path / "bare.csv").write_text("image,Class\n")
    # Whatever starts a JVM asks this one for its version first.
    java = tmp_path / "java" / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text(f"#!/bin/sh\ntouch '{tmp_path}/started'\nexit 1\n")
    java.chmod(0o755)
    code = (
        "from pathlib import Path\n"
        "from lookalike import LookalikeError\n"
        "from lookalike.ingest import Options, build_index\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "for photos, labels in ('empty', None), ('photos', 'wrong.csv'), ('photos', 'bare.csv'):\n"
        "    options = Options(labels=labels and folder / labels)\n"
        "    try:\n"
        "        build_index(folder / photos, folder / 'x.index', options)\n"
        "    except LookalikeError as error:\n"
        "        print(error)\n"
    )
    environment = {**os.environ, "JAVA_HOME": str(java.parent.parent)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
        check=True,
    )
    words = ("no images in", "lacks the column", "holds no labels")
    for line, message in zip(done.stdout.splitlines(), words, strict=True):
        assert message in line
    assert not (tmp_path / "started").exists()
    assert not (tmp_path / "x.index").exists()


# In a plain loop or on Spark.


def all_rows(stored: EmbeddingTable) -> pa.Table:
    """Return every row, skipped or not, in the order of ids."""
    return pa.concat_tables(map(pq.read_table, stored.files())).sort_by("id")


@pytest.fixture(scope="module")
def labels_of_mixed(mixed: Mixed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("labels") / "labels.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = [("image", "Class"), *LABELS.items(), ("00003.jpg", "red"), ("empty.jpg", "blue")]
        csv.writer(file).writerows(rows)
    return path


@pytest.mark.parametrize(
    "labelled", [True, pytest.param(False, marks=pytest.mark.long)], ids=["labels", "no labels"]
)
def test_a_loop_and_spark_make_the_same_collection(
    mixed: Mixed, labels_of_mixed: Path, tmp_path: Path, labelled: bool
) -> None:
    made = {}
    for spark in (False, True):
        labels = labels_of_mixed if labelled else None
        options = Options(labels=labels, precision="f32", spark=spark)
        stored, report = build_index(mixed.folder, tmp_path / f"{spark}.index", options)
        counts = (report.images, report.skipped, report.unused_labels)
        assert counts == (GOOD, len(mixed.bad), labelled)
        assert report.model == stored.model
        made[spark] = all_rows(stored)
    loop, by_spark = made[False], made[True]
    assert loop["id"].to_pylist() == list(range(GOOD + len(mixed.bad)))
    assert loop.schema == by_spark.schema
    assert loop.drop_columns("embedding").equals(by_spark.drop_columns("embedding"))
    given = dict(zip(*loop.select(["path", "label"]).to_pydict().values(), strict=True))
    if labelled:
        assert given.items() >= {
            *LABELS.items() - {("nowhere.jpg", "unused")},
            ("00003.jpg", "red"),
            ("empty.jpg", "blue"),
            ("00004.jpg", None),
        }
    else:
        assert set(given.values()) == {None}
    vectors = [[row for row in rows["embedding"].to_pylist() if row] for rows in (loop, by_spark)]
    assert len(vectors[0]) == GOOD
    np.testing.assert_allclose(vectors[0], vectors[1], rtol=0, atol=1e-6)


def test_a_sample_of_a_lake_reads_little_of_it(tmp_path: Path) -> None:
    photo = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(photo, "PNG")

    def read(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            (tmp_path / str(batch["id"][0])).touch()
            yield pa.record_batch({"content": [photo.getvalue()] * 99 + [b"no picture"]})

    frame = session().range(0, 40, 1, 40).mapInArrow(read, "content binary")
    sample = sample_of_frame(images.locate("s3a://bucket/photos"), frame, DEFAULT)
    assert sample.shape == (SAMPLE_IMAGES, 224, 224, 3)
    assert (sample == [255, 0, 0]).all()
    assert 3 <= len(list(tmp_path.iterdir())) <= 10


@pytest.mark.parametrize("name", ["cars.csv", "cars"])
def test_a_loop_and_spark_make_the_same_table(table: Table, tmp_path: Path, name: str) -> None:
    made = {}
    for spark in (False, True):
        out = tmp_path / str(spark) / name
        labels = table.path.parents[1] / "labels.csv"
        options = Options(labels=labels, precision="f32", spark=spark)
        report = write_embeddings(table.mixed.folder, out, options)
        assert (report.images, report.skipped, report.unused_labels) == (
            24,
            len(table.mixed.bad),
            1,
        )
        if name == "cars":
            rows = pq.read_table(out)
            assert rows.column_names == ["image", "label", "embedding"]
            made[spark] = [tuple(row.values()) for row in rows.to_pylist()]
        else:
            made[spark] = read_by_csv(out)
        assert sorted(os.listdir(out.parent)) == sorted([name, f"{name}.skipped.csv"])
    loop, by_spark = made[False], made[True]
    assert len(loop) == 24
    assert [row[:2] for row in loop] == [row[:2] for row in by_spark]
    vectors = [[row[2] for row in rows] for rows in (loop, by_spark)]
    np.testing.assert_allclose(vectors[0], vectors[1], rtol=0, atol=1e-6)
    skipped = [tmp_path / str(spark) / f"{name}.skipped.csv" for spark in (False, True)]
    assert skipped[0].read_text() == skipped[1].read_text()


@pytest.mark.parametrize("build", [build_index, write_embeddings])
@pytest.mark.parametrize("given", ["{}/x.parquet", "{}", "file://{}/x.parquet"])
def test_what_only_spark_reads_is_not_read_without(
    tmp_path: Path, given: str, build: Build
) -> None:
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"image": [b"x"]}), tmp_path / "in" / "x.parquet")
    with pytest.raises(
        LookalikeError, match=r"only Spark can read .*: leave `spark=False` out"
    ) as error:
        build(given.format(tmp_path / "in"), tmp_path / "out", Options(spark=False))
    assert "\n" not in str(error.value)
    assert os.listdir(tmp_path) == ["in"]


def test_segments_whose_receipts_nobody_sees_are_there(
    drawn: DrawnCollection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = some_photos(drawn, 5, tmp_path / "photos")
    monkeypatch.setattr(DiskReceipts, "new", lambda *_: [])
    stored, report = build_index(photos, tmp_path / "x.index", Options(spark=True))
    assert (report.images, stored.counts()) == (5, (5, 0))
    assert sorted(vectors_of(stored)) == sorted(os.listdir(photos))


def test_of_two_attempts_the_first_counts(tmp_path: Path) -> None:
    names = [f"{digit * 32}.parquet" for digit in "01"]
    first, second = ({"path": str(tmp_path / name), "rows": 1} for name in names)
    receipts = DiskReceipts(tmp_path)
    for written in (first, second):
        Path(str(written["path"])).touch()
        assert receipts.deliver(0, written) == first
    assert sorted(os.listdir(tmp_path)) == ["0.receipt", names[0]]
    assert receipts.new(set()) == [first] == [receipts.find(0)]


def test_of_two_attempts_in_a_store_the_first_counts(tmp_path: Path) -> None:
    copy = open_copy(f"memory://{tmp_path.name}/x.index")
    folder = copy.folder / "data" / "0"
    receipts = pickle.loads(pickle.dumps(receipts_in(folder)))
    contents = [b"first", b"second", b"first"]
    delivered = []
    for content in contents:
        with receipts.segment_folder() as place:
            file = place / f"{hashlib.md5(content).hexdigest()}.parquet"
            file.write_bytes(content)
            delivered.append(receipts.deliver(7, {"path": str(file), "rows": 1}))
    name = f"data/0/{hashlib.md5(b'first').hexdigest()}.parquet"
    assert delivered == 3 * [{"path": name, "rows": 1}]
    arrived = {"path": str(copy.folder / name), "rows": 1}
    seen: set[str] = set()
    assert receipts.new(seen) == [arrived] == [receipts.arrived(delivered[0])]
    assert receipts.new(seen) == []
    assert (receipts.find(7), receipts.find(8)) == (delivered[0], None)
    assert copy.store.get(name) == b"first"
    receipts.clear()
    assert [one for batch in copy.store.list() for one in batch["name"].to_pylist()] == [name]
    copy.store.put("data/0/3.receipt", b'{"path": "data/1/x.parquet"}')
    with pytest.raises(LookalikeError, match=r"3\.receipt was changed by another program"):
        receipts.find(3)


@pytest.mark.parametrize(
    "text", ['{"path": "/etc/x.parquet"}', '{"path": "x.parquet"}', '{"path": 7}', "{}", "[]", "x"]
)
def test_a_receipt_that_misleads_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "0.receipt").write_text(text)
    with pytest.raises(LookalikeError, match=r"0\.receipt was changed by another prog") as error:
        DiskReceipts(tmp_path).new(set())
    assert "\n" not in str(error.value)


def test_rows_that_do_not_come_back_are_an_error(index: Index, tmp_path: Path) -> None:
    written = [{"path": "x.parquet", "rows": 2, "embedded": 0}]
    came: list[object] = []
    give = partial(
        embedding._run,
        index._table.model,
        0.0,
        tmp_path,
        lambda segments, _: came.extend(segments),
        lambda _, deliver: deliver(written),
    )
    assert give(2).skipped == give(0).skipped == 2
    with pytest.raises(LookalikeError, match=r"^Spark returned 2 of 3 .*same command again$"):
        give(3)
    assert came == written * 3


@pytest.mark.parametrize(
    ("device", "asked", "at_hand", "wanted"),
    [
        ("cpu", None, False, True),
        ("cuda", None, False, False),
        ("cuda", None, True, True),
        ("cuda", True, False, True),
    ],
    ids=["a processor", "a GPU", "a GPU and a cluster", "a GPU, with Spark"],
)
def test_a_gpu_is_one_process_s(
    drawn: DrawnCollection,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    asked: bool | None,
    at_hand: bool,
    wanted: bool,
) -> None:
    monkeypatch.setattr(running, "is_spark_available", lambda: at_hand)
    job = replace(prepare(drawn.photos, Options(spark=asked)), device=device)
    assert embedding._uses_spark(job, embedding.MAX_FILES_WITHOUT_SPARK + 1) == wanted


@pytest.mark.parametrize(
    ("wave", "threads", "batch", "shares"),
    [
        (1024, 3, 16, (16, 6, 913)),
        (64, 3, 16, (10, 3, 25)),
        (1024, 17, 256, (256, 34, 769)),
        (512, 17, 256, (15, 17, 243)),
        (511, 17, 256, (15, 17, 242)),
        (8, 3, 16, (1, 4, 4)),
        (1, 3, 16, (1, 0, 1)),
    ],
)
def test_threads_work_side_by_side_whatever_the_wave(
    wave: int, threads: int, batch: int, shares: tuple[int, int, int]
) -> None:
    run: Any = SimpleNamespace(batch=batch)
    assert embedding._split_wave(wave, threads, run) == shares


@pytest.mark.parametrize(("wave", "count"), [(1, 6), (5, 24), (16, 60)])
def test_no_more_than_a_wave_is_read_and_not_committed(
    drawn: DrawnCollection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wave: int, count: int
) -> None:
    photos = some_photos(drawn, count, tmp_path / "photos")
    read, reads, committed = images.read, [0], [0]
    most = 0

    def counted(*given: Any) -> bytes:
        reads.append(reads[-1] + 1)
        return read(*given)

    def commit(written: list[SegmentRecord], _: Model) -> None:
        nonlocal most
        before = -1
        while reads[-1] != before:  # a slow one, beside which threads read on
            before = reads[-1]
            time.sleep(0.05)
        most = max(most, reads[-1] - committed[-1])
        committed.append(committed[-1] + sum(row["rows"] for row in written))

    monkeypatch.setattr(images, "read", counted)
    (tmp_path / "data").mkdir()
    job = prepare(photos, Options(precision="f32", spark=False, wave=wave))
    embedding.embed_all(
        job, discover_changes(job, None, tmp_path).inputs, tmp_path / "data", commit
    )
    assert committed[-1] == reads[-1] == count
    assert wave // 2 <= most <= wave


INDEXING = """
import sys
import lookalike
from lookalike.ingest import embedding
embedding.MAX_FILES_WITHOUT_SPARK = int(sys.argv[3])
index = lookalike.create_index(sys.argv[1], sys.argv[2], spark={"": None, "no": False}[sys.argv[4]])
print(len(index), "pyspark" in sys.modules, "py4j" in sys.modules)
"""


@pytest.mark.parametrize(
    ("limit", "spark", "environment", "wanted"),
    [
        (5, "", {}, False),
        (4, "", {}, True),
        (4, "no", {}, False),
        (5, "", {"SPARK_MASTER": "local[1]"}, True),
        (5, "no", {"SPARK_MASTER": "local[1]"}, False),
    ],
    ids=["few", "many", "many, without", "a cluster", "a cluster, without"],
)
def test_a_small_folder_starts_no_spark(
    drawn: DrawnCollection,
    tmp_path: Path,
    limit: int,
    spark: str,
    environment: dict[str, str],
    wanted: bool,
) -> None:
    photos = some_photos(drawn, 5, tmp_path / "photos")
    # A Java that is new enough, and ends as soon as it has to do something.
    java = tmp_path / "java" / "bin" / "java"
    java.parent.mkdir(parents=True)
    version = '[ "$1" = -version ] && echo \'openjdk version "21"\' >&2 && exit'
    java.write_text(f"#!/bin/sh\n{version}\ntouch '{tmp_path}/started'\nexit 1\n")
    java.chmod(0o755)
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("SPARK", "PYSPARK"))}
    done = subprocess.run(
        [sys.executable, "-c", INDEXING, photos, tmp_path / "x.index", str(limit), spark],
        capture_output=True,
        text=True,
        env={**inherited, "JAVA_HOME": str(tmp_path / "java"), **environment},
        timeout=120,
    )
    assert (tmp_path / "started").exists() == wanted
    if wanted:
        assert "LookalikeError: Spark did not start" in done.stderr
        assert not (tmp_path / "x.index").exists()
    else:
        assert (done.stdout, done.stderr) == ("5 False False\n", "")


# Precisions.


@pytest.fixture(scope="module")
def some(drawn: DrawnCollection, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every fourth drawn photo: enough to choose a precision on."""
    folder = tmp_path_factory.mktemp("some")
    for photo in sorted(drawn.photos.rglob("*.jpg"))[::4]:
        shutil.copy(photo, folder / photo.name)
    return folder


@pytest.fixture(scope="module")
def resnet(some: Path, tmp_path_factory: pytest.TempPathFactory) -> EmbeddingTable:
    """An index of the photos in f32, of a network that int8 leaves nearly as it is."""
    options = Options(model="resnet18", precision="f32", spark=False)
    return build_index(some, tmp_path_factory.mktemp("resnet") / "f32.index", options)[0]


@pytest.fixture
def sooner(soon: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure from 24 images on."""
    monkeypatch.setattr("lookalike.ingest.options.MIN_IMAGES_TO_MEASURE", 24)
    monkeypatch.setattr("lookalike.models.precision.SAMPLE_IMAGES", 24)


def assert_is_like(
    stored: EmbeddingTable, report: Report, whole: EmbeddingTable, photos: Path
) -> None:
    """Check that an index has one model for all, whose vectors are near those in f32."""
    model = EmbeddingTable.open(stored.path).model
    assert model == report.model
    vectors, exact = vectors_of(stored), vectors_of(whole)
    paths = sorted(vectors)[::3]
    embed = Index(stored).embedder
    assert embed.model.fingerprint == stored.about_model["fingerprint"] == model.fingerprint
    again = [embed(photos / path) for path in paths]
    np.testing.assert_allclose(again, [vectors[path] for path in paths], rtol=0, atol=1e-6)
    cosines = [vectors[path] @ exact[path] for path in vectors]
    assert len(cosines) == 24
    if model.precision == "f32":
        assert model == whole.model
    else:
        assert model.fingerprint != whole.model.fingerprint
        assert min(cosines) > 0.95
    # Without bf16 a processor with AVX-512 rounds all the same, one with AVX2 computes in f32.
    if model.precision != "bf16" or "BF16" in processor():
        assert (min(cosines) < 1 - 1e-6) == (model.precision != "f32")


@pytest.mark.parametrize(
    ("precision", "spark"),
    [("f32", False), ("f32", True), ("bf16", False), ("bf16", True), ("int8", False)],
    ids=["f32-loop", "f32-spark", "bf16-loop", "bf16-spark", "int8-loop"],
)
def test_an_index_embeds_as_it_was_embedded(
    some: Path, index: Index, resnet: EmbeddingTable, tmp_path: Path, precision: str, spark: bool
) -> None:
    options, whole = Options(precision=precision, spark=spark), index._table
    if precision == "int8":  # for which the default network is too delicate
        options, whole = replace(options, model="resnet18"), resnet
    stored, report = build_index(some, tmp_path / "x.index", options)
    wanted = (precision, whole.model.weights, None)
    assert (report.model.precision, report.model.weights, report.model.agreement) == wanted
    assert_is_like(stored, report, whole, some)


@pytest.mark.parametrize("spark", [False, True], ids=["loop", "spark"])
def test_auto_measures_where_there_are_images_enough(
    some: Path, resnet: EmbeddingTable, tmp_path: Path, spark: bool, sooner: None
) -> None:
    options = Options(model="resnet18", spark=spark)
    stored, report = build_index(some, tmp_path / "x.index", options)
    kept = EmbeddingTable.open(stored.path).model
    assert kept.precision == report.model.precision == "int8"
    ours, theirs = (
        np.array([vector for _, vector in sorted(vectors_of(one).items())])
        for one in (stored, resnet)
    )
    assert report.model.agreement == pytest.approx(models.overlap(ours, theirs), abs=1e-4)
    assert kept.agreement == stored.about_model["agreement"] == report.model.agreement
    assert report.choosing_seconds > 0
    assert_is_like(stored, report, resnet, some)


@pytest.mark.parametrize("spark", [False, True], ids=["loop", "spark"])
def test_auto_measures_nothing_where_there_are_fewer_images(
    drawn: DrawnCollection, tmp_path: Path, spark: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lookalike.ingest.options.MIN_IMAGES_TO_MEASURE", 7)
    monkeypatch.setattr("lookalike.models.precision.SAMPLE_IMAGES", 6)
    monkeypatch.setattr("lookalike.models.precision.MIN_AGREEMENT", 0)
    monkeypatch.setattr("lookalike.models.precision._MAX_COST", 1e9)
    fewer = some_photos(drawn, 6, tmp_path / "photos")
    options = Options(model="resnet18", spark=spark)
    report = build_index(fewer, tmp_path / "y.index", options)[1]
    assert (report.model.precision, report.model.agreement) == ("f32", None)


def test_auto_takes_no_int8_of_a_delicate_network(some: Path, tmp_path: Path, sooner: None) -> None:
    report = build_index(some, tmp_path / "x.index", Options(spark=False))[1]
    assert report.model.backbone == "efficientnet-lite0"
    assert report.model.precision in ("bf16", "f32")  # which of them, the processor decides
    assert (report.model.agreement is None) == (report.model.precision == "f32")


@pytest.mark.long  # calibrates: 8 CPU seconds
def test_a_table_is_enough_to_calibrate_on(drawn: DrawnCollection, tmp_path: Path) -> None:
    photos = [path.read_bytes() for path in sorted(drawn.photos.rglob("*.jpg"))[:12]]
    cells = pa.array([None, b"junk", *photos], pa.binary())
    pq.write_table(pa.table({"image": cells}), tmp_path / "cars.parquet", row_group_size=4)
    options = Options(model="resnet18", precision="int8")
    stored, report = build_index(tmp_path / "cars.parquet", tmp_path / "x.index", options)
    assert (report.images, report.skipped, stored.model.precision) == (12, 2, "int8")
    vectors = [vector for _, vector in sorted(vectors_of(stored).items(), key=row_number)]
    again = Index(stored).embedder(photos)
    np.testing.assert_allclose(again, vectors, rtol=0, atol=1e-6)


def row_number(item: tuple[str, npt.NDArray[np.float32]]) -> int:
    return int(item[0].rpartition("#")[2])


@pytest.mark.parametrize(
    ("photos", "options", "message"),
    [
        ("bad", Options(precision="int8"), "int8 is calibrated on images"),
        ("good", Options(precision="int8", weights="nowhere.pt"), "unknown weights 'nowhere.pt'"),
    ],
    ids=["no picture to calibrate on", "no network"],
)
def test_int8_that_is_not_to_be_had_leaves_no_process(
    drawn: DrawnCollection, tmp_path: Path, photos: str, options: Options, message: str
) -> None:
    some_photos(drawn, 1, tmp_path / "good")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.jpg").write_text("no picture")
    with pytest.raises(LookalikeError, match=message):
        build_index(tmp_path / photos, tmp_path / "x.index", options)
    assert sorted(os.listdir(tmp_path)) == ["bad", "good"]
    left = calibrating()
    quantization.cancel_preload()  # whatever is wrong here must not disturb the tests to come
    assert left == []


@pytest.mark.parametrize(
    ("wave", "count", "images", "vectors"),
    [
        (WAVE_IMAGES, 5_000, 1_024, 65_536),
        (WAVE_IMAGES, 1_000_000, 10_000, 65_536),
        (WAVE_IMAGES, 10_000_000, 16_384, 100_000),
        (64, 10_000_000, 64, 64),
        (50_000, 10_000_000, 50_000, 50_000),
    ],
)
def test_waves_grow_with_the_inputs(wave: int, count: int, images: int, vectors: int) -> None:
    assert image_wave(wave, count) == images
    assert vector_wave(wave, count) == vectors
