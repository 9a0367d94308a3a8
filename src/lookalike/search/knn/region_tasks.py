"""The tasks that hold the rows of a region, and compare the queries that visit it."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any, Self

import faiss
import numpy as np
import pyarrow as pa

from lookalike.search.cells import Rotation
from lookalike.search.knn.effort import JoinEffort
from lookalike.search.knn.groups import MAX_PRODUCT
from lookalike.search.knn.local_cells import LocalCells
from lookalike.search.knn.packing import order_of, pack_keys, record, rows_of, take
from lookalike.search.knn.partitions import Partition, RegionPartition, thin_copies
from lookalike.search.knn.sources import Batches
from lookalike.search.knn.tasks import CANDIDATES, Arrivals, Task
from lookalike.system.arrays import Numbers, Vectors

_MAX_BATCH_BYTES = 2**28  # queries and their candidates in memory


@dataclass(frozen=True)
class RegionSearch:
    """How the rows of a region are searched.

    Attributes
    ----------
    k : int
    width : int
        Numbers of a vector.
    packed : type
        Type in which vectors travel.
    own : bool
        The rows at home are the queries: each leaves itself out.
    within : float
    buckets : int
        Into how many the queries are divided to be merged.
    threads : int
    rotation : Rotation or None
        That of the cells, around the centre; None for exact search.
    effort : JoinEffort or None
    """

    k: int
    width: int
    packed: type[Any]
    own: bool
    within: float
    buckets: int
    threads: int
    rotation: Rotation | None
    effort: JoinEffort | None

    @property
    def max_queries(self) -> int:
        """The queries that are compared at a time."""
        candidates = self.k if self.effort is None else max(self.effort.candidates, self.k)
        return max(_MAX_BATCH_BYTES // (16 * self.width + 40 * candidates), 1)


def region_task(search: RegionSearch) -> Task:
    """Make the task of a region: from `ROUTED`, sorted by region, rows first, to `CANDIDATES`."""

    def task(batches: Batches) -> Batches:
        faiss.omp_set_num_threads(search.threads)
        for _, rows in groupby(rows_of(batches), itemgetter("region")):
            yield from _search_region(search, rows)

    return task


def _search_region(search: RegionSearch, rows: Iterator[dict[str, Any]]) -> Batches:
    homes: list[Arrivals] = []
    waiting: list[Arrivals] = []
    region: Region | None = None
    for row in rows:
        one = Arrivals.of(row, search.packed, search.width)
        if not row["visits"]:
            homes.append(one)
            continue
        if region is None:
            if not homes:  # nothing to compare with
                return
            region = Region(search, homes)
            homes = []
            yield from region.answer_rows()
        if waiting and sum(map(len, waiting)) + len(one) > search.max_queries:
            yield from region.answer(waiting)
            waiting = []
        waiting.append(one)
    if region is None and homes:
        region = Region(search, homes)
        yield from region.answer_rows()
    if region is not None and waiting:
        yield from region.answer(waiting)


class Region:
    """The rows of a region in memory, sorted by cell.

    Of equal rows in a crowded cell only the first are compared; all of them are queries.
    """

    def __init__(self, search: RegionSearch, homes: list[Arrivals]) -> None:
        self.search = search
        cells = np.concatenate([np.empty(0, np.int32), *(one.cells for one in homes)])
        order = np.argsort(cells, kind="stable")
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        vectors = np.empty((len(order), search.width), np.float32)
        start = 0
        for one in homes:
            vectors[place[start : start + len(one)]] = one.vectors
            start += len(one)
        self._keys = take(pa.concat_arrays([one.keys for one in homes]), order)
        self._hashes = np.concatenate([one.hashes for one in homes])[order]
        probes = [one.probes for one in homes if len(one.probes)]
        self._queries = Probes.join(homes).take(order) if probes else None
        ids = order_of(self._keys)
        self.cells, starts = np.unique(cells[order], return_index=True)
        starts = np.append(starts, len(order))
        self._cell_of = np.repeat(np.arange(len(self.cells)), np.diff(starts))
        self._ids, self._vectors = ids, vectors
        self._kept: Numbers | None = None  # which of the rows those to compare with are
        if search.rotation is None:
            self._rows = Partition(ids, vectors)
            return
        kept = thin_copies(ids, vectors, starts, search.k + search.own)
        if len(kept) < len(ids):
            self._kept = kept
            starts = np.searchsorted(kept, starts)
            ids, vectors = ids[kept], vectors[kept]
        rotated = search.rotation(vectors)
        self._local, order = LocalCells.divide(rotated, starts)
        if (np.diff(order) != 1).any():
            ids, vectors, rotated = ids[order], vectors[order], rotated[order]
            self._kept = order if self._kept is None else self._kept[order]
        self._rows = RegionPartition(ids, vectors, self._local.starts, search.rotation, rotated)

    def answer_rows(self) -> Batches:
        """Yield what is found for the rows themselves, where they are the queries."""
        if self._queries is None:
            return
        step = self.search.max_queries
        for start in range(0, len(self._ids), step):
            here = slice(start, start + step)
            probes = self._queries.slice(here)
            found = self._nearest(self._vectors[here], probes, self._ids[here], self._cell_of[here])
            yield from self._pack(self._keys[here.start : here.stop], self._hashes[here], *found)

    def answer(self, visitors: list[Arrivals]) -> Batches:
        """Yield what is found for queries that visit the region."""
        vectors = np.concatenate([one.vectors for one in visitors], dtype=np.float32)
        found = self._nearest(vectors, Probes.join(visitors))
        keys = pa.concat_arrays([one.keys for one in visitors])
        yield from self._pack(keys, np.concatenate([one.hashes for one in visitors]), *found)

    def _nearest(
        self,
        vectors: Vectors,
        probes: "Probes",
        own: Numbers | None = None,
        cells: Numbers | None = None,
    ) -> tuple[Numbers, Vectors]:
        """Return the nearest rows, int64 (q, k), and their distances; -1 for none.

        Rows at home ask with their ids and their cells, both int64 (q,).
        """
        search, rows = self.search, self._rows
        if not isinstance(rows, RegionPartition) or search.effort is None:
            step = max(MAX_PRODUCT // search.width, 1)
            parts = [
                rows.nearest_rows(vectors[at : at + step], search.k, _part(own, at, step))
                for at in range(0, len(vectors), step)
            ]
            found, distances = (np.concatenate(one) for one in zip(*parts, strict=True))
        else:
            number = np.searchsorted(self.cells, probes.cells).clip(max=len(self.cells) - 1)
            there = self.cells[number] == probes.cells  # cells without rows are not held
            pairs = probes.queries[there], number[there]
            if self._local.is_divided:
                pairs = self._local.pairs(rows.rotation(vectors), pairs)
            found, distances = rows.nearest_in_cells(
                vectors,
                search.k,
                own,
                pairs,
                search.effort.candidates,
                search.within,
                # Of a region that a query visits all rows may be far: neighbours then rank anyhow.
                search.effort.late_rank if own is not None or not search.own else 1.0,
                None if self._local.is_divided else cells,
            )
        if self._kept is not None:
            found = np.where(found >= 0, self._kept[found], -1)
        return found, distances

    def _pack(self, keys: pa.Array, hashes: Numbers, found: Numbers, distances: Vectors) -> Batches:
        """Yield rows of `CANDIDATES`, one for each bucket of queries."""
        there = (found >= 0) & (distances <= self.search.within)
        buckets = hashes.view(np.uint64) % np.uint64(self.search.buckets)
        order = np.argsort(buckets, kind="stable")
        numbers, starts = np.unique(buckets[order], return_index=True)
        for bucket, some in zip(numbers.tolist(), np.split(order, starts[1:]), strict=True):
            inside = there[some]
            counts = inside.sum(axis=1).astype(np.int32)
            yield record(
                CANDIDATES,
                bucket,
                pack_keys(take(keys, some)),
                hashes[some],
                counts,
                pack_keys(take(self._keys, found[some][inside])),
                distances[some][inside].astype(np.float32),
            )


def _part(own: Numbers | None, start: int, step: int) -> Numbers | None:
    return None if own is None else own[start : start + step]


class Probes:
    """The cells that queries probe: pairs of a query's number and a cell, int64 (p,)."""

    def __init__(self, counts: Numbers, cells: Numbers) -> None:
        self._stops = np.cumsum(counts)
        self._counts = counts
        self.cells = cells

    @classmethod
    def join(cls, arrivals: list[Arrivals]) -> Self:
        """Join those of several arrivals."""
        counts = np.concatenate([one.probes for one in arrivals])
        return cls(counts, np.concatenate([one.probed for one in arrivals]))

    @property
    def queries(self) -> Numbers:
        """The number of the query of each cell."""
        return np.repeat(np.arange(len(self._counts)), self._counts)

    def take(self, queries: Numbers) -> Self:
        """Return those of some queries."""
        counts = self._counts[queries]
        steps = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        first = self._stops[queries] - counts
        return type(self)(counts, self.cells[np.repeat(first, counts) + steps])

    def slice(self, queries: slice) -> Self:
        """Return those of consecutive queries."""
        counts = self._counts[queries]
        stop = int(self._stops[queries][-1])
        return type(self)(counts, self.cells[stop - int(counts.sum()) : stop])
