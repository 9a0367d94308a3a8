"""A closer look at two pictures that agree when they are small: whether they do in every place.

Two copies of a form agree by 0.99 at 64 pixels a side, whatever is filled in, and so do two night
skies. Here the one is laid upon the other as large as both allow. What differs must then be no more
than what compression, scaling and a little misalignment leave: much where there is much to see,
nearly nothing on blank paper. And what there is to see at the scale of a few pixels must be the
same in both. The one exception is a mark, such as agencies print across their photos: lettering.
"""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Picture: TypeAlias = npt.NDArray[np.uint8]
Levels: TypeAlias = npt.NDArray[np.float32]
Map: TypeAlias = npt.NDArray[np.float64]

_LEAST_SIDE = 192  # pixels, to which smaller pictures are enlarged
_ALIGNED_AT = 256, 640  # pixels of the longer side; the second where the first was not enough
_STEPS = 20, 40  # of the alignment
_UNMOVED = 0.03  # of a side, by which the map of a copy that was not cropped is off at most
_CLOSE = 1e-4  # of the alignment, when it ends
_OVERLAP = 0.4  # of a picture has to lie on the other
_ZOOM = 25.0  # times the area that one picture shows of the other's, at most, either way
_BLUR = 1.0  # pixels, of what is compared: compression changes single ones
_FINE = 4.0  # pixels, the scale of details
_DETAIL = 0.5  # correlation of details in two copies
_ALIGNED = 0.95  # of details, from which on alignment is not what is wrong
_NOISE = 6.0  # levels that blank places differ by at most, in pictures of full contrast
_LEAST_NOISE = 1.0  # levels, in those of little
_OF_CONTRAST = 0.1  # of the range of levels, which noise is at most
_OF_ACTIVITY = 0.4  # of the deviation around a pixel, which compression changes at most
_AROUND = 17  # pixels a side, of a neighbourhood whose activity counts
_PLACE = 5  # pixels a side, of a place that differs
_EDGE = 3  # pixels along the border that are not compared
_CLIPPED = 5  # levels from black and white, where brightness may have cut off the rest
_MARKED = 0.05  # of the pixels may lie under a mark
_ONE_SIDED = 0.9  # of the change that a mark makes is to lighter levels, or to darker ones
_LONG = 0.15  # of the longer side, which a mark takes up at least
_THIN = 0.025, 8.0  # of the longer side, and pixels: the larger is the widest stroke of a mark
_MOSTLY = 0.75  # of a mark, which hang together
_STROKES = 4  # of one size, that a mark has at least; a crack or a wire has one, torn to 2 or 3
_TOGETHER = 1 / 16  # of the longer side, between two parts of a mark
_TONES = 2.6  # bits, of the levels of a photo; those of paper, charts and maps take 0.3 to 2
_TONE = 8  # levels
_LITTLE = 1e-6  # instead of a division by zero


def agree_closely(one: Picture, other: Picture, start: Map) -> bool:
    """Say whether two pictures agree in every place, as copies of one do.

    They are uint8 (height, width, 3), or (height, width, 4) with their opacity. `start` takes
    places in the one to those in the other, both 0 to 1 a side, (3, 3): about as they fit. What
    cannot be laid upon each other does not agree.
    """
    import cv2

    if one.shape[2] != other.shape[2]:  # one of them alone can be seen through
        return False
    # An alignment that collapsed to a point would have one of them enlarged beyond all memory.
    if not 1 / _ZOOM <= abs(float(np.linalg.det(start[:2, :2]))) <= _ZOOM:
        return False
    try:
        return _agree_in_every_place(*_of_one_scale(one, other, start), start)
    except cv2.error:
        return False


def _agree_in_every_place(first: Picture, second: Picture, start: Map) -> bool:
    """Say whether two pictures of one scale agree, as well as they can be aligned."""
    best, best_detail = start, -1.0
    if np.abs(start - np.eye(3)).max() < _UNMOVED:  # quicker, and fits copies that were not cropped
        same, best_detail = _agree(first, second, np.eye(3))
        if same:
            return True
        best = np.eye(3)
    for number, (side, steps) in enumerate(zip(_ALIGNED_AT, _STEPS, strict=True)):
        if number and best_detail >= _ALIGNED:
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
    """Return what takes pixels of a picture, counted from the middle of the first, to 0..1."""
    return np.array([[1 / width, 0, 0.5 / width], [0, 1 / height, 0.5 / height], [0, 0, 1]])


def _of_one_scale(one: Picture, other: Picture, start: Map) -> tuple[Picture, Picture]:
    """Resize two pictures so that a pixel of either shows as much; the coarser one stays."""
    zoom = abs(float(np.linalg.det(start[:2, :2])))  # how much of the other it covers
    areas = [picture.shape[0] * picture.shape[1] for picture in (one, other)]
    area = min(areas[0], areas[1] * zoom)
    longest = max(one.shape[:2]) * (area / areas[0]) ** 0.5
    area *= max(_LEAST_SIDE / longest, 1) ** 2
    shares = (area / areas[0]) ** 0.5, (area / areas[1] / zoom) ** 0.5
    return _resized(one, shares[0]), _resized(other, shares[1])


