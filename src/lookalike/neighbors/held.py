"""The rows that a task holds, and which of them are nearest to queries that pass by."""

import copy
import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Self

import faiss
import numpy as np
import numpy.typing as npt

from lookalike.embedding import Vectors
from lookalike.hashing.cells import CELL_ROWS, Cells, as_bytes
from lookalike.search import Numbers
from lookalike.searcher import home
from lookalike.storage import Segment

REGION_ROWS = 65_536
"""Rows of a region at most: an eighth of a gigabyte of vectors."""
_LONG = 4 * CELL_ROWS  # rows of a cell that may be copies of each other
_PRODUCT = 2**24  # distances at a time, 64 MB
_ROUNDING = 1e-3  # of distances along directions
_MORE = 4  # times as many candidates, where those compared may not suffice
_CLOSE = 4  # rows more than wanted: matrix products are too coarse to tell near ties apart


class Region(NamedTuple):
    """Cells that lie together, `first` to `stop`; or of one that is too long, one of its parts."""

    first: int
    stop: int
    part: int
    parts: int


def regions(counts: Numbers, most: int) -> Iterator[Region]:
    """Divide cells, of which `counts` says how many rows they hold, into regions of `most` rows."""
    first = held = 0
    for cell, count in enumerate(counts.tolist()):
        if held and held + count > most:
            yield Region(first, cell, 0, 1)
            first, held = cell, 0
        if count > most:
            parts = -(-count // most)
            yield from (Region(first, cell + 1, part, parts) for part in range(parts))
            first, held = cell + 1, 0
        held += count if count <= most else 0
    if held:
        yield Region(first, len(counts), 0, 1)


class Held:
    """Rows in memory: `ids`, int64 (n,), and `vectors`, float32 (n, width)."""

    def __init__(self, ids: Numbers, vectors: Vectors) -> None:
        self.ids = ids
        self.vectors = vectors

    @classmethod
    def of(cls, segments: Sequence[Segment]) -> Self:
        """Hold all rows of segments."""
        fresh = [copy.copy(segment) for segment in segments]
        return cls(
            np.concatenate([segment.ids for segment in fresh]),
            np.concatenate([segment.vectors for segment in fresh]),
        )

    def nearest(self, queries: Vectors, k: int, without: Numbers | None) -> tuple[Numbers, Vectors]:
        """Return the k nearest rows to each query (q, width): ids and distances, (q, k).

        Nearest first, equal ones by id; distances are infinite where there are no more. Of a query
        the row with its id in `without` (q,) is left out.
        """
        wanted = min(k + (without is not None) + _CLOSE, len(self.ids))
        return self._best(queries, k, without, faiss.knn(queries, self.vectors, wanted)[1])[:2]

    def _best(
        self, queries: Vectors, k: int, without: Numbers | None, rows: Numbers
    ) -> tuple[Numbers, Vectors, Numbers]:
        """Return the k nearest of some rows to each query, (q, n), -1 for none; their places."""
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


class HeldCells(Held):
    """The rows of a region, cell after cell.

    Those of the cell c are from `starts[c - first]` to `starts[c - first + 1]`.
    """

    def __init__(
        self, segments: Sequence[Segment], cells: Cells, region: Region, copies: int
    ) -> None:
        """Hold a region, of equal vectors in a long cell only the first `copies` by id.

        More of them can be no query's neighbours at once.
        """
        homes, ids, vectors = [], [], []
        for one in segments:
            segment = copy.copy(one)  # whatever it holds in memory goes with it
            at = home(segment, cells)
            rows = np.flatnonzero((at >= region.first) & (at < region.stop))
            rows = rows[rows % region.parts == region.part]
            homes.append(at[rows])
            ids.append(segment.ids[rows])
            vectors.append(segment.vectors[rows])
        home_of = np.concatenate(homes)
        order = np.argsort(home_of, kind="stable")
        super().__init__(np.concatenate(ids)[order], np.concatenate(vectors)[order])
        self.first = region.first
        self.starts = np.searchsorted(home_of[order], np.arange(region.first, region.stop + 1))
        self._thin(copies)
        self.rotation = cells.rotation
        rotated = self.rotation(self.vectors)
        # Beside each row half its square: one product gives what orders the rows for a query.
        self.rotated = np.hstack([rotated, (rotated**2).sum(1, keepdims=True) / 2])

    def _thin(self, copies: int) -> None:
        kept = np.ones(len(self.ids), bool)
        for start, stop in itertools.pairwise(self.starts):
            if stop - start > _LONG:
                here = slice(start, stop)
                kept[here] = _few_copies(self.ids[here], self.vectors[here], copies)
        if not kept.all():
            self.ids, self.vectors = self.ids[kept], self.vectors[kept]
            self.starts = np.concatenate([[0], np.cumsum(kept)])[self.starts]

    def nearest_in(
        self,
        queries: Vectors,
        k: int,
        without: Numbers | None,
        looks: tuple[Numbers, Numbers],
        candidates: int,
        within: float = np.inf,
        late: float = 1.0,
    ) -> tuple[Numbers, Vectors]:
        """Return the k nearest rows to each query as `nearest` does, of those it looks at.

        `looks` are pairs of a query's number and a cell that it looks into; of the rows in them it
        is compared with `candidates`, the nearest along the directions of the cells. Rows that are
        farther than `within` along these alone are none. Where what is found stands on average
        beyond the share `late` of the candidates, or they are too few to tell, a query is compared
        with more, until that changes nothing.
        """
        found, distances, is_late = self._look(queries, k, without, looks, candidates, within, late)
        again = np.flatnonzero(is_late)
        while len(again):
            candidates = min(_MORE * candidates, len(self.ids))
            unsettled = []
            step = max(_PRODUCT // candidates, 1)
            for some in np.array_split(again, range(step, len(again), step)):
                number = np.full(len(queries), -1)
                number[some] = np.arange(len(some))
                theirs = number[looks[0]] >= 0
                before = found[some]
                found[some], distances[some], is_late = self._look(
                    np.ascontiguousarray(queries[some]),
                    k,
                    None if without is None else without[some],
                    (number[looks[0][theirs]], looks[1][theirs]),
                    candidates,
                    within,
                    0.0,
                )
                unsettled.append(some[is_late & (found[some] != before).any(axis=1)])
            again = np.concatenate(unsettled)
        return found, distances

    def _look(
        self,
        queries: Vectors,
        k: int,
        without: Numbers | None,
        looks: tuple[Numbers, Numbers],
        candidates: int,
        within: float,
        late: float,
    ) -> tuple[Numbers, Vectors, npt.NDArray[np.bool_]]:
        """Do as `nearest_in` once; return for which queries there may be more to find as well."""
        wanted = min(max(candidates, k) + (without is not None) + _CLOSE, len(self.ids))
        turned = self.rotation(queries)
        rotated = np.pad(-turned, ((0, 0), (0, 1)), constant_values=1)
        # Directions are orthogonal: along some of them nothing is farther than along all.
        farthest = ((within + _ROUNDING) ** 2 - (turned**2).sum(1)) / 2
        best = faiss.ResultHeap(len(queries), wanted)
        asking, cells = looks
        order = np.argsort(cells, kind="stable")
        asking, cells = asking[order], cells[order]
        begin = 0
        for end in (np.flatnonzero(np.diff(cells, append=-1)) + 1).tolist():
            start, stop = self.starts[cells[begin] - self.first :][:2].tolist()
            rows = np.arange(start, stop)
            step = max(_PRODUCT // max(len(rows), 1), 1)
            for at in range(begin, end, step):
                some = np.ascontiguousarray(asking[at : min(at + step, end)])
                distances = rotated[some] @ self.rotated[start:stop].T
                if within < np.inf:
                    distances[distances > farthest[some, None]] = np.inf
                arrays: tuple[Any, ...] = (some, distances, rows)
                who, how_far, which = map(faiss.swig_ptr, arrays)
                best.heaps.addn_query_subset_with_ids(len(some), who, len(rows), how_far, which, 0)
            begin = end
        best.finalize()
        found, distances, places = self._best(queries, k, without, best.I)
        there = distances <= within if within < np.inf else np.isfinite(distances)
        count = there.sum(axis=1)
        mean = (places * there).sum(axis=1) / np.maximum(count, 1)
        is_late = (mean > late * wanted) | (count < k)
        more = (best.I[:, -1] >= 0) & (wanted < len(self.ids)) & (late < 1)
        return found, distances, is_late & more


def _few_copies(ids: Numbers, vectors: Vectors, most: int) -> npt.NDArray[np.bool_]:
    """Say which rows to keep so that of equal vectors only the first `most` by id stay."""
    kind = np.unique(as_bytes(vectors), return_inverse=True)[1]
    order = np.lexsort((ids, kind))
    place = np.arange(len(order)) - np.searchsorted(kind[order], kind[order])
    kept = np.empty(len(order), bool)
    kept[order] = place < most
    return kept
