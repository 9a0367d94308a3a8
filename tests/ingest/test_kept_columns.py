"""Columns of a user's table that an index keeps: in conditions, in frames, through every change."""

import datetime
import decimal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from deltalake import write_deltalake

from helpers.command import assert_fails, run, told
from helpers.own import crowds, table_of, write_table
from helpers.small import picture
from lookalike import CallableModel, Index, LookalikeError, create_index, open_index
from lookalike.system.arrays import Pixels, Vectors

COUNT = 60
VECTORS = crowds(COUNT)
KEEP = ["country", "price", "sold", "seen", "stock", "on", "cat"]
COLUMNS: dict[str, Any] = {"embedding_column": "v", "id_column": "sku", "keep_columns": KEEP}
DAY = datetime.date(2026, 1, 1)
TIME = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def colours(pixels: Pixels) -> Vectors:
    """A network that costs little, and tells pictures apart."""
    found: Vectors = pixels.reshape(len(pixels), 4, -1, 3).mean(2).reshape(len(pixels), -1)
    return found.astype(np.float32)


MODEL = CallableModel(colours, name="colours", version="1", size=32)
OTHER_MODEL = CallableModel(colours, name="colours", version="2", size=64)


def goods(count: int = COUNT, **columns: Any) -> pa.Table:
    """Return vectors with columns of each type."""
    numbers = range(count)
    usual: dict[str, Any] = {
        "country": ["FR" if number % 3 else "DE" for number in numbers],
        "price": [decimal.Decimal(number) / 4 for number in numbers],
        "sold": [DAY + datetime.timedelta(days=number) for number in numbers],
        "seen": [TIME + datetime.timedelta(hours=number) for number in numbers],
        "stock": pa.array([number if number % 7 else None for number in numbers], pa.uint16()),
        "on": [number % 2 == 0 for number in numbers],
        "cat": pa.array([f"c{number % 4}" for number in numbers]).dictionary_encode(),
    }
    return table_of(VECTORS[:count], **{**usual, **columns})


def chosen(index: Index, where: str) -> list[int]:
    """Return the numbers of the products that meet a condition, beside the first."""
    found = index.search(id="sku-0000", k=COUNT, where=where)
    return sorted(int(str(one.id)[4:]) for one in found)


CONDITIONS: dict[str, Callable[[int], bool]] = {
    "country = 'FR' and price < 3": lambda number: bool(number % 3) and number < 12,
    "sold > '2026-02-20'": lambda number: number > 50,
    "seen >= '2026-01-02 22:00' and year(seen) = 2026": lambda number: number >= 46,
    "stock is null or stock < 5": lambda number: number % 7 == 0 or number < 5,
    "\"on\" and cat in ('c0', 'c2') and CAT <> 'c2'": lambda number: number % 4 == 0,
}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return create_index(goods(), tmp_path_factory.mktemp("own") / "own.index", **COLUMNS)


