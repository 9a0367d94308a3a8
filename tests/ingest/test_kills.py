"""Runs that are killed: at random instants, and at the very ones that could hurt."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import faults
from helpers.small import picture, pictures, small_network
from lookalike import Index
from lookalike.images.synthetic import DrawnCollection
from lookalike.ingest import Options, add, build_index, remove
from lookalike.storage import EmbeddingTable
from lookalike.system.files import put_in_place, staging_folder


def killed(*arguments: object) -> dict[str, Any]:
    command = [sys.executable, faults.__file__, "--json", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


BAD = ("corrupt", "lost", "not_gone_on_with", "unequal", "leftovers", "survivors")


@pytest.mark.parametrize(
    ("kills", "photos", "spark"),
    [(3, 40, 0), pytest.param(20, 200, 2, marks=pytest.mark.long)],
)
@pytest.mark.long
def test_a_killed_command_is_gone_on_with(kills: int, photos: int, spark: int) -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("nothing here says which files are opened")
    figures = killed(
        *("--kills", kills, "--photos", photos, "--new", 12, "--wave", 64, "--spark", spark)
    )
    assert figures["kills"] == kills + spark
    assert {name: figures[name] for name in BAD} == dict.fromkeys(BAD, 0), figures
    assert figures["problems"] == []


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Options:
    return small_network(tmp_path_factory.mktemp("network"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return pictures(tmp_path / "photos", 20, seed=0)


def whole(index: Path) -> dict[str, faults.Row]:
    """Return the rows of an index, which has to be whole with nothing left over."""
    rows, problems = faults.examine(index)
    assert (problems, faults.leftovers(index)) == ([], [])
    return rows


@pytest.mark.parametrize(
    "there", ["nothing", ".writers", "data/x/y", "_lookalike.json", "log", "part"]
)
def test_an_index_killed_before_its_first_version_is_begun_anew(
    network: Options, photos: Path, tmp_path: Path, there: str
) -> None:
    out = tmp_path / "small.index"
    out.mkdir()
    if there != "nothing":
        (out / ".writers").touch()
        (out / "data" / "x").mkdir(parents=True)
        (out / "data" / "x" / ".writing").touch()
    if there in ("_lookalike.json", "log", "part"):
        (out / "_lookalike.json").write_text("{}")
    if there in ("log", "part"):
        (out / "_delta_log").mkdir()
    if there == "part":
        (out / "_delta_log" / f"{0:020}.json#1").touch()
    build_index(photos, out, network)
    assert len(whole(out)) == 20


def test_what_a_killed_writer_left_goes_and_what_it_committed_stays(
    network: Options, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "small.index"
    stored, _ = build_index(photos, out, network)
    (file,) = stored.files()
    # It had committed this file of its folder, and another not yet; an older version has a third.
    (file.parent / ".writing").touch()
    shutil.copy(file, file.with_name(f"{0:032}.parquet"))
    stored, _ = remove(stored, ["003.png"])
    (file.parent / ".writing").touch()
    shutil.copy(file, file.with_name(f"{0:032}.parquet"))
    (out / "data" / "empty").mkdir()
    (out / "_delta_log" / f"{2:020}.json#1").touch()
    (out / ".0123-_lookalike.json").touch()
    (out / ".work-abcdefgh").mkdir()
    assert len(faults.leftovers(out)) > 3
    picture(photos / "new.png", 500)
    stored, _ = add(stored, photos / "new.png", network)
    assert len(whole(out)) == 20
    assert len(faults.rows_by_path(EmbeddingTable.open(out, 0))) == 20
    assert file.exists()


def test_an_index_killed_while_it_is_replaced_is_put_in_place_by_the_next_run(
    network: Options, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "small.index"
    build_index(photos, out, network)

    class Killed(BaseException):
        pass

    def killed_between(fresh: Path, path: Path, **_: object) -> None:
        path.rename(path.with_name(f".{path.name}-{0:032x}"))
        raise Killed

    picture(photos / "new.png", 500)
    monkeypatch.setattr("lookalike.ingest.build.put_in_place", killed_between)
    with pytest.raises(Killed):
        build_index(photos, out, network, overwrite=True)
    monkeypatch.setattr("lookalike.ingest.build.put_in_place", put_in_place)
    assert not out.exists()
    report = build_index(photos, out, network, overwrite=True)[1]
    assert (report.images, report.same) == (0, 21)
    assert len(whole(out)) == 21


def test_a_folder_is_not_taken_for_left_before_it_is_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = fcntl.flock

    def lock(file: Any, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", locked)
        with staging_folder(tmp_path / "work"):  # of another writer, just now
            locked(file, how)

    monkeypatch.setattr(fcntl, "flock", lock)
    with staging_folder(tmp_path / "work") as folder:
        assert folder.exists()
    assert os.listdir(tmp_path) == []


def test_two_roots_are_both_remembered(
    index: Index, drawn: DrawnCollection, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(index.path, tmp_path / "cars.index"))
    one, other = EmbeddingTable.open(out), EmbeddingTable.open(out)
    one.add_folders(["/one"])
    other.add_folders(["/other"])  # which was opened before
    assert set(EmbeddingTable.open(out).source.also) >= {"/one", "/other"}
    assert os.listdir(tmp_path) == ["cars.index"]