def _resized(picture: Any, share: float) -> Any:
    import cv2

    height, width = (max(round(side * share), 8) for side in picture.shape[:2])
    how = cv2.INTER_AREA if share < 1 else cv2.INTER_LINEAR
    if (height, width) != picture.shape[:2]:
        picture = cv2.resize(picture, (width, height), interpolation=how)
    return picture


def _luma(picture: Picture) -> Picture:
    """Return the levels of a picture in grey; of one that can be seen through with its opacity."""
    import cv2

    grey: Any = cv2.cvtColor(np.ascontiguousarray(picture[..., :3]), cv2.COLOR_RGB2GRAY)
    if picture.shape[2] == 4:
        grey = grey // 2 + picture[..., 3] // 2
    levels: Picture = grey
    return levels


def _aligned(one: Picture, other: Picture, start: Map, side: int, steps: int) -> Map | None:
    """Improve the map from one picture to the other, at so many pixels; None if none fits."""
    import cv2

    share = min(side / max(*one.shape[:2], *other.shape[:2]), 1)
    small = [_resized(_luma(picture), share).astype(np.float32) for picture in (one, other)]
    ours, theirs = (places(*picture.shape[::-1]) for picture in small)
    begin = np.linalg.inv(theirs) @ start @ ours
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, steps, _CLOSE)
    align: Any = cv2.findTransformECC
    try:
        _, found = align(*small, begin[:2].astype(np.float32), cv2.MOTION_AFFINE, criteria, None, 5)
    except cv2.error:  # it does not converge
        return None
    better: Map = theirs @ np.vstack([found, [0, 0, 1]]) @ np.linalg.inv(ours)
    return better


def _agree(one: Picture, other: Picture, found: Map) -> tuple[bool, float]:
    """Say whether pictures of one scale agree everywhere, once the other is laid upon the one.

    With it comes how well their details do.
    """
    import cv2

    height, width = one.shape[:2]
    pixels = np.linalg.inv(places(*other.shape[1::-1])) @ found @ places(width, height)
    flags: Any = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moved: Any = cv2.warpAffine(other, pixels[:2], (width, height), flags=flags)
    whole = np.full(other.shape[:2], 255, np.uint8)
    covered: Any = cv2.warpAffine(whole, pixels[:2], (width, height), flags=flags)
    edge = np.ones((2 * _EDGE + 1,) * 2, np.uint8)
    there = cv2.erode((covered == 255).astype(np.uint8), edge, borderValue=0) > 0
    if there.mean() < _OVERLAP:
        return False, 0.0
    ours, theirs = _of_one_brightness(one, moved, there)
    greys = [_luma(picture).astype(np.float32) for picture in (ours, theirs)]
    first, second = (cv2.GaussianBlur(grey, (0, 0), _BLUR) for grey in greys)
    if (detail := _detail(first, second, there)) < _DETAIL:
        return False, detail
    contrast = max(float(np.ptp(levels[there])) for levels in (first, second))
    noise = min(max(_OF_CONTRAST * contrast, _LEAST_NOISE), _NOISE)
    misfit = _misfit(first, second, noise)
    differs = _differing(misfit, there)
    for plane in _colors(ours, theirs):
        inside = _mask(there, plane[0].shape) > 0
        differs |= _mask(_differing(_misfit(*plane, noise), inside), there.shape) > 0
    if not differs.any():
        return True, detail
    marks = (misfit > 1) & there
    return _is_mark(greys[0], greys[1], differs, marks, there), detail


def _mask(mask: Any, shape: Any) -> Any:
    import cv2

    return cv2.resize(mask.astype(np.uint8), shape[::-1], interpolation=cv2.INTER_NEAREST)