@pytest.mark.parametrize("where", CONDITIONS)
@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo"])
def test_conditions(index: Index, where: str, zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", zone)
    assert chosen(open_index(index.path), where) == [*filter(CONDITIONS[where], range(1, COUNT))]


def test_frames_have_them(index: Index) -> None:
    frame = index.to_arrow(["id", *KEEP]).read_all()
    assert frame.schema.types[1:] == [
        pa.string(),
        pa.float64(),
        pa.date32(),
        pa.timestamp("us", "UTC"),
        pa.int64(),
        pa.bool_(),
        pa.string(),
    ]
    for name in KEEP:
        given = goods()[name].to_pylist()
        assert frame[name].to_pylist() == [float(one) if name == "price" else one for one in given]
    assert index.info()["kept"] == KEEP


def test_they_go_through_every_change(tmp_path: Path) -> None:
    place = write_table(tmp_path / "goods.parquet", goods(50))
    made = create_index(place, tmp_path / "own.index", **COLUMNS)
    write_table(place, goods(price=[float(number % 10) for number in range(COUNT)]))
    changed = made.sync()
    assert (changed.new, changed.changed, changed.same) == (10, 49, 1)  # the first costs 0 still
    assert made.sync().same == COUNT
    assert chosen(made, "price = 9") == [9, 19, 29, 39, 49, 59]
    made.remove(["sku-0019"])
    made.vacuum(keep_days=0)
    assert made.check().ok
    opened = open_index(made.path)
    assert chosen(opened, "price = 9") == [9, 29, 39, 49, 59]
    assert len(opened.to_arrow().read_all()) == COUNT - 1


def test_rows_without_a_vector_have_them_too(tmp_path: Path) -> None:
    def table(price: float) -> pa.Table:
        return table_of([*VECTORS[:9], None], price=[price] * 10)

    options = {**COLUMNS, "keep_columns": ["price"]}
    made = create_index(table(1.0), tmp_path / "own.index", **options)
    assert made.sync(table(2.0)).changed == 10
    assert made.sync(table(2.0)).same == 10
    assert set(made.to_arrow(["price"]).read_all()["price"].to_pylist()) == {2.0}


def test_partitions_and_files_of_csv(tmp_path: Path) -> None:
    write_deltalake(tmp_path / "delta", goods(), partition_by=["country"])
    made = create_index(tmp_path / "delta", tmp_path / "a.index", **COLUMNS)
    assert chosen(made, "country = 'DE'") == [*range(3, COUNT, 3)]
    rows = [
        f"sku-{number:04},{number / 8},{','.join(map(str, VECTORS[number]))}" for number in range(9)
    ]
    names = ",".join(f"v{number}" for number in range(VECTORS.shape[1]))
    (tmp_path / "goods.csv").write_text(f"sku,price,{names}\n" + "\n".join(rows) + "\n")
    options = ("--embedding-column", "v", "--id-column", "sku", "--keep-columns", "price")
    done = run("index", tmp_path / "goods.csv", "--out", tmp_path / "b.index", *options)
    assert done.code == 0, done.err
    where = ("--where", "price::double >= 0.5", "-k", 9)
    found = told("search", tmp_path / "b.index", "--id", "sku-0000", *where)["neighbors"]
    assert sorted(one["id"] for one in found) == [f"sku-{number:04}" for number in range(4, 9)]


def test_on_spark(tmp_path: Path) -> None:
    from lookalike.spark import session

    write_table(tmp_path / "goods.parquet", goods())
    frame = session().read.parquet(str(tmp_path / "goods.parquet"))
    made = create_index(frame, tmp_path / "own.index", **COLUMNS)
    for where, meets in CONDITIONS.items():
        assert chosen(made, where) == [*filter(meets, range(1, COUNT))]
    assert made.add(frame).same == COUNT
    counts = made.to_spark().groupBy("country").count().orderBy("country").collect()
    assert [tuple(row) for row in counts] == [("DE", 20), ("FR", 40)]


def photos_of(numbers: range, folder: Path, dearer: float = 0, **columns: Any) -> pa.Table:
    """Return pictures with columns to keep; one is none."""
    contents = [picture(folder / f"{number}.png", number).read_bytes() for number in numbers]
    contents[0] = b"no image"
    usual: dict[str, Any] = {
        "image": contents,
        "sku": [f"sku-{number}" for number in numbers],
        "price": [decimal.Decimal(number) / 4 + decimal.Decimal(dearer) for number in numbers],
        "sold": [DAY + datetime.timedelta(days=number) for number in numbers],
        "country": ["FR" if number % 3 else "DE" for number in numbers],
    }
    return pa.table({**usual, **columns})


def kept_rows(index: Index, *columns: str) -> list[tuple[Any, ...]]:
    names = ["sku", *columns]
    rows = index.to_arrow(names).read_all().to_pylist()
    return sorted(tuple(row[name] for name in names) for row in rows)


def test_tables_of_images_keep_them(tmp_path: Path) -> None:
    place = tmp_path / "delta"
    write_deltalake(place, photos_of(range(8), tmp_path), partition_by=["country"])
    keep = ["sku", "price", "sold", "country"]
    options: dict[str, Any] = {"keep_columns": keep, "model": MODEL}
    made = create_index(place, tmp_path / "own.index", **options)
    assert made._table.counts() == (7, 1)
    assert made.info()["kept"] == keep
    countries = {number: "FR" if number % 3 else "DE" for number in range(8)}
    wanted = [
        (f"sku-{number}", number / 4, DAY + datetime.timedelta(days=number), countries[number])
        for number in range(8)
    ]
    assert kept_rows(made, "price", "sold", "country") == wanted
    query = made.sample(1, seed=0)[0].vector
    where = "country = 'DE' and sold > '2026-01-02' and price < 3"
    assert len(made.search(query, k=9, where=where)) == 2  # 3 and 6
    assert made.sync().same == 8
    # The rows of the version before stay on the disk, in files that the log no longer names.
    write_deltalake(
        place, photos_of(range(9), tmp_path, 1), partition_by=["country"], mode="overwrite"
    )
    changed = made.sync()
    assert (changed.new, changed.removed, changed.skipped) == (9, 8, 1)
    assert kept_rows(made, "price") == [(f"sku-{n}", n / 4 + 1) for n in range(9)]
    with pytest.raises(LookalikeError, match="made with other columns"):
        create_index(place, made.path, model=MODEL)
    assert made.check().ok


@pytest.mark.long  # seconds of Spark for each
def test_tables_of_images_that_cannot_keep_them(tmp_path: Path) -> None:
    place = tmp_path / "photos"
    write_table(place / "a.parquet", photos_of(range(3), tmp_path))
    write_table(place / "b.parquet", photos_of(range(3), tmp_path, price=["1", "2", "3"]))
    for keep, message in {
        "colour": "has no column 'colour': leave it out of `keep_columns`",
        "image": "holds binary, which is not kept",
        "price": "'price' of b.parquet holds string, but the index has a double",
    }.items():
        with pytest.raises(LookalikeError, match=message) as caught:
            create_index(place, tmp_path / "x.index", keep_columns=[keep], model=MODEL)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "x.index").exists()
    made = create_index(place, tmp_path / "x.index", keep_columns=["sku"], model=MODEL)
    write_table(place / "a.parquet", photos_of(range(3), tmp_path, sku=["a", "b", None]))
    assert made.sync().changed == 3
    rows = made.to_arrow(["sku"]).read_all()["sku"].to_pylist()
    assert sorted(map(str, rows)) == ["None", "a", "b", "sku-0", "sku-1", "sku-2"]
    upgraded = made.upgrade(OTHER_MODEL)
    assert upgraded.embedded == 6
    assert made.to_arrow(["sku"]).read_all()["sku"].to_pylist() == rows


