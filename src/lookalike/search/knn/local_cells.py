"""Cells of one region: those of all rows, divided further where they have many.

The cells by which rows travel are fitted to a sample and at most 65,536. A region with more than
twice the usual rows in a cell divides its own, without a bound.
"""

import itertools
from typing import Self

import faiss
import numpy as np

from lookalike.search.cells import MEAN_CELL_ROWS, SAMPLE_ROWS_PER_CELL, fit_centres
from lookalike.search.rows import draw
from lookalike.system.arrays import Numbers, Vectors

_MAX_CELL_ROWS = 2 * MEAN_CELL_ROWS
_BLOCK_ROWS = 65_536
_DRAWN_ROWS, _NEAREST = 128, 10  # whose groups say how far a query looks
_GAP_QUANTILE = 0.998

Pairs = tuple[Numbers, Numbers]


class LocalCells:
    """Groups of the rows of a region, to compare with the queries that probe its cells.

    Parameters
    ----------
    starts : int64 (cells + 1,)
        The rows `starts[c]` to `starts[c + 1]` are those of the cell c.
    centres : float32 (groups, directions), optional
        The centres of the groups; None where each cell is one group.
    first : int64 (cells + 1,), optional
        The first group of each cell.
    gap : float
        Largest difference of the squared distances of a group that a query probes and of the
        nearest one.
    """

    def __init__(
        self,
        starts: Numbers,
        centres: Vectors | None = None,
        first: Numbers | None = None,
        gap: float = 0.0,
    ) -> None:
        self.starts = starts
        self._centres, self._first, self._gap = centres, first, gap

    @classmethod
    def divide(cls, rotated: Vectors, starts: Numbers) -> tuple[Self, Numbers]:
        """Divide cells with many rows; return also the order of the rows by group, int64 (n,).

        Parameters
        ----------
        rotated : float32 (n, directions)
            The rows, sorted by cell.
        starts : int64 (cells + 1,)
        """
        if len(rotated) <= _MAX_CELL_ROWS * (len(starts) - 1):
            return cls(starts), np.arange(len(rotated))
        centres, groups = [], np.empty(len(rotated), np.int64)
        sizes: list[int] = []
        for start, stop in itertools.pairwise(starts.tolist()):
            here = rotated[start:stop]
            wanted = max(round(len(here) / MEAN_CELL_ROWS), 1)
            some = draw(len(here), SAMPLE_ROWS_PER_CELL * wanted)
            fitted = fit_centres(here[some], wanted)
            groups[start:stop] = _nearest(here, fitted) + sum(sizes)
            centres.append(fitted)
            sizes.append(len(fitted))
        first = np.cumsum([0, *sizes])
        order = np.argsort(groups, kind="stable")
        bounds = np.searchsorted(groups[order], np.arange(first[-1] + 1))
        centres_ = np.concatenate(centres)
        return cls(bounds, centres_, first, _measure_gap(rotated, centres_, groups)), order

    @property
    def is_divided(self) -> bool:
        """Whether a cell has several groups."""
        return self._centres is not None

    def pairs(self, rotated: Vectors, probes: Pairs) -> Pairs:
        """Return the groups that queries probe: those of their cells that are near enough.

        Parameters
        ----------
        rotated : float32 (q, directions)
        probes : (int64 (p,), int64 (p,))
            Numbers of queries, and a cell of the region for each.
        """
        if self._centres is None or self._first is None:
            return probes
        query, cell = probes
        order = np.argsort(cell, kind="stable")
        query, cell = query[order], cell[order]
        counts = (self._first[1:] - self._first[:-1])[cell]
        halves, group = np.empty(counts.sum(), np.float32), np.empty(counts.sum(), np.int64)
        query_of = np.repeat(query, counts)
        norms = np.einsum("ij,ij->i", self._centres, self._centres) / 2
        begin = at = 0
        for end in (np.flatnonzero(np.diff(cell, append=-1)) + 1).tolist():
            first, stop = self._first[cell[begin] :][:2].tolist()
            product = norms[first:stop] - rotated[query[begin:end]] @ self._centres[first:stop].T
            halves[at : at + product.size] = product.ravel()
            group[at : at + product.size] = np.tile(np.arange(first, stop), end - begin)
            begin, at = end, at + product.size
        nearest = np.full(len(rotated), np.inf, np.float32)
        np.minimum.at(nearest, query_of, halves)
        near = halves <= nearest[query_of] + np.float32(self._gap / 2)
        return query_of[near], group[near]


def _measure_gap(rotated: Vectors, centres: Vectors, groups: Numbers) -> float:
    """Return how much farther than the nearest group those of neighbours are, nearly all of them.

    Neighbours are the nearest rows along the leading directions, of drawn rows.
    """
    drawn = rotated[draw(len(rotated), _DRAWN_ROWS)]
    near = faiss.knn(drawn, rotated, min(_NEAREST + 1, len(rotated)))[1]
    squared = faiss.pairwise_distances(drawn, centres)
    gaps = np.take_along_axis(squared, groups[near], axis=1) - squared.min(axis=1, keepdims=True)
    return float(np.quantile(gaps, _GAP_QUANTILE))


def _nearest(rows: Vectors, centres: Vectors) -> Numbers:
    norms = np.einsum("ij,ij->i", centres, centres) / 2
    blocks = (rows[at : at + _BLOCK_ROWS] for at in range(0, len(rows), _BLOCK_ROWS))
    found: Numbers = np.concatenate([(norms - one @ centres.T).argmin(axis=1) for one in blocks])
    return found
