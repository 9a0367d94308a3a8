"""Convert samples of more than eight bits, integer or floating point, to 0..255.

Scanners, microscopes and medical devices write 10, 12 or 14 bits into 16 without saying so. The
depth is then the least of 8, 10, 12, 14 and 16 bits that holds the largest value. So a 16-bit image
below a quarter of white is brightened, unless its file declares the depth (PNG's `sBIT`, TIFF's
`MaxSampleValue`, JPEG 2000's precision, a PGM's `maxval` below 65,535), or its values are eight
bits stretched to sixteen. Without this rule, dark scans would be black.

Floating point, 32-bit and signed samples are stretched between percentiles, unless they fit 0..1
and reach a quarter of it, or fit 0..255.

Pixels without data become black. They and hot pixels (`outlying`) do not set the scale.
"""

import io
from typing import Any

import numpy as np
import numpy.typing as npt

from lookalike.images.decoding.no_data import Mask, find_no_data, largest_value, subsample
from lookalike.system.extras import require

Samples = npt.NDArray[Any]

DEPTHS = (8, 10, 12, 14)
"""Bits that 16-bit samples may use without a declaration."""
PERCENTILES = (0.2, 99.8)
"""Percentiles of the finite values that become black and white if nothing else defines them."""
_BLOCK_VALUES = 2_000_000  # converted at a time, to bound the memory of float64


def to_bytes(
    values: Samples,
    declared: int | None = None,
    no_data: float | None = None,
    negative: bool = False,
) -> tuple[npt.NDArray[np.uint8], float]:
    """Convert samples of any number type to uint8.

    Parameters
    ----------
    values
        Samples of any shape.
    declared
        The bits a sample that the file declares.
    no_data
        The value that the file declares to mean no data.
    negative
        Swap black and white.

    Returns
    -------
    levels
        uint8, of the shape of `values`.
    white
        The value that became white.

    """
    no_data_mask = find_no_data(values, no_data)
    has_data = no_data_mask is not None and not no_data_mask.all()
    black, white = find_limits(values, declared, no_data_mask if has_data else None)
    levels = scale(values, black, white)
    if negative:
        np.subtract(255, levels, out=levels)
    if no_data_mask is not None:
        levels[no_data_mask] = 0
    return levels, white


def find_limits(
    values: Samples, declared: int | None = None, no_data: Mask | None = None
) -> tuple[float, float]:
    """Return the values of black and white; `no_data` masks the pixels to ignore."""
    image = values
    if no_data is not None:
        values = values[~no_data]
    if values.dtype.kind == "f":
        return _find_float_limits(values)
    lowest, highest = int(values.min()), int(values.max())
    limits = np.iinfo(values.dtype)
    if lowest < 0:
        uses_full_range = lowest < limits.min // 2
        return (limits.min, limits.max) if uses_full_range else _percentiles(values)
    depths = DEPTHS if highest < 2**16 else (*DEPTHS, 16, 20, 24)
    highest = largest_value(image, depths, no_data)
    if highest < 2**16:
        return 0, min(2 ** _depth(values, highest, declared) - 1, limits.max)
    return 0, limits.max if highest > limits.max // 2 else _percentiles(values)[1]


def scale(values: Samples, black: float, white: float) -> npt.NDArray[np.uint8]:
    """Map black to 0 and white to 255, clip other values, and map NaN to 0."""
    if values.dtype in (np.uint16, np.int16) and values.size > 2**16:
        # A table of all 65,536 values is faster.
        table = scale(np.arange(2**16, dtype=np.uint16).view(values.dtype), black, white)
        return table[values.view(np.uint16)]
    result = np.empty(values.shape, np.uint8)
    rows = max(1, _BLOCK_VALUES * len(values) // max(values.size, 1))
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
        # Values beyond the declared depth fill all sixteen bits.
        return declared if highest < 2**declared else 16
    depth = next((depth for depth in DEPTHS if highest < 2**depth), 16)
    if 8 < depth < 16 and any(not (values % step).any() for step in (257, 256)):
        return 16
    return depth


def _find_float_limits(values: Samples) -> tuple[float, float]:
    low, high = _percentiles(values)
    if low >= -0.05 and 0.25 <= high <= 1:  # below a quarter, the scale is not 0..1
        return 0, 1
    if low >= 0 and high <= 255 and (high > 100 or _are_whole(values)):
        return 0, 255
    return min(low, 0) if low < 0 or high <= 0 else 0, high


def _percentiles(values: Samples) -> tuple[float, float]:
    finite = _finite_sample(values)
    if not len(finite):
        return 0, 1
    low, high = (float(value) for value in np.percentile(finite.astype(np.float64), PERCENTILES))
    return (low, high) if high > low else (low, low + 1)


def _are_whole(values: Samples) -> bool:
    finite = _finite_sample(values)
    return bool((finite == np.rint(finite)).all())


def _finite_sample(values: Samples) -> Samples:
    sample = subsample(values)
    finite: Samples = sample[np.isfinite(sample)]
    return finite


def declared_bits(data: bytes, name: str) -> int | None:
    """Return the bits a sample that a PNG or JPEG 2000 declares; None if it declares none."""
    if name == "PNG":
        return _significant_bits(data)
    if name == "JPEG2000":
        start = data.find(b"\xff\x4f\xff\x51")
        depth = data[start + 42 : start + 43]
        # The decoder stretches fewer bits to 16.
        return 16 if start >= 0 and depth and (depth[0] & 0x7F) + 1 < 16 else None
    return None


def _significant_bits(png: bytes) -> int | None:
    """Read the chunk `sBIT` (https://www.w3.org/TR/png-3/#11sBIT)."""
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
    """Read all bits of a PNG or TIFF by OpenCV.

    Returns
    -------
    (height, width) or (height, width, channels), red first; None if OpenCV cannot read it.


    Raises
    ------
    MissingExtra
        If OpenCV is not installed.

    """
    require("a picture of more than 8 bits a sample", "cv2")
    import os

    import cv2

    if "OPENCV_LOG_LEVEL" not in os.environ:
        cv2.utils.logging.setLogLevel(0)  # else OpenCV prints errors
    values: Samples | None = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None:
        return None
    if values.ndim == 3 and values.shape[2] in (3, 4):
        values = values[..., [2, 1, 0, 3][: values.shape[2]]]
    return values