BAD: dict[str, tuple[Any, str]] = {
    "a column of the index": (["path"], "`keep_columns` has 'path', which an index has itself"),
    "in another case": (["country", "COUNTRY"], "`keep_columns` has 'COUNTRY', which .* or twice"),
    "a list": (["v"], "holds list<.*>, which is not kept: choose numbers, strings"),
    "missing": (["colour"], "has no column 'colour'; it has sku, kind, v, country"),
    "a space": (["a b"], "rename the column, without spaces"),
    "a quote": (['a"b'], "rename the column"),
    "an underscore": (["_number"], "no underscore first"),
    "a text": ("country", "`keep_columns` is 'country': give a list of columns"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_kept(kind: str, tmp_path: Path) -> None:
    keep, message = BAD[kind]
    with pytest.raises(LookalikeError, match=message):
        create_index(goods(), tmp_path / "own.index", **{**COLUMNS, "keep_columns": keep})
    assert list(tmp_path.iterdir()) == []


def test_values_and_types_that_do_not_fit(tmp_path: Path) -> None:
    huge = pa.array([2**63] * COUNT, pa.uint64())
    with pytest.raises(LookalikeError, match=r"'stock' cannot be kept as int64 .*not in range"):
        create_index(goods(stock=huge), tmp_path / "own.index", **COLUMNS)
    made = create_index(goods(stock=pa.nulls(COUNT)), tmp_path / "own.index", **COLUMNS)
    assert chosen(made, "stock is null") == [*range(1, COUNT)]
    with pytest.raises(LookalikeError, match="holds int64, but the index has a string: give"):
        made.add(goods(country=[*range(COUNT)]))
    with pytest.raises(LookalikeError, match="has no column 'price'"):
        made.add(goods().drop(["price"]))
    with pytest.raises(LookalikeError, match="made with other columns"):
        create_index(goods(), made.path, **{**COLUMNS, "keep_columns": ["country"]})
    folder = tmp_path / "goods"
    write_table(folder / "a.parquet", goods(9))
    write_table(folder / "b.parquet", goods(9, price=["1"] * 9))
    with pytest.raises(LookalikeError, match=r"'price' of .*b\.parquet holds string"):
        create_index(folder, tmp_path / "b.index", **COLUMNS)
    photo = picture(tmp_path / "photos" / "x.png", 1)
    photos = run("index", photo, "--out", tmp_path / "c.index", "--keep-columns", "price")
    assert_fails(photos, "--keep-columns is for tables, DataFrames and vectors")
