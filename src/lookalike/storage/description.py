"""The description of an index: its format, the place of its images, the model in words.

Delta hides names that begin with `_` or `.`, so that no vacuum of Delta's, in its full mode either,
deletes what the log does not name: `_lookalike.json`, `_model/`, `_signatures/`, `_lsh/`. In format
2 these names had no `_`. Such an index is read as it is; the first writer renames them (`upgrade`).
"""

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from lookalike.errors import LookalikeError
from lookalike.images.inputs.location import INDEX_FILES
from lookalike.storage.errors import Conflict, damaged
from lookalike.storage.remote.copies import pull, push
from lookalike.storage.remote.publishing import claim, replace_description
from lookalike.system.files import new_file, sync_folder
from lookalike.system.untrusted import read_json

FORMAT = 3
NEWEST_FORMAT = 4  # of what format 3 has no place for: `stored_model.new_description`
OLDEST_FORMAT = 2

_MAX_ATTEMPTS = 30  # of a change that other machines make too
_NAME, _OLD_NAME = INDEX_FILES
"""Since format 3 the old one holds the format alone, for versions of lookalike that look there."""

Folder = Literal["model", "signatures", "lsh"]
FOLDERS: tuple[Folder, ...] = ("model", "signatures", "lsh")


def find_folder(path: Path, name: Folder) -> Path:
    """Return the folder of an index with its model, signatures or hash models; it may not exist."""
    old, new = path / name, path / f"_{name}"
    return old if os.path.lexists(old) and not os.path.lexists(new) else new


def has_description(path: Path) -> bool:
    """Tell whether the folder `path` holds the description of an index."""
    # The first name again: another process may rename the other one to it meanwhile.
    return any((path / name).is_file() for name in (_NAME, _OLD_NAME, _NAME))


def is_index(path: Path) -> bool:
    """Tell whether there is an index at `path`."""
    return has_description(path) and has_versions(path)


def has_versions(path: Path) -> bool:
    """Tell whether the folder `path` holds the log of a table with a version."""
    # Its maker may be killed when there is the folder alone, or a part of the file.
    try:
        names = os.listdir(path / "_delta_log")
    except (FileNotFoundError, NotADirectoryError):
        return False
    return any(name[0].isdecimal() and "#" not in name for name in names)


def read_description(path: Path) -> dict[str, Any]:
    """Read the description of the index at `path`. Raises `LookalikeError`."""
    try:
        description = _read(path)
        made_by = description["format"]
        if made_by > NEWEST_FORMAT:
            raise LookalikeError(f"{path} was made by a newer lookalike: upgrade to open it")
        if made_by < OLDEST_FORMAT:
            raise LookalikeError(
                f"{path} was made by an older lookalike: index the images again, with "
                "`overwrite=True`"
            )
        return description
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise damaged(path, error) from None


def _read(path: Path) -> dict[str, Any]:
    if not (path / _NAME).exists():
        with suppress(FileNotFoundError):
            old = read_json(path / _OLD_NAME)
            if not (path / _NAME).exists():  # else another process has just renamed it
                return old
    return read_json(path / _NAME)


def create_description(path: Path, description: dict[str, Any]) -> None:
    """Write the description of a new index."""
    _write(path / _NAME, {"format": FORMAT, **description})
    _write(path / _OLD_NAME, {"format": FORMAT})
    claim(path)
    push(path, path / _OLD_NAME)


def change_description(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Let `change` edit the description of the index at `path`; the caller may write into it."""
    for _ in range(_MAX_ATTEMPTS):
        with lock_description(path), suppress(Conflict):
            pull(path, description=True)
            description = read_description(path)
            # Of format 2 where other writers were there all the time.
            file = path / (_NAME if (path / _NAME).exists() else _OLD_NAME)
            before = file.read_bytes()
            change(description)
            _write(file, description)
            replace_description(path, before)
            return
    raise LookalikeError(f"others keep changing {path}: try again")


def upgrade(path: Path) -> None:
    """Bring an index of format 2 to format 3, where it can be written to.

    Nobody else may write meanwhile. Killed anywhere, it leaves an index that this version
    reads and the next writer upgrades: older versions are locked out first, then each name changes
    in one step.
    """
    with suppress(OSError, LookalikeError), lock_description(path):
        description = read_description(path)
        if not (path / _NAME).exists():
            newer = {"format": max(FORMAT, description["format"])}
            _write(path / _OLD_NAME, description | newer)
            (path / _OLD_NAME).rename(path / _NAME)
            sync_folder(path)
        if not (path / _OLD_NAME).exists():
            _write(path / _OLD_NAME, {"format": FORMAT})
        for name in FOLDERS:
            if (new := path / f"_{name}") != find_folder(path, name):
                (path / name).rename(new)


@contextmanager
def lock_description(path: Path) -> Iterator[None]:
    """Let one process at a time change the description of the index at `path`."""
    folder = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _write(file: Path, description: dict[str, Any]) -> None:
    with new_file(file) as part:
        part.write_text(json.dumps(description, indent=1) + "\n")
