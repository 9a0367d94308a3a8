"""The names in an index: those of format 2 are read, and changed by the first writer; Delta's
vacuum takes none of those of format 3.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable

from helpers.small import picture, pictures, small_network
from lookalike import Index
from lookalike.ingest import Options, add, build_index
from lookalike.storage import EmbeddingTable, writing

OLD_NAMES = ("lookalike.json", "model", "signatures", "lsh")
NEW_NAMES = ("_lookalike.json", "_model", "_signatures", "_lsh")


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Options:
    return small_network(tmp_path_factory.mktemp("network"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("photos"), 30, seed=0)


@pytest.fixture(scope="module")
def made(network: Options, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index with all that may be made of it."""
    stored, _ = build_index(photos, tmp_path_factory.mktemp("made") / "x.index", network)
    Index(stored)._searcher.get_ready()
    (stored.hash_folder / "model").mkdir(parents=True)
    (stored.hash_folder / "parameters.json").write_text("{}")
    return stored.path


@pytest.fixture
def index(made: Path, tmp_path: Path) -> Index:
    """A copy of that index, to be changed."""
    shutil.copytree(made, tmp_path / "x.index")
    return Index(EmbeddingTable.open(tmp_path / "x.index"))


def make_old(path: Path) -> None:
    """Bring an index to format 2, as the versions before wrote it."""
    description = json.loads((path / "_lookalike.json").read_text())
    (path / "lookalike.json").write_text(json.dumps(description | {"format": 2}))
    (path / "_lookalike.json").unlink()
    for name in OLD_NAMES[1:]:
        (path / f"_{name}").rename(path / name)


def is_old(path: Path) -> bool:
    """Say whether all names are those of format 2, as a version of then needs them."""
    there = [name for name in os.listdir(path) if name in NEW_NAMES]
    return not there and all((path / name).exists() for name in OLD_NAMES)


def state(path: Path) -> dict[str, bytes]:
    files = (file for file in path.rglob("*") if file.is_file())
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


def found(path: Path, photo: Path) -> tuple[Any, ...]:
    """Return all that is read from an index: it must not depend on names."""
    index = Index(EmbeddingTable.open(path))
    checked = index.check()
    assert checked.ok, checked
    neighbors = index.search(photo, 7, engine="approximate").neighbors
    table = index._table
    return neighbors, index._searcher.saved_profile(), table.model, table.source, table.counts()


def assert_new(path: Path) -> None:
    assert set(NEW_NAMES) < set(os.listdir(path))
    assert [name for name in OLD_NAMES[1:] if (path / name).exists()] == []
    assert json.loads((path / "lookalike.json").read_text()) == {"format": 3}
    assert json.loads((path / "_lookalike.json").read_text())["format"] == 3
    assert (path / "_lsh" / "0" / "parameters.json").exists()


def test_an_index_of_format_2_is_read_as_it_is(index: Index, photos: Path) -> None:
    wanted = found(index.path, photos / "003.png")
    make_old(index.path)
    before = state(index.path)
    assert is_old(index.path)
    assert found(index.path, photos / "003.png") == wanted
    opened = Index(EmbeddingTable.open(index.path))
    assert opened.sync(dry_run=True).changed == opened.vacuum(0, dry_run=True).files == 0
    assert opened.info()["recall"] == index.info()["recall"]
    assert state(index.path) == before


def test_the_first_writer_brings_it_to_format_3(
    index: Index, photos: Path, network: Options, tmp_path: Path
) -> None:
    make_old(index.path)
    picture(tmp_path / "more" / "new.png", 500)
    stored, changed = add(EmbeddingTable.open(index.path), tmp_path / "more", network)
    assert (changed.new, stored.counts()) == (1, (31, 0))
    assert_new(index.path)
    found(index.path, photos / "003.png")


def test_a_repair_brings_it_to_format_3(index: Index) -> None:
    make_old(index.path)
    assert index.repair().ok
    assert_new(index.path)


class _Killed(BaseException):
    pass


@pytest.mark.parametrize("after", range(7))
def test_a_writer_killed_while_it_changes_names(
    index: Index, photos: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    wanted = found(index.path, photos / "003.png")
    make_old(index.path)
    left = after

    def counted(real: Any) -> Any:
        def change(*given: Any) -> Any:
            nonlocal left
            if not left:
                raise _Killed
            left -= 1
            return real(*given)

        return change

    with monkeypatch.context() as patch:
        for name in ("rename", "replace"):
            patch.setattr(Path, name, counted(getattr(Path, name)))
        try:
            with writing(index.path):
                assert after == 6, "all names are changed"
        except _Killed:
            assert after < 6
    told = index.path / "lookalike.json"
    if told.exists() and json.loads(told.read_text())["format"] == 2:
        assert is_old(index.path), "an older version needs all of it"
    assert found(index.path, photos / "003.png") == wanted
    with writing(index.path):
        assert_new(index.path)
    assert found(index.path, photos / "003.png") == wanted


def test_a_vacuum_of_deltas_takes_nothing_that_an_index_needs(
    index: Index, photos: Path, network: Options, tmp_path: Path
) -> None:
    wanted = found(index.path, photos / "003.png")
    gone = DeltaTable(index.path).vacuum(
        retention_hours=0, dry_run=False, enforce_retention_duration=False, full=True
    )
    assert gone == ["lookalike.json"]  # of which older versions are told the format
    assert found(index.path, photos / "003.png") == wanted
    picture(tmp_path / "more" / "new.png", 500)
    stored, _ = add(EmbeddingTable.open(index.path), tmp_path / "more", network)
    assert stored.counts() == (31, 0)
    assert_new(index.path)
    assert [one["what"] for one in stored.history()][-1] == "index"
