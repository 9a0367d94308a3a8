"""Vectors of one's own: every form is read, keys come back, each bad row has its reason."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pds
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from helpers.command import assert_fails, run, told
from helpers.own import WIDTH, crowds, table_of, write_table
from lookalike import Index, LookalikeError, create_index, open_index
from lookalike.ingest import Options
from lookalike.ingest.export import export_csv, write_embeddings
from lookalike.ingest.vectors import running, tables, write
from lookalike.ingest.vectors.tables import ParquetTable
from lookalike.storage import EmbeddingTable

COUNT = 130
VECTORS = crowds(COUNT)
KEYS = [f"sku-{number:04}" for number in range(COUNT)]
COLUMNS: dict[str, Any] = {"embedding_column": "v", "id_column": "sku", "label_column": "kind"}


def stored_rows(index: Index) -> dict[int | str, tuple[str, str | None, bytes]]:
    """Return path, label and vector of each embedded row, by its key."""
    found = {}
    for segment in index._table.segments:
        rows = segment.rows.to_pylist()
        for row, vector in zip(rows, segment.vectors, strict=True):
            found[row.get("key", row["id"])] = (row["path"], row["label"], vector.tobytes())
    return found


def reasons(index: Index) -> dict[str, str]:
    return dict(index._table.skipped())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """An index of the vectors with keys, from a Parquet file in row groups."""
    folder = tmp_path_factory.mktemp("made")
    file = write_table(folder / "own.parquet", table_of(VECTORS), 50)
    return create_index(file, folder / "own.index", **COLUMNS)


def spark_vectors(folder: Path) -> Path:
    """Write vectors as Spark ML does: every third one is sparse."""
    rows = []
    for number, vector in enumerate(VECTORS.astype(float)):
        dense = {"type": 1, "size": None, "indices": None, "values": vector.tolist()}
        places = list(range(WIDTH))
        sparse = {"type": 0, "size": WIDTH, "indices": places, "values": vector.tolist()}
        rows.append(dense if number % 3 else sparse)
    kind = pa.struct(
        [
            ("type", pa.int8()),
            ("size", pa.int32()),
            ("indices", pa.list_(pa.int32())),
            ("values", pa.list_(pa.float64())),
        ]
    )
    table = table_of(VECTORS).drop(["v"]).append_column("v", pa.array(rows, kind))
    return write_table(folder / "spark.parquet", table)


def with_type(kind: pa.DataType) -> Callable[[Path], Path]:
    """Return what writes the vectors as lists of another type."""

    def make(folder: Path) -> Path:
        values = VECTORS.astype(kind.value_type.to_pandas_dtype())
        column = pa.array(list(values), pa.list_(kind.value_type)).cast(kind)
        table = table_of(VECTORS).set_column(2, "v", column)
        return write_table(folder / "typed.parquet", table)

    return make


def parquet_folder(folder: Path) -> Path:
    place = folder / "several"
    for number, start in enumerate(range(0, COUNT, 40)):
        table = table_of(VECTORS).slice(start, 40)
        write_table(place / f"part={number % 2}" / f"{number}.parquet", table, 7)
    return place


def delta(folder: Path) -> Path:
    place = folder / "delta"
    write_deltalake(place, table_of(VECTORS).slice(0, 90), partition_by=["kind"])
    write_deltalake(place, table_of(VECTORS).slice(90), mode="append")
    return place


def csv_file(folder: Path) -> Path:
    file = folder / "own.csv"
    lines = [",".join(["sku", "kind", *(f"v{number}" for number in range(WIDTH))])]
    for key, number, vector in zip(KEYS, range(COUNT), VECTORS, strict=True):
        lines.append(",".join([key, f"kind {number % 5}", *map(repr, vector.tolist())]))
    file.write_text("\n".join(lines) + "\n")
    return file


FORMS: dict[str, Callable[[Path], Any]] = {
    "folder": parquet_folder,
    "glob": lambda folder: f"{parquet_folder(folder)}/*/*.parquet",
    "delta": delta,
    "csv": csv_file,
    "spark vectors": spark_vectors,
    "double": with_type(pa.list_(pa.float64())),
    "fixed size": with_type(pa.list_(pa.float32(), WIDTH)),
    "large list": with_type(pa.large_list(pa.float32())),
    "table": lambda _: table_of(VECTORS),
    "record batch": lambda _: table_of(VECTORS).combine_chunks().to_batches()[0],
    "reader": lambda _: table_of(VECTORS).to_reader(max_chunksize=33),
    "dataset": lambda folder: pds.dataset(parquet_folder(folder)),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_rows(made: Index, tmp_path: Path, form: str) -> None:
    index = create_index(FORMS[form](tmp_path), tmp_path / "own.index", **COLUMNS)
    assert stored_rows(index) == stored_rows(made)
    assert index.check().ok
    assert [one.id for one in index.search(id=KEYS[3], k=4)] == [
        one.id for one in made.search(id=KEYS[3], k=4)
    ]


def test_half_floats_and_whole_numbers(tmp_path: Path) -> None:
    for kind in (pa.float16(), pa.int16(), pa.uint8()):
        values = VECTORS.astype(kind.to_pandas_dtype())
        column = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), WIDTH)
        table = table_of(VECTORS).set_column(2, "v", column)
        index = create_index(
            table, tmp_path / f"{kind}.index", **COLUMNS, metric="l2", overwrite=True
        )
        found = [np.frombuffer(one[2], np.float32) for one in stored_rows(index).values()]
        assert np.array_equal(np.array(found), values.astype(np.float32))


def test_arrays_are_named_by_file_and_row(tmp_path: Path) -> None:
    file = tmp_path / "own.npy"
    np.save(file, np.asfortranarray(VECTORS.astype(np.float64)))
    index = create_index(file, tmp_path / "file.index", metric="l2")
    assert [path for path, *_ in stored_rows(index).values()] == [
        f"own.npy#{row}" for row in range(COUNT)
    ]
    here = create_index(VECTORS, tmp_path / "array.index", metric="l2")
    vectors = [vector for *_, vector in stored_rows(here).values()]
    assert vectors == [one.tobytes() for one in VECTORS]
    assert index.search(VECTORS[5])[0].id == here.search(VECTORS[5])[0].id == 5
    with pytest.raises(LookalikeError, match="rows of a process have no names"):
        here.add(VECTORS[:3])
    more = tmp_path / "more.npy"
    np.save(more, VECTORS[:4] + 1)
    assert index.add(more).new == 4
    assert index.sync(file).to_dict()["removed"] == 4


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_bad_rows_are_skipped_with_their_reasons(tmp_path: Path, metric: Any) -> None:
    rows: list[Any] = [one.tolist() for one in VECTORS]
    rows[0] = None
    rows[1] = [None, *rows[1][1:]]
    rows[2] = [float("nan"), *rows[2][1:]]
    rows[3] = [float("-inf"), *rows[3][1:]]
    rows[4] = rows[4][:7]
    rows[5] = []
    rows[6] = [0.0] * WIDTH
    rows[7] = [1e30] * WIDTH
    table = table_of(rows)
    index = create_index(table, tmp_path / "bad.index", **COLUMNS, metric=metric)
    expected = {
        KEYS[0]: "no vector: null",
        KEYS[1]: "the vector has nulls",
        KEYS[2]: "the vector has numbers that are not finite",
        KEYS[3]: "the vector has numbers that are not finite",
        KEYS[4]: f"the vector has 7 numbers, not {WIDTH}",
        KEYS[5]: f"the vector has 0 numbers, not {WIDTH}",
    }
    if metric == "cosine":
        expected[KEYS[6]] = "a vector of zeros, or near zero, has no direction"
    else:
        expected[KEYS[7]] = "the vector is longer than 1e+15"
    assert reasons(index) == expected
    assert index.report is not None
    assert (index.report.images, index.report.skipped) == (COUNT - len(expected), len(expected))
    assert len(index) == COUNT - len(expected)
    assert index.check().ok
    assert index.sync(table).same == COUNT


def test_odd_vectors_of_spark_are_skipped(tmp_path: Path) -> None:
    file = spark_vectors(tmp_path)
    table = pq.read_table(file)
    rows = table["v"].to_pylist()
    rows[0]["indices"] = [0, 1]  # fewer than values
    rows[1]["values"] = rows[1]["values"][:3]
    rows[3]["indices"] = list(range(1, WIDTH + 1))  # one beyond the width
    rows[4] = None
    pq.write_table(table.set_column(2, "v", pa.array(rows, table["v"].type)), file)
    index = create_index(file, tmp_path / "odd.index", **COLUMNS)
    assert set(reasons(index)) == {KEYS[0], KEYS[1], KEYS[3], KEYS[4]}
    assert set(stored_rows(index)) == {*KEYS} - set(reasons(index))


BAD: dict[str, tuple[Callable[[], Any], dict[str, Any], str]] = {
    "repeated": (lambda: table_of(VECTORS[:3], ["a", "b", "a"]), {}, "2 rows .* 'a': keys may"),
    "null": (lambda: table_of(VECTORS[:3], ["a", None, None]), {}, "2 rows .* no 'sku'"),
    "numbers": (lambda: table_of(VECTORS[:3], [0.5, 1.5, 2.5]), {}, "holds double, no keys"),
    "no column": (
        lambda: table_of(VECTORS),
        {"embedding_column": "w"},
        "no column 'w'; it has sku",
    ),
    "no id": (lambda: table_of(VECTORS), {"id_column": "uid"}, "no column 'uid'"),
    "texts": (lambda: table_of(VECTORS), {"embedding_column": "kind"}, "holds string, no vectors"),
    "unnamed": (lambda: table_of(VECTORS), {"embedding_column": None}, "name the column"),
    "nothing": (lambda: table_of(VECTORS).slice(0, 0), {}, "has no vector in the column"),
    "all null": (lambda: table_of([None, None]), {}, "has no vector in the column"),
    "empty": (lambda: table_of([[], []]), {}, "has no vector in the column"),
    "wide": (lambda: table_of(np.ones((2, 8193))), {}, "8,193 numbers: give 8,192 at most"),
    "useless": (lambda: table_of(np.zeros((3, 4))), {}, "none of 3 inputs can be read, such as"),
    "metric": (lambda: table_of(VECTORS), {"metric": "dot"}, "unknown metric 'dot'"),
    "labels": (lambda: table_of(VECTORS), {"labels": "a.csv"}, "set `label_column`"),
    "weights": (lambda: table_of(VECTORS), {"weights": "imagenet"}, "vectors have no network"),
    "flat": (lambda: VECTORS[0], {"embedding_column": None}, r"has the shape \(24,\)"),
    "objects": (
        lambda: np.array([["a", "b"]]),
        {"embedding_column": None, "id_column": None, "label_column": None},
        "has the type <U1",
    ),
    "uri": (lambda: "memory://own/vectors", {}, "has no Parquet files: name a table"),
    "missing": (lambda: "nowhere.parquet", {}, "does not exist"),
}


@pytest.mark.parametrize("case", BAD)
def test_wrong_tables_are_refused_in_one_line(tmp_path: Path, case: str) -> None:
    given, options, message = BAD[case]
    with pytest.raises(LookalikeError, match=message) as error:
        create_index(given(), tmp_path / "bad.index", **(COLUMNS | options))
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_keys_of_two_types_are_refused(tmp_path: Path, made: Index) -> None:
    folder = tmp_path / "mixed"
    write_table(folder / "a.parquet", table_of(VECTORS[:5], [1, 2, 3, 4, 5]))
    write_table(folder / "b.parquet", table_of(VECTORS[5:9], ["6", "7", "8", "9"]))
    with pytest.raises(LookalikeError, match="give keys of one type"):
        create_index(folder, tmp_path / "mixed.index", **COLUMNS)
    assert [one.name for one in tmp_path.iterdir()] == ["mixed"]
    with pytest.raises(LookalikeError, match="keys of the type int64"):
        made.add(table_of(VECTORS[:5], [1, 2, 3, 4, 5]))
    with pytest.raises(LookalikeError, match=f"3 numbers, but .* has {WIDTH}"):
        made.add(table_of(np.ones((4, 3)), ["a", "b", "c", "d"]))


def test_whole_numbers_are_keys_too(tmp_path: Path) -> None:
    keys = [10**12 - 7 * number for number in range(COUNT)]  # neither rising nor small
    index = create_index(table_of(VECTORS, keys), tmp_path / "own.index", **COLUMNS)
    found = index.search(id=keys[3], k=3)
    assert all(one.id in keys and one.path == str(one.id) for one in found)
    assert index.search(VECTORS[4])[0].id == keys[4]
    assert index.remove([keys[0], keys[2]]).removed == 2
    with pytest.raises(LookalikeError, match=f"has no key {keys[0]}"):
        index.remove(keys[0])
    with pytest.raises(LookalikeError, match="no embedded row with the key 'a'"):
        index.search(id="a")
    with pytest.raises(LookalikeError, match="no embedded row with the key 5"):
        index.search(id=[keys[1], 5])
    assert len(index.search(id=[keys[1], keys[3]], k=2)) == 2
    unsigned = pa.array([2**64 - 1] * 3, pa.uint64())
    with pytest.raises(LookalikeError, match="holds no keys"):
        create_index(table_of(VECTORS[:3], unsigned), tmp_path / "big.index", **COLUMNS)


def test_add_sync_and_remove_by_key(tmp_path: Path) -> None:
    file = write_table(tmp_path / "own.parquet", table_of(VECTORS[:100]))
    index = create_index(file, tmp_path / "own.index", **COLUMNS)
    more = table_of(VECTORS[95:], KEYS[95:])
    more = more.set_column(1, "kind", table_of(VECTORS)["kind"].slice(95))
    added = index.add(more)
    assert (added.new, added.changed, added.same) == (30, 0, 5)
    changed = VECTORS.copy()
    changed[3] += 1
    table = table_of(changed).slice(1)  # the first is gone
    kinds = table["kind"].to_pylist()
    kinds[10] = "another kind"
    write_table(file, table.set_column(1, "kind", pa.array(kinds)))
    signs: list[tuple[str, str]] = []
    dry = index.sync(dry_run=True, on_change=lambda *change: signs.append(change))
    assert sorted(signs) == [("-", KEYS[0]), ("~", KEYS[3]), ("~", KEYS[11])]
    assert (dry.new, dry.changed, dry.removed, dry.version) == (0, 2, 1, 1)
    done = index.sync()
    assert (done.new, done.changed, done.removed, done.same) == (0, 2, 1, COUNT - 3)
    rows = stored_rows(index)
    fresh = create_index(table.set_column(1, "kind", pa.array(kinds)), tmp_path / "b", **COLUMNS)
    assert rows == stored_rows(fresh)
    assert index.sync().same == COUNT - 1
    assert index.remove([KEYS[5], KEYS[6]]).removed == 2
    with pytest.raises(LookalikeError, match="none was removed"):
        index.remove([KEYS[7], "stranger"])
    assert index.sync().new == 2
    assert index.check().ok
    write_table(file, table.slice(0, 0))
    with pytest.raises(LookalikeError, match="has no vector"):
        index.sync()
    assert len(index) == COUNT - 1


def test_images_and_vectors_do_not_mix(made: Index, index: Index, tmp_path: Path) -> None:
    with pytest.raises(LookalikeError, match="holds images, not vectors"):
        index.add(table_of(VECTORS))
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(b"\xff\xd8\xff")
    with pytest.raises(LookalikeError, match="cannot be read"):
        made.add(photo)
    with pytest.raises(LookalikeError, match="without a network: search with a vector or an id"):
        made.search(photo)
    with pytest.raises(LookalikeError, match="without a network"):
        _ = made.embedder
    with pytest.raises(LookalikeError, match="holds vectors without a network: leave `like` out"):
        create_index(index._table.source.root, tmp_path / "x.index", like=made.path)
    with pytest.raises(LookalikeError, match="`id_column` is for vectors"):
        create_index(index._table.source.root, tmp_path / "x.index", id_column="sku")
    with pytest.raises(LookalikeError, match="already exists, made of"):
        create_index(table_of(VECTORS), made.path, **COLUMNS, metric="l2")
    assert list(tmp_path.iterdir()) == [photo]


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_what_embed_writes_is_indexed_again(
    index: Index, drawn: Any, tmp_path: Path, form: str
) -> None:
    out = tmp_path / ("cars.csv" if form == "csv" else "cars")
    if form == "csv":
        export_csv(index._table, out)  # as `embed` writes them
    else:
        write_embeddings(drawn.photos, out, Options(labels=drawn.labels, spark=False))
    columns: dict[str, Any] = {"path_column": "image", "label_column": "label"}
    column = "e" if form == "csv" else "embedding"
    again = create_index(
        out, tmp_path / "again.index", embedding_column=column, like=index.path, **columns
    )
    assert stored_rows(again) == stored_rows(index)
    assert again._table.about_model == index._table.about_model
    with pytest.raises(LookalikeError, match="missing: choose another folder"):
        again.relocate(tmp_path)
    again.relocate(drawn.photos)
    photo = sorted(drawn.new.iterdir())[0]
    own, other = again.search(photo), index.search(photo)
    assert [(one.path, one.distance) for one in own] == [(one.path, one.distance) for one in other]
    assert own.picture().size == other.picture().size
    assert again.search(id=5, k=3).to_dict()["neighbors"][0]["path"].startswith(str(drawn.photos))


def test_an_index_is_a_table_of_vectors(made: Index, tmp_path: Path) -> None:
    again = create_index(
        made.path,
        tmp_path / "again.index",
        embedding_column="embedding",
        id_column="key",
        label_column="label",
    )
    assert stored_rows(again) == stored_rows(made)


def test_pictures_are_those_that_paths_name(drawn: Any, tmp_path: Path) -> None:
    photos = sorted(drawn.photos.rglob("*.jpg"))[:4]
    names = [str(photos[0]), photos[1].name, None, "gone.jpg"]
    table = table_of(VECTORS[:4], [9, 8, 7, 6], photo=pa.array(names, pa.string()))
    index = create_index(table, tmp_path / "own.index", **COLUMNS, path_column="photo")
    index._move_to(index._table.move(str(photos[0].parent)))
    found = {one.id: one for one in index.search(VECTORS[0], k=4)}
    assert set(found) == {9, 8, 7, 6}
    source = index._table.source
    from lookalike.search.results import _picture

    shown = {key: _picture(source, one.path) is not None for key, one in found.items()}
    assert shown == {9: True, 8: True, 7: False, 6: False}
    outside = table_of(VECTORS[:1], [1], photo=["/etc/hostname"])
    index.add(outside)
    with pytest.raises(Exception, match="outside the folders"):
        from lookalike.images import read

        read(index._table.source, "/etc/hostname")


def test_a_long_table_is_read_in_parts_and_committed_in_waves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "BATCH_ROWS", 16)
    monkeypatch.setattr(write, "segment_rows", lambda width: 30)
    file = write_table(tmp_path / "own.parquet", table_of(VECTORS), 50)
    index = create_index(file, tmp_path / "own.index", **COLUMNS, wave=60)
    assert [one["what"] for one in index.versions()][-3:] == ["index"] * 3
    assert stored_rows(index) == stored_rows(create_index(file, tmp_path / "b", **COLUMNS))
    assert index.check().ok
    parts = list(ParquetTable(None, str(tmp_path), (str(file),)).parts())
    assert [(one.first, one.rows) for one in parts] == [(0, 50), (50, 50), (100, 30)]


def test_a_killed_run_is_continued(tmp_path: Path) -> None:
    many = crowds(2000, 64)
    file = write_table(
        tmp_path / "own.parquet", table_of(many, [f"k{n}" for n in range(2000)]), 500
    )
    out = tmp_path / "own.index"
    code = (
        "import sys, lookalike\n"
        "lookalike.create_index(sys.argv[1], sys.argv[2], embedding_column='v', id_column='sku', "
        "label_column='kind', wave=100)"
    )
    started = subprocess.Popen([sys.executable, "-c", code, str(file), str(out)])
    log = out / "_delta_log"
    while started.poll() is None and not (log.is_dir() and len(list(log.glob("*.json"))) > 3):
        time.sleep(0.01)
    os.kill(started.pid, signal.SIGKILL)
    started.wait()
    kept = len(open_index(out))
    assert 0 < kept < 2000
    index = create_index(file, out, **COLUMNS)
    assert index.report is not None and index.report.same == kept
    whole = create_index(file, tmp_path / "whole.index", **COLUMNS)
    assert stored_rows(index) == stored_rows(whole)
    assert index.check().ok


def test_a_table_that_changes_meanwhile_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_table(tmp_path / "own.parquet", table_of(VECTORS))
    before = write.write_in_process

    def change_first(*given: Any) -> None:
        write_table(file, table_of(VECTORS + 1))
        before(*given)

    monkeypatch.setattr(running, "write_in_process", change_first)
    with pytest.raises(LookalikeError, match="was changed meanwhile: run the same command again"):
        create_index(file, tmp_path / "own.index", **COLUMNS)
    assert not (tmp_path / "own.index").exists()


def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    file = write_table(tmp_path / "own.parquet", table_of(VECTORS))
    data = file.read_bytes()
    file.write_bytes(data[:-40])
    with pytest.raises(LookalikeError, match=r"own\.parquet cannot be read"):
        create_index(file, tmp_path / "own.index", **COLUMNS)
    assert [one.name for one in tmp_path.iterdir()] == ["own.parquet"]


def test_overwrite_takes_another_table(tmp_path: Path) -> None:
    out = tmp_path / "own.index"
    create_index(table_of(VECTORS), out, **COLUMNS)
    other = table_of(VECTORS[:9] + 1, [f"other-{number}" for number in range(9)])
    index = create_index(other, out, **COLUMNS, metric="l2", overwrite=True)
    assert len(index) == 9 and index._table.metric == "l2"
    assert os.listdir(tmp_path) == ["own.index"]


def test_the_command_line(tmp_path: Path) -> None:
    table = table_of([*VECTORS[:20].tolist(), [0.0] * WIDTH], [*KEYS[:20], "zero"])
    file, out = write_table(tmp_path / "own.parquet", table), tmp_path / "own.index"
    options = ("--embedding-column", "v", "--id-column", "sku", "--label-column", "kind")
    done = run("index", file, "-o", out, *options, "--model", "clip")
    assert done.code == 0, done.err
    assert "20 vectors indexed" in done.err and f"{WIDTH} numbers each" in done.err
    assert "1 skipped" in done.err
    assert run("info", out, "--skipped").out.startswith("zero\ta vector of zeros")
    assert f"clip, {WIDTH} numbers" in run("info", out).out
    about = told("info", out)
    assert (about["metric"], about["table"], about["key"]) == ("cosine", str(file), "sku")
    found = told("search", out, "--id", KEYS[3], "-k", 3)
    assert found["query"]["id"] == KEYS[3]
    keys = [one["id"] for one in found["neighbors"]]
    assert KEYS[3] not in keys and set(keys) < set(KEYS)
    assert keys == [one["path"] for one in found["neighbors"]]
    sheet = run("search", out, "--random", "--seed", 1, "--picture", tmp_path / "found.png")
    assert sheet.code == 0 and (tmp_path / "found.png").stat().st_size
    assert_fails(run("search", out, "--id", "stranger"), "no embedded row with the key 'stranger'")
    assert_fails(run("search", out, file), "without a network")
    assert_fails(run("duplicates", out, "-o", tmp_path / "d"), "no network", "--within")
    assert_fails(run("duplicates", out, "-o", tmp_path / "d", "--verify"), "no pictures")
    twice = told("duplicates", out, "-o", tmp_path / "d", "--within", "0.2")
    assert twice["verified"] is False and twice["drop"] > 0
    listed = run("duplicates", out, "-o", tmp_path / "d", "--apply", "list")
    assert listed.code == 0, listed.err
    dropped = (tmp_path / "d.aside" / "drop.txt").read_text().split()
    assert len(dropped) == twice["drop"] and set(dropped) < set(KEYS)
    assert run("remove", out, KEYS[0]).code == 0
    assert told("sync", out)["new"] == 1
    assert_fails(run("index", file, "-o", tmp_path / "x", *options[:2], "--id-column", "kind"))
    assert run("remove", out, KEYS[1]).code == 0
    assert "1 new" in run("watch", out, "--once").out
    assert_fails(run("watch", out, "--once", "--spark"), "vectors", "sync")
    done = run(
        "index", out, "-o", tmp_path / "e.index", "--embedding-column", "embedding", "--json"
    )
    again = json.loads(done.out)
    assert (again["images"], again["skipped"]) == (20, 1)


def test_old_indexes_have_no_keys(index: Index) -> None:
    table = index._table
    assert table.own is None and not table.has_keys and table.metric == "cosine"
    assert [one.id for one in index.search(id=3, k=2)] == [
        one.number for one in index.search(id=3, k=2)
    ]
    assert EmbeddingTable.open(index.path).name_column == "path"
