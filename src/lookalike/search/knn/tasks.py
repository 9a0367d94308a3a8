"""The tasks of a search on Spark, functions from Arrow batches to Arrow batches.

`route_task` sends each row to the region that holds it, and each query to the regions that it
visits. `region_task` holds the rows of one region and compares the queries that visit
it. `merge_task` merges what the regions found to the k nearest of each query.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

import faiss
import numpy as np
import pyarrow as pa

from lookalike.search.knn.packing import (
    hash_rows,
    order_of,
    pack_keys,
    record,
    rows_of,
    take,
    unpack_keys,
)
from lookalike.search.knn.routing import Routing, Visits
from lookalike.search.knn.sources import Batches, RowTask, VectorBatch
from lookalike.search.knn.survey import blocks_of
from lookalike.system.arrays import Numbers, Vectors

Task = Callable[[Batches], Batches]

ROUTED = pa.schema(
    {
        "region": pa.int32(),
        "visits": pa.bool_(),
        "keys": pa.binary(),
        "hashes": pa.binary(),
        "vectors": pa.binary(),
        "cells": pa.binary(),
        "probes": pa.binary(),
        "probed": pa.binary(),
    }
)
"""Rows at home in a region, or queries that visit it.

`keys` are packed keys, `hashes` int64, `vectors` of the packed type; `cells` (int32) those of rows
at home. `probes` (uint16) says how many cells of the region each query probes, `probed` (int32)
which; both are empty for rows that are no queries.
"""
CANDIDATES = pa.schema(
    {
        "bucket": pa.int32(),
        "queries": pa.binary(),
        "hashes": pa.binary(),
        "counts": pa.binary(),
        "neighbors": pa.binary(),
        "distances": pa.binary(),
    }
)
"""What one region found for some queries: their packed keys and hashes (int64), how many rows were
found for each (int32), and those: packed keys, and distances (float32)."""


class Role(NamedTuple):
    """What rows are: those that are searched, those that ask, or both."""

    items: bool
    queries: bool


def route_task(
    routing: Routing | None,
    groups: int,
    role: Role,
    centre: Vectors | None,
    packed: type[Any],
    block_rows: int,
    threads: int,
) -> RowTask:
    """Make the task that sends rows and queries to regions: from rows to `ROUTED`.

    Without a routing there are `groups` of rows, any of which a row belongs to, and each query
    visits all of them. `centre` is taken from the vectors.
    """

    def task(batches: Iterator[VectorBatch]) -> Batches:
        faiss.omp_set_num_threads(threads)
        for keys, vectors in blocks_of(batches, block_rows):
            hashes = hash_rows(keys, vectors)
            if routing is None:
                visits = _visit_all(len(keys), groups)
                home = (hashes.view(np.uint64) % np.uint64(groups)).astype(np.int64)
            else:
                rotated = routing.cells.rotation(vectors)
                visits = routing.visits(rotated) if role.queries else routing.homes_only(rotated)
                home = routing.homes(visits.nearest, hashes)
            if not role.items:
                home = np.full(len(keys), -1)
            if not role.queries:
                visits = Visits(visits.nearest, *_NOTHING)
            if centre is not None:
                vectors = vectors - centre
            yield from _split(_Block(keys, hashes, vectors.astype(packed)), home, visits)

    return task


_NOTHING = (np.zeros(0, np.int64),) * 3


def _visit_all(rows: int, groups: int) -> Visits:
    """Return visits of all rows to all groups, as if each had one cell."""
    zeros = np.zeros(rows, np.int64)
    row = np.tile(np.arange(rows), groups)
    return Visits(zeros, row, np.tile(zeros, groups), np.repeat(np.arange(groups), rows))


class _Block(NamedTuple):
    keys: pa.Array
    hashes: Numbers
    vectors: Any


def _split(block: _Block, home: Numbers, visited: Visits) -> Batches:
    """Yield the rows at home in each region, and the other queries that visit it."""
    nearest, asked, probed, region = visited
    at_home = np.argsort(home, kind="stable")
    at_home = at_home[np.searchsorted(home[at_home], 0) :]
    regions = np.unique(np.concatenate([home[at_home], region]))
    homes = np.searchsorted(home[at_home], [*regions, np.inf])
    visits = np.searchsorted(region, [*regions, np.inf])
    for number, one in enumerate(regions.tolist()):
        rows = np.sort(at_home[homes[number] : homes[number + 1]])
        here = slice(visits[number], visits[number + 1])
        row, cell = asked[here], probed[here]
        own = home[row] == one
        if len(rows):
            yield _routed(one, block, rows, row[own], cell[own], nearest[rows])
        if not own.all():
            guests = np.unique(row[~own])
            yield _routed(one, block, guests, row[~own], cell[~own])


def _routed(
    region: int,
    block: _Block,
    rows: Numbers,
    asked: Numbers,
    probed: Numbers,
    cells: Numbers | None = None,
) -> pa.RecordBatch:
    """Pack rows of a block and the cells that they probe; rows at home have `cells`."""
    counts = np.bincount(np.searchsorted(rows, asked), minlength=len(rows)).astype(np.uint16)
    return record(
        ROUTED,
        region,
        cells is None,
        pack_keys(take(block.keys, rows)),
        block.hashes[rows],
        block.vectors[rows],
        np.empty(0) if cells is None else cells.astype(np.int32),
        counts if len(asked) else np.empty(0),
        probed.astype(np.int32),
    )


@dataclass(frozen=True)
class Arrivals:
    """Rows or queries that arrived in a region; `probes` and `probed` as in `ROUTED`."""

    keys: pa.Array
    hashes: Numbers
    vectors: Any
    cells: Numbers
    probes: Numbers
    probed: Numbers

    @classmethod
    def of(cls, row: dict[str, Any], packed: type[Any], width: int) -> "Arrivals":
        """Unpack a row of `ROUTED`."""
        return cls(
            unpack_keys(row["keys"]),
            np.frombuffer(row["hashes"], np.int64),
            np.frombuffer(row["vectors"], packed).reshape(-1, width),
            np.frombuffer(row["cells"], np.int32),
            np.frombuffer(row["probes"], np.uint16).astype(np.int64),
            np.frombuffer(row["probed"], np.int32).astype(np.int64),
        )

    def __len__(self) -> int:
        return len(self.hashes)


def merge_task(k: int) -> Task:
    """Make the task that merges candidates, sorted by bucket, to the k nearest of each query."""

    def task(batches: Batches) -> Batches:
        for _, rows in groupby(rows_of(batches), itemgetter("bucket")):
            yield from _merge(list(rows), k)

    return task


def _merge(rows: list[dict[str, Any]], k: int) -> Batches:
    queries = pa.concat_arrays([unpack_keys(row["queries"]) for row in rows])
    hashes = np.concatenate([np.frombuffer(row["hashes"], np.int64) for row in rows])
    counts = np.concatenate([np.frombuffer(row["counts"], np.int32) for row in rows])
    keys = pa.concat_arrays([unpack_keys(row["neighbors"]) for row in rows])
    distances = np.concatenate([np.frombuffer(row["distances"], np.float32) for row in rows])
    # What several regions found for a query comes together, padded to one width.
    order = np.argsort(hashes, kind="stable")
    first = np.flatnonzero(np.diff(hashes[order], prepend=hashes[order[0]] - 1))
    ends = np.cumsum(counts)
    entry = _ranges(ends[order] - counts[order], counts[order])
    totals = np.add.reduceat(counts[order].astype(np.int64), first)
    query = np.repeat(np.arange(len(first)), totals)
    place = np.arange(len(entry)) - np.repeat(np.cumsum(totals) - totals, totals)
    shape = len(first), int(totals.max(initial=0))
    far = np.full(shape, np.inf, np.float32)
    number = np.zeros(shape, np.int64)
    which = np.zeros(shape, np.int64)
    far[query, place] = distances[entry]
    number[query, place] = order_of(keys)[entry]
    which[query, place] = entry
    best = np.lexsort((number, far), axis=1)[:, :k]
    found = np.take_along_axis(which, best, axis=1)
    query, rank = np.nonzero(np.arange(best.shape[1]) < totals[:, None])
    entry = found[query, rank]
    yield pa.RecordBatch.from_arrays(
        [
            take(queries, order[first][query]),
            pa.array((rank + 1).astype(np.int32)),
            take(keys, entry),
            pa.array(distances[entry]),
        ],
        ["query_id", "rank", "neighbor_id", "distance"],
    )


def _ranges(starts: Numbers, counts: Numbers) -> Numbers:
    """Return the numbers from each start on, as many as the counts say, one after the other."""
    steps = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    numbers: Numbers = np.repeat(starts, counts) + steps
    return numbers
