"""Duplicates, clusters and outliers: found in a separate process on demand, then kept."""

import threading
import time
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
from fastapi import HTTPException

from lookalike.analysis.groups import MAX_ROWS, Groups, GroupsJob, Kind, read_groups
from lookalike.errors import LookalikeError
from lookalike.server.maps import RETRY_SECONDS
from lookalike.server.refresher import log
from lookalike.server.snapshot import Snapshot, VersionKey


class GroupsCache:
    """Holds the newest groups of each kind, and the job that finds others: one at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._job: tuple[GroupsJob, Snapshot] | None = None
        self._made: dict[Kind, tuple[Groups, VersionKey]] = {}
        self._failed: dict[Kind, tuple[VersionKey, float, str]] = {}

    def get(self, snapshot: Snapshot, kind: Kind) -> Groups | tuple[float, str]:
        """Return the groups of a version, or how far they are: a share and a text.

        Raises `HTTPException` if they cannot be found.
        """
        if snapshot.count > MAX_ROWS:
            raise HTTPException(
                409,
                f"more than {MAX_ROWS:,} images: run `lookalike {kind} INDEX -o OUT`, "
                "and open its page",
            )
        with self._lock:
            made = self._made.get(kind)
            if made is not None and made[1] == snapshot.version_key:
                return made[0]
            if self._job is not None and self._job[0].ended():
                self._finish(*self._job)
            if (found := self._read(snapshot, kind)) is not None:
                return found
            self._refuse_if_failed(snapshot, kind)
            if self._job is None:
                try:
                    self._job = GroupsJob(snapshot.table, kind), snapshot
                except LookalikeError as error:
                    self._record_failure(snapshot, kind, str(error))
                    self._refuse_if_failed(snapshot, kind)
            assert self._job is not None
            if self._job[0].kind != kind:
                return 0.0, f"waiting for the {self._job[0].kind}"
            return self._job[0].progress()

    def _read(self, snapshot: Snapshot, kind: Kind) -> Groups | None:
        found = read_groups(snapshot.table, kind)
        if found is not None:
            self._made[kind] = found, snapshot.version_key
        return found

    def _finish(self, job: GroupsJob, snapshot: Snapshot) -> None:
        self._job = None
        if (reason := job.failed()) is not None:
            self._record_failure(snapshot, job.kind, reason)

    def _record_failure(self, snapshot: Snapshot, kind: Kind, reason: str) -> None:
        log.error("%s", reason)
        self._failed[kind] = snapshot.version_key, time.monotonic(), reason

    def _refuse_if_failed(self, snapshot: Snapshot, kind: Kind) -> None:
        version, when, reason = self._failed.get(kind, (None, 0.0, ""))
        if version == snapshot.version_key and time.monotonic() < when + RETRY_SECONDS:
            why = f": {reason}" if "pip install" in reason else ": see the log of the server"
            raise HTTPException(503, f"no {kind} could be found{why}")

    def close(self) -> None:
        """Stop the job."""
        with self._lock:
            if self._job is not None:
                self._job[0].stop()


def page_of(
    groups: Groups, after: int | None, limit: int
) -> tuple[list[pa.Table], int | None, int]:
    """Return the rows of some groups, `after` of the next page, and the number of all groups."""
    numbers = groups.rows["group"].to_numpy()
    total = int(numbers[-1]) + 1 if len(numbers) else 0
    first = 0 if after is None else after + 1
    stop = min(first + limit, total)
    starts = np.searchsorted(numbers, np.arange(first, stop + 1))
    pairs = zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)
    pages = [groups.rows.slice(start, end - start) for start, end in pairs]
    return pages, stop - 1 if stop < total else None, total


def images_of(snapshot: Snapshot, rows: pa.Table) -> list[dict[str, Any]]:
    """Return rows as images of the index with what the analysis says of each."""
    places = snapshot.rows.find(rows["id"].to_numpy()).tolist()
    shown = []
    for place, row in zip(places, rows.to_pylist(), strict=True):
        if place < 0:
            continue
        about = {name: value for name, value in row.items() if name not in ("group", "id")}
        about["modified"] = _date(row["modified"])
        shown.append({**snapshot.image(place), **about})
    return shown


def _date(nanoseconds: int | None) -> str | None:
    if nanoseconds is None:
        return None
    try:
        return datetime.fromtimestamp(nanoseconds // 10**9, UTC).isoformat().replace("+00:00", "Z")
    except (OverflowError, ValueError, OSError):
        return None
