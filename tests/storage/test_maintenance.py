"""Check, repair and vacuum: each kind of damage is found, named and repaired; nothing else is."""

import errno
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

import lookalike
from helpers.command import assert_fails, run
from helpers.rights import without_rights
from helpers.segments import unit
from lookalike import Index, LookalikeError
from lookalike.images import Source
from lookalike.images.synthetic import DrawnCollection
from lookalike.ingest.selection import matching_ids
from lookalike.models import Model
from lookalike.search.exact import exact
from lookalike.search.rows import Rows
from lookalike.search.searcher import Searcher, check_signatures
from lookalike.storage import (
    NEWEST_FORMAT,
    EmbeddingTable,
    SegmentRecord,
    commits,
    maintenance,
    write_segment,
    writing,
)
from lookalike.storage.maintenance import vacuum
from lookalike.storage.maintenance.findings import MAX_EXAMPLES
from lookalike.storage.schema import ROW
from lookalike.system.files import staging_folder

check = partial(maintenance.check, check_signatures=check_signatures)
repair = partial(maintenance.repair, check_signatures=check_signatures)

WIDTH = 16
MODEL = Model(
    *("resnet18", "cars", "f32", WIDTH, "none", "0123456789abcdef"),
    graph=b"<net/>",
    weights_data=b"weights",
)
SIZES = (64, 40, 30)
Change = Callable[[dict[str, Any]], object]
Rows_ = list[dict[str, Any]]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOOKALIKE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def rows_of(first: int, size: int, seed: int = 0) -> Rows_:
    """Rows as they are embedded; every tenth was skipped."""
    vectors = unit((size, WIDTH), first + 1000 * seed)
    rows = []
    for number, vector in enumerate(vectors, first):
        row: dict[str, Any] = dict.fromkeys(ROW.names)
        row |= {"id": number, "path": f"{number}.jpg", "size": number}
        if number % 10 == 9:
            row |= {"status": "skipped", "reason": f"reason {number}"}
        else:
            row |= {"status": "ok", "label": f"make {number % 3}", "width": 64, "height": 48}
            row |= {"content_hash": f"{number:032x}", "embedding": vector.tolist()}
        rows.append(row)
    return rows


def write(folder: Path, rows: Rows_) -> SegmentRecord:
    folder.mkdir(parents=True, exist_ok=True)
    batch = pa.RecordBatch.from_pylist(rows, schema=ROW)
    batches = (batch.slice(start, 16) for start in range(0, len(rows), 16))
    written: list[SegmentRecord] = [
        row for one in write_segment(batches, folder) for row in one.to_pylist()
    ]
    return written[0]


def create(path: Path, *segments: Rows_, **wrong: int) -> EmbeddingTable:
    """Make a collection of some rows a segment; the log says what is `wrong` of the second."""
    folder = path / "data" / uuid.uuid4().hex
    written = [write(folder, rows) for rows in segments]
    if wrong:
        written[1] |= wrong
    return EmbeddingTable.create(path, Source("files", "/photos"), MODEL, written)


def three(seed: int = 0) -> list[Rows_]:
    starts = np.cumsum([0, *SIZES[:-1]]).tolist()
    return [rows_of(start, size, seed) for start, size in zip(starts, SIZES, strict=True)]


@pytest.fixture
def stored(tmp_path: Path) -> EmbeddingTable:
    """Three segments; version 0 has a fourth, small one."""
    first = create(tmp_path / "my photos.index", *three(), rows_of(500, 3))
    return commits.remove(first, lambda _: np.array([500, 501, 502]), "remove")


def content(collection: EmbeddingTable) -> Rows_:
    tables = [pq.read_table(file, partitioning=None) for file in collection.files()]
    return pa.concat_tables(tables).to_pylist() if tables else []


def everything(path: Path) -> dict[str, bytes]:
    """All files of an index."""
    return {str(one): one.read_bytes() for one in path.rglob("*") if one.is_file()}


def found_in(path: Path) -> dict[str, int]:
    """Check an index; see that this changed nothing."""
    before = everything(path)
    checked = check(EmbeddingTable.open(path, check_files=False))
    assert everything(path) == before
    assert checked.ok == (not checked.counts)
    assert {one.kind for one in checked.examples} == set(checked.counts)
    return checked.counts


def assert_whole(path: Path, expected: Rows_) -> EmbeddingTable:
    """Check that an index is whole, holds these rows, and answers as one that was made of them."""
    assert found_in(path) == {}
    opened = EmbeddingTable.open(path)
    assert content(opened) == expected
    skipped = sum(row["status"] == "skipped" for row in expected)
    assert opened.counts() == (len(expected) - skipped, skipped)
    query = unit((1, WIDTH), 77)[0]
    vectors = [row for row in expected if row["embedding"] is not None]
    distances = [float(np.linalg.norm(np.array(row["embedding"]) - query)) for row in vectors]
    nearest = exact(Rows(opened.segments), query, 7)
    order = np.argsort(distances, kind="stable")[:7]
    assert [one.id for one in nearest] == [vectors[at]["id"] for at in order]
    return opened


