"""Whether two pictures show the same: how well one agrees with the other once laid over it.

Embeddings say what looks alike, two cars of one model too. A copy that was cropped, scaled,
mirrored, turned a little or compressed again is the same picture, and pixels know it.
"""

import contextlib
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from lookalike.groups.closeness import Map, places

Thumbnail: TypeAlias = npt.NDArray[np.uint8]
_Levels: TypeAlias = npt.NDArray[np.float32]

SIDE = 64  # pixels of a thumbnail
_ROUGH = SIDE // 2  # pixels, at which most pairs turn out to be none
_WORTH = 0.85  # agreement there, from which on a closer look is worth it
_ZOOMS = (1, 0.87, 1.15)  # from which alignment starts: it finds what is near
_ENOUGH = 0.9  # after which no other start is tried
_HOPELESS = 0.7  # as well; copies that are cropped by 15 % reach 0.75 from the first
_CLEARLY = 0.1  # by which correlation says whether the other one is mirrored
_CLOSE = 1e-3  # of the alignment, when it ends
_OVERLAP = 0.5  # of a picture has to lie on the other
_MARKED = 0.05  # of the pixels may show something else
_NOTHING = 1e-9  # instead of a division by zero
_WHOLE = 0.99  # of a pixel
_STRUCTURE = 2.0  # levels of deviation, below which there is nothing to align by


@dataclass(frozen=True)
class Alignment:
    """How one picture is laid upon another."""

    agreement: float
    """How well they correlate then, -1 to 1."""
    map: Map
    """From places in the one to those in the other, both 0 to 1 a side, (3, 3)."""
    mirrored: bool
    """Whether the other one is mirrored first."""


def thumbnail(pixels: npt.NDArray[np.uint8]) -> Thumbnail:
    """Shrink pixels (224, 224, 3) to uint8 (64, 64, 3)."""
    import cv2

    small: Any = cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return cast("Thumbnail", small)


def align(one: Thumbnail, other: Thumbnail) -> Alignment | None:
    """Lay the other picture upon the one, as it is or mirrored, whichever agrees better.

    None where one of them is so blank that anything blank would agree with it.
    """
    import cv2

    first, second = one.astype(np.float32), other.astype(np.float32)
    if min(_structure(first), _structure(second)) < _STRUCTURE:
        return None
    ways = second, np.ascontiguousarray(second[:, ::-1])
    size = (_ROUGH, _ROUGH)
    rough, *roughly = (
        cv2.resize(picture, size, interpolation=cv2.INTER_AREA) for picture in (first, *ways)
    )
    alike = [_alike(rough, turned) for turned in roughly]
    likely = [way for way in (0, 1) if alike[way] > max(alike) - _CLEARLY]
    best, warp, way = -1.0, _zoomed(1), 0
    for zoom in _ZOOMS:
        for number in likely:
            found, mapped = _aligned(rough, roughly[number], _zoomed(zoom), steps=20, blur=3)
            if found > best:
                best, warp, way = found, mapped, number
        if best >= _ENOUGH or best < _HOPELESS:
            break
    side = _ROUGH
    if best >= _WORTH:
        side = SIDE
        warp = warp * np.array([[1, 1, SIDE / _ROUGH]], np.float32)
        best, warp = _aligned(first, ways[way], warp, steps=30, blur=5)
    unit = places(side, side)
    return Alignment(best, unit @ np.vstack([warp, [0, 0, 1]]) @ np.linalg.inv(unit), way == 1)


def _structure(picture: _Levels) -> float:
    """Return the deviation of levels from those that a channel has on average."""
    return float(np.sqrt(picture.var(axis=(0, 1)).mean()))


def _alike(one: Any, other: Any) -> float:
    """Return how the greys of two pictures correlate as they are, when they are blurred."""
    import cv2

    a, b = (cv2.blur(cv2.cvtColor(p, cv2.COLOR_RGB2GRAY), (5, 5)) for p in (one, other))
    a, b = a - a.mean(), b - b.mean()
    return float(np.vdot(a, b) / max(float(np.linalg.norm(a) * np.linalg.norm(b)), _NOTHING))


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
    warp = start
    with contextlib.suppress(cv2.error):  # it does not converge where there is little to see
        warp = align(*greys, start.copy(), cv2.MOTION_AFFINE, criteria, None, blur)[1]
    flags, size = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, one.shape[:2]
    moved = cv2.warpAffine(other, warp, size, flags=flags)
    there = cv2.warpAffine(np.ones(size, np.float32), warp, size, flags=flags) > _WHOLE
    if there.mean() < _OVERLAP:
        return 0.0, warp
    a, b = one[there], moved[there]
    a, b = a - a.mean(), b - b.mean()
    # A mark across a picture does not make it another: the few pixels that fit worst are left out.
    misfit = np.abs(a - b * (np.vdot(a, b) / max(float(np.vdot(b, b)), _NOTHING))).sum(axis=1)
    most = int((1 - _MARKED) * (len(misfit) - 1))
    fits = misfit <= np.partition(misfit, most)[most]
    a, b = a[fits] - a[fits].mean(), b[fits] - b[fits].mean()
    found = float(np.vdot(a, b) / max(float(np.linalg.norm(a) * np.linalg.norm(b)), _NOTHING))
    return found, warp
