"""Write the rows of a table of vectors into segments, in this process or on Spark."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lookalike.ingest.vectors.inputs import VectorInput
from lookalike.ingest.vectors.plan import load_wanted
from lookalike.ingest.vectors.rows import rows_of, small_batches
from lookalike.ingest.vectors.tables import Batch, ParquetTable, Part
from lookalike.ingest.wave_sizes import vector_wave
from lookalike.storage import SegmentRecord, write_segment
from lookalike.storage.commits import FULL_SEGMENT_ROWS
from lookalike.system.progress import progress_line

MAX_SEGMENT_BYTES = 2**27
"""Bytes of vectors in a segment: fewer rows where vectors are wide."""
Deliver = Callable[[list[SegmentRecord]], None]


@dataclass(frozen=True)
class Wanted:
    """The rows of a table to write: all, or `rows`, rising, and their ids: int64 (2, n)."""

    count: int
    rows: npt.NDArray[np.int64] | None = None

    @classmethod
    def load(cls, count: int, file: Path | None) -> Self:
        """Return the rows that `plan.map_wanted` has written to a file; all without one."""
        return cls(count, None if file is None else load_wanted(file))

    def choose(self, first: int, count: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return the wanted ones of `count` rows from `first` on, counted from there; their ids."""
        if self.rows is None:
            return np.arange(count), np.arange(first, first + count)
        start, stop = np.searchsorted(self.rows[0], [first, first + count])
        return self.rows[0, start:stop] - first, np.asarray(self.rows[1, start:stop])


def segment_rows(width: int) -> int:
    """Return the number of rows of a segment of vectors of a width."""
    return min(FULL_SEGMENT_ROWS, max(MAX_SEGMENT_BYTES // (4 * width), 256))


def write_in_process(
    opened: VectorInput, wanted: Wanted, wave: int, folder: Path, deliver: Deliver
) -> None:
    """Write the wanted rows into segments in `folder`; call `deliver` for each wave of them."""
    assert opened.table is not None
    rows_a_wave = vector_wave(wave, wanted.count)
    rows_a_segment = min(segment_rows(opened.width), rows_a_wave)
    held: list[SegmentRecord] = []
    waiting = done = 0
    with progress_line("indexing", "vectors") as move:
        batches = _chosen(opened, wanted, opened.table.batches(opened.columns))
        for segment in _segments(batches, rows_a_segment):
            for record in write_segment(small_batches(segment), folder):
                held += record.to_pylist()
            waiting = sum(one["rows"] for one in held)
            if waiting >= rows_a_wave:
                deliver(held)
                done, waiting, held = done + waiting, 0, []
            move(done + waiting, wanted.count)
        if held:
            deliver(held)


def _chosen(
    opened: VectorInput, wanted: Wanted, batches: Iterator[Batch], first: int = 0
) -> Iterator[pa.RecordBatch]:
    """Yield the wanted rows of batches; `first` is the number of their first row in the table."""
    for batch in batches:
        count = batch.rows.num_rows
        places, ids = wanted.choose(first, count)
        first += count
        if not len(places):
            continue
        rows = rows_of(opened, batch, np.arange(count))
        if len(places) < count:
            rows = rows.take(pa.array(places))
        yield rows.set_column(0, "id", pa.array(ids, pa.int64()))


def _segments(batches: Iterator[pa.RecordBatch], rows: int) -> Iterator[Iterator[pa.RecordBatch]]:
    """Group batches into segments of `rows` rows, to consume one after the other."""
    held: list[pa.RecordBatch] = []

    def segment() -> Iterator[pa.RecordBatch]:
        left = rows
        while left:
            batch = held.pop() if held else next(batches, None)
            if batch is None:
                return
            if batch.num_rows > left:
                held.append(batch.slice(left))
                batch = batch.slice(0, left)
            left -= batch.num_rows
            yield batch

    while True:
        if not held:
            if (first := next(batches, None)) is None:
                return
            held.append(first)
        yield segment()


def parts_of_tasks(table: ParquetTable, rows: int) -> list[list[tuple[Part, int]]]:
    """Divide the row groups of a table among tasks of about `rows` rows.

    Each row group comes with the number of its first row in the table. It stays whole.
    """
    tasks: list[list[tuple[Part, int]]] = []
    total = number = 0  # rows of the last task, and of all parts before
    for part in table.parts():
        if not tasks or total + part.rows > rows:
            tasks.append([])
            total = 0
        tasks[-1].append((part, number))
        total += part.rows
        number += part.rows
    return tasks


def rows_of_task(
    opened: VectorInput, wanted: Wanted, parts: list[tuple[Part, int]]
) -> Iterator[pa.RecordBatch]:
    """Yield the wanted rows of some row groups, in a Spark task."""
    table = opened.table
    assert isinstance(table, ParquetTable)
    for part, first in parts:
        batches = table.part_batches(part, opened.columns)
        yield from small_batches(_chosen(opened, wanted, batches, first))
