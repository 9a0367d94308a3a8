"""Where the rows of each cell are: in which file, at which place.

A file of a region has three sections, each in the order of its cells, within a cell by id:

    signatures   for each cell: codes (RaBitQ, 28 bytes a row), ids (int64), checks (uint32)
    vectors      a row after the other, float16 or float32
    rows         for each cell one Arrow message: path, label, content_hash, and key if any

So a search reads a few kilobytes for a cell, then single vectors, then few rows. A check is the
CRC-32 of a vector's bytes; cells have checks of their signatures and of their rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lookalike.errors import LookalikeError, Unreadable, says_nothing
from lookalike.storage.schema import KEY, KeyType
from lookalike.system.arrays import Numbers
from lookalike.system.files import new_file
from lookalike.system.untrusted import read_arrays

ID_BYTES, CHECK_BYTES = 8, 4
VECTORS_ALIGNMENT = 4096
"""Bytes: vectors begin at a page of a disk."""
REBUILD = "make them again with `lookalike regions INDEX --anew`"
_DTYPES: dict[str, np.dtype[Any]] = {
    "float16": np.dtype(np.float16),
    "float32": np.dtype(np.float32),
}


def damaged_regions(what: object, problem: str) -> LookalikeError:
    """Return the error for regions that cannot be used."""
    return LookalikeError(f"the regions in {what} are damaged ({problem}): {REBUILD}")


def rows_schema(key: KeyType | None) -> pa.Schema:
    """Return the columns of a row beside its vector and id."""
    schema = pa.schema([(name, pa.string()) for name in ("path", "label", "content_hash")])
    kinds = {"int64": pa.int64(), "string": pa.string()}
    return schema if key is None else schema.append(pa.field(KEY, kinds[key]))


@dataclass(frozen=True)
class Shape:
    """What all files of an index have in common: bytes of a code, width and type of vectors."""

    code_bytes: int
    width: int
    dtype: str

    @property
    def numbers(self) -> np.dtype[Any]:
        """The type of the numbers of a vector. Raises `KeyError` for an unknown one."""
        return _DTYPES[self.dtype]

    @property
    def signature_bytes(self) -> int:
        """Bytes a row in the first section."""
        return self.code_bytes + ID_BYTES + CHECK_BYTES

    @property
    def vector_bytes(self) -> int:
        """Bytes of a vector."""
        return self.width * self.numbers.itemsize

    def vectors_at(self, rows: Any) -> Any:
        """Return where the vectors begin in a file of so many rows."""
        return -(-rows * self.signature_bytes // VECTORS_ALIGNMENT) * VECTORS_ALIGNMENT


@dataclass(frozen=True)
class Ids:
    """The ids of some data files that were replaced, and of the rows that are still there.

    `lost` and `kept` are int64 (n, 2): ranges from a first id up to, and with, a last one. A row
    whose id is in a lost range is alive if it is in a kept one.
    """

    lost: Numbers
    kept: Numbers

    def are_alive(self, ids: Numbers) -> npt.NDArray[np.bool_]:
        """Tell for each id, int64 (n,), whether its row is still there."""
        alive: npt.NDArray[np.bool_] = ~_inside(ids, self.lost) | _inside(ids, self.kept)
        return alive


def _inside(ids: Numbers, ranges: Numbers) -> npt.NDArray[np.bool_]:
    if not len(ranges):
        return np.zeros(len(ids), bool)
    at = np.searchsorted(ranges[:, 0], ids, side="right") - 1
    inside: npt.NDArray[np.bool_] = (at >= 0) & (ids <= ranges[at, 1])
    return inside


def runs_of(ids: Numbers) -> Numbers:
    """Return rising ids as ranges of consecutive ones, int64 (n, 2).

    >>> runs_of(np.array([3, 4, 5, 9])).tolist()
    [[3, 5], [9, 9]]
    """
    if not len(ids):
        return np.empty((0, 2), np.int64)
    breaks = np.flatnonzero(np.diff(ids) != 1)
    starts = ids[np.concatenate([[0], breaks + 1])]
    ends = ids[np.concatenate([breaks, [len(ids) - 1]])]
    return np.stack([starts, ends], axis=1)


@dataclass(frozen=True)
class Layout:
    """The files of regions, and where each cell is in them.

    Attributes
    ----------
    files : bytes (f,)
        Names below `_regions`.
    file_rows, file_bytes : int64 (f,)
    data : bytes (d,)
        Names of the data files whose rows these are.
    cell, of_file : int32 (n,)
        Cells, rising, and the file of each; a cell may be in several files.
    first, count : int64, int32 (n,)
        Its rows in the file.
    place, size : int64, int32 (n,)
        Where its message of rows is, in bytes.
    signature_check, rows_check : uint32 (n,)
    lost, kept : int64 (m, 2)
        As in `Ids`: rows that are in the files, and no longer in the index.
    """

    files: npt.NDArray[np.bytes_]
    file_rows: Numbers
    file_bytes: Numbers
    data: npt.NDArray[np.bytes_]
    cell: npt.NDArray[np.int32]
    of_file: npt.NDArray[np.int32]
    first: Numbers
    count: npt.NDArray[np.int32]
    place: Numbers
    size: npt.NDArray[np.int32]
    signature_check: npt.NDArray[np.uint32]
    rows_check: npt.NDArray[np.uint32]
    lost: Numbers
    kept: Numbers

    @cached_property
    def names(self) -> list[str]:
        """The files as texts."""
        return [name.decode() for name in self.files.tolist()]

    @property
    def rows(self) -> int:
        """All rows in the files, those that are gone too."""
        return int(self.file_rows.sum())

    def entries(self, cells: Numbers) -> tuple[Numbers, Numbers]:
        """Return the entries of some cells, int64 (m,), and the place of the cell of each."""
        starts = np.searchsorted(self.cell, cells)
        counts = np.searchsorted(self.cell, cells, side="right") - starts
        which = np.repeat(np.arange(len(cells)), counts)
        step = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
        return starts[which] + step, which

    def with_more(self, other: "Layout") -> "Layout":
        """Return the layout with the files of another one; data files and lost ids are its own."""
        moved = replace(other, of_file=other.of_file + np.int32(len(self.files)))
        of_files = {
            name: np.concatenate([getattr(self, name), getattr(other, name)])
            for name in ("files", "file_rows", "file_bytes")
        }
        cell = np.concatenate([self.cell, other.cell])
        order = np.argsort(cell, kind="stable")
        of_cells = {
            name: np.concatenate([getattr(self, name), getattr(moved, name)])[order]
            for name in _OF_CELLS
        }
        return replace(other, **of_files, **of_cells)

    def save(self, file: Path) -> None:
        """Write it to an `.npz` file, atomically."""
        with new_file(file) as part, part.open("wb") as opened:
            np.savez(opened, **{one.name: getattr(self, one.name) for one in fields(self)})

    @classmethod
    def load(cls, file: Path, cells: int) -> Self:
        """Read it back, for a number of cells. Raises `LookalikeError` for a damaged file."""
        try:
            stored = read_arrays(file)
            found = cls(**{one.name: stored[one.name] for one in fields(cls)})
            found.check(cells)
            return found
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            if says_nothing(error):
                raise Unreadable(file, error) from None
            raise damaged_regions(file.parent, str(error)) from None

    def check(self, cells: int) -> None:
        """Raise `ValueError` where the arrays do not go together."""
        entries = len(self.cell)
        for name in _OF_CELLS:
            array = getattr(self, name)
            if array.shape != (entries,) or array.dtype.kind not in "iu":
                raise ValueError(f"{name} has the wrong shape")
        for name in ("file_rows", "file_bytes", "files"):
            if getattr(self, name).shape != (len(self.files),):
                raise ValueError(f"{name} has the wrong shape")
        for name in ("files", "data"):
            if getattr(self, name).dtype.kind != "S":
                raise ValueError(f"{name} are no names")
        for name in ("lost", "kept"):
            if getattr(self, name).ndim != 2 or getattr(self, name).dtype != np.int64:
                raise ValueError(f"{name} are no ranges")
        if entries and (
            (np.diff(self.cell) < 0).any()
            or not 0 <= self.cell[0] <= self.cell[-1] < cells
            or not 0 <= self.of_file.min() <= self.of_file.max() < len(self.files)
            or min(self.first.min(), self.count.min(), self.place.min(), self.size.min()) < 0
            or (self.first + self.count > self.file_rows[self.of_file]).any()
            or (self.place + self.size > self.file_bytes[self.of_file]).any()
        ):
            raise ValueError("it names places that are in no file")


_OF_CELLS = ("cell", "of_file", "first", "count", "place", "size", "signature_check", "rows_check")


def layout_of(
    records: Sequence[dict[str, Any]], folder: str, data: Sequence[str], changed: Ids
) -> Layout:
    """Make a layout of what the tasks say of the files in a folder (`region_file.write_region`)."""
    kinds = {
        "cell": np.int32,
        "count": np.int32,
        "place": np.int64,
        "size": np.int32,
        "signature_check": np.uint32,
        "rows_check": np.uint32,
    }
    columns: dict[str, Any] = {
        name: np.concatenate(
            [np.empty(0, kind), *(np.frombuffer(one[name], kind) for one in records)]
        )
        for name, kind in kinds.items()
    }
    counts = [len(one["cell"]) // 4 for one in records]
    columns["of_file"] = np.repeat(np.arange(len(records), dtype=np.int32), counts)
    before = np.concatenate([[0], np.cumsum(columns["count"], dtype=np.int64)[:-1]])
    starts = np.cumsum([0, *(one["rows"] for one in records)], dtype=np.int64)
    columns["first"] = (before if len(columns["cell"]) else before[:0]) - starts[columns["of_file"]]
    order = np.argsort(columns["cell"], kind="stable")
    columns = {name: column[order] for name, column in columns.items()}
    return Layout(
        files=np.array([f"{folder}/{one['name']}".encode() for one in records], "S"),
        file_rows=np.array([one["rows"] for one in records], np.int64),
        file_bytes=np.array([one["bytes"] for one in records], np.int64),
        data=np.array([name.encode() for name in data], "S"),
        lost=changed.lost,
        kept=changed.kept,
        **columns,
    )
