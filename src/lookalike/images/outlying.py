"""Samples that say nothing of how bright a picture is: no-data values, and hot pixels of a sensor.

Maps of heights, temperatures or a satellite's channels hold a number where nothing was measured:
the one that the file names, or one such as -9999, -3.4e38 or 65535, far from all others. A sensor
has pixels that are bright whatever they see, each by itself. What is truly bright or dark lies near
other values, is large or has bright neighbours; whatever is in doubt counts as such.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]

_USUAL_BELOW = (-999, -9999, -99999, -999999, -(2**15), 1 - 2**15, -(2**31))
_USUAL_ABOVE = (9999, 99999, 999999, 2**15 - 1, 2**16 - 1, 2**31 - 1, 2**32 - 1)
_HUGE = 1e20  # from which on nothing is measured
_LARGEST = (2**15 - 1, 2**16 - 1, 2**31 - 1, 2**32 - 1)  # of a number type: may be white as well
_LEAST = 0.02  # of the samples, that are no data rather than white
_GAP = 3.0  # times the range of all others, which lies between them and such a value
_USUAL_GAP = 1.0  # where that is a usual one, below zero
_VALUES = 32  # different ones that a picture has; masks and drawings have fewer
_NEAR = 1e-6  # of a value, by which the text in a file may be off

_HOT = 1e-3  # of the samples may be hot, or a single one
_BITS = 2  # that they need more than all others
_BESIDE = 0.05  # of hot samples may lie side by side by chance
_SEEN = 2_000_000  # values that are counted, evenly spread, where there are more


def evenly(values: Samples) -> Samples:
    """Return some two million of the values at most, evenly spread, as one row."""
    flat = values.reshape(-1)
    return flat[:: max(1, len(flat) // _SEEN)]


def absent(values: Samples, named: float | None = None) -> Mask | None:
    """Return where samples say that there is no data, a mask of their shape; None where none does.

    `named` is the number that the file says means that. Where a colour may hold that number as
    well, it means so only in all channels of a pixel: bright red may be white in one of them.
    """
    if named is None or not (found := _equal(values, named)).any():
        with np.errstate(over="ignore"):
            named = _lone(evenly(values))
        if named is None:
            return None
        found = values == named
    if values.ndim < 3:
        return found
    pixels = np.broadcast_to(found.all(axis=-1, keepdims=True), found.shape)
    if np.array_equal(pixels, found) or not _is_of_a_colour(values[~found], named):
        return found
    return pixels


def _is_of_a_colour(others: Samples, value: float) -> bool:
    """Tell whether a channel of a picture that holds all others may hold that value too."""
    if value in _LARGEST:
        return True
    return bool(np.isfinite(value)) and not _is_far(evenly(others), value, _USUAL_GAP, 1)


def _equal(values: Samples, named: float) -> Mask:
    if np.isnan(named):
        return np.isnan(values) if values.dtype.kind == "f" else np.zeros(values.shape, bool)
    if values.dtype.kind != "f" or not np.isfinite(named):
        equal: Mask = values == named
        return equal
    near = abs(named) * _NEAR
    return (values >= named - near) & (values <= named + near)


def _lone(seen: Samples) -> Any:
    """Return the value that lies so far from all others that it means no data; None if none."""
    if seen.dtype.kind == "f":
        seen = seen[np.isfinite(seen)].astype(np.float64)
    if not len(seen):
        return None
    lowest, highest = seen.min(), seen.max()
    if lowest < 0:
        gap = _USUAL_GAP if lowest in _USUAL_BELOW else _GAP
        if _is_far(seen[seen > lowest], lowest, gap):
            return lowest
    if highest in _USUAL_ABOVE or highest >= _HUGE:
        others = seen[seen < highest]
        least = _LEAST if highest in _LARGEST else 0
        if len(seen) - len(others) >= least * len(seen) and _is_far(others, highest, _GAP):
            return highest
    return None


def _is_far(others: Samples, value: float, gap: float, different: int = _VALUES) -> bool:
    if others.dtype.kind == "f":
        others = others[np.isfinite(others)].astype(np.float64)
    if not len(others):
        return False
    low, high = float(others.min()), float(others.max())
    between = max(low - float(value), float(value) - high)
    return between >= gap * (high - low) and len(np.unique(others)) >= different


def largest(values: Samples, depths: tuple[int, ...], nothing: Mask | None = None) -> int:
    """Return the largest of whole numbers from 0 on, shape (height, width, ..), but for hot pixels.

    Those need at least two bits more than nearly all others, of which `depths` are what they may
    be said to need, and stand alone: a light has bright neighbours. `nothing` says where there is
    no data.
    """
    known = values if nothing is None else values[~nothing]
    highest = int(known.max())
    seen = evenly(known)
    most = max(int(_HOT * len(seen)), 1)
    if np.count_nonzero(seen >= 1 << max(highest.bit_length() - _BITS, 0)) > most:
        return highest  # as of nearly all pictures
    usual = int(np.partition(seen, len(seen) - 1 - most)[len(seen) - 1 - most])
    needed = next((depth for depth in depths if usual < 2**depth), highest.bit_length())
    if highest.bit_length() - needed < _BITS:
        return highest
    hot = values >= 2**needed
    if nothing is not None:
        hot &= ~nothing
    beside = sum(
        int((np.take(hot, range(1, size), axis) & np.take(hot, range(size - 1), axis)).sum())
        for axis, size in enumerate(values.shape[:2])
    )
    count = int(hot.sum())
    if count > max(_HOT * known.size, 1) or beside > _BESIDE * count:
        return highest
    return int(known[known < 2**needed].max())
