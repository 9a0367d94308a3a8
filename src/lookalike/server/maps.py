"""The map of the index: made in a process apart when it is first asked for, then kept."""

import json
import threading
import time

import numpy as np
import pyarrow.compute as pc
from fastapi import HTTPException

from lookalike.analysis.map import Job, Layout, load_layout
from lookalike.errors import LookalikeError
from lookalike.server.refresher import log
from lookalike.server.snapshot import Edition, Shelf

AGAIN_SECONDS = 600.0
"""From a map that failed until the same is tried again."""
_DIGITS = 4  # of a coordinate: a hundredth of a pixel, until one zooms in


class Maps:
    """Has the map of one version, or is about to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._job: tuple[Job, Shelf] | None = None
        self._made: tuple[bytes, Edition] | None = None
        self._failed: tuple[Edition, float] | None = None  # the last one, and when

    def get(self, shelf: Shelf) -> bytes | tuple[float, str]:
        """Return what `answers.Map` says, as JSON, or how far it is and with what.

        While the map of a newer version is being made, or cannot be, that of an older one is
        returned. Raises `HTTPException` where there is none either.
        """
        with self._lock:
            self._forget_others(shelf)
            if self._job is not None and self._job[0].ended():
                self._take(*self._job)
            if self._made is None or self._made[1] != shelf.edition:
                self._begin(shelf)
            if self._made is not None:
                return self._made[0]
            if self._job is None:
                raise HTTPException(503, "no map could be made: the log of the server says why")
            return self._job[0].progress()

    def _forget_others(self, shelf: Shelf) -> None:
        """Leave what is of another index, whose place this one has taken."""
        identity = shelf.edition.identity
        if self._made is not None and self._made[1].identity != identity:
            self._made = None
        if self._job is not None and self._job[1].edition.identity != identity:
            self._job[0].stop()
            self._job = None

    def _take(self, job: Job, shelf: Shelf) -> None:
        self._job = None
        if (reason := job.failed()) is not None:
            self._fail(shelf, reason)
        if (layout := job.result()) is not None:
            self._made = _answer(shelf, layout), shelf.edition

    def _fail(self, shelf: Shelf, reason: str) -> None:
        log.error("%s", reason)
        self._failed = shelf.edition, time.monotonic()

    def _begin(self, shelf: Shelf) -> None:
        if self._job is not None or self._has_just_failed(shelf):
            return
        if (layout := load_layout(shelf.table)) is not None:
            self._made = _answer(shelf, layout), shelf.edition
            return
        try:
            self._job = Job(shelf.table), shelf
        except LookalikeError as error:
            self._fail(shelf, str(error))

    def _has_just_failed(self, shelf: Shelf) -> bool:
        if self._failed is None or self._failed[0] != shelf.edition:
            return False
        return time.monotonic() < self._failed[1] + AGAIN_SECONDS

    def close(self) -> None:
        """End what is being made."""
        with self._lock:
            if self._job is not None:
                self._job[0].stop()


def _answer(shelf: Shelf, layout: Layout) -> bytes:
    """Write a layout as JSON."""
    labels = shelf.rows.labels.take(shelf.rows.find(layout.ids))
    encoded = pc.dictionary_encode(labels).combine_chunks()
    x, y = layout.points.T.astype(np.float64).round(_DIGITS).tolist()
    columns = {
        **shelf.edition._asdict(),
        "images": len(shelf.rows),
        "ids": layout.ids.tolist(),
        "x": x,
        "y": y,
        "label": encoded.indices.fill_null(-1).to_pylist() if len(labels) else [],
        "labels": encoded.dictionary.to_pylist() if len(labels) else [],
    }
    return json.dumps(columns, separators=(",", ":")).encode()
