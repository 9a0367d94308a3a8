"""The map of the index: computed in a separate process on the first request, then cached."""

import json
import threading
import time

import numpy as np
import pyarrow.compute as pc
from fastapi import HTTPException

from lookalike.analysis.map import Job, Layout, load_layout
from lookalike.errors import LookalikeError
from lookalike.server.refresher import log
from lookalike.server.snapshot import Snapshot, VersionKey

RETRY_SECONDS = 600.0
"""Time between a failed map and the next attempt for the same version."""
_COORDINATE_DIGITS = 4  # a hundredth of a pixel before zooming


class MapCache:
    """Holds the newest map, and the job that computes the next one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._job: tuple[Job, Snapshot] | None = None
        self._made: tuple[bytes, VersionKey] | None = None
        self._failed: tuple[VersionKey, float] | None = None  # the last failure and its time

    def get(self, snapshot: Snapshot) -> bytes | tuple[float, str]:
        """Return the map as JSON of `schemas.Map`, or the progress of its job: a share and a text.

        Returns the map of an older version while that of the newest is computed, or if it failed.
        Raises `HTTPException` if the map failed and there is no older one.
        """
        with self._lock:
            self._drop_other_indexes(snapshot)
            if self._job is not None and self._job[0].ended():
                self._finish(*self._job)
            if self._made is None or self._made[1] != snapshot.version_key:
                self._begin(snapshot)
            if self._made is not None:
                return self._made[0]
            if self._job is None:
                raise HTTPException(503, "no map could be made: see the log of the server")
            return self._job[0].progress()

    def _drop_other_indexes(self, snapshot: Snapshot) -> None:
        """Drop the map and the job of an index that this one has replaced."""
        identity = snapshot.version_key.identity
        if self._made is not None and self._made[1].identity != identity:
            self._made = None
        if self._job is not None and self._job[1].version_key.identity != identity:
            self._job[0].stop()
            self._job = None

    def _finish(self, job: Job, snapshot: Snapshot) -> None:
        self._job = None
        if (reason := job.failed()) is not None:
            self._record_failure(snapshot, reason)
        if (layout := job.result()) is not None:
            self._made = _to_json(snapshot, layout), snapshot.version_key

    def _record_failure(self, snapshot: Snapshot, reason: str) -> None:
        log.error("%s", reason)
        self._failed = snapshot.version_key, time.monotonic()

    def _begin(self, snapshot: Snapshot) -> None:
        if self._job is not None or self._failed_recently(snapshot):
            return
        if (layout := load_layout(snapshot.table)) is not None:
            self._made = _to_json(snapshot, layout), snapshot.version_key
            return
        try:
            self._job = Job(snapshot.table), snapshot
        except LookalikeError as error:
            self._record_failure(snapshot, str(error))

    def _failed_recently(self, snapshot: Snapshot) -> bool:
        if self._failed is None or self._failed[0] != snapshot.version_key:
            return False
        return time.monotonic() < self._failed[1] + RETRY_SECONDS

    def close(self) -> None:
        """Stop the job."""
        with self._lock:
            if self._job is not None:
                self._job[0].stop()


def _to_json(snapshot: Snapshot, layout: Layout) -> bytes:
    """Return a layout as JSON of `schemas.Map`."""
    labels = snapshot.rows.labels.take(snapshot.rows.find(layout.ids))
    encoded = pc.dictionary_encode(labels).combine_chunks()
    x, y = layout.points.T.astype(np.float64).round(_COORDINATE_DIGITS).tolist()
    columns = {
        **snapshot.version_key._asdict(),
        "images": len(snapshot.rows),
        "ids": layout.ids.tolist(),
        "x": x,
        "y": y,
        "label": encoded.indices.fill_null(-1).to_pylist() if len(labels) else [],
        "labels": encoded.dictionary.to_pylist() if len(labels) else [],
    }
    return json.dumps(columns, separators=(",", ":")).encode()
