"""Vectors of this process, and arrays of NumPy on the disk."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lookalike.errors import LookalikeError
from lookalike.ingest.vectors.tables import BATCH_ROWS, Batch, ParquetTable, reading


@dataclass(frozen=True)
class ArrayTable:
    """An array (n, width), of this process or mapped from a file; it has one column."""

    array: npt.NDArray[Any]
    place: str | None
    root: str

    @property
    def _dtype(self) -> "np.dtype[Any]":
        return self.array.dtype.newbyteorder("=")

    @property
    def schema(self) -> pa.Schema:
        """The only column, without a name."""
        kind = pa.from_numpy_dtype(self._dtype)
        return pa.schema([pa.field("", pa.list_(kind, self.array.shape[1]))])

    def batches(self, columns: Sequence[str]) -> Iterator[Batch]:
        """Yield all rows in batches, with these columns."""
        name = os.path.basename(self.place) if self.place else ""
        width = self.array.shape[1]
        for start in range(0, len(self.array), BATCH_ROWS):
            rows = np.ascontiguousarray(self.array[start : start + BATCH_ROWS], self._dtype)
            lists = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), width)
            yield Batch(name, start, pa.RecordBatch.from_arrays([lists], names=[""]))


@dataclass(frozen=True)
class ArrowTable:
    """A table or dataset of Arrow, of this process."""

    data: Any
    place: str | None
    root: str

    @property
    def schema(self) -> pa.Schema:
        """The columns of the table."""
        return self.data.schema

    def batches(self, columns: Sequence[str]) -> Iterator[Batch]:
        """Yield all rows in batches, with these columns."""
        first = 0
        for batch in self._record_batches(columns):
            for start in range(0, batch.num_rows, BATCH_ROWS):
                rows = batch.slice(start, BATCH_ROWS)
                yield Batch("", first, rows)
                first += rows.num_rows

    def _record_batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        if isinstance(self.data, pa.Table):
            yield from self.data.select(list(columns)).to_batches(BATCH_ROWS)
            return
        with reading("the dataset"):
            yield from self.data.to_batches(
                columns=list(columns),
                batch_size=BATCH_ROWS,
                batch_readahead=2,
                fragment_readahead=1,
            )


def batches_of(reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    """Yield the batches of a reader. Raises `LookalikeError` where it fails."""
    with reading("the table"):
        yield from reader


def spooled(
    reader: pa.RecordBatchReader, columns: Sequence[str], folder: Path, root: str
) -> ParquetTable:
    """Write columns of a reader, whose batches come once, to a file that can be read again."""
    file = folder / "rows.parquet"
    schema = pa.schema([reader.schema.field(name) for name in columns])
    with pq.ParquetWriter(file, schema, compression="lz4") as writer:
        for batch in reader:
            batch = batch.select(list(columns))
            for start in range(0, batch.num_rows, BATCH_ROWS * 16):
                writer.write_batch(batch.slice(start, BATCH_ROWS * 16))
    return ParquetTable(None, root, (str(file),), is_temporary=True)


def open_array(array: npt.NDArray[Any], place: str | None = None) -> ArrayTable:
    """Return an array as a table. Raises `LookalikeError` unless it is (n, width) of numbers."""
    where = place or "the array"
    if array.ndim != 2:
        raise LookalikeError(f"{where} has the shape {array.shape}: give (n, width)")
    if array.dtype.kind not in "fiu" or array.dtype.itemsize > 8:
        raise LookalikeError(f"{where} has the type {array.dtype}: give numbers of 64 bits at most")
    if not array.shape[1]:
        raise LookalikeError(f"{where} has vectors of no numbers: give (n, width)")
    root = os.path.dirname(place) if place else os.getcwd()
    return ArrayTable(array, place, root)
