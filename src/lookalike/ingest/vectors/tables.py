"""Tables of vectors that this process reads, and those of Parquet and Delta.

Each is read in batches, in the same order every time; memory holds one batch, however large a file
or a row group is.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from lookalike.errors import LookalikeError, one_line
from lookalike.images.inputs.file_opening import open_file, size_and_time
from lookalike.images.inputs.parquet_shard import partitions
from lookalike.system.uris import is_uri

BATCH_ROWS = 1024
_BUFFER_BYTES = 2**20  # of a column chunk, read at a time
_MAX_NAMED_COLUMNS = 12


class Batch(NamedTuple):
    """Some rows of a table: the name of their file, the number of the first row in it, the rows."""

    file: str
    first: int
    rows: pa.RecordBatch


class Part(NamedTuple):
    """A row group of a file of a table; `first` is its first row in the file."""

    file: int
    group: int
    first: int
    rows: int


class OwnTable(Protocol):
    """A table of vectors, which can be read again and again."""

    @property
    def place(self) -> str | None:
        """The absolute path of the table; None for rows of this process."""

    @property
    def root(self) -> str:
        """The absolute folder to which paths of pictures are relative."""

    @property
    def schema(self) -> pa.Schema:
        """The columns of the table."""

    def batches(self, columns: Sequence[str]) -> Iterator[Batch]:
        """Yield all rows in batches, with these columns."""


class FilesTable:
    """A table in files, whose absolute paths are `files`, in order."""

    files: tuple[str, ...]

    @cached_property
    def _states(self) -> list[tuple[int | None, int | None]]:
        return list(map(_state, self.files))

    def check_unchanged(self) -> None:
        """Raise `LookalikeError` where a file has changed since this was called first."""
        for file, before in zip(self.files, self._states, strict=True):
            if _state(file) != before:
                raise LookalikeError(f"{file} was changed meanwhile: run the same command again")


@dataclass(frozen=True)
class ParquetTable(FilesTable):
    """Parquet files: `files` are their absolute paths, in order; `place` and `root` as above.

    `is_temporary` says that they hold rows of this process, which have no file to be named by.
    """

    place: str | None
    root: str
    files: tuple[str, ...]
    is_temporary: bool = False

    @cached_property
    def schema(self) -> pa.Schema:
        """The columns of the first file."""
        return self.file_schema(self.files[0])

    def file_schema(self, file: str) -> pa.Schema:
        """Return the columns of a file, and its partitions."""
        with reading(file), _opened(file) as opened:
            schema = pq.read_schema(opened)
        for name in partitions(file):
            if name not in schema.names:
                schema = schema.append(pa.field(name, pa.string()))
        return schema

    def parts(self) -> Iterator[Part]:
        """Yield the row groups of all files in order."""
        for number, file in enumerate(self.files):
            with reading(file), _opened(file) as opened:
                about = pq.read_metadata(opened)
            first = 0
            for group in range(about.num_row_groups):
                rows = about.row_group(group).num_rows
                yield Part(number, group, first, rows)
                first += rows

    def batches(self, columns: Sequence[str]) -> Iterator[Batch]:
        """Yield all rows in batches, with these columns."""
        self.check_unchanged()
        for part in self.parts():
            yield from self.part_batches(part, columns)

    def part_batches(self, part: Part, columns: Sequence[str]) -> Iterator[Batch]:
        """Yield the rows of a row group in batches, with these columns."""
        file = self.files[part.file]
        name = "" if self.is_temporary else os.path.relpath(file, self.root)
        first, folders = part.first, partitions(file)
        with (
            reading(file),
            _opened(file) as content,
            pq.ParquetFile(content, pre_buffer=False, buffer_size=_BUFFER_BYTES) as opened,
        ):
            there = [one for one in columns if one in opened.schema_arrow.names]
            if not there:  # a row group still has a number of rows
                yield from _empty_batches(name, part, columns, folders)
                return
            groups = opened.iter_batches(BATCH_ROWS, row_groups=[part.group], columns=there)
            for rows in groups:
                yield Batch(name, first, _with_columns(rows, columns, folders, file))
                first += rows.num_rows


def _empty_batches(
    name: str, part: Part, columns: Sequence[str], folders: dict[str, str | None]
) -> Iterator[Batch]:
    for start in range(0, part.rows, BATCH_ROWS):
        count = min(BATCH_ROWS, part.rows - start)
        bare = pa.RecordBatch.from_arrays([pa.nulls(count)], names=["_"])
        yield Batch(name, part.first + start, _with_columns(bare, columns, folders, name))


def _with_columns(
    rows: pa.RecordBatch, columns: Sequence[str], folders: dict[str, str | None], file: str
) -> pa.RecordBatch:
    """Return columns of rows; those that the file lacks are partitions of its path."""
    arrays = []
    for column in columns:
        if column in rows.schema.names:
            arrays.append(rows[column])
        elif column in folders:
            arrays.append(pa.array([folders[column]] * rows.num_rows, pa.string()))
        else:
            raise missing_column(file, column, rows.schema.names)
    return pa.RecordBatch.from_arrays(arrays, names=list(columns))


def missing_column(place: str, column: str, there: Sequence[str]) -> LookalikeError:
    """Return the error for a table without a column."""
    named = ", ".join(there[:_MAX_NAMED_COLUMNS]) + (", ..." * (len(there) > _MAX_NAMED_COLUMNS))
    return LookalikeError(f"{place} has no column {column!r}; it has {named}: choose one")


def _state(file: str) -> tuple[int | None, int | None]:
    with reading(file):
        if is_uri(file):
            return size_and_time(file)
        status = os.stat(file)
    return status.st_size, status.st_mtime_ns


@contextmanager
def _opened(file: str) -> Iterator["str | pa.NativeFile"]:
    """Give a local file by its name, and one of a store open."""
    if is_uri(file):
        with open_file(file) as opened:
            yield opened
    else:
        yield file


@contextmanager
def reading(file: str) -> Iterator[None]:
    """Turn errors of Arrow into one line that names the file."""
    try:
        yield
    except FileNotFoundError:
        raise LookalikeError(f"{file} is missing: run the same command again") from None
    except (pa.ArrowException, OSError) as error:
        raise LookalikeError(
            f"{file} cannot be read ({one_line(error)}): restore it, or leave it out"
        ) from None
