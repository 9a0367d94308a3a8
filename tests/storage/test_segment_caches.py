"""Caches of data files: of what they were made, what shows of damage, what stays."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.segments import Floats, collection_of, unit
from lookalike import LookalikeError
from lookalike.search.exact import exact
from lookalike.search.rows import Rows
from lookalike.search.searcher import Searcher, assign_cells, check_signatures, encode_segment
from lookalike.storage import EmbeddingTable, Segment, forget_all, maintenance
from lookalike.storage.maintenance import vacuum
from lookalike.system import cache
from lookalike.system.files import new_file, new_folder, put_in_place

check = partial(maintenance.check, check_signatures=check_signatures)
repair = partial(maintenance.repair, check_signatures=check_signatures)

WIDTH = 32
ROWS = 600


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own, which is not there yet."""
    monkeypatch.setenv("LOOKALIKE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def vectors() -> Floats:
    return unit((ROWS, WIDTH), 0)


@pytest.fixture
def stored(folder: Path, vectors: Floats, tmp_path: Path) -> EmbeddingTable:
    return collection_of(vectors, tmp_path / "x.index", [400, 200])


def answers(path: Path, of: int = 3) -> list[int]:
    """Return the images next to one, as a process that has just begun finds them."""
    opened = EmbeddingTable.open(path)
    query = unit((ROWS, WIDTH), 0)[of]
    return [one.number for one in exact(Rows(opened.segments), query, 9)]


def signatures(path: Path) -> list[bytes]:
    """Return those of each segment, and the cells."""
    searcher = Searcher(EmbeddingTable.open(path))
    return [
        make(segment, searcher.cells).tobytes()
        for segment in searcher.rows.segments
        for make in (assign_cells, encode_segment)
    ]


def caches(folder: Path) -> list[Path]:
    return sorted((folder / "segments").iterdir()) if folder.exists() else []


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """Say of every file which it is and when it was written."""
    found = (file for file in folder.rglob("*") if file.is_file())
    return {str(file): (file.stat().st_ino, file.stat().st_mtime_ns) for file in found}


# What a power cut leaves.


def zero(file: Path, start: int, stop: int) -> None:
    with file.open("r+b") as opened:
        opened.seek(start)
        opened.write(bytes(stop - start))


ZEROED: dict[str, Callable[[int], tuple[int, int]]] = {
    "all": lambda size: (0, size),
    "all but the head": lambda size: (128, size),
    "the second half": lambda size: (size // 2, size),
    "a third": lambda size: (size // 3, size // 3 * 2),
}


NAMES = ("vectors.npy", "rows.arrow", "cells-*.npy", "signatures-*.npy")


@pytest.mark.parametrize("part", ZEROED)
@pytest.mark.parametrize("large", [False, True])
def test_what_was_zeroed_is_made_again(
    stored: EmbeddingTable, part: str, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if large:  # of which samples are taken
        monkeypatch.setattr(cache, "_FULL_CHECK_BYTES", 1024)
        monkeypatch.setattr(cache, "_BLOCK_BYTES", 64)
    wanted = answers(stored.path), signatures(stored.path)
    for name in NAMES:
        (file,) = stored.segments[0].cache.glob(name)
        whole = file.read_bytes()
        start, stop = ZEROED[part](len(whole))
        zero(file, start, stop)
        assert file.read_bytes() != whole
        assert (answers(stored.path), signatures(stored.path)) == wanted
        assert file.read_bytes() == whole
    assert check(stored).ok


def test_a_check_sees_what_samples_do_not(
    stored: EmbeddingTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_FULL_CHECK_BYTES", 4096)
    monkeypatch.setattr(cache, "_BLOCK_BYTES", 16)
    signatures(stored.path)
    for name in ("vectors.npy", "signatures-*.npy"):
        (file,) = stored.segments[0].cache.glob(name)
        zero(file, 200, 201)
        assert check(stored).counts == {"cache": 1}
        assert repair(stored).ok
        signatures(stored.path)


def test_what_is_kept_is_on_the_disk_before_it_has_its_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.mkdir()
    synced: list[tuple[str, bool]] = []

    def fsync(opened: int) -> None:
        name = os.path.basename(os.readlink(f"/proc/self/fd/{opened}"))
        synced.append((name.rpartition("-")[2], (folder / "x").exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    with new_folder(folder / "x") as staging:
        (staging / "one").touch()
        (staging / "below").mkdir()
        (staging / "below" / "two").touch()
    assert {name for name, there in synced if not there} >= {"one", "two", "below"}
    assert synced[-1] == ("cache", True)
    shutil.rmtree(folder / "x")
    synced.clear()
    with new_file(folder / "x") as part:
        part.touch()
    assert synced == [("x", False), ("cache", True)]


def test_a_process_that_is_killed_while_it_makes_a_cache_leaves_none(
    stored: EmbeddingTable, folder: Path, tmp_path: Path
) -> None:
    wanted = answers(stored.path)
    shutil.rmtree(folder)
    code = (
        "import os, signal, sys, lookalike\n"
        "os.fsync = lambda opened: os.kill(os.getpid(), signal.SIGKILL)\n"
        "lookalike.open_index(sys.argv[1])._table.segments[0].vectors\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(stored.path)])
    assert done.returncode == -signal.SIGKILL
    assert all(one.name.startswith(".") for one in caches(folder)), "nothing has its name"
    assert answers(stored.path) == wanted


@pytest.mark.parametrize("name", ["vectors.npy", "rows.arrow", "all"])
def test_a_cache_that_lacks_a_file_is_made_again(
    stored: EmbeddingTable, folder: Path, name: str
) -> None:
    wanted = answers(stored.path), signatures(stored.path)
    whole = {name for name in state(folder) if "of-" not in name}
    for file in stored.segments[0].cache.iterdir():
        if name in (file.name, "all"):
            file.unlink()
    assert (answers(stored.path), signatures(stored.path)) == wanted
    assert {name for name in state(folder) if "of-" not in name} == whole
    assert check(stored).ok


def unsealed(segment: Segment) -> None:
    """Leave a cache as those were that had no seals."""
    for file in (segment.cache / "vectors.npy", segment.cache / "rows.arrow"):
        os.truncate(file, file.stat().st_size - cache._SEAL.size)


@pytest.mark.parametrize("link", [False, True])
def test_a_cache_without_seals_is_made_again(
    stored: EmbeddingTable, folder: Path, tmp_path: Path, link: bool
) -> None:
    wanted = answers(stored.path)
    segment = stored.segments[0]
    unsealed(segment)
    if link:
        segment.cache.rename(tmp_path / "elsewhere")
        segment.cache.symlink_to(tmp_path / "elsewhere")
    assert answers(stored.path) == wanted
    assert Segment(segment.file).is_cached_well()
    assert len(caches(folder)) == 2
    assert (tmp_path / "elsewhere").exists() == link


def test_a_damaged_cache_that_cannot_be_deleted_is_said_once(
    stored: EmbeddingTable,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    wanted = answers(stored.path), signatures(stored.path)
    bad, rename, rmtree = stored.segments[0].cache, os.rename, shutil.rmtree
    unsealed(stored.segments[0])
    before = state(bad)

    def refuse(one: Path, *others: Any, **options: Any) -> None:
        if Path(one) == bad:  # as if it were another's, in a folder for all
            raise OSError(errno.EPERM, os.strerror(errno.EPERM), str(one))
        rename(one, *others, **options)

    monkeypatch.setattr(os, "rename", refuse)
    monkeypatch.setattr(shutil, "rmtree", lambda one, **_: rmtree(one) if one != bad else None)
    assert (answers(stored.path), signatures(stored.path)) == wanted
    (line,) = caplog.messages
    assert os.strerror(errno.EPERM) in line and "set LOOKALIKE_CACHE" in line
    assert state(bad) == before
    assert len(caches(folder)) == 2, "nothing is left beside it"


# What says nothing of a cache.


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EMFILE, errno.ENFILE])
def test_a_cache_stays_that_there_is_no_room_to_map(
    stored: EmbeddingTable, folder: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    signatures(stored.path)
    wanted, before = answers(stored.path), state(folder)
    with monkeypatch.context() as patch:
        patch.setattr(pa, "memory_map", failing(number))
        with pytest.raises(LookalikeError, match="ulimit") as error:
            answers(stored.path)
        assert "\n" not in str(error.value)
        assert check(stored).ok, "nothing that a repair would delete"
    assert (answers(stored.path), state(folder)) == (wanted, before)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_a_cache_stays_that_cannot_be_read_now(
    stored: EmbeddingTable,
    folder: Path,
    number: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    signatures(stored.path)
    wanted, before = (answers(stored.path), signatures(stored.path)), state(folder)
    with monkeypatch.context() as patch:
        patch.setattr(pa, "memory_map", failing(number))
        assert (answers(stored.path), signatures(stored.path)) == wanted
        assert check(stored).ok
    assert "".join(caplog.messages).count("LOOKALIKE_CACHE") == 1
    assert state(folder) == before


def failing(number: int) -> Callable[..., None]:
    def fail(name: str, *_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), name)

    return fail


def test_cells_stay_that_cannot_be_read_now(
    stored: EmbeddingTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    signatures(stored.path)
    before = state(stored.signature_folder)
    with monkeypatch.context() as patch:
        patch.setattr(np, "load", failing(errno.EMFILE))
        for ask in (signatures, lambda path: check(EmbeddingTable.open(path))):
            with pytest.raises(LookalikeError, match=r"cells.npz cannot be read now"):
                ask(stored.path)
    assert state(stored.signature_folder) == before


# A cache that takes nothing.


def test_a_cache_that_takes_nothing_is_said_once(
    stored: EmbeddingTable, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder.write_text("in the way")
    wanted = answers(stored.path)
    signatures(stored.path)
    assert answers(stored.path) == wanted and wanted[0] == 3
    (line,) = caplog.messages
    assert str(folder) in line and "set LOOKALIKE_CACHE" in line


@pytest.mark.parametrize(("part", "lines"), [(0, 1), (5, 0)])
def test_of_many_tasks_one_says_it(
    stored: EmbeddingTable,
    folder: Path,
    part: int,
    lines: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    import pyspark

    task = SimpleNamespace(partitionId=lambda: part)
    monkeypatch.setattr(pyspark.TaskContext, "get", lambda: task)
    folder.write_text("in the way")
    assert answers(stored.path)[0] == 3
    assert len(caplog.messages) == lines


# Of which content.


def foreign(stored: EmbeddingTable, path: Path, seed: int = 1) -> Path:
    """Make an index of other vectors whose data files have the same names, and other contents."""
    other = collection_of(unit((ROWS, WIDTH), seed), path, [400, 200])
    for mine, theirs in zip(stored.files(), other.files(), strict=True):
        theirs.rename(theirs.with_name(mine.name))
        for log in (path / "_delta_log").glob("*.json"):
            log.write_text(log.read_text().replace(theirs.name, mine.name))
    return path


@pytest.mark.parametrize("foreign_first", [True, False])
def test_an_index_poisons_no_cache_of_another(
    stored: EmbeddingTable, folder: Path, tmp_path: Path, foreign_first: bool
) -> None:
    other = foreign(stored, tmp_path / "foreign.index")
    theirs = [one.id for one in exact_of(unit((ROWS, WIDTH), 1))]
    mine = [one.id for one in exact_of(unit((ROWS, WIDTH), 0))]
    assert theirs != mine
    pairs = [(other, theirs), (stored.path, mine)]
    for path, wanted in pairs if foreign_first else pairs[::-1]:
        assert answers(path) == wanted
        signatures(path)
    for path, wanted in pairs:
        assert answers(path) == wanted
    assert check(stored).ok
    assert check(EmbeddingTable.open(other)).counts["damaged file"] == 2
    vacuum(EmbeddingTable.open(other), 0)
    shutil.rmtree(other)
    assert answers(stored.path) == mine


def exact_of(vectors: Floats) -> list[SimpleNamespace]:
    squared = ((vectors.astype(np.float64) - unit((ROWS, WIDTH), 0)[3]) ** 2).sum(axis=1)
    return [SimpleNamespace(id=int(row)) for row in np.argsort(squared)[:9]]


def test_a_file_that_was_written_over_is_another(stored: EmbeddingTable, tmp_path: Path) -> None:
    mine, other = answers(stored.path), foreign(stored, tmp_path / "foreign.index")
    for file, theirs in zip(stored.files(), EmbeddingTable.open(other).files(), strict=True):
        before = file.stat()
        content = theirs.read_bytes()
        with file.open("r+b") as opened:  # the same inode, and the time set back
            opened.write(content)
            opened.truncate()
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        log = stored.path / "_delta_log" / f"{0:020}.json"
        size = f'"size":{before.st_size}'
        log.write_text(log.read_text().replace(size, f'"size":{len(content)}'))
    found = answers(stored.path)
    assert found != mine
    assert found == [one.id for one in exact_of(unit((ROWS, WIDTH), 1))]


def replace_by(file: Path, other: Path) -> None:
    """Give a data file the content of another, at its own place."""
    shutil.copy(other, file.with_name("fresh"))
    file.with_name("fresh").rename(file)


@pytest.mark.parametrize("when", ["before it is read", "while it is read"])
def test_what_changes_after_it_was_hashed_is_kept_nowhere(
    stored: EmbeddingTable, folder: Path, tmp_path: Path, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = stored.files()[0]
    good = tmp_path / "good"
    shutil.copy(file, good)
    theirs = EmbeddingTable.open(foreign(stored, tmp_path / "foreign.index")).files()[0]
    segment = Segment(file)
    assert segment.cache.name == file.stem
    if when == "before it is read":
        replace_by(file, theirs)
    else:
        read = pq.read_table

        def read_and_lose(*args: Any, **options: Any) -> pa.Table:
            table = read(theirs, **options)
            replace_by(file, theirs)
            return table

        monkeypatch.setattr(pq, "read_table", read_and_lose)
    np.testing.assert_array_equal(segment.vectors, unit((ROWS, WIDTH), 1)[:400])
    monkeypatch.undo()
    monkeypatch.setenv("LOOKALIKE_CACHE", str(folder))
    assert caches(folder) == []
    replace_by(file, good)
    np.testing.assert_array_equal(Segment(file).vectors, unit((ROWS, WIDTH), 0)[:400])
    replace_by(file, theirs)
    # Nor is anything put into the cache that another process has made of the right content.
    assert segment.derived("sums", "1", sums).sum() == sums(segment).sum()
    replace_by(file, good)
    np.testing.assert_array_equal(Segment(file).derived("sums", "1", sums), sums(Segment(file)))


def sums(segment: Segment) -> Floats:
    return np.asarray(segment.vectors.sum(axis=1), np.float32)


def test_copies_and_moved_indexes_share_a_cache(
    stored: EmbeddingTable, folder: Path, tmp_path: Path
) -> None:
    wanted = answers(stored.path)
    before = state(folder)
    shutil.copytree(stored.path, tmp_path / "copy.index")
    stored.path.rename(tmp_path / "moved.index")
    for path in (tmp_path / "copy.index", tmp_path / "moved.index"):
        assert answers(path) == wanted
    assert len(caches(folder)) == 2
    kept = {name: one for name, one in state(folder).items() if "of-" not in name}
    assert kept == {name: one for name, one in before.items() if "of-" not in name}
    with pytest.MonkeyPatch.context() as patch:  # neither is read again
        patch.setattr("lookalike.storage.segment_caches.digest", None)
        assert answers(tmp_path / "copy.index") == wanted


def test_a_path_has_one_mark_however_often_its_file_becomes_another(
    stored: EmbeddingTable, folder: Path, tmp_path: Path
) -> None:
    wanted = answers(stored.path)
    before = state(folder).keys()
    for _ in range(3):
        for file in stored.files():  # another inode, another ctime, as after a mount
            shutil.copy2(file, tmp_path / "copy")
            os.replace(tmp_path / "copy", file)
        assert answers(stored.path) == wanted
        assert state(folder).keys() == before
        with pytest.MonkeyPatch.context() as patch:  # what was hashed once is not again
            patch.setattr("lookalike.storage.segment_caches.digest", None)
            assert answers(stored.path) == wanted
    other = EmbeddingTable.open(foreign(stored, tmp_path / "foreign.index"))
    file = stored.files()[0]
    replace_by(file, other.files()[0])  # the mark is of what was there before
    np.testing.assert_array_equal(Segment(file).vectors, unit((ROWS, WIDTH), 1)[:400])


def test_a_cache_goes_with_the_last_file_of_its_content(
    stored: EmbeddingTable, folder: Path, tmp_path: Path
) -> None:
    answers(stored.path)
    copy = shutil.copytree(stored.path, tmp_path / "copy.index")
    answers(copy)
    fresh = collection_of(unit((ROWS, WIDTH), 2), tmp_path / "fresh" / "x.index", [ROWS])
    put_in_place(fresh.path, copy, before_deleting=forget_all)
    assert len(caches(folder)) == 2, "the first index has the same"
    fresh = collection_of(unit((ROWS, WIDTH), 3), tmp_path / "fresh" / "x.index", [ROWS])
    put_in_place(fresh.path, stored.path, before_deleting=forget_all)
    assert caches(folder) == []


@pytest.mark.parametrize("name", ["...parquet", "..parquet", "..", f"{'0' * 31}.parquet"])
def test_nothing_else_goes_with_a_stranger(stored: EmbeddingTable, folder: Path, name: str) -> None:
    wanted = answers(stored.path)
    (folder / "models").mkdir()
    before = state(folder)
    stranger = stored.path / "data" / "x"
    stranger.mkdir()
    if name != "..":
        (stranger / name).write_bytes(b"stranger")
    vacuum(stored, 0)
    assert not stranger.exists()
    assert answers(stored.path) == wanted
    assert before.items() <= state(folder).items() and (folder / "models").is_dir()


# A cache folder by a relative path.


def test_a_relative_cache_folder_stays_where_it_is(
    vectors: Floats, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("LOOKALIKE_CACHE", f"{tmp_path.name} cache")
    monkeypatch.chdir(tmp_path / "here")
    path = collection_of(vectors, tmp_path / "x.index", [ROWS]).path
    answers(path)
    monkeypatch.chdir(tmp_path / "there")
    answers(path)
    assert (os.listdir(tmp_path / "there"), len(os.listdir(tmp_path / "here"))) == ([], 1)
