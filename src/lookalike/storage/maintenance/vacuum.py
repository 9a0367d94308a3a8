"""Deletes what only old versions of a collection need.

delta-rs's own vacuum is not for a collection: with `full` it deletes whatever the log does not
name, the model with it; without, only what was removed since the last checkpoint.
"""

import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lookalike.cache import left_folders
from lookalike.defaults import KEEP_DAYS
from lookalike.errors import LookalikeError
from lookalike.storage import EmbeddingTable, Log, commits, forget, writing

_DAY = 24 * 3600
_FEW = 2  # small segments in a row are made one


@dataclass(frozen=True)
class Vacuumed:
    """What a vacuum did, or would do.

    Of older `versions`, so many can be opened no longer. `files` counts data files, `bytes` what
    the index is smaller by; small segments were made one, `merged` of them.
    """

    version: int
    versions: int
    files: int
    bytes: int
    merged: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return it as `--json` prints it."""
        return asdict(self)


def vacuum(
    collection: EmbeddingTable, keep_days: float = KEEP_DAYS, *, dry_run: bool = False
) -> Vacuumed:
    """Delete what only versions need that were not the newest in the last `keep_days` days, alone.

    The version that is the newest when it begins stays too, for whoever has it open. Before that,
    small segments are made one; after it, the log is made quick to open. With `dry_run` nothing is
    changed, merged segments are not counted. Raises `LookalikeError` where something writes.
    """
    if not keep_days >= 0:
        raise LookalikeError(f"`keep_days` is {keep_days}: give 0 or more")
    path = collection.path
    with writing(path, alone=True):
        stored = EmbeddingTable.open(path)
        before = stored.version
        log = stored.log()
        first = min(before, log.kept_since(time.time() - keep_days * _DAY))
        gone = [number for number in log.openable() if number < first]
        merged = 0
        if not dry_run:
            had = set(stored.files())
            stored = commits.compact(stored, _FEW)
            merged = len(had.difference(stored.files()))
            log = stored.log()
        data = log.strangers(first)
        others = _others(log, first, path)
        freed = sum(map(_size, [*data, *others]))
        if not dry_run:
            kept = {Path(name).stem for name in log.files(first)}
            _delete(data, kept)
            for one in others:
                _delete_whole(one)
            _delete_empty(path / "data")
            stored.checkpoint()
        return Vacuumed(stored.version, len(gone), len(data), freed, merged)


def _others(log: Log, first: int, path: Path) -> list[Path]:
    """Return what, beside data files, no version from `first` on needs."""
    kept = (version.number for version in log.versions if version.number >= first)
    return [
        *log.hash_folders(kept),
        *log.measured_before(first),
        *log.leftovers(),
        *left_folders(path / "work"),
    ]


def _delete(data: list[Path], kept: set[str]) -> None:
    """Delete data files with their caches, which another file of the same content may share."""
    for file in data:
        if file.suffix == ".parquet" and file.stem not in kept:
            forget(file)
        file.unlink(missing_ok=True)


def _delete_whole(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _delete_empty(data: Path) -> None:
    for folder in [] if data.is_symlink() else data.iterdir():
        if folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir()):
            folder.rmdir()


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.lstat().st_size for file in files if file.is_file())
