"""Compare two aligned pictures at full size, everywhere.

Two copies of a form agree by 0.99 at 64 pixels a side, whatever is filled in, and so do two night
skies. Here one picture is laid upon the other at the largest common size. The difference may then
be no more than compression, scaling and slight misalignment leave: much on a busy background,
nearly none on blank paper. Details of a few pixels must be the same in both. The one exception is
a watermark, lettering that agencies print across photos.
"""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Picture: TypeAlias = npt.NDArray[np.uint8]
Levels: TypeAlias = npt.NDArray[np.float32]
Map: TypeAlias = npt.NDArray[np.float64]

_MIN_SIDE = 192  # pixels; smaller pictures are enlarged
_ALIGNMENT_SIDES = 256, 640  # pixels of the longer side; the second where the first does not do
_ALIGNMENT_STEPS = 20, 40
_MAX_SHIFT = 0.03  # of a side, off the identity map, for a copy that was not cropped
_CONVERGENCE_EPS = 1e-4
_MIN_OVERLAP = 0.4  # of the area
_MAX_AREA_RATIO = 25.0  # of the areas that the two pictures show
_BLUR_PIXELS = 1.0  # compression changes single pixels
_DETAIL_PIXELS = 4.0  # the scale of details
_MIN_DETAIL_CORRELATION = 0.5  # in copies
_ALIGNED_CORRELATION = 0.95  # of details; above it a better alignment does not help
_MAX_NOISE_LEVELS = 6.0  # difference of blank places, in pictures of full contrast
_MIN_NOISE_LEVELS = 1.0  # the same, in pictures of little contrast
_MAX_NOISE_TO_CONTRAST = 0.1  # of the range of levels
_MAX_NOISE_TO_ACTIVITY = 0.4  # of the deviation around a pixel
_ACTIVITY_SIDE = 17  # pixels, of the neighbourhood of a pixel
_PLACE_SIDE = 5  # pixels, of a place that differs
_EDGE_PIXELS = 3  # along the border, not compared
_CLIPPED_LEVELS = 5  # from black and white, where brightness may be clipped
_MAX_MARK_SHARE = 0.05  # of the pixels
_MIN_ONE_SIDED_SHARE = 0.9  # of the change by a mark: all lighter or all darker
_MIN_MARK_LENGTH = 0.15  # of the longer side
_MAX_STROKE_SHARE, _MAX_STROKE_PIXELS = 0.025, 8.0  # width, of the longer side; the larger counts
_MIN_CONNECTED_SHARE = 0.75  # of a mark
_MIN_STROKES = 4  # of one size in a mark; a crack or a wire has one, torn to 2 or 3
_MAX_STROKE_GAP = 1 / 16  # of the longer side
_MIN_TONE_BITS = 2.6  # entropy of the levels of a photo; paper, charts and maps have 0.3 to 2
_TONE_LEVELS = 8
_BRIGHTNESS_SAMPLE_PIXELS = 8_000
_EPSILON = 1e-6  # against division by zero


def agree_closely(one: Picture, other: Picture, start: Map) -> bool:
    """Tell whether two aligned pictures agree everywhere, as copies do.

    Parameters
    ----------
    one, other : uint8 (height, width, 3) or (height, width, 4)
        The fourth channel is opacity.
    start : float64 (3, 3)
        The approximate map from places in the first picture to places in the other, both from 0 to
        1 per side.

    Returns
    -------
    bool
        False also where the pictures cannot be aligned.
    """
    import cv2

    if one.shape[2] != other.shape[2]:  # only one has opacity
        return False
    # A map that collapsed to a point would enlarge one picture beyond all memory.
    if not 1 / _MAX_AREA_RATIO <= abs(float(np.linalg.det(start[:2, :2]))) <= _MAX_AREA_RATIO:
        return False
    try:
        return _agree_everywhere(*_match_scale(one, other, start), start)
    except (cv2.error, np.linalg.LinAlgError):
        return False


def _agree_everywhere(first: Picture, second: Picture, start: Map) -> bool:
    """Tell whether two pictures of one scale agree under the best map near `start`."""
    best, best_detail = start, -1.0
    if np.abs(start - np.eye(3)).max() < _MAX_SHIFT:  # quicker, and right unless cropped
        same, best_detail = _agree(first, second, np.eye(3))
        if same:
            return True
        best = np.eye(3)
    for number, (side, steps) in enumerate(zip(_ALIGNMENT_SIDES, _ALIGNMENT_STEPS, strict=True)):
        if number and best_detail >= _ALIGNED_CORRELATION:
            break
        found = _aligned(first, second, best, side, steps)
        if found is not None:
            same, detail = _agree(first, second, found)
            if same:
                return True
            if detail > best_detail:
                best, best_detail = found, detail
    return False