def flip(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 4
    file.write_bytes(data)


# --- what is fine ------------------------------------------------------------------------------


def test_a_fresh_index_is_whole(stored: EmbeddingTable) -> None:
    rows = content(stored)
    checked = check(stored)
    assert checked.ok and checked.counts == {} and checked.examples == ()
    assert (checked.version, checked.files, checked.rows) == (1, 3, sum(SIZES))
    assert (checked.older, checked.openable) == (1, 1)
    Searcher(stored).get_ready()
    assert list(stored.signature_folder.iterdir())
    before = everything(stored.path)
    repaired = repair(stored)
    assert repaired.ok and (repaired.inputs, repaired.deleted) == (0, 0)
    before[str(stored.path / ".writers")] = b""
    assert everything(stored.path) == before
    assert_whole(stored.path, rows)


def test_an_index_of_photos_is_whole(index: Index) -> None:
    assert index.check().ok


def test_an_index_of_nothing_is_whole(tmp_path: Path) -> None:
    emptied = commits.remove(create(tmp_path / "x", rows_of(0, 3)), lambda _: np.arange(3), "x")
    assert check(emptied).ok
    assert (vacuum(emptied, 0).files, vacuum(emptied, 0).files) == (1, 0)
    assert check(EmbeddingTable.open(emptied.path)).ok


def test_an_older_version_is_checked(stored: EmbeddingTable) -> None:
    checked = check(EmbeddingTable.open(stored.path, 0))
    assert checked.ok and (checked.version, checked.rows) == (0, sum(SIZES) + 3)


def test_check_needs_no_more_than_reading(folder_of_all: Path) -> None:
    stored = create(folder_of_all / "x.index", *three())
    (stored.path / ".writers").touch()
    for one in (stored.path, *stored.path.rglob("*")):
        one.chmod(0o555 if one.is_dir() else 0o444)
    stray = stored.path / "data" / "stray.parquet"
    with without_rights():
        assert check(EmbeddingTable.open(stored.path)).ok
        with pytest.raises(LookalikeError, match="cannot be written to"):
            repair(stored)
    stored.files()[0].chmod(0)
    with without_rights(), pytest.raises(PermissionError):
        check(stored)  # which says nothing about the file
    for one in (stored.path, *stored.path.rglob("*")):
        one.chmod(0o755)
    stray.touch()
    assert found_in(stored.path) == {"left over": 1}


# --- data files --------------------------------------------------------------------------------

DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a byte of a page": (lambda f: flip(f, 1000), "damaged file"),
    "a byte of the footer": (lambda f: flip(f, f.stat().st_size - 20), "damaged file"),
    "the footer's length": (lambda f: flip(f, f.stat().st_size - 6), "damaged file"),
    "the last byte": (lambda f: flip(f, -1), "damaged file"),
    "missing": (os.remove, "missing file"),
    "cut": (lambda f: os.truncate(f, 700), "damaged file"),
    "empty": (lambda f: os.truncate(f, 0), "damaged file"),
    "of zeros": (lambda f: f.write_bytes(bytes(f.stat().st_size)), "damaged file"),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "kind"), DAMAGE.values(), ids=DAMAGE)
def test_a_lost_data_file(
    damage: Callable[[Path], object], kind: str, stored: EmbeddingTable
) -> None:
    rows = content(stored)
    file = stored.files()[1]
    damage(file)
    checked = check(EmbeddingTable.open(stored.path, check_files=False))
    assert checked.counts == {kind: 1}
    assert checked.examples[0].name == str(file.relative_to(stored.path))
    others = {name: data for name, data in everything(stored.path).items() if str(file) != name}
    done = repair(EmbeddingTable.open(stored.path, check_files=False))
    assert done.ok and done.found == checked and done.inputs == SIZES[1]
    kept = [row for row in rows if not SIZES[0] <= row["id"] < SIZES[0] + SIZES[1]]
    repaired = assert_whole(stored.path, kept)
    after = everything(stored.path)
    assert {name: after[name] for name in others} == others
    last = repaired.history()[0]
    assert (last["what"], last["removed"], last["version"]) == ("repair", SIZES[1], 2)
    assert repaired.next_id == stored.next_id


def test_a_file_of_another_index(stored: EmbeddingTable, tmp_path: Path) -> None:
    other = create(tmp_path / "other", *three(seed=1))
    shutil.copy(other.files()[0], stored.files()[0])
    rows = [row for row in content(stored) if row["id"] >= SIZES[0]]
    assert found_in(stored.path) == {"damaged file": 1}
    assert repair(EmbeddingTable.open(stored.path, check_files=False)).inputs == SIZES[0]
    assert_whole(stored.path, rows)


