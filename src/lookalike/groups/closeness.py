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
_COUNTED = 8_000  # pixels, evenly spread, by which brightness is compared
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
    except (cv2.error, np.linalg.LinAlgError):
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
    if not np.isfinite(found).all():
        return None
    better: Map = theirs @ np.vstack([found, [0, 0, 1]]) @ np.linalg.inv(ours)
    return better


def _agree(one: Picture, other: Picture, found: Map) -> tuple[bool, float]:
    """Say whether pictures of one scale agree everywhere, once the other is laid upon the one.

    With it comes how well their details do.
    """
    import cv2

    moved, there = _laid(other, one.shape[:2], found)
    if there.mean() < _OVERLAP:
        return False, 0.0
    even = tuple(slice(side - side % 2) for side in there.shape)  # so that they are halved quickly
    one, moved, there = one[even], moved[even], there[even]
    ours, theirs = _of_one_brightness(one, moved, there)
    greys = [_luma(picture).astype(np.float32) for picture in (ours, theirs)]
    first, second = (cv2.GaussianBlur(grey, (0, 0), _BLUR) for grey in greys)
    inside = there.astype(np.float32)
    if (detail := _detail(first, second, inside)) < _DETAIL:
        return False, detail
    ends = [cv2.minMaxLoc(levels, there.view(np.uint8))[:2] for levels in (first, second)]
    contrast = max(high - low for low, high in ends)
    noise = min(max(_OF_CONTRAST * contrast, _LEAST_NOISE), _NOISE)
    misfit = _misfit(first, second, noise, inside)
    differs = _differing(misfit, inside)
    colors = _colors(ours, theirs)
    smaller = _mask(inside, colors[0][0].shape)
    for plane in colors:
        differing = _differing(_misfit(*plane, noise, smaller), smaller)
        if differing.any():
            differs |= _mask(differing.astype(np.uint8), there.shape) > 0
    if not differs.any():
        return True, detail
    marks = (misfit > 1) & there
    return _is_mark(greys[0], greys[1], differs, marks, there), detail


def _laid(other: Picture, shape: tuple[int, int], found: Map) -> tuple[Picture, Any]:
    """Lay a picture upon one of another shape; return it, and where it is, but for its edges."""
    import cv2

    height, width = shape
    pixels = np.linalg.inv(places(*other.shape[1::-1])) @ found @ places(width, height)
    if other.shape[:2] == shape and np.array_equal(pixels, np.eye(3)):
        moved: Any = other
        covered, margin = np.ones(shape, np.uint8), _EDGE
    else:
        flags: Any = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        moved = cv2.warpAffine(other, pixels[:2], (width, height), flags=flags)
        right, bottom = other.shape[1] - 1, other.shape[0] - 1
        corners = np.array([[0, 0, 1], [right, 0, 1], [right, bottom, 1], [0, bottom, 1]])
        lie = (np.linalg.inv(pixels) @ corners.T)[:2].T.clip(-(2.0**20), 2.0**20)
        covered, margin = np.zeros(shape, np.uint8), _EDGE + 1  # drawn with all pixels it touches
        cv2.fillConvexPoly(covered, np.rint(lie * 16).astype(np.int32), 1, shift=4)
    edge = np.ones((2 * margin + 1,) * 2, np.uint8)
    return moved, cv2.erode(covered, edge, borderValue=0) > 0


def _mask(mask: Any, shape: Any) -> Any:
    """Return a mask of another shape."""
    import cv2

    return cv2.resize(mask, shape[::-1], interpolation=cv2.INTER_NEAREST)


def _of_one_brightness(one: Picture, other: Picture, there: Any) -> tuple[Picture, Picture]:
    """Give the one of less contrast the brightness and contrast of the other, cut off as it is.

    Transparent ones are left as they are.
    """
    import cv2

    if one.shape[2] == 4:
        return one, other
    step = max(int((int(there.sum()) / _COUNTED) ** 0.5), 1)  # of rows, and of columns
    seen = there[::step, ::step]
    a, b = (_luma(p[::step, ::step])[seen].astype(np.float32) for p in (one, other))
    inside = [(x > _CLIPPED) & (x < 255 - _CLIPPED) for x in (a, b)]
    if (both := inside[0] & inside[1]).mean() > 0.05:
        a, b = a[both], b[both]
    gain, offset = 1.0, 0.0
    for _ in range(3):
        gain = float(b.std() / max(float(a.std()), _LITTLE)) or 1.0
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