def places(width: int, height: int) -> Map:
    """Return the map from pixel centres of a picture to places from 0 to 1 per side."""
    return np.array([[1 / width, 0, 0.5 / width], [0, 1 / height, 0.5 / height], [0, 0, 1]])


def _match_scale(one: Picture, other: Picture, start: Map) -> tuple[Picture, Picture]:
    """Shrink the finer picture to the scale of the coarser one."""
    zoom = abs(float(np.linalg.det(start[:2, :2])))  # share of the other picture that it covers
    areas = [picture.shape[0] * picture.shape[1] for picture in (one, other)]
    area = min(areas[0], areas[1] * zoom)
    longest = max(one.shape[:2]) * (area / areas[0]) ** 0.5
    area *= max(_MIN_SIDE / longest, 1) ** 2
    shares = (area / areas[0]) ** 0.5, (area / areas[1] / zoom) ** 0.5
    return _resize(one, shares[0]), _resize(other, shares[1])


def _resize(picture: Any, share: float) -> Any:
    import cv2

    height, width = (max(round(side * share), 8) for side in picture.shape[:2])
    how = cv2.INTER_AREA if share < 1 else cv2.INTER_LINEAR
    if (height, width) != picture.shape[:2]:
        picture = cv2.resize(picture, (width, height), interpolation=how)
    return picture


def _luma(picture: Picture) -> Picture:
    """Return the grey levels of a picture, averaged with its opacity where it has one."""
    import cv2

    grey: Any = cv2.cvtColor(np.ascontiguousarray(picture[..., :3]), cv2.COLOR_RGB2GRAY)
    if picture.shape[2] == 4:
        grey = grey // 2 + picture[..., 3] // 2
    levels: Picture = grey
    return levels


def _aligned(one: Picture, other: Picture, start: Map, side: int, steps: int) -> Map | None:
    """Improve the map between two pictures at `side` pixels; None without convergence."""
    import cv2

    share = min(side / max(*one.shape[:2], *other.shape[:2]), 1)
    small = [_resize(_luma(picture), share).astype(np.float32) for picture in (one, other)]
    ours, theirs = (places(*picture.shape[::-1]) for picture in small)
    begin = np.linalg.inv(theirs) @ start @ ours
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, steps, _CONVERGENCE_EPS)
    align: Any = cv2.findTransformECC
    try:
        _, found = align(*small, begin[:2].astype(np.float32), cv2.MOTION_AFFINE, criteria, None, 5)
    except cv2.error:  # it does not converge
        return None
    if not np.isfinite(found).all():
        return None
    better: Map = theirs @ np.vstack([found, [0, 0, 1]]) @ np.linalg.inv(ours)
    return better


def _agree(one: Picture, other: Picture, found: Map) -> tuple[bool, float]:
    """Tell whether two pictures agree everywhere under a map; return the detail correlation."""
    import cv2

    moved, there = _overlay(other, one.shape[:2], found)
    if there.mean() < _MIN_OVERLAP:
        return False, 0.0
    even = tuple(slice(side - side % 2) for side in there.shape)  # so that they are halved quickly
    one, moved, there = one[even], moved[even], there[even]
    ours, theirs = _match_brightness(one, moved, there)
    greys = [_luma(picture).astype(np.float32) for picture in (ours, theirs)]
    first, second = (cv2.GaussianBlur(grey, (0, 0), _BLUR_PIXELS) for grey in greys)
    inside = there.astype(np.float32)
    if (detail := _detail_correlation(first, second, inside)) < _MIN_DETAIL_CORRELATION:
        return False, detail
    ends = [cv2.minMaxLoc(levels, there.view(np.uint8))[:2] for levels in (first, second)]
    contrast = max(high - low for low, high in ends)
    noise = min(max(_MAX_NOISE_TO_CONTRAST * contrast, _MIN_NOISE_LEVELS), _MAX_NOISE_LEVELS)
    misfit = _misfit(first, second, noise, inside)
    differs = _differing_places(misfit, inside)
    colors = _color_planes(ours, theirs)
    smaller = _resize_mask(inside, colors[0][0].shape)
    for plane in colors:
        differing = _differing_places(_misfit(*plane, noise, smaller), smaller)
        if differing.any():
            differs |= _resize_mask(differing.astype(np.uint8), there.shape) > 0
    if not differs.any():
        return True, detail
    marks = (misfit > 1) & there
    return _is_mark(greys[0], greys[1], differs, marks, there), detail


