"""Checks one data file, and compares it with its record in the log."""

import errno
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lookalike.errors import one_line
from lookalike.storage import Segment, SegmentRecord, fetch_data, is_intact
from lookalike.storage.maintenance.findings import (
    CACHE,
    DAMAGED,
    FIGURES,
    FOREIGN,
    MISSING,
    ORDER,
    Findings,
)
from lookalike.storage.maintenance.rows import Form, as_rows, problems
from lookalike.storage.remote.copies import DamagedObject, copy_of

ROWS_IN_MEMORY = 1024


@dataclass
class CheckedFile:
    """One data file after its check, with its `record` in the log.

    A `usable` file is as it was written, and readable. A `foreign` one was written by another
    program: its name is not the hash of its content. `mismatched` says whether the log has other
    figures, `sorted` whether ids rise and none is missing, `disjoint` whether they lie apart from
    those of other files. `bad_rows` counts rows with problems; `cache_matches` is false where the
    cache has other content. `ids` are the first and the last.
    """

    record: SegmentRecord
    findings: Findings = field(default_factory=Findings)
    usable: bool = False
    foreign: bool = False
    mismatched: bool = False
    sorted: bool = True
    disjoint: bool = True
    cache_matches: bool = True
    bad_rows: int = 0
    rows: int = 0
    embedded: int = 0
    ids: tuple[int, int] | None = None

    @property
    def file(self) -> Path:
        """The path of the file."""
        return Path(self.record["path"])

    @property
    def may_stay(self) -> bool:
        """Whether its rows need not be written again."""
        problems = self.foreign or self.bad_rows or self.mismatched
        return self.sorted and self.disjoint and not problems


def check_file(record: SegmentRecord, path: Path, form: Form) -> CheckedFile:
    """Read a data file of the table at `path` to the last byte, and its cache.

    Raises `OSError` where it may not be read, which says nothing about the file.
    """
    checked = CheckedFile(record)
    name = str(checked.file.relative_to(path))
    try:
        fetch_data(checked.file)
        size = checked.file.stat().st_size
        checked.foreign = not re.fullmatch("[0-9a-f]{32}", checked.file.stem)
        intact = checked.foreign or is_intact(checked.file)
        if not intact and (copy := copy_of(checked.file)) is not None:  # the copy alone may be so
            copy.fetch_again(checked.file)
            intact, size = True, checked.file.stat().st_size
    except FileNotFoundError:
        checked.findings.add(MISSING, name, "is missing")
        return checked
    except DamagedObject:
        checked.findings.add(DAMAGED, name, "is not what was written")
        return checked
    except OSError as error:
        return _unreadable(record, name, error)
    if not intact:
        cut = size != record["size"]
        checked.findings.add(
            DAMAGED, name, "is cut short or grown" if cut else "is not what was written"
        )
        return checked
    try:
        _check_rows(checked, form)
    except (pa.ArrowException, KeyError, ValueError, OSError) as error:
        return _unreadable(record, name, error)
    checked.usable = True
    figures = (size, checked.rows, checked.embedded, *(checked.ids or (None, None)))
    for key, found in zip(
        ("size", "rows", "embedded", "first_id", "last_id"), figures, strict=True
    ):
        if record[key] != found:
            checked.mismatched = True
            detail = f"the log says {key.replace('_', ' ')} {record[key]}, it is {found}"
            checked.findings.add(FIGURES, name, detail)
            break
    if checked.foreign:
        checked.findings.add(FOREIGN, name, "was written by another program")
    if not checked.sorted:
        checked.findings.add(ORDER, name, "its ids do not rise, or some are missing")
    if checked.may_stay:
        checked.cache_matches = Segment(checked.file.absolute()).is_cached_well()
        if not checked.cache_matches:
            checked.findings.add(CACHE, name, "what is cached of it is not what it holds")
    return checked


def _unreadable(record: SegmentRecord, name: str, error: Exception) -> CheckedFile:
    """Return a file that cannot be read; raise the error where it says nothing about the file."""
    if isinstance(error, OSError) and error.errno not in (None, errno.EIO):
        raise error
    checked = CheckedFile(record)
    checked.findings.add(DAMAGED, name, f"cannot be read ({one_line(error)})")
    return checked


def _check_rows(checked: CheckedFile, form: Form) -> None:
    """Check the rows of a data file. Raises what pyarrow does."""
    with pq.ParquetFile(checked.file, page_checksum_verification=True) as stored:
        if not checked.foreign and not stored.schema_arrow.equals(form.schema):
            raise ValueError("its columns are not those of an index")
        for batch in stored.iter_batches(ROWS_IN_MEMORY):
            _check_batch(checked, as_rows(batch, form.schema), form)


def _check_batch(checked: CheckedFile, batch: pa.RecordBatch, form: Form) -> None:
    ids = batch["id"].drop_null().to_numpy()
    if len(ids):
        in_order = bool((np.diff(ids) > 0).all()) and (
            checked.ids is None or ids[0] > checked.ids[1]
        )
        checked.sorted &= in_order
        first, last = checked.ids or (ids[0], ids[0])
        checked.ids = int(min(first, ids.min())), int(max(last, ids.max()))
    checked.sorted &= len(ids) == batch.num_rows
    checked.rows += batch.num_rows
    checked.embedded += batch.num_rows - batch["embedding"].null_count
    bad = np.zeros(batch.num_rows, bool)
    for kind, detail, mask in problems(batch, form):
        new = np.flatnonzero(mask & ~bad)  # a row counts once
        for at in new[: checked.findings.wanted(kind)].tolist():
            checked.findings.add(kind, batch["path"][at].as_py() or checked.file.name, detail, 0)
        checked.findings.counts[kind] += len(new)
        bad |= mask
    checked.bad_rows += int(np.count_nonzero(bad))
