"""Whether two pictures show the same: how well one agrees with the other once laid over it.

Embeddings say what looks alike, two cars of one model too. A copy that was cropped, scaled,
mirrored, turned a little or compressed again is the same picture, and pixels know it.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lookalike import images
from lookalike.images.isolated import Decode

Thumbnail: TypeAlias = npt.NDArray[np.uint8]
_Levels: TypeAlias = npt.NDArray[np.float32]
Look: TypeAlias = Callable[[str], Thumbnail | None]

SIDE = 64  # pixels of a thumbnail
AGREES = 0.965
"""From here on two pictures are taken for the same."""
_STEPS, _CLOSE, _BLUR = 30, 1e-3, 5  # of the alignment
_ZOOMS = (1, 0.87, 1.15)  # from which alignment starts: it finds what is near
_OVERLAP = 0.5  # of a picture has to lie on the other
_MARKED = 0.05  # of the pixels may show something else
_NOTHING = 1e-9  # instead of a division by zero
_WHOLE = 0.99  # of a pixel
_SAME = 8  # levels that no pixel differs by
_KEPT = 20_000  # thumbnails in memory, 12 KB each

AGREEMENT = pa.field("agreement", pa.float32())


def thumbnail(pixels: npt.NDArray[np.uint8]) -> Thumbnail:
    """Shrink pixels (224, 224, 3) to uint8 (64, 64, 3)."""
    import cv2

    small: Any = cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return cast("Thumbnail", small)


def agreement(one: Thumbnail, other: Thumbnail) -> float:
    """Return how well two pictures agree, -1 to 1: as they are, or with one of them mirrored."""
    best = -1.0
    first, second = one.astype(np.float32), other.astype(np.float32)
    for zoom in _ZOOMS:
        for turned in (second, np.ascontiguousarray(second[:, ::-1])):
            best = max(best, _aligned(first, turned, zoom))
            if best >= AGREES:
                return best
    return best


def _aligned(one: _Levels, other: _Levels, zoom: float) -> float:
    """Lay the other upon the one by an affine map; return the correlation of what overlaps.

    The map is the one near a zoom that maximises the enhanced correlation coefficient of their
    greys (Evangelidis and Psarakis, 2008; `cv2.findTransformECC`). The correlation is of all three
    channels at once: a car in another colour is another car.
    """
    import cv2

    if np.abs(one - other).max() < _SAME:  # without structure nothing can be aligned
        return 1.0
    greys = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in (one, other)]
    moved_by = (1 - zoom) * SIDE / 2
    start: Any = np.array([[zoom, 0, moved_by], [0, zoom, moved_by]], np.float32)
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, _STEPS, _CLOSE)
    align: Any = cv2.findTransformECC
    try:
        _, warp = align(*greys, start, cv2.MOTION_AFFINE, criteria, None, _BLUR)
    except cv2.error:  # it does not converge
        return 0.0
    flags, size = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, (SIDE, SIDE)
    moved = cv2.warpAffine(other, warp, size, flags=flags)
    there = cv2.warpAffine(np.ones(size, np.float32), warp, size, flags=flags) > _WHOLE
    if there.mean() < _OVERLAP:
        return 0.0
    a, b = one[there], moved[there]
    a, b = a - a.mean(), b - b.mean()
    # A mark across a picture does not make it another: the few pixels that fit worst are left out.
    misfit = np.abs(a - b * (np.vdot(a, b) / max(float(np.vdot(b, b)), _NOTHING))).sum(axis=1)
    fits = misfit <= np.quantile(misfit, 1 - _MARKED)
    a, b = a[fits] - a[fits].mean(), b[fits] - b[fits].mean()
    return float(np.vdot(a, b) / max(float(np.linalg.norm(a) * np.linalg.norm(b)), _NOTHING))


def looking_at(decode: Decode, source: images.Source) -> Look:
    """Make a function from the path of an image to its thumbnail, or None; it keeps some thousand.

    Threads may share it, as many as `decode` serves.
    """
    import cv2

    cv2.setNumThreads(1)  # tasks and threads share the cores already

    @lru_cache(_KEPT)
    def look(path: str) -> Thumbnail | None:
        try:
            return thumbnail(decode(images.read(source, path))[0])
        except images.BadImage:
            return None

    return look


def with_agreement(pairs: pa.RecordBatch, a: Look, b: Look) -> pa.RecordBatch:
    """Add `agreement` to pairs with `a_path, b_path, distance`.

    It is null where one of the two can be read or decoded no longer. What is at no distance agrees.
    """

    def agree(a_path: str, b_path: str, distance: float) -> float | None:
        if not distance:
            return 1.0
        one, other = a(a_path), b(b_path)
        return None if one is None or other is None else agreement(one, other)

    columns = (pairs[name].to_pylist() for name in ("a_path", "b_path", "distance"))
    found = [agree(*pair) for pair in zip(*columns, strict=True)]
    column = pa.array(found, AGREEMENT.type)
    return pa.RecordBatch.from_arrays(
        [*pairs.columns, column], schema=pairs.schema.append(AGREEMENT)
    )
