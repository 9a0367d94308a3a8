"""Commits: rows that come and go, whoever else writes.

Every commit follows from the newest version: where another writer was quicker, it is worked out
again from theirs, so that no path is ever there twice.
"""

import random
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lookalike.errors import LookalikeError
from lookalike.storage.data_folders import discard
from lookalike.storage.errors import Conflict, upgraded_meanwhile
from lookalike.storage.schema import kept_of
from lookalike.storage.segments import SegmentRecord, rewrite_segment
from lookalike.storage.table import EmbeddingTable
from lookalike.system.extras import install, is_installed
from lookalike.system.sql import Values, create_view

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


Ids = npt.NDArray[np.int64]
NO_IDS: Ids = np.empty(0, np.int64)

SMALL_SEGMENT_ROWS = 4096
"""Rows under which a segment is small; many small segments are merged."""
FULL_SEGMENT_ROWS = 16_384
"""Rows of a merged segment at most."""
MIN_MERGED_SEGMENTS = 8
"""Small segments in a row from which they are merged."""
MAX_COMMIT_ATTEMPTS = 30


def may_pass(row: str) -> str:
    """Return the SQL that says whether a row could not be read for a reason that may pass.

    It takes `passing_reasons()` as the value `$passing`.
    """
    return f"coalesce(regexp_matches({row}.reason, $passing), false)"


def passing_reasons() -> str:
    """Return a regular expression of reasons that may pass, or have: an extra is installed now."""
    needed = [re.escape(install(one)) for one in ("cv2", "pillow_heif") if is_installed(one)]
    return "|".join(["^unreadable", "^no such file$", *needed])


def query_ids(sql: "DuckDBPyConnection", query: str, values: Values | None = None) -> Ids:
    """Return the ids that a query gives, int64 (n,), rising."""
    found = sql.execute(f"from ({query}) order by id", values).fetchnumpy()
    return np.asarray(found["id"], np.int64)


@dataclass(frozen=True)
class Step:
    """The changes of a commit: added and removed data files, counts of added and removed rows."""

    added: Sequence[SegmentRecord] = ()
    removed: Sequence[Path] = ()
    rows_added: int = 0
    rows_removed: int = 0


def change(
    stored: EmbeddingTable, what: str, work_out: Callable[[EmbeddingTable, Path], Step]
) -> EmbeddingTable:
    """Commit the step that `work_out` returns for the newest version.

    It is given that version and a folder for new data files, and is called again whenever another
    writer commits first. Raises `LookalikeError` where that happens too often; the table is then
    as the others left it.
    """
    for attempt in range(MAX_COMMIT_ATTEMPTS):
        stored = stored.newest()
        folder = stored.new_folder()
        try:
            step = work_out(stored, folder)
            if not step.added and not step.removed:
                return stored
            return stored.commit(
                what,
                step.added,
                step.removed,
                rows_added=step.rows_added,
                rows_removed=step.rows_removed,
            )
        except Conflict:
            time.sleep(random.uniform(0, 0.02 * 2 ** min(attempt, 6)))
        finally:
            discard(stored.path, folder, stored.version)
    raise LookalikeError(f"others keep writing into {stored.path}: try again")


def without(
    stored: EmbeddingTable, gone: Ids, folder: Path
) -> tuple[list[SegmentRecord], list[Path], int]:
    """Write the segments that hold rows with these ids, rising, again without the rows.

    Returns the records of new files in `folder`, the files that they replace, and how many rows
    were left out.
    """
    written: list[SegmentRecord] = []
    replaced: list[Path] = []
    lost = 0
    for file, first, last, rows in stored.id_ranges():
        here = gone[np.searchsorted(gone, first) : np.searchsorted(gone, last, side="right")]
        if not len(here):
            continue
        fresh = rewrite_segment([file], folder, here)
        left = _rows(fresh)
        if left < rows:
            written += fresh
            replaced.append(file)
            lost += rows - left
        else:  # none of the ids within its range is there
            Path(fresh[0]["path"]).unlink()
    return written, replaced, lost