def test_what_says_nothing_of_the_rows_costs_none(stored: EmbeddingTable) -> None:
    rows = content(stored)
    for file in stored.files():
        data = file.read_bytes()
        at = data.rindex(b"parquet-cpp-arrow")  # who made it
        file.write_bytes(data[:at] + b"PARQUET" + data[at + 7 :])
    assert found_in(stored.path) == {"damaged file": 3}
    assert content(stored) == rows
    assert repair(stored).inputs == 0
    assert_whole(stored.path, rows)


@pytest.mark.parametrize("where", ["is_intact", "pq.ParquetFile"])
def test_a_disk_that_fails(
    where: str, stored: EmbeddingTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno_of, os.strerror(errno_of))

    monkeypatch.setattr(f"lookalike.storage.maintenance.data_files.{where}", fail)
    errno_of = errno.EIO
    checked = check(stored)
    assert checked.counts == {"damaged file": 3}
    assert "Input/output error" in checked.examples[0].detail
    errno_of = errno.ESTALE
    with pytest.raises(OSError, match="Stale"):  # which says nothing about the file
        check(stored)


def test_flipped_bits_never_change_a_row(tmp_path: Path) -> None:
    stored = create(tmp_path / "x.index", *three())
    rows, file = content(stored), stored.files()[0]
    data = file.read_bytes()
    random = np.random.default_rng(0)
    for at in random.integers(0, len(data), 12).tolist():
        flip(file, at)
        assert found_in(stored.path) == {"damaged file": 1}
        inputs = repair(EmbeddingTable.open(stored.path, check_files=False)).inputs
        assert inputs in (0, SIZES[0])
        assert_whole(stored.path, rows if not inputs else rows[SIZES[0] :])
        file.write_bytes(data)
        for log in (stored.path / "_delta_log").iterdir():
            if log.name > f"{0:020}.json":
                log.unlink()
        for stray in check(stored).examples:
            (stored.path / stray.name).unlink()


def test_all_data_files_are_away(stored: EmbeddingTable) -> None:
    (stored.path / "data").rename(stored.path.with_name("data"))
    assert found_in(stored.path) == {"missing file": 3}
    with pytest.raises(LookalikeError, match=r"data is missing: restore it"):
        repair(EmbeddingTable.open(stored.path, check_files=False))
    stored.path.with_name("data").rename(stored.path / "data")
    assert check(stored).ok


@pytest.mark.parametrize(
    "wrong",
    [
        {"rows": 41},
        {"embedded": 3},
        {"first_id": 60},
        {"last_id": 70},
        {"last_id": 10**6},
        {"rows": 7, "embedded": 9, "first_id": 1, "last_id": 9, "size": 5},
    ],
    ids=str,
)
def test_the_log_says_wrong_figures(wrong: dict[str, int], tmp_path: Path) -> None:
    path = tmp_path / "x.index"
    folder = path / "data" / "x"
    written = [write(folder, rows) for rows in three()]
    written[1] |= wrong
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EmbeddingTable, "check_files", lambda _: None)
        EmbeddingTable.create(path, Source("files", "/photos"), MODEL, written)
    stored = EmbeddingTable.open(path, check_files=False)
    assert found_in(path) == {"wrong figures": 1}
    done = repair(stored)
    assert (done.inputs, done.ok) == (0, True)
    repaired = assert_whole(path, [row for rows in three() for row in rows])
    assert repaired.next_id >= sum(SIZES)
    assert repaired.files()[::2] == [Path(written[at]["path"]) for at in (0, 2)]


# --- rows --------------------------------------------------------------------------------------

BAD: dict[str, tuple[Change, str]] = {
    "NaN": (lambda row: row["embedding"].__setitem__(3, float("nan")), "bad vector"),
    "infinite": (lambda row: row["embedding"].__setitem__(3, float("inf")), "bad vector"),
    "a number missing": (lambda row: row["embedding"].__setitem__(3, None), "bad vector"),
    "zeros": (lambda row: row.update(embedding=[0.0] * WIDTH), "bad vector"),
    "long": (lambda row: row.update(embedding=[1.0] * WIDTH), "bad vector"),
    "huge": (lambda row: row.update(embedding=[3e38] * WIDTH), "bad vector"),
    "narrow": (lambda row: row.update(embedding=[1.0]), "bad vector"),
    "no numbers": (lambda row: row.update(embedding=[]), "bad vector"),
    "no vector": (lambda row: row.update(embedding=None), "bad row"),
    "no hash": (lambda row: row.update(content_hash=None), "bad row"),
    "no width": (lambda row: row.update(width=None), "bad row"),
    "no height": (lambda row: row.update(height=None), "bad row"),
    "no path": (lambda row: row.update(path=None), "bad row"),
    "no status": (lambda row: row.update(status=None), "bad row"),
    "another status": (lambda row: row.update(status="OK"), "bad row"),
    "skipped with a vector": (lambda row: row.update(status="skipped", reason="x"), "bad row"),
    "skipped without a reason": (
        lambda row: row.update(status="skipped", embedding=None),
        "bad row",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "kind"), BAD.values(), ids=BAD)
