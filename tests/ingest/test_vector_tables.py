"""Tables of vectors in odd forms: each is read whole, or refused in one line."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from helpers.own import crowds, table_of, write_table
from lookalike import Index, LookalikeError, create_index
from lookalike.ingest import Options
from lookalike.ingest.export import write_embeddings
from lookalike.ingest.vectors import running, write
from lookalike.ingest.vectors.in_memory import open_array
from lookalike.ingest.vectors.opening import open_files
from lookalike.ingest.vectors.tables import ParquetTable

COUNT = 60
VECTORS = crowds(COUNT)
KEYS = [f"sku-{number:04}" for number in range(COUNT)]
COLUMNS: dict[str, Any] = {"embedding_column": "v", "id_column": "sku"}


def keys_of(index: Index) -> set[Any]:
    return {row["key"] for segment in index._table.segments for row in segment.rows.to_pylist()}


def paths_of(index: Index) -> list[str]:
    return [row["path"] for segment in index._table.segments for row in segment.rows.to_pylist()]


def delta(place: Path, **options: Any) -> Path:
    write_deltalake(place, table_of(VECTORS), **options)
    return place


def test_each_of_several_places_is_there(tmp_path: Path) -> None:
    file = write_table(tmp_path / "a.parquet", table_of(VECTORS))
    index = create_index(file, tmp_path / "own.index", **COLUMNS)
    empty = tmp_path / "empty"
    empty.mkdir()
    for other, problem in (("b.parquet", "does not exist"), ("empty", "has no Parquet files")):
        with pytest.raises(LookalikeError, match=f"{other} {problem}"):
            index.sync([file, tmp_path / other])
    assert len(index) == COUNT


def test_a_delta_table_is_not_read_as_files(tmp_path: Path) -> None:
    """Its folder also has the files of older versions."""
    place = delta(tmp_path / "tables" / "own")
    write_deltalake(place, table_of(VECTORS[:9], KEYS[:9]), mode="overwrite")
    file = write_table(tmp_path / "a.parquet", table_of(VECTORS))
    given: Any
    for given in (tmp_path / "tables", [place, file], f"{tmp_path}/tab*"):
        with pytest.raises(LookalikeError, match="tables/own is a Delta table: name it"):
            create_index(given, tmp_path / "own.index", **COLUMNS)
    assert len(create_index(place, tmp_path / "own.index", **COLUMNS)) == 9


@pytest.mark.parametrize("name", ["my table", "a+b #1", "lien é"])
def test_a_delta_table_has_any_name(tmp_path: Path, name: str) -> None:
    place = delta(tmp_path / name, partition_by=["kind"])
    assert keys_of(create_index(place, tmp_path / "own.index", **COLUMNS)) == {*KEYS}
    (tmp_path / "link").symlink_to(place)
    assert keys_of(create_index(tmp_path / "link", tmp_path / "b.index", **COLUMNS)) == {*KEYS}


def test_files_outside_a_delta_table_are_refused(tmp_path: Path) -> None:
    place = delta(tmp_path / "own")
    (log,) = (place / "_delta_log").glob("*.json")
    (data,) = place.glob("*.parquet")
    (tmp_path / "own2").mkdir()
    for outside in (f"../own2/{data.name}", f"file://{tmp_path}/own2/{data.name}"):
        changed = log.read_text().replace(f'"path":"{data.name}', f'"path":"{outside}')
        other = shutil.copytree(place, tmp_path / f"other{len(outside)}")
        (other / "_delta_log" / log.name).write_text(changed)
        with pytest.raises(LookalikeError, match="names a file outside it"):
            open_files([str(other)], "v")


def test_a_partition_may_be_null(tmp_path: Path) -> None:
    kinds = pa.array([None if number % 3 else "Z z%" for number in range(COUNT)])
    table = table_of(VECTORS).set_column(1, "kind", kinds)
    write_deltalake(tmp_path / "own", table, partition_by=["kind"])
    index = create_index(tmp_path / "own", tmp_path / "own.index", **COLUMNS, label_column="kind")
    labels = {
        row["key"]: row["label"]
        for segment in index._table.segments
        for row in segment.rows.to_pylist()
    }
    assert labels == dict(zip(KEYS, kinds.to_pylist(), strict=True))


def test_rows_of_a_reader_have_the_names_of_those_of_a_table(tmp_path: Path) -> None:
    table = table_of(VECTORS)
    one = create_index(table, tmp_path / "a.index", embedding_column="v")
    other = create_index(table.to_reader(7), tmp_path / "b.index", embedding_column="v")
    assert paths_of(one) == paths_of(other) == [f"#{row}" for row in range(COUNT)]
    again = create_index(table.to_reader(7), tmp_path / "b.index", embedding_column="v")
    assert again.report is not None and again.report.same == COUNT


def test_a_reader_holds_what_parquet_cannot(tmp_path: Path) -> None:
    """Only the columns of the index are kept until they are read again."""
    since = pa.array([(1, 15, -30)] * COUNT, pa.month_day_nano_interval())
    reader = table_of(VECTORS, since=since).to_reader()
    assert keys_of(create_index(reader, tmp_path / "own.index", **COLUMNS)) == {*KEYS}


@pytest.mark.parametrize("sound", [0, 2])
def test_a_reader_that_fails_takes_one_line(tmp_path: Path, sound: int) -> None:
    table = table_of(crowds(1200))

    def batches() -> Iterator[pa.RecordBatch]:
        yield from table.to_batches(600)[:sound]
        raise pa.ArrowInvalid("the server is gone")

    reader = pa.RecordBatchReader.from_batches(table.schema, batches())
    with pytest.raises(LookalikeError, match=r"the table cannot be read .*the server is gone"):
        create_index(reader, tmp_path / "own.index", **COLUMNS)
    assert list(tmp_path.iterdir()) == []


def test_a_column_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(LookalikeError, match="ChunkedArray is no table "):
        create_index(table_of(VECTORS)["v"], tmp_path / "own.index", **COLUMNS)


def test_empty_row_groups_make_no_tasks_of_their_own(tmp_path: Path) -> None:
    empty = write_table(tmp_path / "a.parquet", table_of(VECTORS).slice(0, 0))
    file = write_table(tmp_path / "b.parquet", table_of(VECTORS), 25)
    assert pq.read_metadata(empty).num_row_groups == 1
    table = ParquetTable(None, str(tmp_path), (str(empty), str(file)))
    tasks = write.parts_of_tasks(table, 50)
    assert [[(part.rows, first) for part, first in task] for task in tasks] == [
        [(0, 0), (25, 0), (25, 25)],
        [(10, 50)],
    ]


def test_each_file_has_vectors(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    write_table(folder / "b.parquet", table_of(VECTORS[:9], KEYS[:9]))
    nulls = table_of(VECTORS[9:12], KEYS[9:12]).set_column(2, "v", pa.nulls(3))
    write_table(folder / "c.parquet", nulls)
    bare = pa.table({"sku": pa.nulls(0), "kind": pa.nulls(0), "v": pa.nulls(0)})
    write_table(folder / "a.parquet", bare)  # as pandas writes no rows
    index = create_index(folder, tmp_path / "own.index", **COLUMNS)
    assert keys_of(index) == {*KEYS[:9]}
    assert dict(index._table.skipped()) == dict.fromkeys(KEYS[9:12], "no vector: null")
    texts = nulls.set_column(2, "v", pa.array(["[1, 2]"] * 3))
    write_table(folder / "c.parquet", texts)
    with pytest.raises(LookalikeError, match=r"c\.parquet holds string, no vectors"):
        index.sync()
    write_table(folder / "c.parquet", nulls.set_column(0, "sku", pa.nulls(3)))
    with pytest.raises(LookalikeError, match=r"3 rows .* have no 'sku'"):
        index.sync()
    (folder / "c.parquet").unlink()
    (folder / "c.parquet").symlink_to(tmp_path / "gone")
    with pytest.raises(LookalikeError, match=r"c\.parquet is missing"):
        index.sync()
    assert len(index) == 9


def test_a_column_is_there_once(tmp_path: Path) -> None:
    table = table_of(VECTORS).rename_columns(["sku", "sku", "v"])
    with pytest.raises(LookalikeError, match="has 2 columns 'sku'"):
        create_index(table, tmp_path / "own.index", **COLUMNS)


def write_csv(file: Path, names: list[str], count: int = 3) -> Path:
    rows = [[f"k{row}", *map(str, range(row, row + len(names) - 1))] for row in range(count)]
    file.write_text("\n".join(map(",".join, [names, *rows])) + "\n")
    return file


def test_a_column_of_csv_with_the_very_name_comes_first(tmp_path: Path) -> None:
    file = write_csv(tmp_path / "own.csv", ["sku", "v", "v0", "v1"])
    with pytest.raises(LookalikeError, match=r"column 'v' of .* holds string, no vectors"):
        create_index(file, tmp_path / "own.index", **COLUMNS)


def test_a_csv_file_that_changes_meanwhile_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_csv(tmp_path / "own.csv", ["sku", "v0", "v1"])
    before = write.write_in_process

    def change_first(*given: Any) -> None:
        write_csv(file, ["sku", "v0", "v1"], 9)
        before(*given)

    monkeypatch.setattr(running, "write_in_process", change_first)
    with pytest.raises(LookalikeError, match="was changed meanwhile: run the same command again"):
        create_index(file, tmp_path / "own.index", **COLUMNS)


def test_an_array_of_another_byte_order_stays_on_the_disk(tmp_path: Path) -> None:
    file = tmp_path / "own.npy"
    np.save(file, VECTORS.astype(">f4"))
    table = open_array(np.load(file, mmap_mode="r"), str(file))
    assert isinstance(table.array, np.memmap)
    index = create_index(file, tmp_path / "own.index", metric="l2")
    found = np.concatenate([segment.vectors for segment in index._table.segments])
    assert np.array_equal(found, VECTORS)


def test_an_archive_of_arrays_is_no_array(tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", VECTORS)
    file = (tmp_path / "own.npz").rename(tmp_path / "own.npy")
    with pytest.raises(LookalikeError, match=r"own\.npy is no array of NumPy"):
        create_index(file, tmp_path / "own.index")


def test_a_photo_of_a_row_is_a_query_with_its_key(index: Index, drawn: Any, tmp_path: Path) -> None:
    out = tmp_path / "cars"
    write_embeddings(drawn.photos, out, Options(labels=drawn.labels, spark=False))
    columns: dict[str, Any] = {"id_column": "image", "path_column": "image"}
    again = create_index(
        out, tmp_path / "own.index", embedding_column="embedding", like=index.path, **columns
    )
    again.relocate(drawn.photos)
    photo = sorted(drawn.photos.rglob("*.jpg"))[0]
    found, wanted = again.search(photo), index.search(photo)
    assert found.query.id == str(photo.relative_to(drawn.photos))
    assert [(one.path, one.distance) for one in found] == [
        (one.path, one.distance) for one in wanted
    ]


def test_a_skipped_row_takes_another_path(tmp_path: Path) -> None:
    vectors = VECTORS.copy()
    vectors[0] = 0
    columns = COLUMNS | {"path_column": "photo"}
    photos = [f"{key}.jpg" for key in KEYS]
    table = table_of(vectors, photo=photos)
    index = create_index(table, tmp_path / "own.index", **columns)
    moved = table_of(vectors, photo=["moved.jpg", *photos[1:]])
    assert index.sync(moved).changed == 1
    assert [path for path, _ in index._table.skipped()] == ["moved.jpg"]
    assert index.sync(moved).same == COUNT
