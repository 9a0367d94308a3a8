"""Deletes data files that only old versions of a table need.

Delta's own vacuum does an index no harm, but cannot replace this one. After a checkpoint it deletes
files that were removed over a week ago, however many days are to be kept; naming the versions to
keep takes it 6 ms each. It counts whole hours, makes two versions of each run, and knows nothing of
caches. Nor can its compaction replace `commits.compact`: it names files not by their content, and
keeps no order of ids.
"""

import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lookalike.errors import LookalikeError
from lookalike.storage import EmbeddingTable, Log, commits, copy_at, forget, writing
from lookalike.storage.description import find_folder
from lookalike.storage.generations import model_folder
from lookalike.storage.region_folders import needed_folders, outdated_region_folders, region_folders
from lookalike.storage.remote import LocalCopy
from lookalike.storage.remote.outdated import Outdated, ask_time
from lookalike.system.defaults import KEEP_DAYS
from lookalike.system.files import delete, leftover_folders

SECONDS_PER_DAY = 24 * 3600


@dataclass(frozen=True)
class Vacuumed:
    """The result of a vacuum, or of its dry run.

    `versions` counts older versions that cannot be opened any more, `files` deleted data files,
    `bytes` how much smaller the index is, `merged` small segments that became part of larger ones.
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
    table: EmbeddingTable, keep_days: float = KEEP_DAYS, *, dry_run: bool = False
) -> Vacuumed:
    """Delete data files of versions that were not the newest in the last `keep_days` days.

    Nothing else may write meanwhile. The newest version before it stays too, for processes that
    have it open. In a store, where other machines may write, data files that no version has are
    deleted once they are older than a day and than `keep_days`. First small segments are merged, at
    last the log gets a checkpoint. With `dry_run` nothing is changed, and merged segments are not
    counted. Raises `LookalikeError` where something writes.
    """
    if not keep_days >= 0:
        raise LookalikeError(f"`keep_days` is {keep_days}: give 0 or more")
    path = table.path
    with writing(path, alone=True, dry_run=dry_run):
        stored = EmbeddingTable.open(path)
        before = stored.version
        log = stored.log()
        first = min(before, log.kept_since(time.time() - keep_days * SECONDS_PER_DAY))
        gone = [number for number in log.openable() if number < first]
        merged = 0
        if not dry_run:
            had = set(stored.files())
            stored = commits.compact(stored, 2)  # any two
            merged = len(had.difference(stored.files()))
            log = stored.log()
        if (copy := copy_at(path)) is None:
            files, freed = _clean_disk(log, first, dry_run)
        else:
            files, freed = _clean_store(copy, log, first, keep_days, dry_run)
        if not dry_run:
            stored.checkpoint()
        return Vacuumed(stored.version, len(gone), files, freed, merged)


def _clean_disk(log: Log, first: int, dry_run: bool) -> tuple[int, int]:
    """Delete what no version from `first` on needs; return data files and bytes in all."""
    data = log.strangers(first)
    others = [*_others(log, first, log.path), *_outdated_models(log.path, first)]
    freed = sum(map(_size, [*data, *others]))
    if not dry_run:
        kept = {Path(name).stem for name in log.files(first)}
        _delete_data_files(data, kept)
        for one in others:
            delete(one)
        _delete_empty_folders(log.path / "data")
    return len(data), freed


def _clean_store(
    copy: LocalCopy, log: Log, first: int, keep_days: float, dry_run: bool
) -> tuple[int, int]:
    """Do the same in the store of an index."""
    copy.fetch_folder(find_folder(copy.folder, "signatures"))
    generation = EmbeddingTable.open(copy.folder, first, check_files=False).generation
    now = time.time() if dry_run else ask_time(copy)
    regions = needed_folders(copy.folder, region_folders(copy.folder), first)
    outdated = Outdated.find(copy, log, first, generation, keep_days, now, regions)
    if not dry_run:
        for name in outdated.data:
            forget(copy.folder / name)
        outdated.delete(copy)
    freed = sum(outdated.data.values()) + sum(outdated.others.values())
    return len(outdated.data), freed


def _others(log: Log, first: int, path: Path) -> list[Path]:
    """Return what, beside data files, no version from `first` on needs."""
    kept = (version.number for version in log.versions if version.number >= first)
    return [
        *log.hash_folders(kept),
        *log.measured_before(first),
        *log.leftovers(),
        *leftover_folders(path / "work"),
        *outdated_region_folders(path, first),
    ]


def _outdated_models(path: Path, first: int) -> list[Path]:
    """Return the folders of models that no version from `first` on has."""
    generation = EmbeddingTable.open(path, first, check_files=False).generation
    return [one for one in map(partial(model_folder, path), range(generation)) if one.exists()]


def _delete_data_files(files: list[Path], kept: set[str]) -> None:
    """Delete data files with their caches, unless a kept file has the same content."""
    for file in files:
        if file.suffix == ".parquet" and file.stem not in kept:
            forget(file)
        file.unlink(missing_ok=True)


def _delete_empty_folders(data: Path) -> None:
    for folder in [] if data.is_symlink() else data.iterdir():
        if folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir()):
            folder.rmdir()


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.lstat().st_size for file in files if file.is_file())
