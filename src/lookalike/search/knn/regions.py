"""Divide cells into regions: balanced groups of near cells, each for the memory of one task."""

from typing import NamedTuple

import numpy as np

from lookalike.search.knn.routing import Regions
from lookalike.system.arrays import Numbers, Vectors

MAX_REGION_ROWS = 500_000
"""Rows of a region of vectors of 512 numbers: 1 GB in memory, half of that on the way."""
MIN_REGION_ROWS = 16_384
"""Rows below which more regions cost more visits than they give balance."""
REGIONS_PER_CORE = 2
_USUAL_WIDTH = 512
_SLACK_REGIONS = 1 / 8  # counts are estimates: they may exceed a whole number of regions a little


class RegionPlan(NamedTuple):
    """The first region of each cell, and in how many regions it is cut: int32 (cells,)."""

    first: Regions
    parts: Regions


def rows_in_memory(rows: int, width: int) -> int:
    """Return how many rows of a width take the memory of `rows` rows of 512 numbers, or fewer."""
    return max(rows * _USUAL_WIDTH // max(width, _USUAL_WIDTH), 1)


def region_rows(rows: int, width: int, cores: int) -> int:
    """Return how many rows a region should have for `rows` rows and tasks on some cores."""
    balanced = -(-rows // (REGIONS_PER_CORE * cores))
    return max(min(rows_in_memory(MAX_REGION_ROWS, width), max(balanced, MIN_REGION_ROWS)), 1)


def plan_regions(centres: Vectors, counts: Numbers, max_rows: int) -> RegionPlan:
    """Divide cells into regions of about equal size, about `max_rows` rows at most.

    Near cells come together: groups of cells are halved along the direction in which their centres
    differ most, as in LANNS (Doshi et al., 2020, https://arxiv.org/abs/2010.09426). A cell with
    more than `max_rows` rows is cut into several regions.

    Parameters
    ----------
    centres : float32 (cells, directions)
    counts : int64 (cells,)
    max_rows : int

    Returns
    -------
    RegionPlan
    """
    first = np.zeros(len(counts), np.int32)
    parts = np.ones(len(counts), np.int32)
    crowded = counts > max_rows
    small = np.flatnonzero(~crowded)
    share = int(counts[small].sum()) / max_rows - _SLACK_REGIONS
    wanted = max(int(np.ceil(share)), 1) if len(small) else 0
    number = 0
    groups = [(small, wanted)] if wanted else []
    while groups:
        cells, wanted = groups.pop()
        if wanted == 1 or len(cells) == 1:
            first[cells] = number
            number += 1
            continue
        left, right = _halve(cells, centres[cells], counts[cells], (wanted // 2) / wanted)
        groups += [(right, wanted - wanted // 2), (left, wanted // 2)]
    for cell in np.flatnonzero(crowded).tolist():
        first[cell], parts[cell] = number, -(-int(counts[cell]) // max_rows)
        number += int(parts[cell])
    return RegionPlan(first, parts)


def _halve(
    cells: Numbers, centres: Vectors, counts: Numbers, share: float
) -> tuple[Numbers, Numbers]:
    """Split cells into two groups; the first holds about a share of the rows."""
    weights = counts + 1.0
    offsets = centres - np.average(centres, axis=0, weights=weights).astype(np.float32)
    scatter = (offsets * weights[:, None].astype(np.float32)).T @ offsets
    direction = np.linalg.eigh(scatter)[1][:, -1]
    order = np.argsort(offsets @ direction, kind="stable")
    held = np.cumsum(weights[order])
    at = int(np.clip(np.searchsorted(held, share * held[-1]), 1, len(cells) - 1))
    return cells[order[:at]], cells[order[at:]]
