"""What has changed since regions were made: rows that are gone, and rows that came.

The log says which data files are other ones. Of those that replace others only the ids are read:
an id never stands for another row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from lookalike.errors import LookalikeError, one_line
from lookalike.search.regions.layout import Ids, runs_of
from lookalike.search.rows import Rows, fetch
from lookalike.storage import EmbeddingTable, Segment, local_rows
from lookalike.system.arrays import Mask, Numbers

NO_IDS = Ids(np.empty((0, 2), np.int64), np.empty((0, 2), np.int64))


@dataclass(frozen=True)
class Changes:
    """Rows that are gone of those with ids under a `stop`, and rows from it on.

    `added` are the rows of data files with later ids, of which `allowed` has those with them; None
    for all.
    """

    gone: Ids
    added: Rows
    allowed: Mask | None

    @classmethod
    def since(cls, table: EmbeddingTable, data: Sequence[str], stop: int) -> "Changes":
        """Compare a version with the data files of an older one, whose next id was `stop`."""
        later = [file for file, _, last, _ in table.id_ranges() if last >= stop]
        added = Rows(fetch([Segment(file.absolute()) for file in later]))
        allowed = added.ids >= stop
        gone = ids_of(table, lost_ranges(table, data, stop))
        return cls(gone, added, None if allowed.all() else allowed)

    @cached_property
    def count(self) -> int:
        """How many rows came."""
        return len(self.added) if self.allowed is None else int(np.count_nonzero(self.allowed))


def names_of(table: EmbeddingTable) -> list[str]:
    """Return the names of the data files of a version."""
    return [file.relative_to(table.path).as_posix() for file in table.files()]


def lost_ranges(table: EmbeddingTable, data: Sequence[str], stop: int) -> Numbers:
    """Return the ranges of ids under `stop` in which a version may lack rows, int64 (n, 2).

    They are those that no file of `data` in this version covers.
    """
    known = set(data)
    ranges = [
        (first, last)
        for file, first, last, _ in table.id_ranges()
        if file.relative_to(table.path).as_posix() in known
    ]
    if len(ranges) == len(known):
        return NO_IDS.lost
    lost, at = [], 0
    for first, last in [*sorted(ranges), (stop, stop)]:
        if first > at:
            lost.append((at, first - 1))
        at = max(at, last + 1)
    return np.array(lost, np.int64).reshape(-1, 2)


def ids_of(table: EmbeddingTable, lost: Numbers) -> Ids:
    """Return ranges with the ids in them that a version has. Only data files in them are read."""
    if not len(lost):
        return NO_IDS
    files = [
        file
        for file, first, last, _ in table.id_ranges()
        if ((lost[:, 0] <= last) & (lost[:, 1] >= first)).any()
    ]
    parts = [np.empty(0, np.int64), *(_read_ids(file) for file in local_rows(files))]
    return Ids(lost, runs_of(np.unique(np.concatenate(parts))))


def _read_ids(file: Path) -> Numbers:
    try:
        ids: Numbers = pq.read_table(file, columns=["id"], partitioning=None)["id"].to_numpy()
    except (OSError, ValueError) as error:
        raise LookalikeError(
            f"the data file {file} cannot be read ({one_line(error)}): `lookalike check INDEX`"
        ) from None
    return ids
