"""Align two pictures and measure how well they agree.

Embeddings say which images look alike, for example two cars of one model. Pixels say whether both
are the same picture, even if one was cropped, scaled, mirrored, rotated a little or recompressed.
"""

import contextlib
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from lookalike.analysis.closeness import Map, places

Thumbnail: TypeAlias = npt.NDArray[np.uint8]
_Levels: TypeAlias = npt.NDArray[np.float32]

THUMBNAIL_SIDE = 64  # pixels
_ROUGH_SIDE = THUMBNAIL_SIDE // 2  # pixels of the first alignment
_MIN_ROUGH_AGREEMENT = 0.85  # for a second alignment at full size
_START_ZOOMS = (1, 0.87, 1.15)  # the alignment finds only maps near its start
_GOOD_AGREEMENT = 0.9  # no further start zoom is tried from here on,
_POOR_AGREEMENT = 0.7  # nor below here; copies cropped by 15 % reach 0.75 from the first zoom
_MIRROR_MARGIN = 0.1  # of correlation, which decides whether the other picture is mirrored
_CONVERGENCE_EPS = 1e-3
_MIN_OVERLAP = 0.5  # of the area
_IGNORED_PIXEL_SHARE = 0.05  # the worst pixels, where a watermark may be
_MIN_NORM = 1e-9  # against division by zero
_MIN_COVERAGE = 0.99  # of a pixel
_MIN_DEVIATION = 2.0  # of grey levels; a picture with less is too blank to align


@dataclass(frozen=True)
class Alignment:
    """The map from one picture to another, and how well they agree under it.

    Attributes
    ----------
    agreement : float
        Correlation of the aligned pixels, -1 to 1.
    map : float64 (3, 3)
        From places in the first picture to places in the other, both from 0 to 1 per side.
    mirrored : bool
        Whether the other picture is mirrored first.
    """

    agreement: float
    map: Map
    mirrored: bool


def thumbnail(pixels: npt.NDArray[np.uint8]) -> Thumbnail:
    """Shrink pixels, uint8 (224, 224, 3), to uint8 (64, 64, 3)."""
    import cv2

    small: Any = cv2.resize(pixels, (THUMBNAIL_SIDE, THUMBNAIL_SIDE), interpolation=cv2.INTER_AREA)
    return cast("Thumbnail", small)


def align(one: Thumbnail, other: Thumbnail) -> Alignment | None:
    """Align the other picture, as it is or mirrored, with the first; keep the better agreement.

    Parameters
    ----------
    one, other : uint8 (64, 64, 3)

    Returns
    -------
    Alignment or None
        None where a picture is so blank that it would agree with any other blank one.
    """
    import cv2

    first, second = one.astype(np.float32), other.astype(np.float32)
    if min(_deviation(first), _deviation(second)) < _MIN_DEVIATION:
        return None
    ways = second, np.ascontiguousarray(second[:, ::-1])
    size = (_ROUGH_SIDE, _ROUGH_SIDE)
    rough, *rough_ways = (
        cv2.resize(picture, size, interpolation=cv2.INTER_AREA) for picture in (first, *ways)
    )
    correlations = [_grey_correlation(rough, way) for way in rough_ways]
    likely = [way for way in (0, 1) if correlations[way] > max(correlations) - _MIRROR_MARGIN]
    best, warp, way = -1.0, _zoomed(1), 0
    for zoom in _START_ZOOMS:
        for number in likely:
            found, mapped = _aligned(rough, rough_ways[number], _zoomed(zoom), steps=20, blur=3)
            if found > best:
                best, warp, way = found, mapped, number
        if best >= _GOOD_AGREEMENT or best < _POOR_AGREEMENT:
            break
    side = _ROUGH_SIDE
    if best >= _MIN_ROUGH_AGREEMENT:
        side = THUMBNAIL_SIDE
        warp = warp * np.array([[1, 1, THUMBNAIL_SIDE / _ROUGH_SIDE]], np.float32)
        best, warp = _aligned(first, ways[way], warp, steps=30, blur=5)
    unit = places(side, side)
    return Alignment(best, unit @ np.vstack([warp, [0, 0, 1]]) @ np.linalg.inv(unit), way == 1)


def _deviation(picture: _Levels) -> float:
    """Return the root mean square deviation of a picture from its mean colour."""
    return float(np.sqrt(picture.var(axis=(0, 1)).mean()))


def _grey_correlation(one: Any, other: Any) -> float:
    """Return the correlation of two blurred grey pictures, without alignment."""
    import cv2

    a, b = (cv2.blur(cv2.cvtColor(p, cv2.COLOR_RGB2GRAY), (5, 5)) for p in (one, other))
    a, b = a - a.mean(), b - b.mean()
    return float(np.vdot(a, b) / max(float(np.linalg.norm(a) * np.linalg.norm(b)), _MIN_NORM))


def _zoomed(zoom: float) -> _Levels:
    """Return the affine map, (2, 3), that zooms a rough picture about its centre."""
    moved = (1 - zoom) * _ROUGH_SIDE / 2
    return np.array([[zoom, 0, moved], [0, zoom, moved]], np.float32)


def _aligned(one: Any, other: Any, start: _Levels, steps: int, blur: int) -> tuple[float, _Levels]:
    """Align the other picture with the first by an affine map; return their agreement and the map.

    The map maximises the enhanced correlation coefficient of the grey pictures near `start`
    (Evangelidis and Psarakis, 2008; `cv2.findTransformECC`). The agreement is over all three
    channels: a car in another colour is another car.
    """
    import cv2

    greys = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in (one, other)]
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, steps, _CONVERGENCE_EPS)
    align: Any = cv2.findTransformECC
    warp = start
    with contextlib.suppress(cv2.error):  # no convergence on a nearly blank picture
        warp = align(*greys, start.copy(), cv2.MOTION_AFFINE, criteria, None, blur)[1]
    flags, size = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, one.shape[:2]
    moved = cv2.warpAffine(other, warp, size, flags=flags)
    there = cv2.warpAffine(np.ones(size, np.float32), warp, size, flags=flags) > _MIN_COVERAGE
    if there.mean() < _MIN_OVERLAP:
        return 0.0, warp
    a, b = one[there], moved[there]
    a, b = a - a.mean(), b - b.mean()
    # A watermark does not make another picture: leave out the few pixels that fit worst.
    misfit = np.abs(a - b * (np.vdot(a, b) / max(float(np.vdot(b, b)), _MIN_NORM))).sum(axis=1)
    most = int((1 - _IGNORED_PIXEL_SHARE) * (len(misfit) - 1))
    fits = misfit <= np.partition(misfit, most)[most]
    a, b = a[fits] - a[fits].mean(), b[fits] - b[fits].mean()
    found = float(np.vdot(a, b) / max(float(np.linalg.norm(a) * np.linalg.norm(b)), _MIN_NORM))
    return found, warp
