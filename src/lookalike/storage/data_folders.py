"""Folders for new data files, and what writers that were killed left behind in them.

A folder has a mark while somebody fills it, so that what a killed writer left is found without
reading the log, which takes long where there are many versions.
"""

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator, Set
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import pyarrow.parquet as pq

MARK = ".writing"
"""The file in a folder that somebody fills."""


@contextmanager
def describing(path: Path) -> Iterator[None]:
    """Let one process at a time change what is said of the collection at `path`."""
    folder = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def new_data_folder(path: Path) -> Path:
    """Make a folder for new data files of the collection at `path`; return it."""
    folder = path.absolute() / "data" / uuid4().hex
    folder.mkdir(parents=True)
    (folder / MARK).touch()
    return folder


def discard(path: Path, folder: Path, since: int) -> None:
    """End the use of a folder: delete the files in it that no version after `since` has added.

    Also where a commit was made and something went wrong right afterwards: what the log names
    stays, whatever whoever wrote it has been told. The folder goes too if nothing is left in it.
    """
    committed: set[str] = set()
    for log in (path / "_delta_log").glob("*.json"):
        if log.stem.isdecimal() and int(log.stem) > since:
            actions = map(json.loads, log.read_text().splitlines())
            committed.update(Path(one["add"]["path"]).name for one in actions if "add" in one)
    _close(folder, committed)


def _close(folder: Path, committed: Set[str]) -> None:
    """Delete what was not committed, and the mark last of all: what is left without it stays."""
    with suppress(OSError):  # a writer that was given up still writes: the mark stays, too
        for name in set(os.listdir(folder)) - committed - {MARK}:
            (folder / name).unlink(missing_ok=True)
        kept = set(os.listdir(folder)) - {MARK}
        if kept <= committed:
            (folder / MARK).unlink(missing_ok=True)
        if not kept:
            folder.rmdir()


def clear(path: Path) -> None:
    """Delete what killed writers left in the collection at `path`; every version stays as it is.

    Nobody else may write meanwhile. What cannot be deleted stays.
    """
    with suppress(OSError):
        log = path / "_delta_log"
        for part in [] if log.is_symlink() else log.glob("*.json#*"):  # as delta-rs names them
            part.unlink()
        with describing(path):
            for part in path.glob(".*-lookalike.json"):  # of `cache.new_file`
                part.unlink()
        for folder in path.glob(".work-*/"):
            shutil.rmtree(folder, ignore_errors=True)
        named: set[str] | None = None
        data = path / "data"
        for folder in [] if data.is_symlink() else data.glob("*/"):
            if folder.is_symlink():  # which leads elsewhere
                continue
            names = {entry.name for entry in folder.iterdir()}
            if names and MARK not in names:
                continue
            named = _named_in_log(path) if named is None else named
            _close(folder, named)


def _named_in_log(path: Path) -> set[str]:
    """Return the names of all data files that the log of a collection says anything of."""
    name = re.compile(r"[0-9a-f]{32}\.parquet")
    log = path / "_delta_log"
    found: set[str] = set()
    for file in log.glob("*.json"):
        found.update(name.findall(file.read_text()))
    for file in log.glob("*.checkpoint*.parquet"):  # of commits whose files may be gone by now
        actions = pq.read_table(file, columns=["add.path", "remove.path"], partitioning=None)
        for column in actions.flatten().columns:
            found.update(name.findall(" ".join(filter(None, column.to_pylist()))))
    return found