def _overlay(other: Picture, shape: tuple[int, int], found: Map) -> tuple[Picture, Any]:
    """Warp a picture by a map to another shape; return it and a mask of its inside."""
    import cv2

    height, width = shape
    pixels = np.linalg.inv(places(*other.shape[1::-1])) @ found @ places(width, height)
    if other.shape[:2] == shape and np.array_equal(pixels, np.eye(3)):
        moved: Any = other
        covered, margin = np.ones(shape, np.uint8), _EDGE_PIXELS
    else:
        flags: Any = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        moved = cv2.warpAffine(other, pixels[:2], (width, height), flags=flags)
        right, bottom = other.shape[1] - 1, other.shape[0] - 1
        corners = np.array([[0, 0, 1], [right, 0, 1], [right, bottom, 1], [0, bottom, 1]])
        lie = (np.linalg.inv(pixels) @ corners.T)[:2].T.clip(-(2.0**20), 2.0**20)
        # The polygon covers every pixel that it touches.
        covered, margin = np.zeros(shape, np.uint8), _EDGE_PIXELS + 1
        cv2.fillConvexPoly(covered, np.rint(lie * 16).astype(np.int32), 1, shift=4)
    edge = np.ones((2 * margin + 1,) * 2, np.uint8)
    return moved, cv2.erode(covered, edge, borderValue=0) > 0


def _resize_mask(mask: Any, shape: Any) -> Any:
    """Resize a mask."""
    import cv2

    return cv2.resize(mask, shape[::-1], interpolation=cv2.INTER_NEAREST)


def _match_brightness(one: Picture, other: Picture, there: Any) -> tuple[Picture, Picture]:
    """Give the picture of less contrast the brightness, contrast and clipping of the other.

    Pictures with opacity stay as they are.
    """
    import cv2

    if one.shape[2] == 4:
        return one, other
    step = max(int((int(there.sum()) / _BRIGHTNESS_SAMPLE_PIXELS) ** 0.5), 1)
    seen = there[::step, ::step]
    a, b = (_luma(p[::step, ::step])[seen].astype(np.float32) for p in (one, other))
    inside = [(x > _CLIPPED_LEVELS) & (x < 255 - _CLIPPED_LEVELS) for x in (a, b)]
    if (both := inside[0] & inside[1]).mean() > 0.05:
        a, b = a[both], b[both]
    gain, offset = 1.0, 0.0
    for _ in range(3):
        gain = float(b.std() / max(float(a.std()), _EPSILON)) or 1.0
        offset = float(b.mean() - gain * a.mean())
        rest = np.abs(b - gain * a - offset)
        most = int(0.9 * (len(rest) - 1))
        fits = rest <= np.partition(rest, most)[most]
        a, b = a[fits], b[fits]
    levels = np.arange(256.0)
    levels = gain * levels + offset if gain >= 1 else (levels - offset) / gain
    table = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    made: Any = cv2.LUT(one if gain >= 1 else other, table)
    return (made, other) if gain >= 1 else (one, made)


def _detail_correlation(first: Any, second: Any, inside: Levels) -> float:
    """Return the correlation of details of a few pixels, -1 to 1."""
    import cv2

    height, width = first.shape
    half = width // 2, height // 2  # a wide blur is quick at half size
    fine = []
    for levels in (first, second):
        small = cv2.resize(levels, half, interpolation=cv2.INTER_AREA)
        small = cv2.GaussianBlur(small, (0, 0), _DETAIL_PIXELS / 2)
        coarse = cv2.resize(small, (width, height))
        cv2.subtract(levels, coarse, dst=coarse)
        fine.append(cv2.multiply(coarse, inside, dst=coarse))
    a, b = fine
    return float(np.vdot(a, b) / max(float(np.linalg.norm(a) * np.linalg.norm(b)), _EPSILON))


def _color_planes(ours: Picture, theirs: Picture) -> list[tuple[Levels, Levels]]:
    """Return the chroma planes and opacity of both, at half size, as most files store them."""
    import cv2

    size = ours.shape[1] // 2, ours.shape[0] // 2
    planes = []
    for picture in (ours, theirs):
        half: Any = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        colors = cv2.cvtColor(np.ascontiguousarray(half[..., :3]), cv2.COLOR_RGB2YCrCb)
        parts = [colors[..., 1], colors[..., 2], *([half[..., 3]] if half.shape[2] == 4 else [])]
        planes.append([cv2.GaussianBlur(p.astype(np.float32), (0, 0), _BLUR_PIXELS) for p in parts])
    return [(one, other) for one, other in zip(*planes, strict=True)]


