"""What a store holds of an index that no kept version needs."""

import re
import uuid
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass

from lookalike.storage.log import Log
from lookalike.storage.remote.copies import LocalCopy
from lookalike.storage.remote.shared_files import WORK

SECONDS_PER_DAY = 24 * 3600
MIN_UNCOMMITTED_DAYS = 1.0
"""Data files of no version, and files of tasks, stay so long: another machine may need them."""
_DELETED_AT_ONCE = 1_000
_MODEL = re.compile(r"_model(?:-(\d+))?/")
_HASHES = re.compile(r"_lsh/(\d+)/")
_REGIONS = re.compile(r"_regions/([^/]*)/")


@dataclass(frozen=True)
class Outdated:
    """Objects to delete, with their sizes in bytes: `data` files, and what is beside them."""

    data: dict[str, int]
    others: dict[str, int]

    @classmethod
    def find(
        cls,
        copy: LocalCopy,
        log: Log,
        first: int,
        generation: int,
        keep_days: float,
        now: float,
        regions: Set[str] = frozenset(),
    ) -> "Outdated":
        """Find what versions from `first` on, the first of which has a generation, do not need.

        `now` is in seconds since 1970, by the clock of the store. `regions` are the folders of
        regions that they need.
        """
        kept, ever = log.files(first), log.files()
        versions = {version.number for version in log.versions if version.number >= first}
        measured = {copy.name(file) for file in log.measured_before(first)}
        uncommitted_before = now - max(keep_days, MIN_UNCOMMITTED_DAYS) * SECONDS_PER_DAY

        def is_outdated(name: str, modified: int) -> bool:
            if name.startswith("data/"):
                old = name in ever or modified < uncommitted_before * 1e9
                return name not in kept and old
            if match := _MODEL.match(name):
                return int(match[1] or 0) < generation
            if match := _HASHES.match(name):
                return int(match[1]) not in versions
            if name.startswith(f"{WORK}/"):
                return modified < uncommitted_before * 1e9
            if match := _REGIONS.match(name):  # an unfinished one may be in the making
                return match[1] not in regions and modified < uncommitted_before * 1e9
            return name in measured

        found = dict(_matching(copy, is_outdated))
        data = {name: size for name, size in found.items() if name.startswith("data/")}
        return cls(data, {name: size for name, size in found.items() if name not in data})

    def delete(self, copy: LocalCopy) -> None:
        """Delete the objects, and what the local copy has of them."""
        names = [*self.data, *self.others]
        for start in range(0, len(names), _DELETED_AT_ONCE):
            copy.store.delete(names[start : start + _DELETED_AT_ONCE])
        for name in names:
            copy.forget(name)


def ask_time(copy: LocalCopy) -> float:
    """Return the time of the store: the clock of this machine may be days ahead of it."""
    name = f"{WORK}/{uuid.uuid4().hex}/now"
    copy.put(name, b"")
    try:
        return copy.store.head(name).modified / 1e9 + 1  # it may be in whole seconds
    finally:
        copy.store.delete([name])


def _matching(
    copy: LocalCopy, is_outdated: Callable[[str, int], bool]
) -> Iterator[tuple[str, int]]:
    for batch in copy.store.list():
        columns = (batch[name].to_pylist() for name in ("name", "size", "modified"))
        for name, size, modified in zip(*columns, strict=True):
            if is_outdated(name, modified):
                yield name, size