def test_a_row_that_cannot_stay(spoil: Change, kind: str, tmp_path: Path) -> None:
    segments = three()
    rows = [row for one in three() for row in one if row["id"] not in (70, 100)]
    spoil(segments[1][6])
    spoil(segments[1][36])
    stored = create(tmp_path / "x.index", *segments)
    checked = check(stored)
    assert checked.counts == {kind: 2}
    if kind == "bad vector":
        assert [one.name for one in checked.examples] == ["70.jpg", "100.jpg"]
    assert repair(stored).inputs == 2
    repaired = assert_whole(stored.path, rows)
    assert repaired.history()[0]["removed"] == 2
    assert repaired.files()[::2] == stored.files()[::2]
    assert EmbeddingTable.open(stored.path, 0).files() == stored.files()


def test_many_broken_rows_are_counted_and_few_named(tmp_path: Path) -> None:
    rows = rows_of(0, 3000)
    for row in rows:
        row["embedding"] = row["embedding"] and [0.0] * WIDTH
    stored = create(tmp_path / "x.index", rows)
    checked = check(stored)
    assert checked.counts == {"bad vector": 2700}
    assert len(checked.examples) == MAX_EXAMPLES
    assert repair(stored).inputs == 2700
    assert EmbeddingTable.open(stored.path).counts() == (0, 300)


def test_a_file_of_which_no_row_can_stay(tmp_path: Path) -> None:
    segments = three()
    for row in segments[2]:
        row["path"] = None
    stored = create(tmp_path / "x.index", *segments)
    assert check(stored).counts == {"bad row": SIZES[2]}
    assert repair(stored).inputs == SIZES[2]
    assert_whole(stored.path, [row for rows in segments[:2] for row in rows])


def test_a_path_twice(tmp_path: Path) -> None:
    segments = three()
    segments[2][3]["path"] = segments[2][5]["path"] = segments[0][7]["path"]
    segments[1][2]["path"] = segments[1][4]["path"]
    dropped = {segments[0][7]["id"], segments[2][3]["id"], segments[1][2]["id"]}
    stored = create(tmp_path / "x.index", *segments)
    checked = check(stored)
    assert checked.counts == {"path twice": 3}
    assert [one.name for one in checked.examples] == ["68.jpg", "7.jpg"]
    assert repair(stored).inputs == 3
    kept = [row for rows in segments for row in rows if row["id"] not in dropped]
    assert_whole(stored.path, kept)


def renumbered(tmp_path: Path, segments: list[Rows_], kinds: dict[str, int]) -> list[int]:
    """Check and repair ids; see that no row is lost, and return the ids after it, by path."""
    stored = create(tmp_path / "x.index", *segments)
    assert found_in(stored.path) == kinds
    done = repair(stored)
    assert done.ok and done.inputs == 0
    repaired = EmbeddingTable.open(stored.path)
    after = content(repaired)
    assert_whole(stored.path, after)
    assert repaired.next_id > max(row["id"] for row in after)
    given, kept = (
        sorted((row | {"id": 0} for row in rows), key=lambda row: row["path"])
        for rows in ([row for one in segments for row in one], after)
    )
    assert kept == given
    return [row["id"] for row in after]


def test_an_id_twice_in_two_files(tmp_path: Path) -> None:
    segments = three()
    segments[1][0]["id"] = segments[0][-1]["id"]
    kinds = {"id twice": 1, "ids out of order": 1}
    ids = renumbered(tmp_path, segments, kinds)
    assert ids[:64] == list(range(64)) and ids[64:94] == list(range(104, 134))
    assert ids[94:] == list(range(134, 174))


def test_an_id_twice_in_one_file(tmp_path: Path) -> None:
    segments = three()
    segments[1][5]["id"] = segments[1][4]["id"]
    renumbered(tmp_path, segments, {"id twice": 1, "ids out of order": 1})


def test_ids_that_fall(tmp_path: Path) -> None:
    segments = three()
    segments[1].reverse()
    renumbered(tmp_path, segments, {"ids out of order": 1})


def test_ids_among_those_of_another_file(tmp_path: Path) -> None:
    segments = three()
    for row in (*segments[0], *segments[1]):
        row["id"] *= 2
    for at, row in enumerate(segments[2]):
        row["id"] = 2 * at + 1
    renumbered(tmp_path, segments, {"ids out of order": 1})


