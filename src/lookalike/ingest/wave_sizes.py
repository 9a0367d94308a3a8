"""How many rows to commit at once."""

from lookalike.storage.commits import FULL_SEGMENT_ROWS
from lookalike.system.defaults import WAVE_IMAGES

MAX_WAVES = 100
"""Commits of a run, unless the user wants more: the time of each grows with the data files."""
WAVE_ROWS = 4 * FULL_SEGMENT_ROWS
"""Vectors between two commits, unless the user wants fewer or there are very many."""


def image_wave(wave: int, count: int) -> int:
    """Return the images between two commits of a process that embeds `count` images.

    They go into one data file, a full one at most. Only the default `wave` grows with the count.
    """
    return max(wave, min(count // MAX_WAVES, FULL_SEGMENT_ROWS)) if wave == WAVE_IMAGES else wave


def vector_wave(wave: int, count: int) -> int:
    """Return the vectors between two commits where there are `count`, as `image_wave` does."""
    return max(WAVE_ROWS, count // MAX_WAVES) if wave == WAVE_IMAGES else wave
