"""Exact search against plain arithmetic, and the collection that it searches, without Spark."""

import json
import os
import resource
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from helpers.segments import Floats, Piece, in_pieces, reference, unit
from lookalike import LookalikeError
from lookalike.images import Source
from lookalike.models import Model
from lookalike.search.exact import exact as exact_of_rows
from lookalike.search.rows import Neighbor, Rows, squared_distances
from lookalike.storage import NEWEST_FORMAT, SEGMENT, EmbeddingTable, Segment, write_segment
from lookalike.storage.schema import ROW
from lookalike.system.untrusted import is_hash

WIDTH = 16


def exact(
    segments: Sequence[Segment], query: Floats, k: int, without: int | None = None
) -> list[Neighbor]:
    return exact_of_rows(Rows(segments), query, k, without)


def check(
    segments: Sequence[Segment], query: Floats, k: int, without: int | None = None
) -> list[Neighbor]:
    found, wanted = exact(segments, query, k, without), reference(segments, query, k, without)
    assert [one.id for one in found] == [number for number, _ in wanted]
    assert np.allclose([one.distance for one in found], [d for _, d in wanted], rtol=1e-5)
    assert [one.rank for one in found] == list(range(1, len(found) + 1))
    for one in found:
        assert one.path == f"{one.id}.jpg"
        assert one.label == (f"make {one.id}" if one.id % 2 else None)
        assert type(one.id) is int and type(one.distance) is float and one.tables is None
    return found


# --- distances ----------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 2, 3, 4, 7, 8, 12, 16, 100, 512, 768])
@pytest.mark.parametrize("rows", [0, 1, 5, 33])
def test_distances(width: int, rows: int) -> None:
    vectors, query = unit((rows, width), 0), unit((1, width), 1)[0]
    given = squared_distances(vectors, query)
    assert (given.shape, given.dtype.name) == ((rows,), "float32")
    wanted = ((vectors.astype(np.float64) - query) ** 2).sum(axis=1)
    assert np.allclose(given, wanted, rtol=1e-5, atol=1e-9)


def test_distances_of_nearly_equal_vectors() -> None:
    # Where |a|^2 + |b|^2 - 2ab would give noise, or less than nothing.
    vectors = np.repeat(unit((1, 512), 0), 200, axis=0)
    query = vectors[0].copy()
    vectors[:, 0] += np.linspace(0, 1e-4, 200, dtype=np.float32)
    wanted = ((vectors.astype(np.float64) - query) ** 2).sum(axis=1)
    given = squared_distances(vectors, query)
    assert given[0] == 0
    assert np.allclose(given, wanted, rtol=1e-5, atol=0)
    assert (np.diff(given) >= 0).all()


@pytest.mark.parametrize("width", [440, 512, 768, 1000, 2048])
def test_equal_vectors_have_equal_distances_wherever_they_lie(width: int) -> None:
    one, query = unit((1, width), 0), unit((1, width), 1)[0]
    seen = {float(d) for n in range(1, 40) for d in squared_distances(one.repeat(n, 0), query)}
    assert len(seen) == 1


def test_queries_of_any_layout() -> None:
    vectors = unit((9, WIDTH), 0)
    query = np.repeat(unit((1, WIDTH), 1)[0], 2)[::2]
    given = squared_distances(vectors, query.astype(np.float64))
    assert np.array_equal(given, squared_distances(vectors, query.copy()))


# --- exact search -------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [[500], [1, 99, 400], [0, 250, 0, 250, 0], [100] * 5], ids=str)
@pytest.mark.parametrize("k", [1, 5, 99, 499, 500, 501, 10**6])
def test_random_vectors(sizes: list[int], k: int) -> None:
    segments = in_pieces(unit((500, 64), 0), sizes)
    found = check(segments, unit((1, 64), 1)[0], k)
    assert len(found) == min(k, 500)