def test_a_row_without_an_id(tmp_path: Path) -> None:
    segments = three()
    segments[1][5]["id"] = None
    renumbered(tmp_path, segments, {"ids out of order": 1})


def test_everything_at_once(tmp_path: Path) -> None:
    segments = [*three(), rows_of(200, 50), rows_of(300, 50), rows_of(400, 50)]
    segments[0][3]["embedding"] = [0.0] * WIDTH
    segments[1].reverse()
    segments[2][4]["path"] = "7.jpg"
    segments[4][7]["content_hash"] = None
    stored = create(tmp_path / "x.index", *segments)
    os.truncate(stored.files()[3], 10)
    stored.files()[5].unlink()
    (stored.path / "data" / "stray").touch()
    kinds = {"bad vector", "ids out of order", "path twice", "bad row", "damaged file"}
    assert set(found_in(stored.path)) == kinds | {"missing file", "left over"}
    done = repair(EmbeddingTable.open(stored.path, check_files=False))
    assert done.ok and done.inputs == 1 + 1 + 1 + 50 + 50
    assert_whole(stored.path, content(EmbeddingTable.open(stored.path)))


# --- what is derived, what is left over -----------------------------------------------------------


def answers(collection: EmbeddingTable) -> list[int]:
    return [one.number for one in exact(Rows(collection.segments), unit((1, WIDTH), 5)[0], 9)]


@pytest.mark.parametrize("name", ["vectors.npy", "rows.arrow"])
@pytest.mark.parametrize("damage", [lambda f: flip(f, -50), lambda f: os.truncate(f, 300)])
def test_a_damaged_cache(name: str, damage: Callable[[Path], None], stored: EmbeddingTable) -> None:
    wanted = answers(stored)
    caches = [segment.cache for segment in stored.segments]
    others = everything(caches[0]) | everything(caches[2])
    damage(caches[1] / name)
    assert found_in(stored.path) == {"cache": 1}
    done = repair(stored)
    assert done.ok and (done.inputs, done.deleted) == (0, 1)
    assert not caches[1].exists()
    assert everything(caches[0]) | everything(caches[2]) == others
    opened = EmbeddingTable.open(stored.path)
    assert (opened.version, answers(opened)) == (1, wanted)


def test_every_flipped_byte_of_a_cache_shows(tmp_path: Path) -> None:
    stored = create(tmp_path / "x.index", rows_of(0, 8))
    answers(stored)
    (segment,) = stored.segments
    vectors = segment.cache / "vectors.npy"
    for at in range(128, vectors.stat().st_size, 3):
        flip(vectors, at)
        assert not segment.is_cached_well()
        flip(vectors, at)
    rows = segment.cache / "rows.arrow"
    for at in range(0, rows.stat().st_size, 3):  # padding says nothing, the rest must not crash
        flip(rows, at)
        assert segment.is_cached_well() in (True, False)
        flip(rows, at)
    assert segment.is_cached_well()


@pytest.mark.parametrize("damage", [lambda f: flip(f, 500), lambda f: f.write_bytes(b"")])
@pytest.mark.parametrize("name", ["cells.npz", "1.json"])
def test_damaged_signatures(
    name: str, damage: Callable[[Path], None], stored: EmbeddingTable
) -> None:
    Searcher(stored).get_ready()
    file = stored.signature_folder / name
    if name == "1.json":
        file.write_text(file.read_text().replace('"efforts"', '"effort"'))
    else:
        damage(file)
    assert found_in(stored.path) == {"signatures": 1}
    assert repair(stored).deleted == 1
    assert not file.exists()
    Searcher(EmbeddingTable.open(stored.path)).get_ready()
    assert check(stored).ok


def test_what_is_left_over(stored: EmbeddingTable) -> None:
    data = stored.files()[0].parent
    rows = content(stored)
    old = time.time() - 7200
    strays = [data / ".0123.part", data / "3.receipt", stored.path / "data" / "x" / "y.parquet"]
    strays += [stored.path / ".0123-_lookalike.json", stored.path / "_delta_log" / "_commit_1.tmp"]
    for stray in strays:
        stray.parent.mkdir(exist_ok=True)
        stray.write_bytes(b"x")
        os.utime(stray, (old, old))
    dead = stored.path / ".work-abcdefgh"
    dead.mkdir()
    (dead / ".owner").touch()
    hashes = stored.path / "_lsh"
    for version in (0, 1, 7):
        (hashes / str(version)).mkdir(parents=True)
    with staging_folder(stored.path / "work.x") as alive:
        assert found_in(stored.path) == {"left over": len(strays) + 2}
        done = repair(stored)
        assert alive.exists()
    assert 0 < done.deleted <= len(strays) + 2, "some were cleared by who came to repair"
    assert not any(one.exists() for one in (*strays, dead, hashes / "7"))
    assert (hashes / "0").exists() and (hashes / "1").exists()
    assert_whole(stored.path, rows)
    assert len(content(EmbeddingTable.open(stored.path, 0))) == len(rows) + 3


