"""The rows in the memory of a task, and the search for their nearest to queries."""

import copy
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Self

import faiss
import numpy as np
import numpy.typing as npt

from lookalike.search.cells import MEAN_CELL_ROWS, Cells, as_bytes
from lookalike.search.rows import centre_of, nearest_by_products
from lookalike.search.searcher import assign_cells
from lookalike.storage import Segment
from lookalike.system.arrays import Numbers, Vectors

MAX_REGION_ROWS = 65_536
"""Rows of a region: an eighth of a gigabyte of vectors."""
_USUAL_WIDTH = 512
_CROWDED_CELL_ROWS = 4 * MEAN_CELL_ROWS  # above it copies are thinned out
_MAX_PRODUCT = 2**24  # distances in memory: 64 MB
_DISTANCE_TOLERANCE = 1e-3  # along the directions of the cells, of the longest vector
_CANDIDATE_FACTOR = 4  # for each wider search
_TIE_MARGIN_ROWS = 4  # matrix products do not tell near ties apart


def rows_in_memory(rows: int, width: int) -> int:
    """Return how many rows of a width take the memory of `rows` rows of 512 numbers, or fewer."""
    return max(rows * _USUAL_WIDTH // max(width, _USUAL_WIDTH), 1)


class Region(NamedTuple):
    """The cells from `first` up to `stop`; of one crowded cell, one of several parts."""

    first: int
    stop: int
    part: int
    parts: int


def plan_regions(counts: Numbers, max_rows: int) -> Iterator[Region]:
    """Divide cells with `counts` rows each, int64 (cells,), into regions of `max_rows` rows."""
    first = rows = 0
    for cell, count in enumerate(counts.tolist()):
        if rows and rows + count > max_rows:
            yield Region(first, cell, 0, 1)
            first, rows = cell, 0
        if count > max_rows:
            parts = -(-count // max_rows)
            yield from (Region(first, cell + 1, part, parts) for part in range(parts))
            first, rows = cell + 1, 0
        rows += count if count <= max_rows else 0
    if rows:
        yield Region(first, len(counts), 0, 1)


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
        wanted = min(k + (without is not None) + _TIE_MARGIN_ROWS, len(self.ids))
        near = nearest_by_products(queries, self.vectors, wanted, centre_of(queries))[1]
        return self._best(queries, k, without, near)[:2]

    def _best(
        self, queries: Vectors, k: int, without: Numbers | None, rows: Numbers
    ) -> tuple[Numbers, Vectors, Numbers]:
        """Return ids and distances of the k nearest of `rows` (q, n), and their positions there."""
        rows = np.ascontiguousarray(rows)
        squared = np.empty(rows.shape, np.float32)
        arrays: tuple[Any, ...] = (squared, queries, self.vectors, rows)
        faiss.fvec_L2sqr_by_idx(  # type: ignore[attr-defined]
            *map(faiss.swig_ptr, arrays), queries.shape[1], *rows.shape
        )
        squared[rows < 0] = np.inf
        found = self.ids[rows]
        if without is not None:
            squared[found == without[:, None]] = np.inf
        order = np.lexsort((found, squared), axis=1)[:, :k]
        squared = np.take_along_axis(squared, order, axis=1)
        found = np.take_along_axis(found, order, axis=1)
        missing = ((0, 0), (0, k - found.shape[1]))
        found = np.pad(found, missing, constant_values=-1)
        distances = np.sqrt(np.pad(squared, missing, constant_values=np.inf))
        return found, distances, np.pad(order, missing)


class RegionPartition(Partition):
    """The rows of a region, sorted by cell.

    Rows `starts[c - first]` to `starts[c - first + 1]` belong to the cell c.
    """

    def __init__(
        self, segments: Sequence[Segment], cells: Cells, region: Region, max_copies: int
    ) -> None:
        """Load a region; of copies in a crowded cell only the first `max_copies` by id.

        No query has more of them among its neighbours.
        """
        parts, ids, vectors = [], [], []
        for one in segments:
            segment = copy.copy(one)  # so that no cache stays in memory
            cell = assign_cells(segment, cells)
            rows = np.flatnonzero((cell >= region.first) & (cell < region.stop))
            rows = rows[rows % region.parts == region.part]
            parts.append(cell[rows])
            ids.append(segment.ids[rows])
            vectors.append(segment.vectors[rows])
        cell = np.concatenate(parts)
        order = np.argsort(cell, kind="stable")
        super().__init__(np.concatenate(ids)[order], np.concatenate(vectors)[order])
        self.first = region.first
        self.starts = np.searchsorted(cell[order], np.arange(region.first, region.stop + 1))
        self._thin_copies(max_copies)
        self.rotation = cells.rotation
        longest = np.sqrt(np.einsum("ij,ij->i", self.vectors, self.vectors).max(initial=0))
        self.tolerance = _DISTANCE_TOLERANCE * max(float(longest), 1)
        rotated = self.rotation(self.vectors)
        # A last column of half the squared norm: one product then orders the rows for a query.
        self.rotated = np.hstack([rotated, (rotated**2).sum(1, keepdims=True) / 2])

    def _thin_copies(self, max_copies: int) -> None:
        kept = np.ones(len(self.ids), bool)
        for start, stop in itertools.pairwise(self.starts):
            if stop - start > _CROWDED_CELL_ROWS:
                here = slice(start, stop)
                kept[here] = _without_copies(self.ids[here], self.vectors[here], max_copies)
        if not kept.all():
            self.ids, self.vectors = self.ids[kept], self.vectors[kept]
            self.starts = np.concatenate([[0], np.cumsum(kept)])[self.starts]

    def nearest_in_cells(
        self,
        queries: Vectors,
        k: int,
        without: Numbers | None,
        probes: tuple[Numbers, Numbers],
        candidates: int,
        within: float = np.inf,
        late: float = 1.0,
    ) -> tuple[Numbers, Vectors]:
        """Return the k nearest rows in the probed cells to each query, as `nearest` does.

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
        """
        found, distances, is_late = self._search_cells(
            queries, k, without, probes, candidates, within, late
        )
        again = np.flatnonzero(is_late)
        while len(again):
            candidates = min(_CANDIDATE_FACTOR * candidates, len(self.ids))
            unsettled = []
            step = max(_MAX_PRODUCT // candidates, 1)
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
    ) -> tuple[Numbers, Vectors, npt.NDArray[np.bool_]]:
        """Search once; return also a mask (q,) of the queries for which to widen the search."""
        wanted = min(max(candidates, k) + (without is not None) + _TIE_MARGIN_ROWS, len(self.ids))
        turned = self.rotation(queries)
        rotated = np.pad(-turned, ((0, 0), (0, 1)), constant_values=1)
        # The directions are orthogonal: along some of them no distance exceeds that along all.
        farthest = ((within + self.tolerance) ** 2 - (turned**2).sum(1)) / 2
        best = faiss.ResultHeap(len(queries), wanted)
        query, cells = probes
        order = np.argsort(cells, kind="stable")
        query, cells = query[order], cells[order]
        begin = 0
        for end in (np.flatnonzero(np.diff(cells, append=-1)) + 1).tolist():
            start, stop = self.starts[cells[begin] - self.first :][:2].tolist()
            rows = np.arange(start, stop)
            step = max(_MAX_PRODUCT // max(len(rows), 1), 1)
            for at in range(begin, end, step):
                some = np.ascontiguousarray(query[at : min(at + step, end)])
                distances = rotated[some] @ self.rotated[start:stop].T
                if within < np.inf:
                    distances[distances > farthest[some, None]] = np.inf
                arrays: tuple[Any, ...] = (some, distances, rows)
                who, values, which = map(faiss.swig_ptr, arrays)
                best.heaps.addn_query_subset_with_ids(len(some), who, len(rows), values, which, 0)
            begin = end
        best.finalize()
        found, distances, places = self._best(queries, k, without, best.I)
        there = distances <= within if within < np.inf else np.isfinite(distances)
        count = there.sum(axis=1)
        mean = (places * there).sum(axis=1) / np.maximum(count, 1)
        is_late = (mean > late * wanted) | (count < k)
        more = (best.I[:, -1] >= 0) & (wanted < len(self.ids)) & (late < 1)
        return found, distances, is_late & more


def _without_copies(ids: Numbers, vectors: Vectors, max_copies: int) -> npt.NDArray[np.bool_]:
    """Return a mask (n,) that keeps the first `max_copies` by id of equal vectors."""
    kind = np.unique(as_bytes(vectors), return_inverse=True)[1]
    order = np.lexsort((ids, kind))
    place = np.arange(len(order)) - np.searchsorted(kind[order], kind[order])
    kept = np.empty(len(order), bool)
    kept[order] = place < max_copies
    return kept
