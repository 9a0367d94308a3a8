"""The cells near many rows at once, however many cells there are."""

from collections.abc import Iterator
from copy import copy
from typing import NamedTuple

import faiss
import numpy as np

from lookalike.search.cells import Cells, fit_centres
from lookalike.system.arrays import Numbers, Vectors

FLAT_CELLS = 2_048
"""Cells up to which all are compared with a row; more are compared in two steps."""
MIN_PARTS = 12
"""Parts of many cells that are looked through, at least."""
_PARTS_PER_ROOT = 4  # of the number of cells: finer parts hold fewer cells that are not near
_BLOCK_ROWS = 8_192
_MAX_COMPARED = 2**25  # pairs of a row and a cell at a time


class CellSearch:
    """Finds the cells near rows. Many cells are searched in two steps.

    In the first the nearest parts of the centres are found, in the second the near centres of
    these: it takes the time of hundreds of cells, not of all. Few of the nearest are missed; the
    search effort is measured with these misses, and so is in how many parts to look.

    Attributes
    ----------
    cells : Cells
    parts : float32 (parts, directions) or None
        The centres of the parts; None for few cells.
    """

    def __init__(self, cells: Cells) -> None:
        self.cells = cells
        self._order = np.arange(len(cells))
        self._starts = np.array([0, len(cells)])
        self.parts: Vectors | None = None
        centres = cells.centres
        if len(cells) > FLAT_CELLS:
            self.parts = fit_centres(centres, round(_PARTS_PER_ROOT * len(cells) ** 0.5))
            part = _nearest_centres(centres, self.parts, 1)[:, 0]
            self._order = np.argsort(part, kind="stable")
            self._starts = np.searchsorted(part[self._order], np.arange(len(self.parts) + 1))
            centres = centres[self._order]
        self._centres = centres
        self._halves = np.einsum("ij,ij->i", centres, centres) / 2
        self._part_of = np.empty(len(cells), np.int64)
        self._part_of[self._order] = np.repeat(
            np.arange(len(self._starts) - 1), np.diff(self._starts)
        )
        self._near_parts = MIN_PARTS

    def members(self, part: int) -> Numbers:
        """Return the cells of a part."""
        return self._order[slice(*self._starts[part : part + 2].tolist())]

    def through(self, parts: int) -> "CellSearch":
        """Return the search that looks through this many parts."""
        other = copy(self)
        other._near_parts = min(parts, len(self._starts) - 1)
        return other

    def part_ranks(self, rotated: Vectors) -> Numbers:
        """Return how many parts are nearer to each row than that of each cell, (n, cells)."""
        if self.parts is None:
            return np.zeros((len(rotated), len(self.cells)), np.int64)
        order = _nearest_centres(rotated, self.parts, len(self.parts))
        ranks = np.empty_like(order)
        np.put_along_axis(ranks, order, np.arange(order.shape[1])[None], axis=1)
        found: Numbers = ranks[:, self._part_of]
        return found

    def nearest(self, rotated: Vectors, count: int) -> tuple[Vectors, Numbers]:
        """Return squared distances to the `count` nearest cells, and these: both (n, count)."""
        count = min(count, len(self.cells))
        rotated = np.ascontiguousarray(rotated)
        if self.parts is None or count * self._near_parts > len(self.cells):
            return self.cells.nearest_with_distances(rotated, count)
        found = [
            self._near(rotated[start : start + self._block_rows], np.inf, count)
            for start in range(0, len(rotated), self._block_rows)
        ]
        row = np.concatenate([one.rows + at * self._block_rows for at, one in enumerate(found)])
        cell, halves = (
            np.concatenate(each) for each in zip(*[one[1:3] for one in found], strict=True)
        )
        order = np.lexsort((halves, row))
        starts = np.searchsorted(row, np.arange(len(rotated) + 1))
        if np.diff(starts).min(initial=count) < count:  # the near parts hold too few
            return self.cells.nearest_with_distances(rotated, count)
        best = order[starts[:-1, None] + np.arange(count)]
        norms = np.einsum("ij,ij->i", rotated, rotated)[:, None]
        return 2 * halves[best] + norms, cell[best]

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
            Pairs of a row, by position, and a near cell, in the order of the rows.
        """
        nearest = [np.empty(0, np.int64)]
        rows, cells = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for start in range(0, len(rotated), self._block_rows):
            some = np.ascontiguousarray(rotated[start : start + self._block_rows])
            found = self._near(some, gap, most)
            nearest.append(found.nearest)
            rows.append(found.rows + start)
            cells.append(found.cells)
        return np.concatenate(nearest), np.concatenate(rows), np.concatenate(cells)

    @property
    def _block_rows(self) -> int:
        compared = len(self.cells)
        if self.parts is not None:
            compared = 2 * self._near_parts * compared // len(self.parts)
        return min(max(_MAX_COMPARED // max(compared, 1), 1), _BLOCK_ROWS)

    def _near(self, rotated: Vectors, gap: float, most: int) -> "_Near":
        """Find the nearest cells of a block of rows, `most` of them and no farther than a gap."""
        products = list(self._products(rotated))
        first = np.full(len(rotated), np.inf, np.float32)
        for rows, _, halves in products:
            first[rows] = np.minimum(first[rows], halves.min(axis=1))
        limit = first + np.float32(gap / 2)
        found = []
        for rows, start, halves in products:
            row, place = np.nonzero(halves <= limit[rows, None])
            found.append((rows[row], start + place, halves[row, place]))
        row, place, half = (np.concatenate(one) for one in zip(*found, strict=True))
        best = np.flatnonzero(half == first[row])
        nearest = np.zeros(len(rotated), np.int64)
        nearest[row[best]] = place[best]
        kept = _best_of_each(row, half - first[row], most)
        order = kept[np.argsort(row[kept], kind="stable")]
        return _Near(row[order], self._order[place[order]], half[order], self._order[nearest])

    def _products(self, rotated: Vectors) -> Iterator[tuple[Numbers, int, Vectors]]:
        """Compare rows with the centres of the parts near them.

        Yields
        ------
        rows : int64 (m,)
        start : int
            The first of the centres.
        halves : float32 (m, centres)
            Half the squared distances, less half the squared norms of the rows.
        """
        if self.parts is None:
            yield np.arange(len(rotated)), 0, self._halves - rotated @ self._centres.T
            return
        near = _nearest_centres(rotated, self.parts, self._near_parts)
        order = np.argsort(near, axis=None, kind="stable")
        parts, firsts = np.unique(near.ravel()[order], return_index=True)
        for part, some in zip(parts.tolist(), np.split(order, firsts[1:]), strict=True):
            start, stop = self._starts[part : part + 2].tolist()
            if start < stop:
                rows = some // near.shape[1]
                centres = self._centres[start:stop]
                yield rows, start, self._halves[start:stop] - rotated[rows] @ centres.T


class _Near(NamedTuple):
    """Pairs of a row and a near cell, in the order of the rows; and the nearest of each row.

    `halves` are half the squared distances, less half the squared norms of the rows.
    """

    rows: Numbers
    cells: Numbers
    halves: Vectors
    nearest: Numbers


def _best_of_each(row: Numbers, values: Vectors, most: int) -> Numbers:
    """Return which pairs have the `most` lowest values, none of them negative, of each row."""
    counts = np.bincount(row)
    many = np.flatnonzero(counts[row] > most)
    if not len(many):
        return np.arange(len(row))
    bits = np.ascontiguousarray(values[many], np.float32).view(np.uint32)  # in the same order
    keys = row[many].astype(np.uint64) << np.uint64(32) | bits
    ordered = np.sort(keys)
    starts = np.cumsum(np.append(0, np.where(counts > most, counts, 0)))[:-1]
    kept = np.ones(len(row), bool)
    kept[many] = keys <= ordered[np.minimum(starts + most, len(ordered)) - 1][row[many]]
    return np.flatnonzero(kept)


def _nearest_centres(rows: Vectors, centres: Vectors, count: int) -> Numbers:
    near: Numbers = faiss.knn(np.ascontiguousarray(rows), centres, count)[1]
    return near