def test_a_writers_files_are_not_left_over(stored: EmbeddingTable) -> None:
    with writing(stored.path):
        stray = stored.new_folder() / "x.parquet"
        stray.touch()
        assert found_in(stored.path) == {}
        with pytest.raises(LookalikeError, match="is busy"):
            repair(stored)
        with pytest.raises(LookalikeError, match="is busy"):
            vacuum(stored, 0)
    assert found_in(stored.path) == {"left over": 1}


def test_a_damaged_model_is_named(stored: EmbeddingTable) -> None:
    os.truncate(stored.path / "_model" / "network.bin", 2)
    assert found_in(stored.path) == {"model": 1}
    done = repair(stored)
    assert not done.ok and done.left.counts == {"model": 1}
    about = json.loads((stored.path / "_model" / "model.json").read_text())
    (stored.path / "_model" / "network.bin").write_bytes(MODEL.weights_data)
    about["width"] = 17
    (stored.path / "_model" / "model.json").write_text(json.dumps(about))
    assert found_in(stored.path) == {"model": 1}


def test_an_index_of_a_newer_lookalike(stored: EmbeddingTable) -> None:
    file = stored.path / "_lookalike.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": NEWEST_FORMAT + 1}))
    (stored.path / "data" / "stray").touch()
    before = everything(stored.path)
    for call in (repair, vacuum):
        with pytest.raises(LookalikeError, match="made by a newer lookalike: upgrade"):
            call(stored)
    for options in (["check"], ["check", "--repair"], ["vacuum"]):
        assert_fails(run(options[0], stored.path, *options[1:]), "upgrade to open it")
    before[str(stored.path / ".writers")] = b""
    assert everything(stored.path) == before


def test_a_file_of_another_program(stored: EmbeddingTable) -> None:
    rows = content(stored)
    DeltaTable(stored.path).optimize.compact()
    opened = EmbeddingTable.open(stored.path)
    assert (len(opened.files()), len(content(opened))) == (1, len(rows))
    assert "foreign file" in found_in(stored.path)
    assert repair(opened).inputs == 0
    paths = [row["path"] for row in content(EmbeddingTable.open(stored.path))]
    assert sorted(paths) == sorted(row["path"] for row in rows)
    assert check(EmbeddingTable.open(stored.path)).ok


# --- vacuum ------------------------------------------------------------------------------------


def test_old_versions_go_and_the_current_one_stays(stored: EmbeddingTable, own_cache: Path) -> None:
    rows, reader = content(stored), EmbeddingTable.open(stored.path)
    small = set(EmbeddingTable.open(stored.path, 0).files()) - set(stored.files())
    answers(EmbeddingTable.open(stored.path, 0))
    caches = {path.name for path in (own_cache / "segments").iterdir()}
    assert vacuum(stored).versions == 0, "none of them is a week old"
    newest = EmbeddingTable.open(stored.path)
    assert (newest.version, len(newest.files())) == (2, 1), "small segments became one"
    before = everything(stored.path)
    dry = vacuum(newest, 0, dry_run=True)
    assert everything(stored.path) == before
    done = vacuum(newest, 0)
    assert (done.versions, done.files, done.version) == (2, 4, 2) == (dry.versions, dry.files, 2)
    assert (
        done.bytes
        == dry.bytes
        == sum(len(before[str(file)]) for file in reader.files())
        + sum(len(before[str(file)]) for file in small)
    )
    gone = {file.stem for file in [*small, *reader.files()]}
    assert {path.name for path in (own_cache / "segments").iterdir()} == caches - gone
    assert_whole(stored.path, rows)
    for version in (0, 1):
        with pytest.raises(LookalikeError, match=f"version {version} of .* is no longer kept"):
            EmbeddingTable.open(stored.path, version)
    assert [one["kept"] for one in newest.history()] == [True, False, False]
    checked = check(newest)
    assert checked.ok and (checked.older, checked.openable) == (2, 0)
    assert len(list((stored.path / "data").iterdir())) == 1, "no empty folders"
    assert newest.next_id == stored.next_id


def test_readers_go_on(stored: EmbeddingTable) -> None:
    opened = lookalike.open_index(stored.path)
    half = lookalike.open_index(stored.path)
    query = unit((1, WIDTH), 3)[0]
    wanted = [hit.id for hit in half.search(query)]
    assert vacuum(stored, 0).merged == 3
    assert [hit.id for hit in opened.search(query)] == wanted
    assert [hit.id for hit in half.search(query)] == wanted
    assert opened.refresh()
    assert [hit.id for hit in opened.search(query)] == wanted


