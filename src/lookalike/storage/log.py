"""Reads the whole Delta log: the versions, the data files of each, and files of none."""

import itertools
import json
import os
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import unquote

import pyarrow as pa

from lookalike.storage.data_folders import MARK, check_index
from lookalike.storage.description import find_folder
from lookalike.storage.errors import damaged
from lookalike.storage.remote import copy_at, mend_log, pull
from lookalike.storage.transactions import COUNTS, OPERATION
from lookalike.system.untrusted import check_inner_names

if TYPE_CHECKING:
    from deltalake import DeltaTable


# https://github.com/delta-io/delta/blob/master/PROTOCOL.md#checkpoints: in one file, in several, or
# named by a UUID. A killed writer of one leaves a longer name.
_CHECKPOINT = re.compile(
    r"\d{20}\.checkpoint(\.parquet|\.\d{10}\.\d{10}\.parquet|\.[0-9a-f-]{36}\.(parquet|json))"
)
MIN_LEFTOVER_AGE_S = 3600
"""Age from which a temporary file belongs to a killed writer."""


@dataclass(frozen=True)
class Version:
    """One version: its time, and how its data files differ from those of the version before.

    `time` is in milliseconds since 1970. `added` has the sizes in bytes, by name; of the first
    version in the log it has all data files.
    """

    number: int
    time: int
    added: dict[str, int]
    removed: list[str]


@dataclass(frozen=True)
class Log:
    """The versions in the log, oldest first, without gaps.

    Their data files may be gone: see `openable`.
    """

    path: Path
    versions: tuple[Version, ...]

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read the log of the index at `path`. Raises `LookalikeError` where it is damaged."""
        from deltalake.exceptions import DeltaError

        try:
            return cls.read(path)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, DeltaError) as error:
            raise damaged(path, error) from None

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the log from its commits, and from a checkpoint where the first ones are gone.

        Raises `OSError`, `ValueError`, `KeyError`, `TypeError` or a `DeltaError` where it is
        damaged.
        """
        folder = path / "_delta_log"
        names = sorted(os.listdir(folder))
        commits = {int(name[:20]) for name in names if re.fullmatch(r"\d{20}\.json", name)}
        checkpoints = {int(name[:20]) for name in names if _CHECKPOINT.fullmatch(name)}
        newest = max(commits | checkpoints)
        first = newest + 1
        while first - 1 in commits:
            first -= 1
        if first == 0:
            versions = []
        else:
            first = min((one for one in checkpoints if one >= first - 1), default=newest)
            versions = [_whole(path, first)]
            first += 1
        versions += [_commit(folder, number) for number in range(first, newest + 1)]
        return cls(path, tuple(versions))

    def files(self, first: int = 0) -> dict[str, int]:
        """Return the data files of version `first` and of later ones, with their sizes in bytes."""
        named: dict[str, int] = {}
        for version in self.versions:
            if version.number <= first:
                for name in version.removed:
                    named.pop(name, None)
            named.update(version.added)
        return named

    def openable(self) -> set[int]:
        """Return the versions whose data files are all there, in the size that was written."""
        copy = copy_at(self.path)
        stored = None if copy is None else copy.data_files()

        def size(name: str) -> int | None:
            if stored is None:
                return _size(self.path / name)
            return stored.get(name)

        found: set[int] = set()
        lost: set[str] = set()
        for version in self.versions:
            lost.difference_update(version.removed)
            lost.update(name for name, wanted in version.added.items() if size(name) != wanted)
            if not lost:
                found.add(version.number)
        return found

    def kept_since(self, moment: float) -> int:
        """Return the oldest version that was the newest after a time, in seconds since 1970."""
        for version, following in itertools.pairwise(self.versions):
            if following.time > moment * 1000:
                return version.number
        return self.versions[-1].number

    def strangers(self, first: int = 0) -> list[Path]:
        """Return files among the data files that no version from `first` on has."""
        named = self.files(first)
        return [
            file
            for file in sorted(_files(self.path / "data"))
            if str(file.relative_to(self.path)) not in named and file.name != MARK
        ]

    def leftovers(self) -> list[Path]:
        """Return temporary files and folders of writers that were killed over an hour ago."""
        found: list[Path] = []
        for folder, pattern in (
            (self.path, ".*lookalike.json"),
            (self.path / "_delta_log", "_commit_*.tmp"),
            (find_folder(self.path, "signatures"), ".*-*"),
            (find_folder(self.path, "signatures"), "generation-*/.*-*"),
            (find_folder(self.path, "lsh"), ".*-*"),
        ):
            found += [one for one in _found(folder, pattern) if _is_old(one)]
        return sorted(found)

    def hash_folders(self, versions: Iterable[int]) -> list[Path]:
        """Return the folders of hash models of all but these versions."""
        kept = {str(number) for number in versions}
        folders = _found(find_folder(self.path, "lsh"), "[0-9]*")
        return sorted(folder for folder in folders if folder.name not in kept)

    def measured_before(self, first: int) -> list[Path]:
        """Return the files with the measured recall of versions before `first`.

        The newest of them that version `first` can use is left out.
        """
        folder = find_folder(self.path, "signatures")
        files = {
            int(file.stem): file
            for file in [*_found(folder, "*.json"), *_found(folder, "generation-*/*.json")]
            if file.stem.isdecimal()
        }
        before = sorted(number for number in files if number <= first)
        return [files[number] for number in before[:-1]]


