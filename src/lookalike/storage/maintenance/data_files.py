"""What one data file turns out to be, beside what the log says of it."""

import errno
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lookalike.embedding import ROW
from lookalike.storage import Segment, Written, is_intact
from lookalike.storage.maintenance.findings import (
    CACHE,
    DAMAGED,
    FIGURES,
    FOREIGN,
    MISSING,
    ORDER,
    Findings,
)
from lookalike.storage.maintenance.rows import as_rows, problems

ROWS = 1024  # in memory at a time


@dataclass
class Look:
    """One data file, as it was looked at.

    A `usable` one is what was written, and can be read. A `foreign` one is another program's: its
    name is not the hash of its content. `wrong` is whether the log says other figures, `rising`
    whether ids are and none is missing, `apart` whether they are from those of other files; `bad`
    counts rows that may not be as they are; `cached` is false where the cache is not what it holds.
    """

    said: Written
    findings: Findings = field(default_factory=Findings)
    usable: bool = False
    foreign: bool = False
    wrong: bool = False
    rising: bool = True
    apart: bool = True
    cached: bool = True
    bad: int = 0
    rows: int = 0
    embedded: int = 0
    ids: tuple[int, int] | None = None  # the first and the last

    @property
    def file(self) -> Path:
        """Where it is."""
        return Path(self.said["path"])

    @property
    def may_stay(self) -> bool:
        """Whether there is no reason to write its rows again."""
        return self.rising and self.apart and not (self.foreign or self.bad or self.wrong)


def look_at(said: Written, path: Path, width: int) -> Look:
    """Read a data file of the collection at `path`, to the last byte, and its cache.

    Raises `OSError` where it may not be read, which says nothing about it.
    """
    look = Look(said)
    name = str(look.file.relative_to(path))
    try:
        size = look.file.stat().st_size
        look.foreign = not re.fullmatch("[0-9a-f]{32}", look.file.stem)
        intact = look.foreign or is_intact(look.file)
    except FileNotFoundError:
        look.findings.add(MISSING, name, "is missing")
        return look
    except OSError as error:
        return _unreadable(said, name, error)
    if not intact:
        cut = size != said["size"]
        look.findings.add(
            DAMAGED, name, "is cut short or grown" if cut else "is not what was written"
        )
        return look
    try:
        _read(look, width)
    except (pa.ArrowException, KeyError, ValueError, OSError) as error:
        return _unreadable(said, name, error)
    look.usable = True
    figures = (size, look.rows, look.embedded, *(look.ids or (None, None)))
    for key, found in zip(
        ("size", "rows", "embedded", "first_id", "last_id"), figures, strict=True
    ):
        if said[key] != found:
            look.wrong = True
            detail = f"the log says {key.replace('_', ' ')} {said[key]}, it is {found}"
            look.findings.add(FIGURES, name, detail)
            break
    if look.foreign:
        look.findings.add(FOREIGN, name, "was written by another program")
    if not look.rising:
        look.findings.add(ORDER, name, "its ids do not rise, or some are missing")
    if look.may_stay:
        look.cached = Segment(look.file.absolute()).is_cached_well()
        if not look.cached:
            look.findings.add(CACHE, name, "what is cached of it is not what it holds")
    return look


def _unreadable(said: Written, name: str, error: Exception) -> Look:
    """Say that a file cannot be read; raise the error where that says nothing about the file."""
    if isinstance(error, OSError) and error.errno not in (None, errno.EIO):
        raise error
    detail = (str(error).splitlines() or [type(error).__name__])[0]
    look = Look(said)
    look.findings.add(DAMAGED, name, f"cannot be read ({detail})")
    return look


def _read(look: Look, width: int) -> None:
    """Note what the rows of a data file are; raises what pyarrow does."""
    with pq.ParquetFile(look.file, page_checksum_verification=True) as stored:
        if not look.foreign and not stored.schema_arrow.equals(ROW):
            raise ValueError("its columns are not those of an index")
        for batch in stored.iter_batches(ROWS):
            _note(look, as_rows(batch), width)


def _note(look: Look, batch: pa.RecordBatch, width: int) -> None:
    ids = batch["id"].drop_null().to_numpy()
    if len(ids):
        in_order = bool((np.diff(ids) > 0).all()) and (look.ids is None or ids[0] > look.ids[1])
        look.rising &= in_order
        first, last = look.ids or (ids[0], ids[0])
        look.ids = int(min(first, ids.min())), int(max(last, ids.max()))
    look.rising &= len(ids) == batch.num_rows
    look.rows += batch.num_rows
    look.embedded += batch.num_rows - batch["embedding"].null_count
    bad = np.zeros(batch.num_rows, bool)
    for kind, words, mask in problems(batch, width):
        fresh = np.flatnonzero(mask & ~bad)  # a row counts once
        for at in fresh[: look.findings.wanted(kind)].tolist():
            look.findings.add(kind, batch["path"][at].as_py() or look.file.name, words, 0)
        look.findings.counts[kind] += len(fresh)
        bad |= mask
    look.bad += int(np.count_nonzero(bad))
