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
from lookalike.extras import install, is_installed
from lookalike.sql import Values, create_view
from lookalike.storage.data_folders import discard
from lookalike.storage.segments import Written, rewrite_segment
from lookalike.storage.table import Conflict, EmbeddingTable

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

Ids = npt.NDArray[np.int64]
NO_IDS: Ids = np.empty(0, np.int64)

SMALL_SEGMENT_ROWS = 4096
"""Rows under which a segment is small: many such are made one."""
FULL_SEGMENT_ROWS = 16_384
"""Rows up to which segments are made one."""
SMALL_SEGMENTS_KEPT = 8
"""Small segments in a row from which they are made one."""
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
    """What a commit changes: files that come, files that go, rows that came and went with them."""

    added: Sequence[Written] = ()
    removed: Sequence[Path] = ()
    rows_added: int = 0
    rows_removed: int = 0


def change(
    stored: EmbeddingTable, what: str, work_out: Callable[[EmbeddingTable, Path], Step]
) -> EmbeddingTable:
    """Commit what `work_out` says of the newest version, again wherever another writer is quicker.

    It is given that version and a folder for new data files. Raises `LookalikeError` where others
    keep writing all the time; the collection is then as they left it.
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
) -> tuple[list[Written], list[Path], int]:
    """Write the segments that hold rows with these ids, rising, again without them.

    Returns what was written, into `folder`, the files that it replaces, and how many rows went.
    """
    written: list[Written] = []
    replaced: list[Path] = []
    lost = 0
    for file, first, last, rows in stored.ranges():
        here = gone[np.searchsorted(gone, first) : np.searchsorted(gone, last, side="right")]
        if not len(here):
            continue
        fresh = rewrite_segment([file], folder, here)
        left = _rows(fresh)
        if left < rows:
            written += fresh
            replaced.append(file)
            lost += rows - left
        else:  # its range holds them, it does not
            Path(fresh[0]["path"]).unlink()
    return written, replaced, lost


def remove(
    stored: EmbeddingTable, choose: Callable[[EmbeddingTable], Ids], what: str
) -> EmbeddingTable:
    """Commit the removal of the rows that `choose` names by their ids, rising."""

    def work_out(newest: EmbeddingTable, folder: Path) -> Step:
        written, replaced, lost = without(newest, choose(newest), folder)
        return Step(written, replaced, rows_removed=lost)

    return change(stored, what, work_out)


def grow(
    stored: EmbeddingTable,
    written: Sequence[Written],
    first_id: int,
    folder: Path,
    what: str,
    *,
    beside: bool,
    replaces: bool,
) -> tuple[EmbeddingTable, bool]:
    """Commit new segments, in place of the rows that their paths had when they were planned.

    Those have ids under `first_id`. A row with a later id is another writer's, who had the same
    path meanwhile: it stays, and ours is left out. `beside` says whether others have written
    between the plan and `stored`; whether they have by now is returned as well. Then ids may have
    been given to them, and ours become later ones. `replaces` says whether any row may be replaced;
    `folder` is for DuckDB.
    """
    least = min(row["first_id"] for row in written)
    before = stored.version
    others = beside

    def work_out(newest: EmbeddingTable, place: Path) -> Step:
        nonlocal others
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


def _rows(written: Iterable[Written]) -> int:
    return sum(row["rows"] for row in written)


def _overlap(
    stored: EmbeddingTable, written: Sequence[Written], first_id: int, folder: Path
) -> tuple[Ids, Ids]:
    """Return the ids of stored rows that new ones replace, and of new ones that are left out."""
    with stored.asked(folder) as sql:
        create_view(sql, "ours", *(Path(row["path"]) for row in written))
        # A disk that is away for a moment costs no embedding: that is the last case.
        sql.execute(
            f"""create temp table shared as
            select ours.id as ours, stored.id as theirs,
                stored.id >= $first_id
                or (
                    stored.status = 'skipped' and ours.status = 'skipped'
                    and stored.id >= $tried_from
                    and stored.reason = ours.reason
                    and stored.size is not distinct from ours.size
                    and stored.modified is not distinct from ours.modified
                    and stored.label is not distinct from ours.label
                )
                or (stored.status = 'ok' and {may_pass("ours")}) as stays
            from ours join stored using (path)""",
            {
                "first_id": first_id,
                "tried_from": stored.tried_from,
                "passing": passing_reasons(),
            },
        )
        gone = query_ids(sql, "select theirs as id from shared where not stays")
        return gone, query_ids(sql, "select ours as id from shared where stays")


def compact(stored: EmbeddingTable, few: int = SMALL_SEGMENTS_KEPT) -> EmbeddingTable:
    """Make one segment of small ones that follow each other, where there are `few` or more."""

    def work_out(newest: EmbeddingTable, folder: Path) -> Step:
        added: list[Written] = []
        removed: list[Path] = []
        for files in _runs(newest):
            if len(files) >= few:
                added += rewrite_segment(files, folder)
                removed += files
        return Step(added, removed)

    return change(stored, "compact", work_out)


def _runs(stored: EmbeddingTable) -> list[list[Path]]:
    """Return runs of small segments that together are no more than a full one."""
    runs: list[list[Path]] = [[]]
    total = 0
    for file, _, _, rows in stored.ranges():
        if rows >= SMALL_SEGMENT_ROWS or total + rows > FULL_SEGMENT_ROWS:
            runs.append([])
            total = 0
        if rows < SMALL_SEGMENT_ROWS:
            runs[-1].append(file)
            total += rows
    return runs
