"""Compare the images of pairs by their pixels.

Most pairs differ already at 64 pixels a side. The others are compared at full size. Where an image
is too blank to align, or has several frames, only equal pixels make two images the same.
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
from lookalike.analysis.alignment import Thumbnail, align, thumbnail
from lookalike.analysis.closeness import agree_closely
from lookalike.errors import ImageError
from lookalike.images.decoding.identity import View
from lookalike.images.decoding.sandbox import Decoder

Comparison: TypeAlias = Literal["equal", "same", "other", "alike", "unclear", "unreadable"]
"""The result of comparing two images.

`equal`: all pixels, or bytes, are equal. `same`: one picture. `other`: different pictures. `alike`:
the same at 64 pixels a side, but not at full size. `unclear`: too blank to decide. `unreadable`:
one of them is gone or cannot be decoded.
"""
COMPARED = pa.schema([("agreement", pa.float32()), ("compared", pa.string())])

_CACHED_THUMBNAILS = 20_000  # 12 KB each
_CACHED_DIGESTS = 100_000  # 100 bytes each
_MAX_VIEW_BYTES = 128 * 2**20
_MMAP_THRESHOLD_BYTES = 31 * 2**20  # glibc adapts its threshold up to 32 MB


class ImageReader:
    """Decode images of a source by path, with bounded caches; None for unreadable ones.

    Threads may share a reader.
    """

    def __init__(self, decoder: Decoder, source: images.Source) -> None:
        import cv2

        cv2.setNumThreads(1)  # the callers run in parallel already
        # Freeing one large block raises glibc's mmap threshold, so that the memory of pictures is
        # reused: this saves an eighth of the time of a comparison at full size.
        np.empty(_MMAP_THRESHOLD_BYTES, np.uint8)
        self._decoder, self._source = decoder, source
        self.thumbnail: Callable[[str], tuple[Thumbnail, bytes] | None]
        self.thumbnail = lru_cache(_CACHED_THUMBNAILS)(self._thumbnail)
        """The picture at 64 pixels a side, and a hash of the file's bytes."""
        self.digest: Callable[[str], bytes | None] = lru_cache(_CACHED_DIGESTS)(self._digest)
        """`identity.digest`, equal for equal pixels."""
        self._lock = threading.Lock()
        self._views: OrderedDict[str, View] = OrderedDict()
        self._bytes = 0

    def view(self, path: str) -> View | None:
        """Return the picture at full size (`identity.View`)."""
        with self._lock:
            if path in self._views:
                self._views.move_to_end(path)
                return self._views[path]
        try:
            seen = self._decoder.view(images.read(self._source, path))
        except ImageError:
            return None
        with self._lock:
            if path not in self._views:
                self._views[path] = seen
                self._bytes += seen.pixels.nbytes
            while self._bytes > _MAX_VIEW_BYTES and len(self._views) > 1:
                self._bytes -= self._views.popitem(last=False)[1].pixels.nbytes
        return seen

    def _thumbnail(self, path: str) -> tuple[Thumbnail, bytes] | None:
        try:
            data = images.read(self._source, path)
            return thumbnail(self._decoder.decode_pixels(data)[0]), sha256(data).digest()
        except ImageError:
            return None

    def _digest(self, path: str) -> bytes | None:
        try:
            return self._decoder.digest(images.read(self._source, path))
        except ImageError:
            return None


def compare_pairs(
    pairs: pa.RecordBatch, a: ImageReader, b: ImageReader, agrees: float
) -> pa.RecordBatch:
    """Add the columns `agreement` and `compared` to pairs with `a_path, b_path, distance`.

    `compared` is a `Comparison`. `agreement` is null for `alike`, `unclear` and `unreadable`, so
    that no image is dropped for those, whatever the threshold.
    """
    columns = (pairs[name].to_pylist() for name in ("a_path", "b_path", "distance"))
    found = [
        _compare(a, b, one, two, apart, agrees) for one, two, apart in zip(*columns, strict=True)
    ]
    added = [pa.array([row[at] for row in found], field.type) for at, field in enumerate(COMPARED)]
    return pa.RecordBatch.from_arrays(
        [*pairs.columns, *added], schema=pa.schema([*pairs.schema, *COMPARED])
    )


def _compare(
    a: ImageReader, b: ImageReader, a_path: str, b_path: str, distance: float, agrees: float
) -> tuple[float | None, Comparison]:
    """Return the agreement of two images, and the result of the comparison."""
    ours, theirs = a.thumbnail(a_path), b.thumbnail(b_path)
    if ours is None or theirs is None:
        return None, "unreadable"
    if ours[1] == theirs[1]:
        return 1.0, "equal"
    # Images at distance 0 are mostly equal, and may be many.
    if not distance or np.array_equal(ours[0], theirs[0]):
        by_digest = _compare_digests(a, b, a_path, b_path, "other")
        if by_digest[1] != "other":
            return by_digest
    laid = align(ours[0], theirs[0])
    if laid is not None and laid.agreement < agrees:
        return laid.agreement, "other"
    if laid is None:
        return _compare_digests(a, b, a_path, b_path, "unclear")
    one, other = a.view(a_path), b.view(b_path)
    if one is None or other is None:
        return None, "unreadable"
    if one.frames != other.frames:
        return None, "alike"
    if one.frames != 1:
        return _compare_digests(a, b, a_path, b_path, "alike")
    turned = np.ascontiguousarray(other.pixels[:, ::-1]) if laid.mirrored else other.pixels
    if agree_closely(one.pixels, turned, laid.map):
        return laid.agreement, "same"
    return None, "alike"


def _compare_digests(
    a: ImageReader, b: ImageReader, a_path: str, b_path: str, otherwise: Comparison
) -> tuple[float | None, Comparison]:
    """Return `equal` for images with equal pixels, else `otherwise`."""
    digests = a.digest(a_path), b.digest(b_path)
    if None in digests:
        return None, "unreadable"
    return (1.0, "equal") if digests[0] == digests[1] else (None, otherwise)
