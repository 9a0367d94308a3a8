"""Samples of more than eight bits, integers and floating point, brought to 0 to 255.

A file of 16 bits a sample may hold 10, 12 or 14 bits, as scanners, microscopes and medical devices
write them, without saying so. The highest bit in use then says it: 8, 10, 12, 14 or 16 bits,
whichever is the least that holds the largest value. A picture of 16 bits that is so dark that it
stays below a quarter of white is therefore brightened, unless its file says the depth (PNG's
`sBIT`, TIFF's `MaxSampleValue`, the precision of JPEG 2000, a `maxval` of PGM below 65,535), or its
values are those of eight bits stretched to sixteen. The other way round, dark scans would be black.

What has no depth to go by (floating point, 32 bits, signed numbers) is stretched between finite
percentiles, unless it lies in 0 to 1, and reaches a quarter of that, or in 0 to 255.

Where there is no data a picture is black; that and hot pixels (`outlying`) do not set the scale.
"""

import io
from typing import Any

import numpy as np
import numpy.typing as npt

from lookalike.extras import require
from lookalike.images.outlying import Mask, absent, evenly, largest

Samples = npt.NDArray[Any]

DEPTHS = (8, 10, 12, 14)
PERCENTILES = (0.2, 99.8)
"""Of the finite values, which become black and white where nothing else says what does."""
_AT_A_TIME = 2_000_000  # values converted, so that floats of a large picture are never all there


def to_bytes(
    values: Samples,
    declared: int | None = None,
    no_data: float | None = None,
    negative: bool = False,
) -> tuple[npt.NDArray[np.uint8], float]:
    """Bring samples of any number type to uint8 of the same shape; return also what became white.

    `declared` are the bits that the file says its samples have, `no_data` is the value that it says
    means nothing. Of a `negative`, that value becomes black.
    """
    nothing = absent(values, no_data)
    some = nothing is not None and not nothing.all()
    black, white = limits(values, declared, nothing if some else None)
    levels = scaled(values, black, white)
    if negative:
        np.subtract(255, levels, out=levels)
    if nothing is not None:
        levels[nothing] = 0
    return levels, white


def limits(
    values: Samples, declared: int | None = None, nothing: Mask | None = None
) -> tuple[float, float]:
    """Return the values that mean black and white; `nothing` says where there is no data."""
    picture = values
    if nothing is not None:
        values = values[~nothing]
    if values.dtype.kind == "f":
        return _limits_of_floats(values)
    lowest, highest = int(values.min()), int(values.max())
    ends = np.iinfo(values.dtype)
    if lowest < 0:
        full = lowest < ends.min // 2
        return (ends.min, ends.max) if full else _percentiles(values)
    depths = DEPTHS if highest < 2**16 else (*DEPTHS, 16, 20, 24)
    highest = largest(picture, depths, nothing)
    if highest < 2**16:
        return 0, min(2 ** _depth(values, highest, declared) - 1, ends.max)
    return 0, ends.max if highest > ends.max // 2 else _percentiles(values)[1]


def scaled(values: Samples, black: float, white: float) -> npt.NDArray[np.uint8]:
    """Map black to 0 and white to 255; what lies beyond them is clipped, NaN becomes black."""
    if values.dtype in (np.uint16, np.int16) and values.size > 2**16:
        # Each of the 65,536 values once, then looked up.
        table = scaled(np.arange(2**16, dtype=np.uint16).view(values.dtype), black, white)
        return table[values.view(np.uint16)]
    result = np.empty(values.shape, np.uint8)
    rows = max(1, _AT_A_TIME * len(values) // max(values.size, 1))
    for top in range(0, len(values), rows):
        part = values[top : top + rows].astype(np.float64)
        np.nan_to_num(part, copy=False, nan=black, posinf=white, neginf=black)
        part -= black
        part *= 255 / (white - black)
        np.rint(part, out=part)
        result[top : top + rows] = part.clip(0, 255, out=part)
    return result


def _depth(values: Samples, highest: int, declared: int | None) -> int:
    if declared is not None:
        # Below what it says, its values begin at the lowest bit; else they fill all sixteen.
        return declared if highest < 2**declared else 16
    depth = next((depth for depth in DEPTHS if highest < 2**depth), 16)
    if 8 < depth < 16 and any(not (values % step).any() for step in (257, 256)):
        return 16
    return depth


def _limits_of_floats(values: Samples) -> tuple[float, float]:
    low, high = _percentiles(values)
    if low >= -0.05 and 0.25 <= high <= 1:  # below a quarter of white it is no scale of 0 to 1
        return 0, 1
    if low >= 0 and high <= 255 and (high > 100 or _are_whole(values)):
        return 0, 255
    return min(low, 0) if low < 0 or high <= 0 else 0, high


def _percentiles(values: Samples) -> tuple[float, float]:
    seen = evenly(values)
    finite = seen[np.isfinite(seen)]
    if not len(finite):
        return 0, 1
    low, high = (float(value) for value in np.percentile(finite.astype(np.float64), PERCENTILES))
    return (low, high) if high > low else (low, low + 1)


def _are_whole(values: Samples) -> bool:
    seen = evenly(values)
    finite = seen[np.isfinite(seen)]
    return bool((finite == np.rint(finite)).all())


def declared_bits(data: bytes, name: str) -> int | None:
    """Return the bits of a sample that a PNG or JPEG 2000 says it has; None if it says nothing."""
    if name == "PNG":
        return _significant_bits(data)
    if name == "JPEG2000":
        start = data.find(b"\xff\x4f\xff\x51")
        depth = data[start + 42 : start + 43]
        # What has fewer bits than 16 is stretched to them as it is decoded.
        return 16 if start >= 0 and depth and (depth[0] & 0x7F) + 1 < 16 else None
    return None


def _significant_bits(png: bytes) -> int | None:
    """Read the chunk `sBIT`. https://www.w3.org/TR/png-3/#11sBIT."""
    file = io.BytesIO(png)
    file.seek(8)
    while len(head := file.read(8)) == 8 and head[4:] not in (b"IDAT", b"IEND"):
        length = int.from_bytes(head[:4], "big")
        if head[4:] == b"sBIT":
            bits = file.read(min(length, 4))
            return max(bits) if bits and 0 < max(bits) <= 16 else None
        file.seek(length + 4, io.SEEK_CUR)
    return None


def read_samples(data: bytes | bytearray) -> Samples | None:
    """Read a PNG or TIFF with all the bits it has, by OpenCV: (height, width) or (.., channels).

    Red comes first. None where OpenCV cannot read it; `MissingExtra` where there is none.
    """
    require("a picture of more than 8 bits a sample", "cv2")
    import os

    import cv2

    if "OPENCV_LOG_LEVEL" not in os.environ:
        cv2.utils.logging.setLogLevel(0)  # it would print what is wrong
    values: Samples | None = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None:
        return None
    if values.ndim == 3 and values.shape[2] in (3, 4):
        values = values[..., [2, 1, 0, 3][: values.shape[2]]]
    return values
