"""Disks that are full, folders that are read-only, files that are gone or of a later time."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

import lookalike
from faults import Row, leftovers, problems_of, rows_by_path
from helpers.command import assert_fails, run
from helpers.disks import fill, mounted, needs_mount
from helpers.rights import without_rights
from helpers.small import picture, pictures, small_network
from helpers.worker import question
from lookalike import LookalikeError
from lookalike.ingest import Options, build_index
from lookalike.storage import EmbeddingTable, commits, is_index, writing

pytestmark = pytest.mark.long  # real processes, disks and signals: minutes


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Options:
    return small_network(tmp_path_factory.mktemp("network"))


@dataclass(frozen=True)
class Made:
    """Pictures in a folder, new ones that are not, and an index of the first."""

    photos: Path
    new: Path
    index: Path
    options: Options

    def indexing(self, out: Path) -> list[str | Path]:
        how = ["--model", self.options.model, "--weights", self.options.weights]
        return ["index", self.photos, "--out", out, *map(str, how), "--no-spark", "--wave", "8"]


@pytest.fixture(scope="module")
def made(network: Options, tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("made")
    photos = pictures(folder / "photos", 40, seed=0)
    new = pictures(folder / "new", 24, seed=100)
    build_index(photos, folder / "small.index", network)
    return Made(photos, new, folder / "small.index", network)


@contextmanager
def read_only(folder: Path) -> Iterator[Path]:
    with mounted(folder, "--bind", str(folder)):
        subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
        yield folder


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 12 MB."""
    needs_mount()
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=12m", "tmpfs") as folder:
        yield folder


def state(index: Path) -> tuple[int, dict[str, Row]]:
    """Return version and rows of an index; it has to be whole, with nothing beside."""
    stored = EmbeddingTable.open(index)
    assert list(problems_of(stored)) == []
    assert leftovers(index) == []
    return stored.version, rows_by_path(stored)


def contents(rows: dict[str, Row]) -> dict[str, tuple[str | None, str, str | None]]:
    return {path: (label, status, content) for path, (_, label, status, content, _) in rows.items()}


def copied(made: Made, folder: Path) -> Path:
    return Path(shutil.copytree(made.index, folder / "small.index"))


CHANGES: dict[str, Callable[[Path, Path], list[str | Path]]] = {
    "add": lambda index, new: ["add", index, new, "--no-spark", "--wave", "8"],
    "remove": lambda index, new: ["remove", index, "00*"],
    "sync": lambda index, new: ["sync", index, new, "--no-spark", "--wave", "8"],
}


@pytest.mark.parametrize("left", [0, 10_000, 60_000, 150_000])
@pytest.mark.parametrize("name", CHANGES)
def test_a_change_on_a_full_disk_can_be_made_later(
    made: Made, disk: Path, name: str, left: int, tmp_path: Path
) -> None:
    index = copied(made, disk)
    version, before = state(index)
    filler = fill(disk, left)
    told = run(*CHANGES[name](index, made.new))
    if left <= 60_000:
        assert_fails(told, "the disk is full", str(index), "make room")
    now, rows = state(index)
    assert rows_by_path(EmbeddingTable.open(index, version)) == before
    if name == "remove" and told[0]:
        assert (now, rows) == (version, before)
    else:  # waves that were committed in time are there
        assert all(rows[path] == row for path, row in before.items() if path in rows)
    assert run("search", index, made.photos / "003.png")[0] == 0
    filler.unlink()
    if told[0]:
        assert run(*CHANGES[name](index, made.new))[0] == 0
    undisturbed = copied(made, tmp_path)
    assert run(*CHANGES[name](undisturbed, made.new))[0] == 0
    assert contents(state(index)[1]) == contents(state(undisturbed)[1])


