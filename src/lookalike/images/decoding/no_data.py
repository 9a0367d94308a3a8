"""Find samples that must not set the brightness scale: no-data values and hot pixels.

Maps of heights, temperatures or satellite channels mark missing measurements by a number that the
file declares, or by one such as -9999, -3.4e38 or 65535, far from all others. Hot pixels of a
sensor are always bright, and single. Real highlights are near other values, large, or beside other
bright pixels. In doubt, a sample counts as real.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]

_LOW_NO_DATA = (-999, -9999, -99999, -999999, -(2**15), 1 - 2**15, -(2**31))
_HIGH_NO_DATA = (9999, 99999, 999999, 2**15 - 1, 2**16 - 1, 2**31 - 1, 2**32 - 1)
_HUGE = 1e20  # no measurement is larger
_TYPE_MAXIMA = (2**15 - 1, 2**16 - 1, 2**31 - 1, 2**32 - 1)  # may be white as well
_MIN_NO_DATA_SHARE = 0.02  # of the samples; a rarer type maximum is white
_MIN_GAP = 3.0  # to the other values, in multiples of their range
_MIN_KNOWN_GAP = 1.0  # the same for a value of `_LOW_NO_DATA`
_MIN_DISTINCT_VALUES = 32  # masks and drawings have fewer
_RELATIVE_TOLERANCE = 1e-6  # of a declared value, since it is text

_MAX_HOT_SHARE = 1e-3  # of the samples, or one sample
_MIN_EXTRA_BITS = 2  # that hot pixels need
_MAX_ADJACENT_SHARE = 0.05  # of hot pixels that touch each other by chance
_SAMPLE_VALUES = 2_000_000


def subsample(values: Samples) -> Samples:
    """Return about `_SAMPLE_VALUES` values at most, evenly spread, in one dimension."""
    flat = values.reshape(-1)
    return flat[:: max(1, len(flat) // _SAMPLE_VALUES)]


def find_no_data(values: Samples, declared: float | None = None) -> Mask | None:
    """Return a mask of the samples that mean no data, of their shape; None if there are none.

    `declared` is the value that the file declares to mean no data. If colours may have that value
    too, only pixels that have it in all channels count: bright red has one white channel.
    """
    if declared is None or not (mask := _equal(values, declared)).any():
        with np.errstate(over="ignore"):
            declared = _isolated_extreme(subsample(values))
        if declared is None:
            return None
        mask = values == declared
    if values.ndim < 3:
        return mask
    whole_pixels = np.broadcast_to(mask.all(axis=-1, keepdims=True), mask.shape)
    if np.array_equal(whole_pixels, mask) or not _may_be_colour(values[~mask], declared):
        return mask
    return whole_pixels


def _may_be_colour(others: Samples, value: float) -> bool:
    """Tell whether a colour channel with these other values may have that value too."""
    if value in _TYPE_MAXIMA:
        return True
    return bool(np.isfinite(value)) and not _is_far(subsample(others), value, _MIN_KNOWN_GAP, 1)


def _equal(values: Samples, declared: float) -> Mask:
    if np.isnan(declared):
        return np.isnan(values) if values.dtype.kind == "f" else np.zeros(values.shape, bool)
    if values.dtype.kind != "f" or not np.isfinite(declared):
        equal: Mask = values == declared
        return equal
    tolerance = abs(declared) * _RELATIVE_TOLERANCE
    return (values >= declared - tolerance) & (values <= declared + tolerance)


def _isolated_extreme(sample: Samples) -> Any:
    """Return the extreme value that is far from all others, and so means no data; None if none."""
    if sample.dtype.kind == "f":
        sample = sample[np.isfinite(sample)].astype(np.float64)
    if not len(sample):
        return None
    lowest, highest = sample.min(), sample.max()
    if lowest < 0:
        gap = _MIN_KNOWN_GAP if lowest in _LOW_NO_DATA else _MIN_GAP
        if _is_far(sample[sample > lowest], lowest, gap):
            return lowest
    if highest in _HIGH_NO_DATA or highest >= _HUGE:
        others = sample[sample < highest]
        min_share = _MIN_NO_DATA_SHARE if highest in _TYPE_MAXIMA else 0
        is_frequent = len(sample) - len(others) >= min_share * len(sample)
        if is_frequent and _is_far(others, highest, _MIN_GAP):
            return highest
    return None


def _is_far(
    others: Samples, value: float, min_gap: float, min_distinct: int = _MIN_DISTINCT_VALUES
) -> bool:
    if others.dtype.kind == "f":
        others = others[np.isfinite(others)].astype(np.float64)
    if not len(others):
        return False
    low, high = float(others.min()), float(others.max())
    gap = max(low - float(value), float(value) - high)
    return gap >= min_gap * (high - low) and len(np.unique(others)) >= min_distinct


def largest_value(values: Samples, depths: tuple[int, ...], no_data: Mask | None = None) -> int:
    """Return the largest sample that is not a hot pixel.

    Hot pixels need at least two bits more than nearly all others, and stand alone. Lights have
    bright neighbours.

    Parameters
    ----------
    values
        Integers from 0 on, (height, width, ...).
    depths
        Bits that the other samples may need, in rising order.
    no_data
        A mask of the samples to ignore.

    """
    known = values if no_data is None else values[~no_data]
    highest = int(known.max())
    sample = subsample(known)
    max_hot = max(int(_MAX_HOT_SHARE * len(sample)), 1)
    if np.count_nonzero(sample >= 1 << max(highest.bit_length() - _MIN_EXTRA_BITS, 0)) > max_hot:
        return highest  # nearly all images end here
    usual = int(np.partition(sample, len(sample) - 1 - max_hot)[len(sample) - 1 - max_hot])
    bits = next((depth for depth in depths if usual < 2**depth), highest.bit_length())
    if highest.bit_length() - bits < _MIN_EXTRA_BITS:
        return highest
    hot = values >= 2**bits
    if no_data is not None:
        hot &= ~no_data
    adjacent = sum(
        int((np.take(hot, range(1, size), axis) & np.take(hot, range(size - 1), axis)).sum())
        for axis, size in enumerate(values.shape[:2])
    )
    count = int(hot.sum())
    if count > max(_MAX_HOT_SHARE * known.size, 1) or adjacent > _MAX_ADJACENT_SHARE * count:
        return highest
    return int(known[known < 2**bits].max())
