"""What two images have in common to the eye, and with what certainty.

Most pairs turn out to be different ones at 64 pixels a side. Those that do not are looked at as
closely as their files allow, and where there is nothing to align by, or more than one frame, only
equal pixels make two images the same.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from hashlib import sha256
from typing import Literal, TypeAlias

import numpy as np
import pyarrow as pa

from lookalike import images
from lookalike.errors import ImageError
from lookalike.groups.alignment import Thumbnail, align, thumbnail
from lookalike.groups.closeness import agree_closely
from lookalike.images.identity import View
from lookalike.images.isolated import Viewer

Seen: TypeAlias = Literal["equal", "same", "other", "alike", "unclear", "unreadable"]
"""How two images compare.

`equal` by all their pixels, or bytes; the `same` picture; an `other` one. `alike`: the same at
first sight, but not when looked at closely. `unclear`: so blank that nobody can tell.
`unreadable`: one of them is gone or cannot be decoded.
"""
COMPARED = pa.schema([("agreement", pa.float32()), ("compared", pa.string())])

_THUMBNAILS = 20_000  # in memory, 12 KB each
_DIGESTS = 100_000  # in memory, 100 bytes each
_VIEWS = 128 * 2**20  # bytes of larger pictures in memory
_FREED = 31 * 2**20  # bytes; from 32 MB on glibc takes no notice


class Eyes:
    """Look at the images of a source by their paths; what was seen last is kept, within bounds.

    Threads may share them. What cannot be read or decoded is None.
    """

    def __init__(self, sees: Viewer, source: images.Source) -> None:
        import cv2

        cv2.setNumThreads(1)  # tasks and threads share the cores already
        # glibc keeps what is freed for the next picture, up to twice the largest block that it got
        # back, instead of asking the system for each anew: an eighth of the time of a close look.
        np.empty(_FREED, np.uint8)
        self._sees, self._source = sees, source
        self.thumbnail: Callable[[str], tuple[Thumbnail, bytes] | None]
        self.thumbnail = lru_cache(_THUMBNAILS)(self._thumbnail)
        """The picture at 64 pixels a side, and a hash of its bytes."""
        self.digest: Callable[[str], bytes | None] = lru_cache(_DIGESTS)(self._digest)
        """`identity.digest`: equal where all pixels are."""
        self._lock = threading.Lock()
        self._views: OrderedDict[str, View] = OrderedDict()
        self._bytes = 0

    def view(self, path: str) -> View | None:
        """Return the `identity.View` of an image."""
        with self._lock:
            if path in self._views:
                self._views.move_to_end(path)
                return self._views[path]
        try:
            seen = self._sees.view(images.read(self._source, path))
        except ImageError:
            return None
        with self._lock:
            if path not in self._views:
                self._views[path] = seen
                self._bytes += seen.pixels.nbytes
            while self._bytes > _VIEWS and len(self._views) > 1:
                self._bytes -= self._views.popitem(last=False)[1].pixels.nbytes
        return seen

    def _thumbnail(self, path: str) -> tuple[Thumbnail, bytes] | None:
        try:
            data = images.read(self._source, path)
            return thumbnail(self._sees.decode_pixels(data)[0]), sha256(data).digest()
        except ImageError:
            return None

    def _digest(self, path: str) -> bytes | None:
        try:
            return self._sees.digest(images.read(self._source, path))
        except ImageError:
            return None


def compared(pairs: pa.RecordBatch, a: Eyes, b: Eyes, agrees: float) -> pa.RecordBatch:
    """Add `agreement` and `compared` to pairs with `a_path, b_path, distance`.

    `compared` is one of `Seen`. `agreement` is null where that is `alike`, `unclear` or
    `unreadable`: nothing is to be dropped for those, whatever agreement is asked for.
    """
    columns = (pairs[name].to_pylist() for name in ("a_path", "b_path", "distance"))
    found = [_look(a, b, one, two, apart, agrees) for one, two, apart in zip(*columns, strict=True)]
    added = [pa.array([row[at] for row in found], field.type) for at, field in enumerate(COMPARED)]
    return pa.RecordBatch.from_arrays(
        [*pairs.columns, *added], schema=pa.schema([*pairs.schema, *COMPARED])
    )


def _look(
    a: Eyes, b: Eyes, a_path: str, b_path: str, distance: float, agrees: float
) -> tuple[float | None, Seen]:
    """Return how well two images agree, and how they compare."""
    ours, theirs = a.thumbnail(a_path), b.thumbnail(b_path)
    if ours is None or theirs is None:
        return None, "unreadable"
    if ours[1] == theirs[1]:
        return 1.0, "equal"
    # Most that are at no distance are equal, and there may be any number of them.
    if not distance or np.array_equal(ours[0], theirs[0]):
        by_every_pixel = _by_every_pixel(a, b, a_path, b_path, "other")
        if by_every_pixel[1] != "other":
            return by_every_pixel
    laid = align(ours[0], theirs[0])
    if laid is not None and laid.agreement < agrees:
        return laid.agreement, "other"
    if laid is None:
        return _by_every_pixel(a, b, a_path, b_path, "unclear")
    one, other = a.view(a_path), b.view(b_path)
    if one is None or other is None:
        return None, "unreadable"
    if one.frames != other.frames:
        return None, "alike"
    if one.frames != 1:
        return _by_every_pixel(a, b, a_path, b_path, "alike")
    turned = np.ascontiguousarray(other.pixels[:, ::-1]) if laid.mirrored else other.pixels
    if agree_closely(one.pixels, turned, laid.map):
        return laid.agreement, "same"
    return None, "alike"


def _by_every_pixel(
    a: Eyes, b: Eyes, a_path: str, b_path: str, otherwise: Seen
) -> tuple[float | None, Seen]:
    """Return that two images are equal, where all their pixels are; else what is given."""
    digests = a.digest(a_path), b.digest(b_path)
    if None in digests:
        return None, "unreadable"
    return (1.0, "equal") if digests[0] == digests[1] else (None, otherwise)