@pytest.mark.parametrize(
    "ask",
    [
        lambda old: [one.vectors for one in old.segments],
        lambda old: list(old.skipped()),
        lambda old: matching_ids(old, {".": "."}, old.path),
        lambda old: old.dataframe(None),
    ],
    ids=["vectors", "skipped", "names", "spark"],
)
def test_a_reader_is_told_that_its_version_is_gone(
    ask: Callable[[EmbeddingTable], object], stored: EmbeddingTable
) -> None:
    old = EmbeddingTable.open(stored.path, 0)
    vacuum(stored, 0)
    with pytest.raises(LookalikeError, match=r"no longer kept: open the newest .*refresh") as told:
        ask(old)
    assert "repair" not in str(told.value) and "\n" not in str(told.value)
    reader = lookalike.Index(old)
    assert reader.refresh()
    assert len(reader.search(unit((1, WIDTH), 3)[0])) == 5


def test_a_reader_is_told_so_where_nothing_is_left(stored: EmbeddingTable) -> None:
    old = EmbeddingTable.open(stored.path)
    empty = commits.remove(old, lambda newest: matching_ids(newest, {"": "."}, stored.path), "")
    vacuum(empty, 0)
    with pytest.raises(LookalikeError, match="no longer kept: open the newest"):
        list(old.skipped())


def test_versions_of_the_last_days_stay(stored: EmbeddingTable) -> None:
    log = stored.path / "_delta_log"
    for version, days in ((0, 30), (1, 9)):  # 0 was the newest until nine days ago
        file = log / f"{version:020}.json"
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        for line in lines:
            if "commitInfo" in line:
                line["commitInfo"]["timestamp"] = int((time.time() - days * 86400) * 1000)
        file.write_text("\n".join(map(json.dumps, lines)) + "\n")
    opened = EmbeddingTable.open(stored.path)
    assert vacuum(opened, 10, dry_run=True).versions == 0
    done = vacuum(opened, 8)
    assert (done.versions, done.files) == (1, 1)
    assert check(EmbeddingTable.open(stored.path, 1)).ok
    with pytest.raises(LookalikeError, match="no longer kept"):
        EmbeddingTable.open(stored.path, 0)


def test_signatures_and_hash_models_of_gone_versions_go(stored: EmbeddingTable) -> None:
    (stored.path / "_lsh" / "0" / "model").mkdir(parents=True)
    (stored.path / "_lsh" / "1").mkdir()
    Searcher(EmbeddingTable.open(stored.path, 0)).get_ready()
    Searcher(stored).get_ready()
    folder = stored.signature_folder
    (folder / "0.json").write_bytes((folder / "0.json").read_bytes())
    (folder / "1.json").write_bytes((folder / "0.json").read_bytes())
    vacuum(stored, 0)
    assert sorted(one.name for one in folder.iterdir()) == ["1.json", "cells.npz"]
    assert [one.name for one in (stored.path / "_lsh").iterdir()] == ["1"]
    assert check(EmbeddingTable.open(stored.path)).ok


def test_a_model_outlives_a_vacuum(stored: EmbeddingTable) -> None:
    old = time.time() - 10**8
    for one in stored.path.rglob("*"):
        os.utime(one, (old, old))
    vacuum(stored, 0)
    assert EmbeddingTable.open(stored.path).model == MODEL
    assert check(EmbeddingTable.open(stored.path)).ok


def test_one_vacuum_at_a_time(stored: EmbeddingTable) -> None:
    with (
        writing(stored.path, alone=True),
        pytest.raises(LookalikeError, match="is busy, something writes into it: try again"),
    ):
        vacuum(stored)
    with pytest.raises(LookalikeError, match="`keep_days` is -1"):
        vacuum(stored, -1)


def test_a_lost_file_of_the_newest_version_is_no_old_one(stored: EmbeddingTable) -> None:
    stored.files()[0].unlink()
    for version in (0, 1):
        with pytest.raises(LookalikeError, match="is missing: restore it"):
            EmbeddingTable.open(stored.path, version)


# --- a long log ----------------------------------------------------------------------------------


