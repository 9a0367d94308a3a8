"""A CSV file of vectors, such as `lookalike embed` writes."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from lookalike.ingest.vectors.tables import BATCH_ROWS, Batch, FilesTable, reading

if TYPE_CHECKING:
    from pyarrow import csv

_CSV_BLOCK_BYTES = 2**23  # holds some rows of the widest vectors


@dataclass(frozen=True)
class CsvTable(FilesTable):
    """One CSV file with a header. Keys are strings; a vector is several columns of numbers."""

    place: str
    root: str
    embedding: str
    """The columns of a vector are this name with 0, 1, ... behind it."""

    @cached_property
    def files(self) -> tuple[str, ...]:  # type: ignore[override]
        """The file alone."""
        return (self.place,)

    @cached_property
    def _names(self) -> list[str]:
        with reading(self.place), _open(self.place) as opened:
            return list(opened.schema.names)

    @cached_property
    def numbered(self) -> list[str]:
        """The columns of a vector; none where a column has its very name."""
        if self.embedding in self._names:
            return []
        return numbered_columns(self._names, self.embedding)

    @property
    def schema(self) -> pa.Schema:
        """The columns of the table, with those of the vector as one."""
        several = set(self.numbered)
        fields = [pa.field(name, pa.string()) for name in self._names if name not in several]
        if several:
            fields.append(pa.field(self.embedding, pa.list_(pa.float32(), len(several))))
        return pa.schema(fields)

    def batches(self, columns: Sequence[str]) -> Iterator[Batch]:
        """Yield all rows in batches, with these columns."""
        from pyarrow import csv

        wanted = [name for one in columns for name in self._columns_of(one)]
        kinds = dict.fromkeys(wanted, pa.string()) | dict.fromkeys(self.numbered, pa.float32())
        convert = csv.ConvertOptions(
            include_columns=wanted,
            column_types={name: kinds[name] for name in wanted},
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        )
        first, name = 0, os.path.basename(self.place)
        self.check_unchanged()
        with reading(self.place), _open(self.place, convert) as opened:
            for block in opened:
                for start in range(0, block.num_rows, BATCH_ROWS):
                    rows = block.slice(start, BATCH_ROWS)
                    arrays = [
                        _joined(rows, self._columns_of(one), one == self.embedding)
                        for one in columns
                    ]
                    yield Batch(
                        name, first, pa.RecordBatch.from_arrays(arrays, names=list(columns))
                    )
                    first += rows.num_rows

    def _columns_of(self, name: str) -> list[str]:
        return self.numbered if name == self.embedding and self.numbered else [name]


def _open(file: str, convert: "csv.ConvertOptions | None" = None) -> "csv.CSVStreamingReader":
    from pyarrow import csv

    options = csv.ReadOptions(block_size=_CSV_BLOCK_BYTES)
    return csv.open_csv(file, options, csv.ParseOptions(newlines_in_values=True), convert)


def numbered_columns(names: Sequence[str], stem: str) -> list[str]:
    """Return the columns `stem0, stem1, ...` that there are, in order; empty without the first."""
    there = set(names)
    found: list[str] = []
    while f"{stem}{len(found)}" in there:
        found.append(f"{stem}{len(found)}")
    return found


def _joined(rows: pa.RecordBatch, names: list[str], is_vector: bool) -> pa.Array:
    """Return columns of numbers as one column of vectors; a column by itself as it is."""
    if not is_vector:
        return rows[names[0]]
    null = np.stack([rows[name].is_null().to_numpy(zero_copy_only=False) for name in names], axis=1)
    numbers = [rows[name].to_numpy(zero_copy_only=False) for name in names]
    values = pa.array(np.stack(numbers, axis=1).ravel(), pa.float32(), mask=null.ravel())
    return pa.FixedSizeListArray.from_arrays(values, len(names))
