"""The rows in the memory of a task, and the search for their nearest to queries."""

import copy
import itertools
from collections.abc import Sequence
from typing import Any, Self

import faiss
import numpy as np
import numpy.typing as npt

from lookalike.search.cells import MEAN_CELL_ROWS, Rotation, as_bytes
from lookalike.search.knn.groups import MAX_PRODUCT, GroupedRows
from lookalike.search.knn.regions import rows_in_memory
from lookalike.search.rows import centre_of, nearest_by_products
from lookalike.storage import Segment
from lookalike.system.arrays import Numbers, Vectors

MAX_GROUP_ROWS = 131_072
"""Rows in memory of a task of exact search: a quarter of a gigabyte of vectors."""
_CROWDED_CELL_ROWS = 4 * MEAN_CELL_ROWS  # above it copies are thinned out
_DISTANCE_TOLERANCE = 1e-3  # along the directions of the cells, of the longest vector
_CANDIDATE_FACTOR = 4  # for each wider search
_TIE_MARGIN_ROWS = 4  # matrix products do not tell near ties apart


class Partition:
    """Rows in memory: `ids`, int64 (n,), and `vectors`, float32 (n, width)."""

    def __init__(self, ids: Numbers, vectors: Vectors) -> None:
        self.ids = ids
        self.vectors = vectors

    @classmethod
    def load(cls, segments: Sequence[Segment]) -> Self:
        """Load all rows of some segments."""
        fresh = [copy.copy(segment) for segment in segments]  # so that no cache stays in memory
        return cls(
            np.concatenate([segment.ids for segment in fresh]),
            np.concatenate([segment.vectors for segment in fresh]),
        )

    def nearest(self, queries: Vectors, k: int, without: Numbers | None) -> tuple[Numbers, Vectors]:
        """Return the k nearest rows to each query, nearest first, equal distances by id.

        Parameters
        ----------
        queries : float32 (q, width)
        k : int
        without : int64 (q,), optional
            For each query, leave out the row with this id.

        Returns
        -------
        ids : int64 (q, k)
            -1 where there are fewer than k rows.
        distances : float32 (q, k)
            Infinite there.
        """
        rows, distances = self.nearest_rows(queries, k, without)
        return np.where(rows >= 0, self.ids[rows], -1), distances

    def nearest_rows(
        self, queries: Vectors, k: int, without: Numbers | None
    ) -> tuple[Numbers, Vectors]:
        """Do as `nearest`; return the positions of the rows in place of their ids."""
        wanted = min(k + (without is not None) + _TIE_MARGIN_ROWS, len(self.ids))
        near = nearest_by_products(queries, self.vectors, wanted, centre_of(queries))[1]
        return self._best(queries, k, without, near)[:2]

    def _best(
        self, queries: Vectors, k: int, without: Numbers | None, rows: Numbers
    ) -> tuple[Numbers, Vectors, Numbers]:
        """Return the k nearest of `rows` (q, n), their distances, and their positions there."""
        rows = np.ascontiguousarray(rows)
        squared = np.empty(rows.shape, np.float32)
        arrays: tuple[Any, ...] = (squared, queries, self.vectors, rows)
        faiss.fvec_L2sqr_by_idx(  # type: ignore[attr-defined]
            *map(faiss.swig_ptr, arrays), queries.shape[1], *rows.shape
        )
        squared[rows < 0] = np.inf
        ids = self.ids[rows]
        if without is not None:
            squared[ids == without[:, None]] = np.inf
        order = np.lexsort((ids, squared), axis=1)[:, :k]
        squared = np.take_along_axis(squared, order, axis=1)
        found = np.take_along_axis(rows, order, axis=1)
        missing = ((0, 0), (0, k - found.shape[1]))
        found = np.pad(found, missing, constant_values=-1)
        distances = np.sqrt(np.pad(squared, missing, constant_values=np.inf))
        found[np.isinf(distances)] = -1
        return found, distances, np.pad(order, missing)