@pytest.mark.long
def test_a_long_log_is_checkpointed(tmp_path: Path) -> None:
    stored = create(tmp_path / "x.index", *three())
    for number in range(120):
        stored = stored.commit("add", [write(stored.new_folder(), rows_of(1000 + number, 1))])
    log = stored.path / "_delta_log"
    assert [file.name for file in log.glob("*.parquet")] == [f"{99:020}.checkpoint.parquet"]
    assert check(stored).ok and check(stored).openable == 120
    for version in (0, 50, 98, 99, 100, 119):
        old = EmbeddingTable.open(stored.path, version)
        assert sum(old.counts()) == sum(SIZES) + version
        assert len(old.files()) == 3 + version
    aged = time.time() - 40 * 86400
    for file in log.iterdir():
        if file.name < f"{110:020}":
            os.utime(file, (aged, aged))
    for _ in range(80):  # the next checkpoint lets go of what is a month old
        stored = stored.commit("nothing")
    assert min(file.name for file in log.iterdir()) == f"{99:020}.checkpoint.parquet"
    opened = EmbeddingTable.open(stored.path)
    assert (opened.version, opened.id_ranges()) == (200, stored.id_ranges())
    assert (opened.next_id, opened.segment_records()) == (1120, stored.segment_records())
    assert check(opened).ok and check(opened).older == check(opened).openable == 101
    assert [one["version"] for one in opened.history()] == list(range(200, 98, -1))
    for version in (99, 100, 150):
        rows = content(EmbeddingTable.open(stored.path, version))
        assert len(rows) == sum(SIZES) + min(version, 120)
    with pytest.raises(LookalikeError, match=r"version 50 of .* is no longer kept"):
        EmbeddingTable.open(stored.path, 50)
    done = vacuum(opened, 0)
    assert done.merged == 123 and done.files == 0
    assert (log / f"{201:020}.checkpoint.parquet").exists()
    rows = content(stored)
    done = vacuum(opened, 0)
    assert (done.files, done.versions) == (123, 102)
    assert_whole(stored.path, rows)


def test_a_checkpoint_that_was_never_finished_is_none(stored: EmbeddingTable) -> None:
    stored.checkpoint()
    log = stored.path / "_delta_log"
    for commit in log.glob("*.json"):
        commit.unlink()
    before = stored.log()
    assert [version.number for version in before.versions] == [stored.version]
    for number in (0, stored.version + 1):
        for end in ("parquet.part", "parquet#1", "0000000001.parquet", "parquet.crc", "json"):
            (log / f"{number:020}.checkpoint.{end}").touch()
    assert stored.log() == before


# --- the faces -----------------------------------------------------------------------------------


def test_the_commands(stored: EmbeddingTable) -> None:
    code, out, _ = run("check", stored.path)
    assert (code, out) == (0, f"whole: {sum(SIZES)} rows in 3 files, version 1\n")
    stored.files()[1].unlink()
    code, out, error = run("check", stored.path)
    problem = f"{stored.path} is not whole (1 x missing file)"
    assert (code, error) == (1, f"error: {problem}: `lookalike check {stored.path} --repair`\n")
    assert out.startswith("missing file: data/") and out.count("\n") == 1
    code, out, error = run("check", stored.path, "--json")
    told = json.loads(out)
    assert code == 1 and told["counts"] == {"missing file": 1} and not told["ok"]
    assert told["examples"][0]["detail"] == "is missing"
    code, out, error = run("check", stored.path, "--repair", "--json")
    told = json.loads(out)
    assert (code, error) == (0, "")
    assert told["ok"] and told["inputs"] == SIZES[1] and told["left"]["counts"] == {}
    code, out, error = run("check", stored.path)
    assert code == 0 and "2 of 2 older versions can no longer be opened" in out
    code, out, error = run("vacuum", stored.path, "--dry-run", "--json")
    assert (code, json.loads(out)["versions"]) == (0, 0)
    code, out, error = run("vacuum", stored.path, "--keep-days", "0")
    assert (code, out) == (0, "")
    code, out, error = run("info", stored.path, "--history")
    assert code == 0
    assert [line.split()[-1] for line in out.splitlines()] == ["kept", "yes", "yes", "no", "no"]
    assert run("vacuum", stored.path, "--keep-days", "-1")[0] == 2


def test_sync_brings_lost_images_back(index: Index, drawn: DrawnCollection, tmp_path: Path) -> None:
    path = tmp_path / "copy.index"
    shutil.copytree(index.path, path)
    before = content(EmbeddingTable.open(path))
    assert len(index._table.files()) > 0
    lost = EmbeddingTable.open(path).files()[-1]
    rows = pq.read_metadata(lost).num_rows
    flip(lost, 5000)
    opened = lookalike.open_index(path)
    done = opened.repair()
    assert done.ok and done.inputs == rows
    assert len(opened) == len(before) - rows
    changed = opened.sync(labels=drawn.labels)
    assert (changed.new, changed.images) == (rows, rows)
    after = content(opened._table)

    def of_path(rows: Rows_) -> Rows_:
        return sorted((row | {"id": 0, "embedding": 0} for row in rows), key=lambda r: r["path"])

    assert of_path(after) == of_path(before)
    vectors = ({row["path"]: row["embedding"] for row in some} for some in (before, after))
    first, second = (np.array([of[path] for path in sorted(of)]) for of in vectors)
    np.testing.assert_allclose(first, second, atol=1e-5)
    assert opened.check().ok
