"""Reads the add actions of a version: what the Delta log says of each data file.

A table of actions has the columns `path` (relative to the index), `size_bytes`,
`modification_time`, `num_records`, `null_count.embedding`, `min.id` and `max.id`.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from lookalike.storage.errors import no_longer_kept
from lookalike.storage.remote import copy_at
from lookalike.storage.segments import (
    SEGMENT,
    DamagedCopy,
    SegmentRecord,
    is_history,
    read_rows,
    unreadable,
)
from lookalike.system.untrusted import check_inner_names

if TYPE_CHECKING:
    from deltalake import DeltaTable


MAX_CHECKED_FILES = 4096
"""Data files whose size is checked when a table is opened."""

_NUMBERS = (
    "size_bytes",
    "modification_time",
    "num_records",
    "null_count.embedding",
    "min.id",
    "max.id",
)
_NO_ACTIONS = pa.table(
    {"path": pa.nulls(0, pa.string())} | {name: pa.nulls(0, pa.int64()) for name in _NUMBERS}
)


def read_actions(table: "DeltaTable") -> pa.Table:
    """Return the add actions of the version that is open.

    Raises `ValueError` where one names a file outside the index.
    """
    actions = pa.table(table.get_add_actions(flatten=True))
    check_inner_names(actions["path"])
    return actions if len(actions) else _NO_ACTIONS


def sizes_by_name(actions: pa.Table) -> dict[str, int]:
    """Return the size in bytes of each data file, by its name relative to the index."""
    names, sizes = (actions[name].to_pylist() for name in ("path", "size_bytes"))
    return dict(zip(names, sizes, strict=True))


def check_sizes(actions: pa.Table, path: Path, version: int) -> None:
    """Raise `LookalikeError` where a data file is missing or has another size than written.

    `path` is that of the index, at a version. Of very many files the first ones are checked.
    """
    sizes = sizes_by_name(actions)
    copy = copy_at(path)
    if copy is not None and version == copy.newest():
        return  # a store loses nothing: only a vacuum deletes files, those of older versions
    stored = None if copy is None else copy.data_files()
    for file, *_ in id_ranges(actions, path)[:MAX_CHECKED_FILES]:
        name = file.relative_to(path).as_posix()
        try:
            size = file.stat().st_size if stored is None else stored[name]
            problem = None if size == sizes[name] else "is cut short or grown"
        except (FileNotFoundError, KeyError):
            if is_history(path, name):
                raise no_longer_kept(path, version) from None
            problem = "is missing"
        if problem:
            raise unreadable(file, problem)


def find_damage(files: Iterable[Path], columns: list[str]) -> None:
    """Raise `LookalikeError` where one of some data files is damaged; delete all damaged copies."""
    found: DamagedCopy | None = None
    for file in files:
        try:
            read_rows(file, columns)
        except DamagedCopy as error:
            found = error
    if found is not None:
        raise found


def id_ranges(actions: pa.Table, path: Path) -> list[tuple[Path, int, int, int]]:
    """Return file, first id, last id and count of rows of each data file, in the order of ids."""
    columns = ("path", "min.id", "max.id", "num_records")
    rows = list(zip(*(actions[name].to_pylist() for name in columns), strict=True))
    return [
        (path / name, first, last, count)
        for name, first, last, count in sorted(rows, key=lambda row: (row[1], row[0]))
    ]


def records(actions: pa.Table, path: Path) -> list[SegmentRecord]:
    """Return the actions as rows of `SEGMENT`, in the order of ids.

    Figures of files that another program wrote may be None.
    """
    columns = (actions[name].to_pylist() for name in ("path", *_NUMBERS))
    rows = []
    for name, size, modified, count, nulls, *ids in zip(*columns, strict=True):
        embedded = None if count is None or nulls is None else count - nulls
        values = (str(path / name), size, modified, count, embedded, *ids)
        rows.append(dict(zip(SEGMENT.names, values, strict=True)))
    return sorted(rows, key=lambda row: (row["first_id"] or 0, row["path"]))


def count_inputs(actions: pa.Table, names: Sequence[str] | None = None) -> tuple[int, int]:
    """Return how many inputs are embedded and how many skipped, in all data files or in some.

    Of a file that another program wrote the log may not know it; then none count.
    """
    if names is not None:
        actions = actions.filter(pc.is_in(actions["path"], pa.array(names, pa.string())))
    rows = pc.sum(actions["num_records"]).as_py() or 0
    skipped = pc.sum(actions["null_count.embedding"]).as_py() or 0
    return rows - skipped, skipped
