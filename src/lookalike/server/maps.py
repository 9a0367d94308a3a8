"""The map of the index: made in a process apart when it is first asked for, then kept."""

import json
import threading

import numpy as np
import pyarrow.compute as pc
from fastapi import HTTPException

from lookalike.layout import Job, Layout, kept
from lookalike.server.shelf import Shelf

_DIGITS = 4  # of a coordinate: a hundredth of a pixel, until one zooms in


class Maps:
    """Has the map of one version, or is about to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._job: Job | None = None
        self._version = -1
        self._answer = b""

    def get(self, shelf: Shelf) -> bytes | tuple[float, str]:
        """Return what `answers.Map` says, as JSON, or how far it is and with what.

        Raises `HTTPException` where it cannot be made; asked again, it tries again.
        """
        with self._lock:
            if self._version == shelf.version:
                return self._answer
            if self._job is None:
                if (layout := kept(shelf.index.collection)) is None:
                    self._job = Job(shelf.index.collection)
                    return self._job.progress()
            elif not self._job.ended():
                return self._job.progress()
            else:
                done, self._job = self._job, None
                if (reason := done.failed()) is not None:
                    raise HTTPException(503, reason)
                if (layout := kept(shelf.index.collection)) is None:
                    layout = done.result()  # of an older version, or the cache is read-only
            assert layout is not None  # a job has one or the other
            self._answer, self._version = _answer(shelf, layout), shelf.version
            return self._answer

    def close(self) -> None:
        """End what is being made."""
        with self._lock:
            if self._job is not None:
                self._job.stop()


def _answer(shelf: Shelf, layout: Layout) -> bytes:
    """Write a layout as JSON, without images that are no longer there."""
    rows = [shelf.rows.find(number) for number in layout.ids.tolist()]
    here = np.array([row is not None for row in rows], bool)
    labels = shelf.rows.labels.take([row for row in rows if row is not None])
    encoded = pc.dictionary_encode(labels).combine_chunks()
    indices = encoded.indices.fill_null(-1).to_pylist() if len(labels) else []
    x, y = layout.points[here].T.astype(np.float64).round(_DIGITS).tolist()
    columns = {
        "version": shelf.version,
        "images": len(shelf.rows),
        "ids": layout.ids[here].tolist(),
        "x": x,
        "y": y,
        "label": indices,
        "labels": encoded.dictionary.to_pylist() if len(labels) else [],
    }
    return json.dumps(columns, separators=(",", ":")).encode()
