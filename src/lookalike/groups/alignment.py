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
"""From here on two pictures are taken for the same.

With 818 copies planted among 1,229 photos, the threshold with the best F1 on the one half is 0.959
(`benchmarks/rivals/duplicates.py`). A little more is asked for: who goes for a copy may be dropped,
and is the last of its kind if that is wrong.
"""
_ROUGH = SIDE // 2  # pixels, at which most pairs turn out to be none
_WORTH = 0.85  # agreement there, from which on a closer look is worth it
_ZOOMS = (1, 0.87, 1.15)  # from which alignment starts: it finds what is near
_ENOUGH = 0.9  # after which no other start is tried
_CLOSE = 1e-3  # of the alignment, when it ends
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
    import cv2

    first, second = one.astype(np.float32), other.astype(np.float32)
    if np.abs(first - second).max() < _SAME:  # without structure nothing can be aligned
        return 1.0
    ways = second, np.ascontiguousarray(second[:, ::-1])
    size = (_ROUGH, _ROUGH)
    rough, *roughly = (
        cv2.resize(picture, size, interpolation=cv2.INTER_AREA) for picture in (first, *ways)
    )
    best, warp, way = -1.0, _zoomed(1), 0
    for zoom in _ZOOMS:
        for number, turned in enumerate(roughly):
            found, mapped = _aligned(rough, turned, _zoomed(zoom), steps=20, blur=3)
            if found > best:
                best, warp, way = found, mapped, number
        if best >= _ENOUGH:
            break
    if best < _WORTH:
        return best
    warp = warp * np.array([[1, 1, SIDE / _ROUGH]], np.float32)
    return _aligned(first, ways[way], warp, steps=30, blur=5)[0]


def _zoomed(zoom: float) -> _Levels:
    """Return the affine map that zooms a rough picture about its middle, (2, 3)."""
    moved = (1 - zoom) * _ROUGH / 2
    return np.array([[zoom, 0, moved], [0, zoom, moved]], np.float32)


def _aligned(one: Any, other: Any, start: _Levels, steps: int, blur: int) -> tuple[float, _Levels]:
    """Lay the other upon the one by an affine map; return how the two correlate, and the map.

    The map is the one near `start` that maximises the enhanced correlation coefficient of their
    greys (Evangelidis and Psarakis, 2008; `cv2.findTransformECC`). The correlation is of all three
    channels at once: a car in another colour is another car.
    """
    import cv2

    greys = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in (one, other)]
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, steps, _CLOSE)
    align: Any = cv2.findTransformECC
    try:
        _, warp = align(*greys, start.copy(), cv2.MOTION_AFFINE, criteria, None, blur)
    except cv2.error:  # it does not converge
        return 0.0, start
    flags, size = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, one.shape[:2]
    moved = cv2.warpAffine(other, warp, size, flags=flags)
    there = cv2.warpAffine(np.ones(size, np.float32), warp, size, flags=flags) > _WHOLE
    if there.mean() < _OVERLAP:
        return 0.0, warp
    a, b = one[there], moved[there]
    a, b = a - a.mean(), b - b.mean()
    # A mark across a picture does not make it another: the few pixels that fit worst are left out.
    misfit = np.abs(a - b * (np.vdot(a, b) / max(float(np.vdot(b, b)), _NOTHING))).sum(axis=1)
    fits = misfit <= np.quantile(misfit, 1 - _MARKED)
    a, b = a[fits] - a[fits].mean(), b[fits] - b[fits].mean()
    found = float(np.vdot(a, b) / max(float(np.linalg.norm(a) * np.linalg.norm(b)), _NOTHING))
    return found, warp


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
