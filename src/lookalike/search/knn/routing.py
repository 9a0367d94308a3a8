"""Which region holds a row, and which regions a query visits."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Self

import faiss
import numpy as np
import numpy.typing as npt

from lookalike.search.cells import Cells, fit_centres
from lookalike.system.arrays import Numbers, Vectors

FLAT_CELLS = 2_048
"""Cells up to which all are compared with a row; more are compared in two steps."""
HELD_ROWS_PER_NEIGHBOR = 4
"""Rows for each neighbour in the cells that a query probes, as far as a sample says."""
_NEAR_PARTS = 12  # parts of the cells that are looked through
_FIRST_CELLS = 16
_BLOCK_ROWS = 2_048

Regions = npt.NDArray[np.int32]


class Probing(NamedTuple):
    """Which cells a query probes: those that are not much farther than the nearest.

    `gap` is the largest difference of the squared distances of a cell and of the nearest cell.
    Where neighbours are spread a query then probes many cells, elsewhere few: a third fewer visits
    than with as many cells for all. `max_cells` bounds them.
    """

    gap: float
    max_cells: int


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
    def search(self) -> "CellSearch":
        """The search for near cells."""
        return CellSearch(self.cells)

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


class CellSearch:
    """Finds the cells near rows. Many cells are searched in two steps.

    In the first the nearest parts of the centres are found, in the second the near centres of
    these: it takes the time of hundreds of cells, not of all. Few of the nearest are missed; the
    search effort is measured with these misses.
    """

    def __init__(self, cells: Cells) -> None:
        self.cells = cells
        self._order = np.arange(len(cells))
        self._starts = np.array([0, len(cells)])
        self._parts: Vectors | None = None
        centres = cells.centres
        if len(cells) > FLAT_CELLS:
            self._parts = fit_centres(centres, round(len(cells) ** 0.5))
            part = _nearest_centres(centres, self._parts, 1)[:, 0]
            self._order = np.argsort(part, kind="stable")
            self._starts = np.searchsorted(part[self._order], np.arange(len(self._parts) + 1))
            centres = centres[self._order]
        self._centres = centres
        self._halves = np.einsum("ij,ij->i", centres, centres) / 2
        self._longest = int(np.diff(self._starts).max())

    def nearest(self, rotated: Vectors, count: int) -> tuple[Vectors, Numbers]:
        """Return squared distances to the `count` nearest cells, and these: both (n, count)."""
        count = min(count, len(self.cells))
        rotated = np.ascontiguousarray(rotated)
        if self._parts is None or count * _NEAR_PARTS > len(self.cells):
            return self.cells.nearest_with_distances(rotated, count)
        squared = np.empty((len(rotated), count), np.float32)
        found = np.empty((len(rotated), count), np.int64)
        for start in range(0, len(rotated), _BLOCK_ROWS):
            here = slice(start, start + _BLOCK_ROWS)
            some = rotated[here]
            halves, places = self._compare(some)
            best = np.argpartition(halves, count - 1, axis=1)[:, :count]
            order = np.argsort(np.take_along_axis(halves, best, axis=1), axis=1)
            best = np.take_along_axis(best, order, axis=1)
            found[here] = self._order[
                np.take_along_axis(places, best // self._longest, axis=1) + best % self._longest
            ]
            norms = np.einsum("ij,ij->i", some, some)[:, None]
            squared[here] = 2 * np.take_along_axis(halves, best, axis=1) + norms
        return squared, found

    def within(self, rotated: Vectors, gap: float, most: int) -> tuple[Numbers, Numbers, Numbers]:
        """Return the cells that are not much farther from each row than the nearest.

        Parameters
        ----------
        rotated : float32 (n, directions)
        gap : float
            Largest difference to the squared distance of the nearest cell.
        most : int
            Of more cells the nearest are returned.

        Returns
        -------
        nearest : int64 (n,)
            The nearest cell of each row.
        rows, cells : int64 (p,)
            Pairs of a row, by position, and a near cell.
        """
        nearest = np.empty(len(rotated), np.int64)
        rows, cells = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for start in range(0, len(rotated), _BLOCK_ROWS):
            halves, places = self._compare(
                np.ascontiguousarray(rotated[start : start + _BLOCK_ROWS])
            )
            best = halves.argmin(axis=1)
            first = np.take_along_axis(halves, best[:, None], axis=1)
            inside = halves <= first + np.float32(gap / 2)
            many = np.flatnonzero(inside.sum(axis=1) > most)
            if len(many):
                bound = np.partition(halves[many], most - 1, axis=1)[:, most - 1 : most]
                inside[many] &= halves[many] <= bound
            row, at = np.nonzero(inside)
            rows.append(row + start)
            cells.append(self._order[places[row, at // self._longest] + at % self._longest])
            own = np.arange(len(best))
            nearest[start : start + len(best)] = self._order[
                places[own, best // self._longest] + best % self._longest
            ]
        return nearest, np.concatenate(rows), np.concatenate(cells)

    def _compare(self, rotated: Vectors) -> tuple[Vectors, Numbers]:
        """Compare rows with the centres of the parts near them.

        Returns
        -------
        halves : float32 (n, parts * longest)
            Half the squared distances, less half the squared norms of the rows; infinite where a
            part has fewer centres than the longest.
        places : int64 (n, parts)
            Where the centres of each part start.
        """
        if self._parts is None:
            halves = self._halves - rotated @ self._centres.T
            return halves, np.zeros((len(rotated), 1), np.int64)
        near = _nearest_centres(rotated, self._parts, min(_NEAR_PARTS, len(self._parts)))
        halves = np.full((*near.shape, self._longest), np.inf, np.float32)
        order = np.argsort(near, axis=None, kind="stable")
        parts, starts = np.unique(near.ravel()[order], return_index=True)
        for part, some in zip(parts.tolist(), np.split(order, starts[1:]), strict=True):
            here = slice(*self._starts[part : part + 2].tolist())
            row, place = np.divmod(some, near.shape[1])
            product = self._halves[here] - rotated[row] @ self._centres[here].T
            halves[row, place, : product.shape[1]] = product
        return halves.reshape(len(rotated), -1), self._starts[near]


def _nearest_centres(rows: Vectors, centres: Vectors, count: int) -> Numbers:
    near: Numbers = faiss.knn(np.ascontiguousarray(rows), centres, count)[1]
    return near
