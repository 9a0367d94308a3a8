"""DataFrames of images: Spark's, and tables of Arrow, pandas and Polars."""

import json
import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from PIL import Image
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from helpers.small import picture
from lookalike import CallableModel, Index, LookalikeError, create_index, images, open_index
from lookalike.ingest import Options
from lookalike.ingest.export import write_embeddings
from lookalike.spark import session
from lookalike.storage.description import NEWEST_FORMAT
from lookalike.system.arrays import Pixels, Vectors

COUNT = 8
PIXELS = "struct<origin:string,height:int,width:int,nChannels:int,mode:int,data:binary>"


def colours(pixels: Pixels) -> Vectors:
    """A network that costs little, and tells pictures apart."""
    found: Vectors = pixels.reshape(len(pixels), 4, -1, 3).mean(2).reshape(len(pixels), -1)
    return found.astype(np.float32)


MODEL = CallableModel(colours, name="colours", version="1", size=32)


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Some pictures, one of which has an odd name, and one that is none."""
    folder = tmp_path / "photos"
    files = [picture(folder / f"{number:03}.png", number) for number in range(COUNT - 1)]
    files.append(picture(folder / "100% of é.png", COUNT))
    (folder / "bad.jpg").write_bytes(b"no image")
    return [*files, folder / "bad.jpg"]


def rows_of(index: Index, *columns: str) -> dict[Any, tuple[Any, ...]]:
    """Return columns of an index by path."""
    names = ["path", *columns]
    rows = index.to_arrow(names).read_all().to_pylist()
    return {row["path"]: tuple(row[name] for name in columns) for row in rows}


def assert_as_from_files(index: Index, photos: list[Path], tmp_path: Path) -> None:
    """Check that an index has the vectors that the files themselves give."""
    files = create_index(photos[0].parent, tmp_path / "files.index", model=MODEL, spark=False)
    wanted = {row[0]: row[1] for row in rows_of(files, "content_hash", "embedding").values()}
    found = {row[0]: row[1] for row in rows_of(index, "content_hash", "embedding").values()}
    assert found == wanted


def binary_files(folder: Path) -> DataFrame:
    """Read a folder as Spark does, with a label and a column to keep."""
    found = session().read.format("binaryFile").load(str(folder))
    name = F.element_at(F.split("path", "/"), -1)
    country = F.when(name < "003", "FR").otherwise("DE")
    return found.withColumns({"kind": F.substring(name, 1, 2), "country": country})


def test_files_that_spark_has_read(photos: list[Path], tmp_path: Path) -> None:
    folder = photos[0].parent
    frame = binary_files(folder)
    made = create_index(
        frame,
        tmp_path / "x.index",
        model=MODEL,
        label_column="kind",
        keep_columns=["country"],
    )
    assert made.report is not None
    assert (made.report.images, made.report.skipped) == (COUNT, 1)
    assert "not an image" in dict(made._table.skipped())["bad.jpg"]
    rows = rows_of(made, "label", "country", "size")
    assert rows["000.png"] == ("00", "FR", photos[0].stat().st_size)
    assert rows["100%25 of é.png"][:2] == ("10", "DE")
    assert rows.keys() == {images.encode_path(one.name) for one in photos}
    found = made.search(photos[0], k=COUNT, where="country = 'FR'")  # not its own neighbour
    assert {one.path for one in found} == {"001.png", "002.png"}
    assert_as_from_files(made, photos, tmp_path)
    made.to_spark().createOrReplaceTempView("photos")
    query = "select country, count(*) from photos where embedding is not null group by 1 order by 1"
    assert [tuple(row) for row in session().sql(query).collect()] == [("DE", 5), ("FR", 3)]
    with pytest.raises(LookalikeError, match="was made of a DataFrame: give the DataFrame"):
        made.sync()


@pytest.mark.long  # seconds of Spark for each change
def test_an_index_follows_the_files_that_spark_has_read(photos: list[Path], tmp_path: Path) -> None:
    folder = photos[0].parent
    frame = binary_files(folder)
    made = create_index(frame, tmp_path / "x.index", model=MODEL, keep_columns=["country"])
    assert made.add(frame).same == COUNT + 1
    picture(folder / "000.png", 50)
    picture(folder / "new.png", 51)
    photos[1].unlink()
    changes: list[tuple[str, str]] = []
    moved = binary_files(folder).withColumn("country", F.lit("IT"))
    some = moved.filter("path like '%/0%' or path like '%new.png'")
    dry = made.sync(some, dry_run=True, on_change=lambda *one: changes.append(one))
    assert (dry.new, dry.changed, dry.removed) == (1, COUNT - 2, 3)
    assert ("-", "001.png") in changes and ("+", "new.png") in changes
    done = made.sync(some)
    assert (done.images, done.skipped, done.removed) == (COUNT - 1, 0, 3)
    assert set(rows_of(made, "country").values()) == {("IT",)}
    assert made.check().ok
    stream = session().readStream.schema(frame.schema).parquet(str(folder))
    with pytest.raises(LookalikeError, match="is a stream, which has no end: `add` each batch"):
        made.add(stream)
    broken = frame.withColumn("country", F.expr("raise_error('odd')").cast("string"))
    with pytest.raises(LookalikeError, match=r"Spark cannot read the DataFrame: .*odd") as caught:
        made.add(broken)
    assert "\n" not in str(caught.value)
    assert len(made) == COUNT - 1


def spark_paths(photos: list[Path]) -> tuple[DataFrame, dict[str, Any]]:
    places = [str(photos[0]), photos[1].as_uri(), f"file:{photos[2]}", *map(str, photos[3:])]
    rows = [(place, number) for number, place in enumerate(places)]
    return session().createDataFrame(rows, "place string, n int"), {}


def spark_bytes(photos: list[Path]) -> tuple[DataFrame, dict[str, Any]]:
    rows = [(one.read_bytes(), f"sku-{number}") for number, one in enumerate(photos)]
    return session().createDataFrame(rows, "data binary, sku string"), {"id_column": "sku"}


def spark_structs(photos: list[Path]) -> tuple[DataFrame, dict[str, Any]]:
    rows = [
        ((one.read_bytes() if number % 2 else None, str(one)), number)
        for number, one in enumerate(photos)
    ]
    kind = "image struct<bytes:binary,path:string>, n bigint"
    return session().createDataFrame(rows, kind).coalesce(1), {"id_column": "n"}


SPARK: dict[str, tuple[Callable[[list[Path]], tuple[DataFrame, dict[str, Any]]], str]] = {
    "paths": (spark_paths, "files"),
    "bytes": (spark_bytes, "rows"),
    "structs": (spark_structs, "files"),
}


@pytest.mark.long  # seconds of Spark for each kind of column
@pytest.mark.parametrize("kind", SPARK)
def test_columns_of_spark(kind: str, photos: list[Path], tmp_path: Path) -> None:
    make, place = SPARK[kind]
    frame, options = make(photos)
    made = create_index(frame, tmp_path / "x.index", model=MODEL, **options)
    assert made.report is not None
    assert (made.report.images, made.report.skipped) == (COUNT, 1)
    assert made._table.source.kind == place
    assert_as_from_files(made, photos, tmp_path)
    same = made.add(frame)
    assert (same.same, same.new, same.changed) == (COUNT + 1, 0, 0)
    again = create_index(frame, made.path, model=MODEL, **options)
    assert again.report is not None and again.report.same == COUNT + 1
    if "id_column" in options:
        key = "sku-0" if options["id_column"] == "sku" else 0
        assert len(made.search(id=key, k=3)) == 3
        assert key in made.to_pandas(["id"])["id"].tolist()
        assert made.remove([str(key)] if isinstance(key, str) else [key]).removed == 1
        assert made.add(frame).new == 1
    assert made.check().ok


@pytest.mark.long  # seconds of Spark
def test_pixels_of_spark(photos: list[Path], tmp_path: Path) -> None:
    rows = []
    for one in photos[:3]:
        with Image.open(one) as opened:
            pixels = np.asarray(opened.convert("RGB"))
        high, wide = pixels.shape[:2]
        rows.append(((one.as_uri(), high, wide, 3, 16, pixels[:, :, ::-1].tobytes()),))
    rows.append((("file:/elsewhere/x.png", -1, -1, -1, -1, b""),))
    frame = session().createDataFrame(rows, f"image {PIXELS}")
    made = create_index(frame, tmp_path / "x.index", model=MODEL)
    assert made._table.counts() == (3, 1)
    assert made._table.source.root == "/"
    files = create_index(photos[:3], tmp_path / "files.index", model=MODEL, spark=False)
    wanted = {tuple(row[0]) for row in rows_of(files, "embedding").values()}
    found = rows_of(made, "embedding", "reason")
    assert {tuple(row[0]) for row in found.values() if row[0]} == wanted
    assert found["elsewhere/x.png"][1].startswith("pixels of the mode -1")


@pytest.mark.long  # seconds of Spark
def test_embeddings_of_a_frame_as_a_file(photos: list[Path], tmp_path: Path) -> None:
    frame, options = spark_bytes(photos)
    out = tmp_path / "x.csv"
    done = write_embeddings(frame, out, Options(model=MODEL, **options))
    assert (done.images, done.skipped) == (COUNT, 1)
    table = pd.read_csv(out)
    assert sorted(table["image"]) == [f"sku-{number}" for number in range(COUNT)]


def columns_of(photos: list[Path]) -> dict[str, list[Any]]:
    return {
        "file": list(map(str, photos)),
        "data": [one.read_bytes() for one in photos],
        "sku": list(range(len(photos))),
        "kind": ["a", " b ", "", None, *"cdefg"],
        "price": [number / 4 for number in range(len(photos))],
    }


FRAMES: dict[str, Callable[[dict[str, list[Any]]], Any]] = {
    "pandas": pd.DataFrame,
    "Polars": pl.DataFrame,
    "Arrow": pa.table,
    "reader": lambda columns: pa.table(columns).to_reader(2),
}


QUICK = (("pandas", "file"), ("reader", "struct"), ("Polars", "data"))


@pytest.mark.parametrize(
    ("library", "column"),
    [
        pytest.param(*both, marks=() if both in QUICK else pytest.mark.long)  # seconds for each
        for both in product(FRAMES, ("file", "struct", "data"))
    ],
)
def test_frames_of_this_process(
    library: str, column: str, photos: list[Path], tmp_path: Path
) -> None:
    columns = columns_of(photos)
    cells = zip(columns["data"], columns["file"], strict=True)
    columns["struct"] = [{"bytes": data, "path": path} for data, path in cells]
    others = {name for name in ("file", "data", "struct") if name != column}
    given = {name: cells for name, cells in columns.items() if name not in others}
    options: dict[str, Any] = {"label_column": "kind", "keep_columns": ["price"], "model": MODEL}
    if column == "data":
        options["id_column"] = "sku"
    frame = FRAMES[library]
    made = create_index(frame(given), tmp_path / "x.index", spark=False, **options)
    assert made.report is not None
    assert (made.report.images, made.report.skipped) == (COUNT, 1)
    assert_as_from_files(made, photos, tmp_path)
    rows = rows_of(made, "label", "price")
    names = [
        str(n) if column == "data" else images.encode_path(p.name) for n, p in enumerate(photos)
    ]
    labels = ["a", "b", None, None, *"cdefg"]
    assert rows == dict(zip(names, zip(labels, columns["price"], strict=True), strict=True))
    assert made._table.source.kind == ("rows" if column == "data" else "files")
    query = made.sample(1, seed=0)[0]
    found = made.search(query, k=COUNT, where="price >= 1")
    assert len(found) == 4 - (float(rows_of(made, "price")[_path_of(made, query.id)][0]) >= 1)
    assert "price" in made.to_pandas() and found.html()
    assert made.add(frame(given)).same == COUNT + 1
    dearer = {**given, "price": [price + 1 for price in given["price"]]}
    dearer[column] = [*given[column][:-1], given[column][0]] if column == "data" else given[column]
    changed = made.add(frame(dearer))
    assert (changed.changed, changed.new) == (COUNT + 1, 0)
    assert made._table.counts() == ((COUNT + 1, 0) if column == "data" else (COUNT, 1))
    assert sorted(row[0] for row in rows_of(made, "price").values()) == dearer["price"]
    some = {name: cells[:3] for name, cells in dearer.items()}
    assert made.sync(frame(some)).removed == COUNT - 2
    assert len(made) == 3
    assert open_index(made.path).check().ok


def _path_of(index: Index, id_: Any) -> str:
    rows = index.to_arrow(["id", "path"]).read_all().to_pylist()
    return next(str(row["path"]) for row in rows if row["id"] == id_)


def test_rows_elsewhere_are_added(photos: list[Path], tmp_path: Path) -> None:
    other = picture(tmp_path / "elsewhere" / "x.png", 77)
    first = pa.table({"file": [str(photos[0])]})
    made = create_index(first, tmp_path / "x.index", model=MODEL, spark=False)
    made.add(pa.table({"file": [str(photos[1]), str(other)]}))
    rows = rows_of(made, "embedding")
    assert rows.keys() == {"000.png", "001.png", images.encode_path(str(other))}
    assert all(row[0] for row in rows.values())
    assert images.read(made._table.source, str(other)) == other.read_bytes()
    shutil.rmtree(other.parent)
    assert made.sync(pa.table({"file": [str(photos[1])]})).removed == 2


BAD: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "no names": ({"data": [b"x"]}, {}, "have no names: set `id_column`, or `path_column`"),
    "two columns": ({"a": [b"x"], "b": [b"y"]}, {}, "set `image_column` to one of a, b"),
    "numbers": ({"a": [1]}, {"image_column": "a"}, "holds int64, no images: give paths, bytes"),
    "an unknown column": ({"a": ["x"]}, {"image_column": "b"}, "no column 'b'; it has a: choose"),
    "a path twice": ({"a": ["/x.png", "/x.png"]}, {}, "have the 'a' '/x.png': keys may not repeat"),
    "no path": ({"a": ["/x.png", None]}, {}, "1 rows of the DataFrame have no 'a': fill it"),
    "a key twice": (
        {"a": [b"x", b"y"], "k": [1, 1]},
        {"id_column": "k"},
        "2 rows of the DataFrame have the 'k' 1: keys may not repeat",
    ),
    "no rows": ({"a": pa.array([], pa.string())}, {}, "the DataFrame has no rows"),
    "several stores": ({"a": ["s3://a/x.png", "/x.png"]}, {}, "lead to several places"),
    "labels": ({"a": ["/x.png"]}, {"labels": "x.csv"}, "for a DataFrame set `label_column`"),
    "a metric": ({"a": ["/x.png"]}, {"metric": "l2"}, "`metric` is for vectors"),
    "lists to keep": (
        {"a": ["/x.png"], "v": [[1.0]]},
        {"image_column": "a", "keep_columns": ["v"]},
        "which is not kept: choose numbers",
    ),
    "Spark": ({"a": ["/x.png"]}, {"spark": True}, "leave `spark=True` out"),
}


@pytest.mark.parametrize("kind", BAD)
def test_rows_that_are_refused(kind: str, tmp_path: Path) -> None:
    columns, options, message = BAD[kind]
    with pytest.raises(LookalikeError, match=message) as caught:
        create_index(pa.table(columns), tmp_path / "x.index", model=MODEL, **options)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_rows_that_do_not_go_with_the_index(photos: list[Path], tmp_path: Path) -> None:
    columns = columns_of(photos)
    keyed = pa.table({name: columns[name] for name in ("data", "sku", "price")})
    options: dict[str, Any] = {"id_column": "sku", "keep_columns": ["price"], "model": MODEL}
    made = create_index(keyed, tmp_path / "x.index", **options)
    with pytest.raises(LookalikeError, match="has no column 'price'"):
        made.add(keyed.drop(["price"]))
    with pytest.raises(LookalikeError, match="'price' of the DataFrame holds string"):
        made.add(keyed.set_column(2, "price", pa.array(["1"] * (COUNT + 1))))
    with pytest.raises(LookalikeError, match="keys of the type string, but the index has int64"):
        made.add(keyed.set_column(1, "sku", pa.array(list("abcdefghi"))))
    with pytest.raises(LookalikeError, match="holds rows with keys: give a DataFrame with the"):
        made.add(photos[0].parent)
    with pytest.raises(LookalikeError, match="made with other columns"):
        create_index(keyed, made.path, id_column="sku", model=MODEL)
    with pytest.raises(LookalikeError, match="images cannot be read again"):
        made.upgrade("resnet18")
    files = create_index(photos[0].parent, tmp_path / "files.index", model=MODEL, spark=False)
    with pytest.raises(LookalikeError, match="already exists, made of"):
        create_index(keyed, files.path, **options)
    with pytest.raises(LookalikeError, match="already exists, made of"):
        create_index(photos[0].parent, made.path, model=MODEL)
    assert files.add(pa.table({"file": [str(photos[0])]})).same == 1


def test_a_description_of_columns_is_checked(photos: list[Path], tmp_path: Path) -> None:
    frame = pa.table({"data": [photos[0].read_bytes()], "sku": [1], "price": [2.0]})
    options: dict[str, Any] = {"id_column": "sku", "keep_columns": ["price"], "model": MODEL}
    made = create_index(frame, tmp_path / "x.index", **options)
    file = made.path / "_lookalike.json"
    about = json.loads(file.read_text())
    assert about["format"] == NEWEST_FORMAT  # older versions refuse it
    for wrong in (
        {"kept": [["a b", "double"]]},
        {"kept": [["price", "blob"]]},
        {"image_column": 3},
        {"id_column": "a\0"},
        {"key": "float"},
        {"more": 1},
    ):
        file.write_text(json.dumps({**about, "columns": {**about["columns"], **wrong}}))
        with pytest.raises(LookalikeError, match="damaged") as caught:
            open_index(made.path)
        assert "\n" not in str(caught.value)
    file.write_text(json.dumps(about))
    assert len(open_index(made.path)) == 1