def _detail(first: Any, second: Any, inside: Levels) -> float:
    """Return how what is to be seen at the scale of some pixels correlates, -1 to 1."""
    import cv2

    height, width = first.shape
    half = width // 2, height // 2  # where a blur so wide is quick
    fine = []
    for levels in (first, second):
        small = cv2.resize(levels, half, interpolation=cv2.INTER_AREA)
        small = cv2.GaussianBlur(small, (0, 0), _FINE / 2)
        coarse = cv2.resize(small, (width, height))
        cv2.subtract(levels, coarse, dst=coarse)
        fine.append(cv2.multiply(coarse, inside, dst=coarse))
    a, b = fine
    return float(np.vdot(a, b) / max(float(np.linalg.norm(a) * np.linalg.norm(b)), _LITTLE))


def _colors(ours: Picture, theirs: Picture) -> list[tuple[Levels, Levels]]:
    """Return colour differences, at half the size as most files have them, and opacity, of both."""
    import cv2

    size = ours.shape[1] // 2, ours.shape[0] // 2
    planes = []
    for picture in (ours, theirs):
        half: Any = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        colors = cv2.cvtColor(np.ascontiguousarray(half[..., :3]), cv2.COLOR_RGB2YCrCb)
        parts = [colors[..., 1], colors[..., 2], *([half[..., 3]] if half.shape[2] == 4 else [])]
        planes.append([cv2.GaussianBlur(p.astype(np.float32), (0, 0), _BLUR) for p in parts])
    return [(one, other) for one, other in zip(*planes, strict=True)]


def _misfit(first: Any, second: Any, noise: float, inside: Levels) -> Levels:
    """Return by how much each pixel is outside of what lies around it in the other picture.

    1 is as much as copies differ by, there where so much is to be seen. Where even blank places of
    copies differ by more than that, and around it, that is looked at; elsewhere it is 0.
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
        (cv2.blur(beyond, (_PLACE, _PLACE)) > noise).view(np.uint8)
    )
    if not width:
        return misfit
    wide = 2 * _AROUND  # so that deviations at the rim are of all that is around it
    part = slice(max(y - wide, 0), y + height + wide), slice(max(x - wide, 0), x + width + wide)
    deviations = []
    for levels in (first[part], second[part]):
        mean = cv2.blur(levels, (_AROUND, _AROUND))
        squares = cv2.blur(levels * levels, (_AROUND, _AROUND))
        deviations.append(squares - mean * mean)
    least = np.minimum(*deviations)
    np.sqrt(np.maximum(least, 0, out=least), out=least)
    least *= _OF_ACTIVITY
    least += noise
    np.divide(outside[part], least, out=misfit[part])
    return misfit


def _differing(misfit: Levels, inside: Levels) -> Any:
    """Return where places, of some pixels a side, differ by more than copies do."""
    import cv2

    mean = cv2.blur(cv2.multiply(misfit, inside), (_PLACE, _PLACE))
    return (mean > 1) & (inside > 0)


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
    changed = change[under]
    if abs(float(changed.sum())) < _ONE_SIDED * float(np.abs(changed).sum()):
        return False
    beside = there & ~where
    if min(_tones(levels, beside) for levels in (first, second)) < _TONES:
        return False
    strokes = where & (np.abs(change) > np.median(np.abs(changed)) / 2)
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


def _tones(levels: Levels, where: Any) -> float:
    """Return how many bits the levels of a picture take there, of 32 steps."""
    import cv2

    counts = cv2.calcHist([levels], [0], where.view(np.uint8), [256 // _TONE], [0, 256])
    shares = counts[counts > 0] / max(float(counts.sum()), 1)
    return float(-(shares * np.log2(shares)).sum())
