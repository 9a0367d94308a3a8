"""Which region holds a row, and which regions a query visits."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from lookalike.search.cell_search import MIN_PARTS, CellSearch
from lookalike.search.cells import Cells
from lookalike.system.arrays import Numbers, Vectors

HELD_ROWS_PER_NEIGHBOR = 4
"""Rows for each neighbour in the cells that a query probes, as far as a sample says."""
_FIRST_CELLS = 16

Regions = npt.NDArray[np.int32]


class Probing(NamedTuple):
    """Which cells a query probes: those that are not much farther than the nearest.

    `gap` is the largest difference of the squared distances of a cell and of the nearest cell.
    Where neighbours are spread a query then probes many cells, elsewhere few: a third fewer visits
    than with as many cells for all. `max_cells` bounds them. Of many cells, those of the `parts`
    nearest parts are looked through.
    """

    gap: float
    max_cells: int
    parts: int = MIN_PARTS


class Visits(NamedTuple):
    """The cells and regions that rows visit.

    `nearest` is the cell nearest to each row, (n,). The others are pairs of a row, by position, and
    a cell that it probes, and the region that holds this: each (p,), sorted by region and row.
    """

    nearest: Numbers
    rows: Numbers
    cells: Numbers
    regions: Numbers


@dataclass(frozen=True)
class Routing:
    """Finds the cells near a row, and the regions that hold them.

    Attributes
    ----------
    cells : Cells
    counts : int64 (cells,)
        Rows of each cell, as a sample says.
    first, parts : int32 (cells,)
        The first region of a cell, and in how many a crowded cell is cut.
    probing : Probing
        Which cells a query probes.
    min_rows : int
        It probes more of them until these hold this many rows.
    """

    cells: Cells
    counts: Numbers
    first: Regions
    parts: Regions
    probing: Probing
    min_rows: int

    def __reduce__(self) -> tuple[type[Self], tuple[Any, ...]]:
        """Pickle without what is made from the cells."""
        each = (self.cells, self.counts, self.first, self.parts, self.probing, self.min_rows)
        return type(self), each

    @cached_property
    def search(self) -> CellSearch:
        """The search for near cells."""
        return CellSearch(self.cells).through(self.probing.parts)

    @property
    def regions(self) -> int:
        """The number of regions."""
        return int((self.first + self.parts).max(initial=0))

    def homes(self, nearest: Numbers, hashes: Numbers) -> Numbers:
        """Return the region of each row, int64 (n,): by its nearest cell (n,) and its hash (n,)."""
        parts = self.parts[nearest]
        part = (hashes.view(np.uint64) % parts.astype(np.uint64)).astype(np.int64)
        return self.first[nearest].astype(np.int64) + part

    def homes_only(self, rotated: Vectors) -> Visits:
        """Return the cell nearest to each row, and no visits."""
        none = np.empty(0, np.int64)
        return Visits(self.search.within(rotated, 0.0, 1)[0], none, none, none)

    def visits(self, rotated: Vectors) -> Visits:
        """Return the cells that each row probes, and their regions."""
        nearest, row, cell = self.search.within(rotated, self.probing.gap, self.probing.max_cells)
        held = np.bincount(row, self.counts[cell], len(rotated))
        short = np.flatnonzero(held < self.min_rows)
        if len(short):
            kept = held[row] >= self.min_rows
            some, more = self._fill(rotated[short])
            row = np.concatenate([row[kept], short[some]])
            cell = np.concatenate([cell[kept], more])
        parts = self.parts[cell].astype(np.int64)  # a cut cell is probed in each of its regions
        step = np.arange(parts.sum()) - np.repeat(np.cumsum(parts) - parts, parts)
        region = np.repeat(self.first[cell], parts) + step
        row, cell = np.repeat(row, parts), np.repeat(cell, parts)
        order = np.lexsort((row, region))
        return Visits(nearest, row[order], cell[order], region[order])

    def _fill(self, rotated: Vectors) -> tuple[Numbers, Numbers]:
        """Return rows, by position, and cells near them that hold `min_rows` rows, (p,) each."""
        rows, cells, left = [], [], np.arange(len(rotated))
        width = min(_FIRST_CELLS, len(self.cells))
        while len(left):
            near = self.search.nearest(rotated[left], width)[1]
            counts = self.counts[near]
            held = np.cumsum(counts, axis=1)
            enough = (held[:, -1] >= self.min_rows) | (width == len(self.cells))
            row, rank = np.nonzero((held - counts < self.min_rows) & enough[:, None])
            rows.append(left[row])
            cells.append(near[row, rank])
            left, width = left[~enough], min(4 * width, len(self.cells))
        return np.concatenate(rows), np.concatenate(cells)