@pytest.mark.parametrize("models", [0, 0.5, 1])
@pytest.mark.parametrize("left", [0, 20_000, 80_000, 130_000])
def test_an_index_on_a_full_disk_is_gone_on_with(
    made: Made, disk: Path, models: float, left: int
) -> None:
    out = disk / "new.index"
    model = sum(file.stat().st_size for file in (made.index / "_model").iterdir())
    filler = fill(disk, int(models * model) + left)
    assert_fails(run(*made.indexing(out)), "the disk is full", "make room")
    kept = {}
    if is_index(out):
        kept = state(out)[1]
        assert 0 < len(kept) < 40
    else:
        assert os.listdir(disk) == ["filler"]
    filler.unlink()
    assert run(*made.indexing(out))[0] == 0
    rows = state(out)[1]
    assert contents(rows) == contents(state(made.index)[1])
    assert kept.items() <= rows.items()


def test_where_only_the_log_has_no_room(made: Made, tmp_path: Path) -> None:
    needs_mount()
    index = copied(made, tmp_path / "index")
    before = state(index)
    log = index / "_delta_log"
    kept = shutil.copytree(log, tmp_path / "log")
    with mounted(log, "-t", "tmpfs", "-o", "size=100k", "tmpfs"):
        shutil.copytree(kept, log, dirs_exist_ok=True)
        filler = fill(log, 0)
        for arguments in CHANGES.values():
            assert_fails(run(*arguments(index, made.new)), "the disk is full")
        filler.unlink()
        assert state(index) == before
        assert run(*CHANGES["add"](index, made.new))[0] == 0
        assert len(state(index)[1]) == 64


def test_compaction_on_a_full_disk_changes_nothing(made: Made, disk: Path) -> None:
    index = copied(made, disk)
    assert run(*CHANGES["add"](index, made.new))[0] == 0
    before = state(index)
    filler = fill(disk, 20_000)

    def compact() -> None:
        with writing(index):
            commits.compact(EmbeddingTable.open(index), few=2)

    with pytest.raises(LookalikeError, match="the disk is full"):
        compact()
    assert state(index) == before
    filler.unlink()
    compact()
    version, rows = state(index)
    assert (version, rows) == (before[0] + 1, before[1])


