"""The map of the index: made in a process apart when it is first asked for, then kept."""

import json
import threading

import numpy as np
import pyarrow.compute as pc
from fastapi import HTTPException

from lookalike.layout import Job, Layout, kept
from lookalike.server.library import log
from lookalike.server.shelf import Shelf

_DIGITS = 4  # of a coordinate: a hundredth of a pixel, until one zooms in


class Maps:
    """Has the map of one version, or is about to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._job: tuple[Job, Shelf] | None = None
        self._made: tuple[bytes, int] | None = None

    def get(self, shelf: Shelf) -> bytes | tuple[float, str]:
        """Return what `answers.Map` says, as JSON, or how far it is and with what.

        While the map of a newer version is being made that of an older one is returned. Raises
        `HTTPException` where none can be made; asked again, it tries again.
        """
        with self._lock:
            if self._job is not None and self._job[0].ended():
                self._take(*self._job)
            if self._made is None or self._made[1] != shelf.version:
                self._begin(shelf)
            if self._made is not None:
                return self._made[0]
            assert self._job is not None  # which was just begun
            return self._job[0].progress()

    def _take(self, job: Job, shelf: Shelf) -> None:
        self._job = None
        if (reason := job.failed()) is not None:
            log.error("%s", reason)
            if self._made is None:
                raise HTTPException(503, "no map could be made: the log of the server says why")
        if (layout := job.result()) is not None:
            self._made = _answer(shelf, layout), shelf.version

    def _begin(self, shelf: Shelf) -> None:
        if self._job is not None:
            return
        if (layout := kept(shelf.index.collection)) is not None:
            self._made = _answer(shelf, layout), shelf.version
        else:
            self._job = Job(shelf.index.collection), shelf

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
        "version": shelf.version,
        "images": len(shelf.rows),
        "ids": layout.ids.tolist(),
        "x": x,
        "y": y,
        "label": encoded.indices.fill_null(-1).to_pylist() if len(labels) else [],
        "labels": encoded.dictionary.to_pylist() if len(labels) else [],
    }
    return json.dumps(columns, separators=(",", ":")).encode()