@pytest.mark.parametrize("k", [1, 4, 17, 150, 300])
def test_ties_are_ordered_by_id_in_all_segments_together(k: int) -> None:
    # Of ones and zeros there are few distances, and all of them exact.
    vectors = np.random.default_rng(0).integers(0, 2, (300, 6))
    for seed in range(5):
        segments = in_pieces(vectors, [7, 93, 0, 120, 80], seed)
        query = np.random.default_rng(seed).integers(0, 2, 6).astype(np.float32)
        check(segments, query, k)
        check(segments, query, k, without=int(segments[1].ids[3]))


@pytest.mark.parametrize("sizes", [[10_000], [1, 4_000, 5_999]], ids=str)
def test_ten_thousand_equal_vectors(sizes: list[int]) -> None:
    vector = unit((1, 512), 0)
    segments = in_pieces(np.broadcast_to(vector, (10_000, 512)), sizes)
    ids = sorted(int(number) for segment in segments for number in segment.ids)
    for query in (vector[0], unit((1, 512), 1)[0]):
        found = exact(segments, query, 7)
        assert [one.id for one in found] == ids[:7]
        assert len({one.distance for one in found}) == 1
    assert [one.distance for one in exact(segments, vector[0], 3)] == [0.0] * 3
    assert [one.id for one in exact(segments, vector[0], 3, without=ids[1])] == [0, ids[2], ids[3]]


def test_zeros() -> None:
    segments = in_pieces(np.zeros((50, WIDTH)), [20, 30])
    zero = np.zeros(WIDTH, np.float32)
    found = check(segments, zero, 50)
    assert [one.distance for one in found] == [0.0] * 50
    assert [one.distance for one in exact(segments, unit((1, WIDTH), 0)[0], 3)] == pytest.approx(
        [1.0] * 3
    )


def test_without() -> None:
    vectors = unit((60, WIDTH), 0)
    segments = in_pieces(vectors, [20, 40])
    numbers = [int(number) for segment in segments for number in segment.ids]
    for number, vector in zip(numbers, vectors, strict=True):
        kept, left = exact(segments, vector, 4), check(segments, vector, 3, without=number)
        assert (kept[0].id, kept[0].distance) == (number, 0.0)
        assert [one.id for one in left] == [one.id for one in kept[1:]]
    assert len(check(segments, vectors[0], 60, without=numbers[0])) == 59
    assert len(check(segments, vectors[0], 60, without=1)) == 60  # an id that nobody has


@pytest.mark.parametrize("sizes", [[], [0], [0, 0]], ids=str)
def test_nothing_to_search(sizes: list[int]) -> None:
    assert exact(in_pieces(np.zeros((0, WIDTH)), sizes), np.zeros(WIDTH, np.float32), 5) == []


def test_one_row() -> None:
    segments = in_pieces(unit((1, WIDTH), 0), [1])
    assert len(check(segments, unit((1, WIDTH), 1)[0], 5)) == 1
    assert exact(segments, unit((1, WIDTH), 1)[0], 5, without=0) == []


def test_a_huge_outlier_disturbs_nobody() -> None:
    vectors = unit((40, WIDTH), 0)
    vectors[3] *= 1e15
    found = check(in_pieces(vectors, [10, 30]), unit((1, WIDTH), 1)[0], 40)
    assert found[-1].distance == pytest.approx(1e15, rel=1e-5)
    assert found[-2].distance <= 2