def newest_version(path: Path) -> tuple[int, str]:
    """Return the number of the newest version of the index at `path`, and the id of its table.

    Raises `LookalikeError` where there is no index any more, or a damaged one.
    """
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    pull(path)
    try:
        table = DeltaTable(path.absolute())
    except DeltaError as error:
        if not mend_log(path):
            check_index(path)
            raise damaged(path, error) from None
        table = DeltaTable(path.absolute())
    return table.version(), str(table.metadata().id)


def history(table: "DeltaTable", log: Log) -> list[dict[str, Any]]:
    """Return a record of each version, newest first.

    It has `version`, `time` in milliseconds since 1970, `what` was done, how many rows were `added`
    and `removed`, and how many `images` and `skipped` inputs there were then; of versions made by
    other programs only the first three. `kept` says whether it can still be opened.
    """
    records = []
    kept = log.openable()
    for commit in table.history():
        record = {"version": commit["version"], "time": commit["timestamp"]}
        record["kept"] = commit["version"] in kept
        record["what"] = commit.get(OPERATION) or str(commit.get("operation", "")).lower()
        counts = {key: commit.get(f"{OPERATION}.{key}") for key in COUNTS}
        records.append(record | {k: None if v is None else int(v) for k, v in counts.items()})
    return records


def _whole(path: Path, number: int) -> Version:
    from deltalake import DeltaTable

    actions = pa.table(DeltaTable(path.absolute(), version=number).get_add_actions())
    check_inner_names(actions["path"])
    names, sizes = (actions[name].to_pylist() for name in ("path", "size_bytes"))
    log = path / "_delta_log"
    of_version = next(log.glob(f"{number:020}*"))
    return Version(number, _milliseconds(of_version), dict(zip(names, sizes, strict=True)), [])


def _commit(log: Path, number: int) -> Version:
    file = log / f"{number:020}.json"
    moment = _milliseconds(file)
    added: dict[str, int] = {}
    removed: list[str] = []
    with file.open() as lines:
        for line in lines:
            action: dict[str, Any] = json.loads(line)
            if "add" in action:
                added[unquote(action["add"]["path"])] = action["add"]["size"]
            elif "remove" in action:
                removed.append(unquote(action["remove"]["path"]))
            elif "commitInfo" in action:
                moment = int(action["commitInfo"].get("timestamp", moment))
    check_inner_names(pa.array([*added, *removed], pa.string()))
    return Version(number, moment, added, removed)


def _milliseconds(file: Path) -> int:
    return file.stat().st_mtime_ns // 1_000_000


def _size(file: Path) -> int | None:
    try:
        return file.stat().st_size
    except OSError:
        return None


def _found(folder: Path, pattern: str) -> list[Path]:
    """Return the entries of a folder; none where it is a link, which leads elsewhere."""
    return [] if folder.is_symlink() else list(folder.glob(pattern))


def _files(folder: Path) -> Iterator[Path]:
    if folder.is_symlink():  # as `_found`
        return
    for parent, _, names in os.walk(folder):
        yield from (Path(parent, name) for name in names)


def _is_old(path: Path) -> bool:
    try:
        return path.stat().st_mtime < time.time() - MIN_LEFTOVER_AGE_S
    except OSError:  # its writer has just renamed it
        return False