def _of_one_brightness(one: Picture, other: Picture, there: Any) -> tuple[Picture, Picture]:
    """Give the one of less contrast the brightness and contrast of the other, cut off as it is.

    Transparent ones are left as they are.
    """
    import cv2

    if one.shape[2] == 4:
        return one, other
    step = max(int(there.sum()) // 20_000, 1)
    a, b = (_luma(picture)[there][::step].astype(np.float32) for picture in (one, other))
    inside = [(x > _CLIPPED) & (x < 255 - _CLIPPED) for x in (a, b)]
    if (both := inside[0] & inside[1]).mean() > 0.05:
        a, b = a[both], b[both]
    gain, offset = 1.0, 0.0
    for _ in range(3):
        gain = float(b.std() / max(float(a.std()), _LITTLE)) or 1.0
        offset = float(b.mean() - gain * a.mean())
        rest = np.abs(b - gain * a - offset)
        fits = rest <= np.quantile(rest, 0.9)
        a, b = a[fits], b[fits]
    levels = np.arange(256.0)
    levels = gain * levels + offset if gain >= 1 else (levels - offset) / gain
    table = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    made: Any = cv2.LUT(one if gain >= 1 else other, table)
    return (made, other) if gain >= 1 else (one, made)


def _detail(first: Any, second: Any, there: Any) -> float:
    """Return how what is to be seen at the scale of some pixels correlates, -1 to 1."""
    import cv2

    a, b = (levels - cv2.GaussianBlur(levels, (0, 0), _FINE) for levels in (first, second))
    a, b = a[there], b[there]
    return float(np.vdot(a, b) / max(float(np.linalg.norm(a) * np.linalg.norm(b)), _LITTLE))


def _colors(ours: Picture, theirs: Picture) -> list[tuple[Levels, Levels]]:
    """Return colour differences, at half the size as most files have them, and opacity, of both."""
    import cv2

    size = max(ours.shape[1] // 2, 1), max(ours.shape[0] // 2, 1)
    planes = []
    for picture in (ours, theirs):
        half: Any = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        colors = cv2.cvtColor(np.ascontiguousarray(half[..., :3]), cv2.COLOR_RGB2YCrCb)
        parts = [colors[..., 1], colors[..., 2], *([half[..., 3]] if half.shape[2] == 4 else [])]
        planes.append([cv2.GaussianBlur(p.astype(np.float32), (0, 0), _BLUR) for p in parts])
    return [(one, other) for one, other in zip(*planes, strict=True)]


def _misfit(first: Any, second: Any, noise: float) -> Any:
    """Return by how much each pixel is outside of what lies around it in the other picture.

    1 is as much as copies differ by, there where so much is to be seen.
    """
    import cv2

    near = np.ones((3, 3), np.uint8)
    outside = np.zeros_like(first)
    for a, b in ((first, second), (second, first)):
        np.maximum(outside, b - cv2.dilate(a, near), out=outside)
        np.maximum(outside, cv2.erode(a, near) - b, out=outside)
    around = (_AROUND, _AROUND)
    deviations = []
    for levels in (first, second):
        mean = cv2.blur(levels, around)
        squares = cv2.blur(levels * levels, around)
        deviations.append(squares - mean * mean)
    least = np.minimum(*deviations)
    np.sqrt(np.maximum(least, 0, out=least), out=least)
    outside /= noise + _OF_ACTIVITY * least
    return outside


def _differing(misfit: Levels, there: Any) -> Any:
    """Return where places, of some pixels a side, differ by more than copies do."""
    import cv2

    mean = cv2.blur(np.where(there, misfit, 0), (_PLACE, _PLACE))
    return (mean > 1) & there


def _is_mark(first: Levels, second: Levels, differs: Any, misfits: Any, there: Any) -> bool:
    """Say whether what differs is one mark across a photo: thin, long, all lighter or all darker.

    It is of several strokes, as letters are: one line alone is a thing that is to be seen.
    What differs on paper, in a drawing or on a screen is what it is about, and no mark.
    """
    import cv2

    longest = max(first.shape)
    where = cv2.dilate(differs.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    under = misfits & where
    if not 0 < under.sum() <= _MARKED * there.sum():
        return False
    change = second - first
    strength = np.abs(change)
    if abs(float(change[under].sum())) < _ONE_SIDED * float(strength[under].sum()):
        return False
    if min(_tones(levels[there & ~where]) for levels in (first, second)) < _TONES:
        return False
    strokes = where & (strength > np.median(strength[under]) / 2)
    inside: Any = cv2.distanceTransform(strokes.astype(np.uint8), cv2.DIST_L2, 3)
    if 2 * inside.max() > max(_THIN[0] * longest, _THIN[1]):
        return False
    sizes = np.bincount(cv2.connectedComponents(strokes.astype(np.uint8))[1].ravel())[1:]
    if sizes.sum() ** 2 < _STROKES * (sizes.astype(np.float64) ** 2).sum():
        return False
    near = np.ones((int(_TOGETHER * longest) + 1,) * 2, np.uint8)
    _, parts = cv2.connectedComponents(cv2.dilate(under.astype(np.uint8), near))
    counts = np.bincount(parts[under])
    rows, columns = np.nonzero(under & (parts == counts.argmax()))
    long = max(np.ptp(rows), np.ptp(columns)) >= _LONG * longest
    return bool(long and counts.max() >= _MOSTLY * counts.sum())


def _tones(levels: Levels) -> float:
    """Return how many bits the levels of a picture take, of 32 steps."""
    steps = (levels.clip(0, 255) / _TONE).astype(np.int64)
    counts = np.bincount(steps, minlength=1)
    shares = counts[counts > 0] / max(len(levels), 1)
    return float(-(shares * np.log2(shares)).sum())