def test_vectors_mapped_from_a_file(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", unit((100, 64), 0))
    mapped = np.load(tmp_path / "v.npy", mmap_mode="r")
    piece = cast("Segment", Piece(mapped, np.arange(100)))
    assert check([piece], mapped[17], 5)[0].id == 17


# --- the collection -----------------------------------------------------------------------------

MODEL = Model(
    *("resnet18", "cars", "f32", WIDTH, "none", "0123456789abcdef"),
    graph=b"<net/>",
    weights_data=b"weights",
)
SOURCE = Source("files", "/photos", ("a", "b"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOOKALIKE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def make_batch(first: int, size: int, *skipped: int) -> pa.RecordBatch:
    """Rows as `embed_batches` gives them; those with the ids `skipped` have no embedding."""
    vectors = unit((max(size, 1), WIDTH), first)
    rows = []
    for number in range(first, first + size):
        row: dict[str, Any] = {"id": number, "path": f"{number}.jpg", "status": "skipped"}
        if number in skipped:
            row["reason"] = f"reason {number}"
        else:
            row |= {"status": "ok", "label": f"make {number}" if number % 2 else None}
            row |= {"width": 64, "height": 48, "content_hash": f"{number:032x}"}
            row["embedding"] = vectors[number - first].tolist()
        rows.append(row)
    return pa.RecordBatch.from_pylist(rows, schema=ROW)


def write(folder: Path, batches: Iterable[pa.RecordBatch]) -> list[dict[str, Any]]:
    folder.mkdir(parents=True, exist_ok=True)
    written = list(write_segment(batches, folder))
    assert all(one.schema == SEGMENT for one in written)
    return [row for one in written for row in one.to_pylist()]


def create(path: Path, *segments: list[pa.RecordBatch]) -> EmbeddingTable:
    """Make a collection, its last segment written first."""
    folder = path / "data" / uuid.uuid4().hex
    rows = [row for batches in segments[::-1] for row in write(folder, iter(batches))]
    return EmbeddingTable.create(path, SOURCE, MODEL, rows)


BATCHES = [
    [make_batch(0, 3, 1), make_batch(3, 32), make_batch(35, 1)],
    [make_batch(36, 5, 36, 40), make_batch(41, 2, 41, 42)],
    [make_batch(43, 2)],
]
ALL = pa.Table.from_batches([batch for batches in BATCHES for batch in batches])
EMBEDDED = ALL.filter(pa.compute.is_valid(ALL["embedding"]))
VECTORS = np.array(EMBEDDED["embedding"].to_pylist(), np.float32)


@pytest.fixture
def stored(tmp_path: Path) -> EmbeddingTable:
    return create(tmp_path / "my photos.index", *BATCHES)


def all_rows(segments: Sequence[Segment]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pa.concat_tables([one.rows for one in segments]).to_pylist()
    return rows


def check_segments(segments: Sequence[Segment]) -> None:
    """Check that segments hold exactly what was written, embedded rows only."""
    assert np.array_equal(np.concatenate([one.vectors for one in segments]), VECTORS)
    assert [n for one in segments for n in one.ids] == EMBEDDED["id"].to_pylist()
    columns = EMBEDDED.select(["id", "path", "label", "content_hash"])
    assert all_rows(segments) == columns.to_pylist()


def test_what_is_written_is_what_is_read(stored: EmbeddingTable) -> None:
    for collection in (stored, EmbeddingTable.open(str(stored.path))):
        assert collection.counts() == (40, 5)
        assert (collection.version, collection.source, collection.model) == (0, SOURCE, MODEL)
        assert collection.about_model == MODEL.about()
        assert collection.model.graph == MODEL.graph
        assert len(collection.files()) == 3
        assert collection.size() == sum(file.stat().st_size for file in collection.files())
        assert list(collection.skipped()) == [
            (f"{n}.jpg", f"reason {n}") for n in (1, 36, 40, 41, 42)
        ]
        check_segments(collection.segments)
        assert [one["what"] for one in collection.history()] == ["index"]


def test_search_in_a_collection(stored: EmbeddingTable) -> None:
    found = exact(stored.segments, VECTORS[7], 3)
    assert (found[0].id, found[0].path, found[0].label) == (8, "8.jpg", None)
    assert found[0].distance == 0
    assert len(exact(stored.segments, VECTORS[7], 1000)) == 40


def test_other_readers_read_the_same(stored: EmbeddingTable) -> None:
    table = DeltaTable(stored.path).to_pyarrow_table().sort_by("id")
    assert table.select(ROW.names).to_pylist() == ALL.to_pylist()
    few = DeltaTable(stored.path).to_pyarrow_table(filters=[("id", ">=", 41), ("id", "<", 44)])
    assert sorted(few["id"].to_pylist()) == [41, 42, 43]


def test_the_log_tells_the_truth(stored: EmbeddingTable) -> None:
    lines = (stored.path / "_delta_log" / f"{0:020}.json").read_text().splitlines()
    added = [json.loads(line)["add"] for line in lines if "add" in json.loads(line)]
    assert len(added) == 3
    for entry in added:
        file = stored.path / entry["path"]
        table, figures = pq.read_table(file, partitioning=None), json.loads(entry["stats"])
        ids = table["id"].to_pylist()
        assert figures["numRecords"] == len(table)
        assert figures["minValues"] == {"id": min(ids)}
        assert figures["maxValues"] == {"id": max(ids)}
        for column, nulls in figures["nullCount"].items():
            assert nulls == table[column].null_count, column
        assert "embedding" in figures["nullCount"]
        assert entry["size"] == file.stat().st_size
        assert entry["modificationTime"] == file.stat().st_mtime_ns // 1_000_000
        assert entry["dataChange"] is True


def test_nothing_is_left_over(stored: EmbeddingTable, own_cache: Path) -> None:
    check_segments(stored.segments)
    files = {path for path in stored.path.rglob("*") if path.is_file()}
    kept = {"_lookalike.json", "lookalike.json", "_delta_log/" + f"{0:020}.json"}
    kept |= {f"_model/{name}" for name in ("model.json", "network.bin", "network.xml")}
    kept |= {str(file.relative_to(stored.path)) for file in stored.files()}
    assert {str(file.relative_to(stored.path)) for file in files} == kept
    names = {path.name for path in (own_cache / "segments").iterdir()}
    assert names == {file.stem for file in stored.files()}
    for folder in (own_cache / "segments").iterdir():
        inside = sorted(path.name for path in folder.iterdir())
        assert inside[1:] == ["rows.arrow", "vectors.npy"]
        assert inside[0].startswith("of-") and is_hash(inside[0].removeprefix("of-"))


def test_the_cache_is_used_and_made_again(stored: EmbeddingTable, own_cache: Path) -> None:
    check_segments(stored.segments)
    moved = stored.path / "moved"
    opened = [EmbeddingTable.open(stored.path) for _ in range(2)]
    check_segments(opened[0].segments)
    (stored.path / "data").rename(moved)
    check_segments(opened[0].segments)  # from what is mapped
    shutil.rmtree(own_cache)
    with pytest.raises(LookalikeError, match=r"data file .* is missing: .*check INDEX --repair"):
        check_segments(opened[1].segments)
    with pytest.raises(LookalikeError, match=r"data file .* is missing: .*check INDEX --repair"):
        EmbeddingTable.open(stored.path)
    assert not list((own_cache / "segments").glob("*"))
    moved.rename(stored.path / "data")
    check_segments(EmbeddingTable.open(stored.path).segments)


def test_a_file_of_skipped_inputs_alone(tmp_path: Path) -> None:
    batches = [[make_batch(0, 3, 0, 1, 2)], [make_batch(3, 2)]]
    collection = create(tmp_path / "x.index", *batches)
    assert collection.counts() == (2, 3)
    assert [len(one.vectors) for one in collection.segments] == [0, 2]
    assert [len(one.ids) for one in collection.segments] == [0, 2]
    assert [one.id for one in exact(collection.segments, unit((1, WIDTH), 0)[0], 9, 4)] == [3]
    nothing = create(tmp_path / "y.index", batches[0])
    assert (nothing.counts(), len(list(nothing.skipped()))) == ((0, 3), 3)
    assert exact(nothing.segments, unit((1, WIDTH), 0)[0], 9) == []


@pytest.mark.parametrize("name", ["with space", "100% é #1", "a?b:c", "it's", "[x]", "x.y+z"])
def test_folders_of_any_name(tmp_path: Path, name: str) -> None:
    collection = create(tmp_path / name / name, *BATCHES)
    check_segments(EmbeddingTable.open(collection.path).segments)
    assert len(DeltaTable(collection.path).to_pyarrow_table()) == len(ALL)


@pytest.mark.parametrize("name", ["100%25", "a\\b", "two\nlines"])
def test_folders_that_delta_cannot_take(tmp_path: Path, name: str) -> None:
    try:
        collection = create(tmp_path / name, *BATCHES)
    except LookalikeError as error:
        assert str(error).isprintable()
    else:
        check_segments(collection.segments)


def test_a_relative_path(
    stored: EmbeddingTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    create(Path("here.index"), *BATCHES)
    collection = EmbeddingTable.open("here.index")
    segments = collection.segments
    monkeypatch.chdir("/")
    check_segments(segments)


def test_a_collection_may_move(stored: EmbeddingTable, tmp_path: Path, own_cache: Path) -> None:
    stored.path.rename(tmp_path / "elsewhere")
    shutil.rmtree(own_cache, ignore_errors=True)
    moved = EmbeddingTable.open(tmp_path / "elsewhere")
    check_segments(moved.segments)
    assert len(list(moved.skipped())) == 5


# --- writing ------------------------------------------------------------------------------------


def test_a_segment(tmp_path: Path) -> None:
    rows = write(tmp_path, iter(BATCHES[0]))
    (file,) = tmp_path.iterdir()
    assert rows == [
        {
            "path": str(file),
            "size": file.stat().st_size,
            "modified": file.stat().st_mtime_ns // 1_000_000,
            "rows": 36,
            "embedded": 35,
            "first_id": 0,
            "last_id": 35,
        }
    ]
    assert pq.read_schema(file).equals(ROW)


def test_a_large_segment_has_groups(tmp_path: Path) -> None:
    batches = [make_batch(16 * n, 16) for n in range(200)]  # as engines give them
    (row,) = write(tmp_path, iter(batches))
    stored = pq.ParquetFile(row["path"])
    assert (row["rows"], row["first_id"], row["last_id"]) == (3200, 0, 3199)
    assert stored.num_row_groups == 4
    assert stored.read().equals(pa.Table.from_batches(batches))


def test_batches_without_rows(tmp_path: Path) -> None:
    assert write(tmp_path, iter([])) == []
    assert list(tmp_path.iterdir()) == []
    (row,) = write(tmp_path, iter([make_batch(0, 0), make_batch(0, 2, 1), make_batch(0, 0)]))
    assert (row["rows"], row["embedded"], row["first_id"], row["last_id"]) == (2, 1, 0, 1)


@pytest.mark.parametrize("good", [0, 1, 31, 32, 40, 70])
def test_no_file_where_the_rows_fail(tmp_path: Path, good: int) -> None:
    def rows() -> Iterator[pa.RecordBatch]:
        for number in range(good):
            yield make_batch(32 * number, 32)
        raise RuntimeError("the worker was lost")

    with pytest.raises(RuntimeError, match="the worker was lost"):
        write(tmp_path, rows())
    assert list(tmp_path.iterdir()) == []


def test_no_file_where_the_disk_is_full(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OSError):
            write(tmp_path, (make_batch(32 * n, 32) for n in range(100)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_no_folder_is_made_for_a_run_given_up(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        list(write_segment(iter(BATCHES[0]), tmp_path / "gone"))
    assert list(tmp_path.iterdir()) == []


# --- what is no collection ----------------------------------------------------------------------


def about(stored: EmbeddingTable, change: Callable[[dict[str, Any]], object]) -> None:
    file = stored.path / "_lookalike.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def put_instead(stored: EmbeddingTable, make: Callable[[Path], object]) -> None:
    shutil.rmtree(stored.path)
    make(stored.path)


def log(stored: EmbeddingTable) -> Path:
    return stored.path / "_delta_log" / f"{0:020}.json"


DAMAGE: dict[str, tuple[Callable[[EmbeddingTable], object], str]] = {
    "gone": (lambda c: shutil.rmtree(c.path), "does not exist: make one"),
    "empty": (lambda c: put_instead(c, Path.mkdir), "is not an index: make one"),
    "a file": (lambda c: put_instead(c, Path.touch), "is not an index: make one"),
    "no log": (lambda c: shutil.rmtree(c.path / "_delta_log"), "is a damaged index"),
    "no words": (lambda c: os.remove(c.path / "_lookalike.json"), "is a damaged index"),
    "words empty": (lambda c: os.truncate(c.path / "_lookalike.json", 0), "is a damaged index"),
    "words cut": (lambda c: os.truncate(c.path / "_lookalike.json", 60), "is a damaged index"),
    "words null": (lambda c: (c.path / "_lookalike.json").write_text("null"), "is a damaged index"),
    "words a list": (lambda c: (c.path / "_lookalike.json").write_text("[]"), "is a damaged index"),
    "words no text": (
        lambda c: (c.path / "_lookalike.json").write_bytes(b"\xff\xfe"),
        "is a damaged index",
    ),
    "newer": (lambda c: about(c, lambda a: a.update(format=NEWEST_FORMAT + 1)), "upgrade"),
    "newer by far": (
        lambda c: (c.path / "_lookalike.json").write_text('{"format": 99, "all": "else"}'),
        "was made by a newer lookalike: upgrade",
    ),
    "no format": (lambda c: about(c, lambda a: a.pop("format")), "is a damaged index"),
    "format a word": (lambda c: about(c, lambda a: a.update(format="1")), "is a damaged index"),
    "no source": (lambda c: about(c, lambda a: a.pop("source")), "is a damaged index"),
    "source null": (lambda c: about(c, lambda a: a.update(source=None)), "is a damaged index"),
    "source of more": (
        lambda c: about(c, lambda a: a["source"].update(extra=1)),
        "is a damaged index",
    ),
    "log empty": (lambda c: os.truncate(log(c), 0), "is a damaged index"),
    "log cut": (lambda c: os.truncate(log(c), log(c).stat().st_size - 100), "is a damaged index"),
    "log gone": (lambda c: log(c).unlink(), "is a damaged index"),
    "log of words": (lambda c: log(c).write_text("no log"), "is a damaged index"),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_what_is_no_collection(
    damage: Callable[[EmbeddingTable], object], message: str, stored: EmbeddingTable
) -> None:
    damage(stored)
    with pytest.raises(LookalikeError, match=message) as caught:
        EmbeddingTable.open(stored.path)
    assert str(caught.value).isprintable()
    assert str(stored.path) in str(caught.value)


def test_a_version_that_is_not_there(stored: EmbeddingTable) -> None:
    assert EmbeddingTable.open(stored.path, 0).counts() == (40, 5)
    with pytest.raises(LookalikeError) as caught:
        EmbeddingTable.open(stored.path, 7)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("damage", [os.remove, lambda f: os.truncate(f, 500)], ids=["gone", "cut"])
@pytest.mark.parametrize(
    "ask",
    [lambda c: [one.vectors for one in c.segments], lambda c: list(c.skipped())],
    ids=["segments", "skipped"],
)
def test_a_damaged_data_file(
    damage: Callable[[Path], None], ask: Callable[[EmbeddingTable], object], stored: EmbeddingTable
) -> None:
    damage(stored.files()[1])
    with pytest.raises(LookalikeError) as caught:
        ask(stored)
    assert str(caught.value).isprintable()
    assert str(stored.files()[1]) in str(caught.value)
    assert stored.counts() == (40, 5)  # which the log alone can tell


def test_a_damaged_model(stored: EmbeddingTable) -> None:
    (stored.path / "_model" / "network.bin").unlink()
    opened = EmbeddingTable.open(stored.path)
    assert opened.counts() == (40, 5)
    with pytest.raises(LookalikeError, match="no whole model"):
        _ = opened.model


def test_no_second_collection_over_the_first(stored: EmbeddingTable) -> None:
    before = sorted(stored.path.rglob("*"))
    with pytest.raises(LookalikeError, match=r"(?i)exist"):
        EmbeddingTable.create(stored.path, SOURCE, MODEL, [])
    assert sorted(stored.path.rglob("*")) == before
    check_segments(EmbeddingTable.open(stored.path).segments)