def _misfit(first: Any, second: Any, noise: float, inside: Levels) -> Levels:
    """Return how far each pixel lies outside the range around it in the other picture.

    In units of the largest difference between copies, which grows with the activity around the
    pixel. 0 far from any place that differs by more than noise.
    """
    import cv2

    near = np.ones((3, 3), np.uint8)
    outside = np.zeros_like(first)
    beyond = np.empty_like(first)
    for a, b in ((first, second), (second, first)):
        cv2.max(outside, cv2.subtract(b, cv2.dilate(a, near, dst=beyond), dst=beyond), dst=outside)
        cv2.max(outside, cv2.subtract(cv2.erode(a, near, dst=beyond), b, dst=beyond), dst=outside)
    misfit: Levels = np.zeros_like(first)
    cv2.multiply(outside, inside, dst=beyond)
    x, y, width, height = cv2.boundingRect(
        (cv2.blur(beyond, (_PLACE_SIDE, _PLACE_SIDE)) > noise).view(np.uint8)
    )
    if not width:
        return misfit
    wide = 2 * _ACTIVITY_SIDE  # whole neighbourhoods at the rim
    part = slice(max(y - wide, 0), y + height + wide), slice(max(x - wide, 0), x + width + wide)
    deviations = []
    for levels in (first[part], second[part]):
        mean = cv2.blur(levels, (_ACTIVITY_SIDE, _ACTIVITY_SIDE))
        squares = cv2.blur(levels * levels, (_ACTIVITY_SIDE, _ACTIVITY_SIDE))
        deviations.append(squares - mean * mean)
    least = np.minimum(*deviations)
    np.sqrt(np.maximum(least, 0, out=least), out=least)
    least *= _MAX_NOISE_TO_ACTIVITY
    least += noise
    np.divide(outside[part], least, out=misfit[part])
    return misfit


def _differing_places(misfit: Levels, inside: Levels) -> Any:
    """Return a mask of the places that differ by more than copies do."""
    import cv2

    mean = cv2.blur(cv2.multiply(misfit, inside), (_PLACE_SIDE, _PLACE_SIDE))
    return (mean > 1) & (inside > 0)


def _is_mark(first: Levels, second: Levels, differs: Any, misfits: Any, there: Any) -> bool:
    """Tell whether the difference is one watermark: thin, long, all lighter or all darker.

    It has several strokes, as letters do; a single line is a thing in the picture. A difference on
    paper, in a drawing or on a screen is content, not a watermark.
    """
    import cv2

    longest = max(first.shape)
    where = cv2.dilate(differs.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    under = misfits & where
    if not 0 < under.sum() <= _MAX_MARK_SHARE * there.sum():
        return False
    change = second - first
    changed = change[under]
    if abs(float(changed.sum())) < _MIN_ONE_SIDED_SHARE * float(np.abs(changed).sum()):
        return False
    beside = there & ~where
    if min(_tone_bits(levels, beside) for levels in (first, second)) < _MIN_TONE_BITS:
        return False
    strokes = where & (np.abs(change) > np.median(np.abs(changed)) / 2)
    inside: Any = cv2.distanceTransform(strokes.astype(np.uint8), cv2.DIST_L2, 3)
    if 2 * inside.max() > max(_MAX_STROKE_SHARE * longest, _MAX_STROKE_PIXELS):
        return False
    sizes = np.bincount(cv2.connectedComponents(strokes.astype(np.uint8))[1].ravel())[1:]
    if sizes.sum() ** 2 < _MIN_STROKES * (sizes.astype(np.float64) ** 2).sum():
        return False
    near = np.ones((int(_MAX_STROKE_GAP * longest) + 1,) * 2, np.uint8)
    _, parts = cv2.connectedComponents(cv2.dilate(under.astype(np.uint8), near))
    counts = np.bincount(parts[under])
    rows, columns = np.nonzero(under & (parts == counts.argmax()))
    long = max(np.ptp(rows), np.ptp(columns)) >= _MIN_MARK_LENGTH * longest
    return bool(long and counts.max() >= _MIN_CONNECTED_SHARE * counts.sum())


def _tone_bits(levels: Levels, where: Any) -> float:
    """Return the entropy in bits of the levels inside a mask, in 32 steps."""
    import cv2

    counts = cv2.calcHist([levels], [0], where.view(np.uint8), [256 // _TONE_LEVELS], [0, 256])
    shares = counts[counts > 0] / max(float(counts.sum()), 1)
    return float(-(shares * np.log2(shares)).sum())
