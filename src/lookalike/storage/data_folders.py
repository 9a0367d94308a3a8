"""Folders for new data files, and the leftovers of killed writers in them.

A folder has a mark while a writer fills it. So leftovers are found without reading the log, which
takes long where there are many versions.
"""

import json
import os
import re
from collections.abc import Set
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pyarrow.parquet as pq

from lookalike.errors import LookalikeError
from lookalike.storage.description import (
    has_description,
    has_versions,
    is_index,
    lock_description,
)
from lookalike.storage.errors import RESTORE
from lookalike.storage.remote.copies import copy_at
from lookalike.system.files import delete_folder
from lookalike.system.paths import is_text

MARK = ".writing"
"""The file in a folder that a writer fills."""


def new_data_folder(path: Path) -> Path:
    """Make a folder for new data files of the table at `path`; return it."""
    folder = path.absolute() / "data" / uuid4().hex
    folder.mkdir(parents=True)
    (folder / MARK).touch()
    return folder


def discard(path: Path, folder: Path, since: int) -> None:
    """End the use of a folder: delete the files in it that no version after `since` has added.

    The log decides: a commit may have been made although its writer got an error. An empty folder
    is deleted too.
    """
    committed: set[str] = set()
    for log in (path / "_delta_log").glob("*.json"):
        if log.stem.isdecimal() and int(log.stem) > since:
            actions = map(json.loads, log.read_text().splitlines())
            committed.update(Path(one["add"]["path"]).name for one in actions if "add" in one)
    _close(folder, committed)


def _close(folder: Path, committed: Set[str]) -> None:
    """Delete uncommitted files, and then the mark: files in a folder without it stay."""
    with suppress(OSError):  # an abandoned writer still writes: the mark stays too
        for name in set(os.listdir(folder)) - committed - {MARK}:
            (folder / name).unlink(missing_ok=True)
        kept = set(os.listdir(folder)) - {MARK}
        if kept <= committed:
            (folder / MARK).unlink(missing_ok=True)
        if not kept:
            folder.rmdir()


def clear(path: Path) -> None:
    """Delete what killed writers left in the table at `path`; every version stays as it is.

    No other process may write meanwhile. What cannot be deleted stays.
    """
    with suppress(OSError):
        log = path / "_delta_log"
        for part in [] if log.is_symlink() else log.glob("*.json#*"):  # as delta-rs names them
            part.unlink()
        with lock_description(path):
            for part in path.glob(".*lookalike.json"):  # of `files.new_file`
                part.unlink()
        for folder in path.glob(".work-*/"):
            delete_folder(folder)
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
    """Return the names of all data files in the log of a table, added or removed."""
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


def is_unfinished(path: Path) -> bool:
    """Tell whether something began to make an index at `path` and committed nothing yet."""
    if has_versions(path):
        return False
    begun = (path / ".writers").is_file() or (path.is_dir() and not any(path.iterdir()))
    begun = begun or copy_at(path) is not None  # what is in its store was never committed
    # A folder without a mark was committed: the log is lost, and nothing may be deleted.
    return begun and all((one / MARK).exists() for one in (path / "data").glob("*/"))


def check_index(path: Path) -> None:
    """Raise `LookalikeError` unless an index can be opened at `path`."""
    if not is_index(path):
        stored = copy_at(path) is not None  # then its folder is there, whatever is in the store
        if is_unfinished(path) and (has_description(path) if stored else any(path.iterdir())):
            raise LookalikeError(f"{path} was never finished: run `lookalike index` again")
        if has_description(path):
            raise LookalikeError(f"{path} is a damaged index: its log is gone; {RESTORE}")
        what = "is not an index" if path.exists() and not stored else "does not exist"
        raise LookalikeError(f"{path} {what}: make one with `lookalike index`")
    if not is_text(str(path.absolute())):
        raise LookalikeError(
            f"{path} has a name that is not UTF-8, which Delta cannot open: rename its folder"
        )