def remove(
    stored: EmbeddingTable, choose: Callable[[EmbeddingTable], Ids], what: str
) -> EmbeddingTable:
    """Commit the removal of the rows whose ids, rising, `choose` returns."""

    def work_out(newest: EmbeddingTable, folder: Path) -> Step:
        written, replaced, lost = without(newest, choose(newest), folder)
        return Step(written, replaced, rows_removed=lost)

    return change(stored, what, work_out)


def grow(
    stored: EmbeddingTable,
    written: Sequence[SegmentRecord],
    first_id: int,
    folder: Path,
    what: str,
    *,
    beside: bool,
    replaces: bool,
) -> tuple[EmbeddingTable, bool]:
    """Commit new segments, in place of the rows that their paths had when they were planned.

    Those rows have ids under `first_id`. A row with a later id and the same path was written by
    another process meanwhile: it stays, and the new row is left out. `beside` says whether others
    have written between the plan and `stored`; whether they have by now is returned too. Then the
    new rows get later ids, as the others may have used these. `replaces` says whether any row may
    be replaced; DuckDB spills into `folder`.
    """
    least = min(row["first_id"] for row in written)
    before = stored.version
    others = beside

    def work_out(newest: EmbeddingTable, place: Path) -> Step:
        nonlocal others
        if newest.generation != stored.generation:
            raise upgraded_meanwhile(stored.path)
        ours = list(written)
        gone, lost, shift = NO_IDS, NO_IDS, 0
        others = beside or newest.version != before
        if others or replaces:
            gone, lost = _overlap(newest, ours, first_id, folder)
        if others:
            shift = max(newest.next_id - least, 0)
        if len(lost) or shift:
            ours = [
                fresh
                for row in ours
                for fresh in rewrite_segment([Path(row["path"])], place, lost, shift)
            ]
        rest, replaced, went = without(newest, gone, place)
        return Step([*ours, *rest], replaced, _rows(ours), went)

    return change(stored, what, work_out), others


def _rows(written: Iterable[SegmentRecord]) -> int:
    return sum(row["rows"] for row in written)


def _overlap(
    stored: EmbeddingTable, written: Sequence[SegmentRecord], first_id: int, folder: Path
) -> tuple[Ids, Ids]:
    """Return the ids of stored rows that new ones replace, and of new ones that are left out."""
    names = ("reason", "size", "modified", "label", "path", *kept_of(stored.schema))
    equal = " and ".join(f'stored."{one}" is not distinct from ours."{one}"' for one in names)
    with stored.connect(folder) as sql:
        create_view(sql, "ours", *(Path(row["path"]) for row in written))
        # A disk that is away for a moment costs no embedding: that is the last case.
        sql.execute(
            f"""create temp table shared as
            select ours.id as ours, stored.id as theirs,
                stored.id >= $first_id
                or (
                    stored.status = 'skipped' and ours.status = 'skipped'
                    and stored.id >= $tried_from and {equal}
                )
                or (stored.status = 'ok' and {may_pass("ours")}) as stays
            from ours join stored using ({stored.name_column})""",
            {
                "first_id": first_id,
                "tried_from": stored.tried_from_id,
                "passing": passing_reasons(),
            },
        )
        gone = query_ids(sql, "select theirs as id from shared where not stays")
        return gone, query_ids(sql, "select ours as id from shared where stays")


def compact(stored: EmbeddingTable, few: int = MIN_MERGED_SEGMENTS) -> EmbeddingTable:
    """Merge small segments that follow each other, where there are `few` or more."""

    def work_out(newest: EmbeddingTable, folder: Path) -> Step:
        added: list[SegmentRecord] = []
        removed: list[Path] = []
        for files in _runs(newest):
            if len(files) >= few:
                added += rewrite_segment(files, folder)
                removed += files
        return Step(added, removed)

    return change(stored, "compact", work_out)


def _runs(stored: EmbeddingTable) -> list[list[Path]]:
    """Return runs of small segments, each with the rows of a full segment at most."""
    runs: list[list[Path]] = [[]]
    total = 0
    for file, _, _, rows in stored.id_ranges():
        if rows >= SMALL_SEGMENT_ROWS or total + rows > FULL_SEGMENT_ROWS:
            runs.append([])
            total = 0
        if rows < SMALL_SEGMENT_ROWS:
            runs[-1].append(file)
            total += rows
    return runs
