"""The rows that a task holds, and which of them are nearest to queries that pass by."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import faiss
import numpy as np
import numpy.typing as npt

from lookalike.collection import Segment
from lookalike.embedding import Vectors
from lookalike.hashing.cells import CELL_ROWS, Cells
from lookalike.search import Numbers
from lookalike.searcher import home

REGION_ROWS = 32_768
"""Rows of a region at most."""
_LONG = 4 * CELL_ROWS  # rows of a cell that may be copies of each other
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


@dataclass(frozen=True)
class Held:
    """Rows in memory: ids (n,), vectors (n, width); where they came by cells, cell after cell.

    Rows of the cell c are those from `starts[c - first]` to `starts[c - first + 1]`.
    """

    ids: Numbers
    vectors: Vectors
    first: int = 0
    starts: Numbers | None = None

    @classmethod
    def of_segments(cls, segments: Sequence[Segment]) -> Self:
        """Hold all rows of segments."""
        return cls(
            np.concatenate([segment.ids for segment in segments]),
            np.concatenate([segment.vectors for segment in segments]),
        )

    @classmethod
    def of_region(
        cls, segments: Sequence[Segment], cells: Cells, region: Region, copies: int
    ) -> Self:
        """Hold the rows of a region, of equal vectors in a long cell only the first by id.

        More than `copies` of them can be no query's neighbours at once.
        """
        homes, ids, vectors = [], [], []
        for segment in segments:
            at = home(segment, cells)
            rows = np.flatnonzero((at >= region.first) & (at < region.stop))
            rows = rows[rows % region.parts == region.part]
            homes.append(at[rows])
            ids.append(segment.ids[rows])
            vectors.append(segment.vectors[rows])
        all_homes = np.concatenate(homes)
        order = np.argsort(all_homes, kind="stable")
        sorted_homes = all_homes[order]
        found = np.concatenate(ids)[order], np.concatenate(vectors)[order]
        kept = np.ones(len(order), bool)
        starts = np.searchsorted(sorted_homes, np.arange(region.first, region.stop + 1))
        for start, stop in itertools.pairwise(starts):
            if stop - start > _LONG:
                kept[start:stop] = _few_copies(found[0][start:stop], found[1][start:stop], copies)
        if not kept.all():
            found = found[0][kept], found[1][kept]
            starts = np.concatenate([[0], np.cumsum(kept)])[starts]
        return cls(*found, region.first, starts)

    def nearest(
        self,
        queries: Vectors,
        k: int,
        without: Numbers | None,
        looks: tuple[Numbers, Numbers] | None = None,
    ) -> tuple[Numbers, Vectors]:
        """Return the k nearest rows to each query (q, width): ids and distances, (q, k).

        Nearest first, equal ones by id; distances are infinite where there are no more. Of a query
        the row with its id in `without` (q,) is left out. `looks` are pairs of a query's number
        and a cell that it looks into; without them all rows are compared.
        """
        wanted = min(k + (without is not None) + _CLOSE, len(self.ids))
        if looks is None:
            _, rows = faiss.knn(queries, self.vectors, wanted)
        else:
            rows = self._by_cells(queries, wanted, *looks)
        squared = self._squared(queries, rows)
        squared[rows < 0] = np.inf
        found = self.ids[rows]
        if without is not None:
            squared[found == without[:, None]] = np.inf
        order = np.lexsort((found, squared), axis=1)[:, :k]
        squared = np.take_along_axis(squared, order, axis=1)
        found = np.take_along_axis(found, order, axis=1)
        missing = k - found.shape[1]
        if missing > 0:
            squared = np.pad(squared, ((0, 0), (0, missing)), constant_values=np.inf)
            found = np.pad(found, ((0, 0), (0, missing)), constant_values=-1)
        return found, np.sqrt(squared)

    def _by_cells(self, queries: Vectors, wanted: int, asking: Numbers, cells: Numbers) -> Numbers:
        """Return rows found in cells by matrix products: (q, wanted), -1 for no more."""
        assert self.starts is not None
        best = faiss.ResultHeap(len(queries), wanted)
        order = np.argsort(cells, kind="stable")
        asking, cells = asking[order], cells[order]
        ends = np.flatnonzero(np.diff(cells, append=-1)) + 1
        begin = 0
        for end in ends.tolist():
            cell = int(cells[begin]) - self.first
            some = np.ascontiguousarray(asking[begin:end])
            rows = self.vectors[self.starts[cell] : self.starts[cell + 1]]
            squared, near = faiss.knn(queries[some], rows, min(wanted, len(rows)))
            best.add_result_subset(some, squared, near + self.starts[cell])
            begin = end
        best.finalize()
        found: Numbers = best.I
        return found

    def _squared(self, queries: Vectors, rows: Numbers) -> Vectors:
        """Squared distances of queries (q, width) to rows of their own, (q, n), as differences."""
        rows = np.ascontiguousarray(rows)
        squared = np.empty(rows.shape, np.float32)
        arrays: tuple[Any, ...] = (squared, queries, self.vectors, rows)
        faiss.fvec_L2sqr_by_idx(  # type: ignore[attr-defined]
            *map(faiss.swig_ptr, arrays), queries.shape[1], *rows.shape
        )
        return squared


def _few_copies(ids: Numbers, vectors: Vectors, most: int) -> npt.NDArray[np.bool_]:
    """Say which rows to keep so that of equal vectors only the first `most` by id stay."""
    as_bytes = np.ascontiguousarray(vectors).view(f"V{vectors.shape[1] * 4}").ravel()
    kind = np.unique(as_bytes, return_inverse=True)[1]
    order = np.lexsort((ids, kind))
    place = np.arange(len(order)) - np.searchsorted(kind[order], kind[order])
    kept = np.empty(len(order), bool)
    kept[order] = place < most
    return kept