class RegionPartition(Partition):
    """The rows of a region, sorted by cell.

    Parameters
    ----------
    ids : int64 (n,)
    vectors : float32 (n, width)
    starts : int64 (cells + 1,)
        The rows `starts[c]` to `starts[c + 1]` belong to the cell c of the region.
    rotation : Rotation
    rotated : float32 (n, directions)
        The vectors along the directions of the cells.
    """

    def __init__(
        self,
        ids: Numbers,
        vectors: Vectors,
        starts: Numbers,
        rotation: Rotation,
        rotated: Vectors,
    ) -> None:
        super().__init__(ids, vectors)
        self.starts = starts
        self.rotation = rotation
        longest = np.sqrt(np.einsum("ij,ij->i", vectors, vectors).max(initial=0))
        self.tolerance = _DISTANCE_TOLERANCE * max(float(longest), 1)
        self._grouped = GroupedRows(rotated, starts)

    def nearest_in_cells(
        self,
        queries: Vectors,
        k: int,
        without: Numbers | None,
        probes: tuple[Numbers, Numbers],
        candidates: int,
        within: float = np.inf,
        late: float = 1.0,
        first: Numbers | None = None,
        max_product: int = MAX_PRODUCT,
    ) -> tuple[Numbers, Vectors]:
        """Return positions and distances of the k nearest rows in the probed cells to each query.

        Where neighbours rank late among the candidates, or are fewer than k, the search widens
        until nothing changes.

        Parameters
        ----------
        queries : float32 (q, width)
        k : int
        without : int64 (q,), optional
            For each query, leave out the row with this id.
        probes : (int64 (n,), int64 (n,))
            Pairs of a query's number and a cell that it probes.
        candidates : int
            Rows to compare with each query: the nearest along the directions of the cells.
        within : float
            Skip rows farther than this along those directions.
        late : float
            Mean rank of the neighbours, as a share of the candidates, above which a search widens.
        first : int64 (q,), optional
            The cell of each query.
        max_product : int
            Distances in memory.

        Returns
        -------
        rows : int64 (q, k)
            -1 where there are fewer than k rows.
        distances : float32 (q, k)
            Infinite there.
        """
        found, distances, is_late = self._search_cells(
            queries, k, without, probes, candidates, within, late, first, max_product
        )
        again = np.flatnonzero(is_late)
        while len(again):
            candidates = min(_CANDIDATE_FACTOR * candidates, len(self.ids))
            unsettled = []
            step = max(max_product // candidates, 1)
            for some in np.array_split(again, range(step, len(again), step)):
                number = np.full(len(queries), -1)
                number[some] = np.arange(len(some))
                mine = number[probes[0]] >= 0
                before = found[some]
                found[some], distances[some], is_late = self._search_cells(
                    np.ascontiguousarray(queries[some]),
                    k,
                    None if without is None else without[some],
                    (number[probes[0][mine]], probes[1][mine]),
                    candidates,
                    within,
                    0.0,
                    None if first is None else first[some],
                    max_product,
                )
                unsettled.append(some[is_late & (found[some] != before).any(axis=1)])
            again = np.concatenate(unsettled)
        return found, distances

    def _search_cells(
        self,
        queries: Vectors,
        k: int,
        without: Numbers | None,
        probes: tuple[Numbers, Numbers],
        candidates: int,
        within: float,
        late: float,
        first: Numbers | None,
        max_product: int,
    ) -> tuple[Numbers, Vectors, npt.NDArray[np.bool_]]:
        """Search once; return also a mask (q,) of the queries for which to widen the search."""
        wanted = min(max(candidates, k) + (without is not None) + _TIE_MARGIN_ROWS, len(self.ids))
        turned = self.rotation(queries)
        # The directions are orthogonal: along some of them no distance exceeds that along all.
        farthest = None
        if within < np.inf:
            farthest = np.full(len(queries), (within + self.tolerance) ** 2, np.float32)
        near = self._grouped.nearest(turned, probes, wanted, farthest, first, max_product)[1]
        found, distances, places = self._best(queries, k, without, near)
        there = distances <= within if within < np.inf else np.isfinite(distances)
        count = there.sum(axis=1)
        mean = (places * there).sum(axis=1) / np.maximum(count, 1)
        is_late = (mean > late * wanted) | (count < k)
        more = (near[:, -1] >= 0) & (wanted < len(self.ids)) & (late < 1)
        return found, distances, is_late & more


def thin_copies(ids: Numbers, vectors: Vectors, starts: Numbers, most: int) -> Numbers:
    """Return the rows to compare with queries: of equal ones in a crowded cell the first by id.

    No query has more than `most` of them among its neighbours.

    Parameters
    ----------
    ids : int64 (n,)
    vectors : (n, width)
        Sorted by cell.
    starts : int64 (cells + 1,)
    most : int

    Returns
    -------
    int64 (m,)
        Positions, rising.
    """
    kept = np.ones(len(ids), bool)
    for start, stop in itertools.pairwise(starts.tolist()):
        if stop - start > _CROWDED_CELL_ROWS:
            here = slice(start, stop)
            kept[here] = _without_copies(ids[here], vectors[here], most)
    return np.flatnonzero(kept)


def _without_copies(ids: Numbers, vectors: Vectors, max_copies: int) -> npt.NDArray[np.bool_]:
    """Return a mask (n,) that keeps the first `max_copies` by id of equal vectors."""
    kind = np.unique(as_bytes(vectors), return_inverse=True)[1]
    order = np.lexsort((ids, kind))
    place = np.arange(len(order)) - np.searchsorted(kind[order], kind[order])
    kept = np.empty(len(order), bool)
    kept[order] = place < max_copies
    return kept


def group_segments(
    segments: Sequence[Segment], tasks: int, width: int = 512
) -> list[list[Segment]]:
    """Group neighbouring segments: at least `tasks` groups of at most `MAX_GROUP_ROWS` rows.

    Segments stay whole, so there may be fewer groups, and a larger group of one segment.
    """
    sizes = [len(segment.ids) for segment in segments]
    max_rows = min(rows_in_memory(MAX_GROUP_ROWS, width), max(-(-sum(sizes) // max(tasks, 1)), 1))
    groups: list[list[Segment]] = []
    rows = 0
    for segment, size in zip(segments, sizes, strict=True):
        if groups and rows + size <= max_rows:
            groups[-1].append(segment)
            rows += size
        else:
            groups.append([segment])
            rows = size
    return groups
