"""Whether two pictures show the same: how well one agrees with the other once laid over it.

Embeddings say what looks alike, two cars of one model too. A copy that was cropped, scaled,
mirrored, turned a little or compressed again is the same picture, and pixels know it.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lookalike import images
from lookalike.images.isolated import Decode, decoder
from lookalike.spark import is_second_try

Thumbnail: TypeAlias = npt.NDArray[np.float32]
Look: TypeAlias = Callable[[str], Thumbnail | None]

SIDE = 64  # pixels of a thumbnail
AGREES = 0.95
"""From here on two pictures are taken for the same."""
_STEPS, _CLOSE, _BLUR = 30, 1e-3, 5  # of the alignment
_OVERLAP = 0.5  # of a picture has to lie on the other
_WHOLE = 0.99  # of a pixel
_SAME = 8  # levels that no pixel differs by
_KEPT = 20_000  # thumbnails in memory, 48 KB each

AGREEMENT = pa.field("agreement", pa.float32())


def thumbnail(pixels: npt.NDArray[np.uint8]) -> Thumbnail:
    """Shrink pixels (224, 224, 3) to float32 (64, 64, 3), levels of 0 to 255."""
    import cv2

    return cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)


def agreement(one: Thumbnail, other: Thumbnail) -> float:
    """Return how well two pictures agree, -1 to 1: as they are, or with one of them mirrored."""
    upright = _aligned(one, other)
    return upright if upright >= AGREES else max(upright, _aligned(one, other[:, ::-1]))


def _aligned(one: Thumbnail, other: Thumbnail) -> float:
    """Lay the other upon the one by an affine map; return the correlation of what overlaps.

    The map is the one that maximises the enhanced correlation coefficient of their greys
    (Evangelidis and Psarakis, 2008; https://docs.opencv.org/4.x/dc/d6b/group__video__track.html).
    The correlation is of all three channels at once: a car in another colour is another car.
    """
    import cv2

    other = np.ascontiguousarray(other)
    if np.abs(one - other).max() < _SAME:  # without structure nothing can be aligned
        return 1.0
    greys = [cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in (one, other)]
    unmoved: Any = np.eye(2, 3, dtype=np.float32)
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, _STEPS, _CLOSE)
    alike: Any = cv2.findTransformECC
    try:
        _, warp = alike(*greys, unmoved, cv2.MOTION_AFFINE, criteria, None, _BLUR)
    except cv2.error:  # it does not converge
        return 0.0
    flags, size = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, (SIDE, SIDE)
    moved = cv2.warpAffine(other, warp, size, flags=flags)
    there = cv2.warpAffine(np.ones(size, np.float32), warp, size, flags=flags) > _WHOLE
    if there.mean() < _OVERLAP:
        return 0.0
    a, b = one[there].ravel(), moved[there].ravel()
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-9))


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


def with_agreement(pairs: pa.RecordBatch, look: Look) -> pa.RecordBatch:
    """Add `agreement` to pairs with `a_path, b_path, distance`.

    It is null where one of the two can be read or decoded no longer. What is at no distance agrees.
    """

    def agree(a_path: str, b_path: str, distance: float) -> float | None:
        if not distance:
            return 1.0
        one, other = look(a_path), look(b_path)
        return None if one is None or other is None else agreement(one, other)

    columns = (pairs[name].to_pylist() for name in ("a_path", "b_path", "distance"))
    found = [agree(*pair) for pair in zip(*columns, strict=True)]
    column = pa.array(found, AGREEMENT.type)
    return pa.RecordBatch.from_arrays(
        [*pairs.columns, column], schema=pairs.schema.append(AGREEMENT)
    )


def agreeing(
    source: images.Source, isolated: bool
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """Make the task of Spark's that does so, batch by batch. `isolated` as in `decoder`."""

    def task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        with decoder(isolated or is_second_try(), expendable=True) as decode:
            look = looking_at(decode, source)
            for batch in batches:
                yield with_agreement(batch, look)

    return task