@pytest.mark.long
def test_a_read_only_index_is_searched_and_not_written_to(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_mount()
    index = copied(made, tmp_path)
    monkeypatch.setenv("LOOKALIKE_CACHE", str(tmp_path / "cache"))
    with read_only(index):
        assert run("search", index, made.photos / "003.png")[0] == 0
        assert run("search", index, made.photos / "003.png", "--engine", "approximate")[0] == 0
        assert run("info", index)[0] == 0
        commands = [arguments(index, made.new) for arguments in CHANGES.values()]
        commands += [made.indexing(index), ["root", index, made.photos]]
        for command in commands:
            assert_fails(run(*command), f"{index} cannot be written to", "Read-only")
    assert [name for name in leftovers(index) if name != "_signatures/cells.npz"] == []


@pytest.mark.parametrize("how", ["full", "read-only", "a file"])
@pytest.mark.long
def test_a_cache_that_takes_nothing_costs_time_alone(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    needs_mount()
    index = copied(made, tmp_path / "index")
    cache = tmp_path / "cache"
    monkeypatch.setenv("LOOKALIKE_CACHE", str(cache))
    with ExitStack() as mounts:
        if how == "full":
            mounts.enter_context(mounted(cache, "-t", "tmpfs", "-o", "size=64k", "tmpfs"))
        elif how == "read-only":
            cache.mkdir()
            mounts.enter_context(read_only(cache))
        else:
            cache.touch()
        found = run("search", index, made.photos / "003.png", "--json")
        assert run("search", index, made.photos / "003.png", "--engine", "approximate")[0] == 0
        for arguments in CHANGES.values():
            assert run(*arguments(index, made.new))[0] == 0
        assert run(*made.indexing(tmp_path / "other.index"))[0] == 0
    assert found[0] == 0 and len(found[1]) > 100
    assert found[2].count("set LOOKALIKE_CACHE") == 1, found[2]
    assert contents(state(tmp_path / "other.index")[1]) == contents(state(made.index)[1])


def last_file(index: Path) -> Path:
    """Return the data file that the newest version has and the first has not."""
    first, newest = (set(EmbeddingTable.open(index, version).files()) for version in (0, None))
    (file,) = newest - first
    return file


DAMAGES: dict[str, Callable[[Path], object]] = {
    "is missing": lambda file: file.unlink(),
    "is cut short": lambda file: os.truncate(file, file.stat().st_size - 1),
    "is damaged": lambda file: flip(file, file.stat().st_size // 2),
    "is damaged (": lambda file: flip(file, file.stat().st_size - 6),
}


def flip(file: Path, at: int) -> None:
    with file.open("r+b") as stored:
        stored.seek(at)
        byte = stored.read(1)[0]
        stored.seek(at)
        stored.write(bytes([byte ^ 0x40]))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_data_file_is_said_and_older_versions_are_read(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    index = copied(made, tmp_path)
    monkeypatch.setenv("LOOKALIKE_CACHE", str(tmp_path / "cache"))
    assert run("add", index, made.new, "--no-spark")[0] == 0
    file = last_file(index)
    DAMAGES[damage](file)
    query = made.photos / "003.png"
    assert_fails(run("search", index, query), f"the data file {file} {damage}", "lookalike check")
    assert_fails(run("remove", index, made.new), f"the data file {file} {damage}")
    assert run("search", index, query, "--version", "0")[0] == 0


NEWER = {
    "a reader": '{"minReaderVersion":9,"minWriterVersion":9}',
    "features": '{"minReaderVersion":3,"minWriterVersion":7,"readerFeatures":["unheardOf"],'
    '"writerFeatures":["unheardOf"]}',
    "a writer": '{"minReaderVersion":1,"minWriterVersion":9}',
    "a feature": '{"minReaderVersion":1,"minWriterVersion":7,"writerFeatures":["unheardOf"]}',
}


@pytest.mark.parametrize("what", NEWER)
def test_a_table_of_a_newer_protocol(made: Made, tmp_path: Path, what: str) -> None:
    index = copied(made, tmp_path)
    log = index / "_delta_log" / f"{0:020}.json"
    known = '{"minReaderVersion":1,"minWriterVersion":2}'
    assert known in log.read_text()
    log.write_text(log.read_text().replace(known, NEWER[what]))
    searched = run("search", index, made.photos / "003.png")
    if "reader" in NEWER[what].lower().replace('minreaderversion":1', ""):
        assert_fails(searched, str(index), "newer program", "upgrade")
    else:
        assert searched[0] == 0
    for arguments in CHANGES.values():
        assert_fails(run(*arguments(index, made.new)), str(index), "newer program", "upgrade")
    assert leftovers(index) == []


def test_an_index_of_a_newer_lookalike(made: Made, tmp_path: Path) -> None:
    index = copied(made, tmp_path)
    about = index / "_lookalike.json"
    about.write_text(about.read_text().replace('"format": ', '"format": 9'))
    assert_fails(run("search", index, made.photos / "003.png"), "newer lookalike", "upgrade")
    for arguments in CHANGES.values():
        assert_fails(run(*arguments(index, made.new)), "newer lookalike", "upgrade")
    assert_fails(run(*made.indexing(index)), "newer lookalike", "upgrade")


@pytest.mark.parametrize(
    "shut", [".", "_lookalike.json", "_delta_log", "data", "data/*", "data/*/*"]
)
def test_an_index_that_may_not_be_read(made: Made, folder_of_all: Path, shut: str) -> None:
    index = copied(made, folder_of_all)
    (path,) = index.glob(shut) if shut != "." else [index]
    mode = path.stat().st_mode
    path.chmod(0)
    with without_rights(), pytest.raises(LookalikeError, match="may not be read") as refused:
        opened = lookalike.open_index(index)
        opened.search(question(0, 1024))
    assert str(index) in str(refused.value) and "\n" not in str(refused.value)
    path.chmod(mode)


def test_an_index_that_may_only_be_read(made: Made, folder_of_all: Path) -> None:
    index = copied(made, folder_of_all)
    picture(folder_of_all / "new.png", 900)
    with without_rights():
        opened = lookalike.open_index(index)
        assert len(opened.search(question(0, 1024))) == 5
        with pytest.raises(LookalikeError, match="cannot be written to"):
            opened.add(folder_of_all)
        with pytest.raises(LookalikeError, match="cannot be written to"):
            opened.remove("000.png")
