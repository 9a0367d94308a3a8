"""The tasks of a search on Spark: functions from Arrow batches to Arrow batches.

Arrays travel as bytes, thousands of numbers per row, because Spark takes a microsecond and more for
each row.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, groupby
from operator import itemgetter
from typing import Any, NamedTuple

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lookalike.search.cells import Cells
from lookalike.search.knn.partitions import Partition, Region, RegionPartition
from lookalike.search.knn.queries import Queries
from lookalike.search.signatures import Effort
from lookalike.storage import Segment
from lookalike.system.arrays import Numbers, Vectors

_MAX_BATCH_BYTES = 2**28  # queries and their candidates in memory

PROBES_SCHEMA = pa.schema(
    {"region": pa.int32(), "block": pa.int32(), "queries": pa.binary(), "cells": pa.binary()}
)
"""Pairs of a query (int32, by position in the block) and a cell that it probes (int32)."""
CANDIDATES_SCHEMA = pa.schema(
    {
        "block": pa.int32(),
        "queries": pa.binary(),
        "neighbors": pa.binary(),
        "distances": pa.binary(),
    }
)
"""The best pairs of one task: queries (int32, by position), ids (int64), distances (float32)."""
NEIGHBORS_SCHEMA = pa.schema(
    {
        "query_id": pa.int64(),
        "rank": pa.int32(),
        "neighbor_id": pa.int64(),
        "distance": pa.float32(),
    }
)
Batches = Iterator[pa.RecordBatch]
Task = Callable[[Batches], Batches]


def compare_task(
    groups: Sequence[Sequence[Segment]],
    queries: Queries,
    k: int,
    exclude_self: bool,
    within: float,
    threads: int,
) -> Task:
    """Make the task of exact search: from group numbers to `CANDIDATES_SCHEMA`, a row per block."""

    def task(batches: Batches) -> Batches:
        faiss.omp_set_num_threads(threads)
        for number in _column(batches, "id"):
            partition = Partition.load(groups[number])
            for block in range(len(queries.blocks)):
                ids, vectors = queries.ids(block), queries.vectors(block)
                found = partition.nearest(vectors, k, ids if exclude_self else None)
                yield _pack(block, np.arange(len(ids)), *found, within)

    return task


def route_task(
    cells: Cells,
    counts: Numbers,
    regions: Sequence[Region],
    queries: Queries,
    probed: int,
    min_rows: int,
    threads: int,
) -> Task:
    """Make the task that routes queries to regions: from block numbers to `PROBES_SCHEMA`.

    A query probes `probed` cells, and more until those hold `min_rows` rows.
    """
    parts = np.zeros(len(cells), np.int64)  # regions of a cell; 0 for an empty one
    first = np.zeros(len(cells), np.int64)  # the first region of a cell
    for number, region in reversed(list(enumerate(regions))):
        parts[region.first : region.stop] = region.parts
        first[region.first : region.stop] = number

    def task(batches: Batches) -> Batches:
        faiss.omp_set_num_threads(threads)
        for block in _column(batches, "id"):
            places, near = choose_cells(cells, counts, queries.vectors(block), probed, min_rows)
            repeats = parts[near]  # a cell in several regions is probed in each of them
            step = np.arange(repeats.sum()) - np.repeat(np.cumsum(repeats) - repeats, repeats)
            region = np.repeat(first[near], repeats) + step
            order = np.argsort(region, kind="stable")
            places = np.repeat(places, repeats)[order]
            near = np.repeat(near, repeats)[order].astype(np.int32)
            numbers, starts = np.unique(region[order], return_index=True)
            each = zip(
                numbers.tolist(),
                np.split(places, starts[1:]),
                np.split(near, starts[1:]),
                strict=False,
            )
            rows = [
                {"region": number, "block": block, "queries": a.tobytes(), "cells": b.tobytes()}
                for number, a, b in each
            ]
            yield pa.RecordBatch.from_pylist(rows, schema=PROBES_SCHEMA)

    return task


def choose_cells(
    cells: Cells, counts: Numbers, vectors: Vectors, probed: int, min_rows: int
) -> tuple[npt.NDArray[np.int32], Numbers]:
    """Return pairs of a query, by position (n,), and a cell that it probes (n,)."""
    rotated = cells.rotation(vectors)
    near = cells.nearest(rotated, probed)
    queries = [np.repeat(np.arange(len(near)), near.shape[1])]
    chosen = [near.ravel()]
    short = np.flatnonzero(counts[near].sum(axis=1) < min_rows)
    before = width = near.shape[1]
    while len(short) and width < len(cells):
        width = min(4 * width, len(cells))
        near = cells.nearest(rotated[short], width)
        queries.append(np.repeat(short, width - before))
        chosen.append(near[:, before:].ravel())
        short = short[counts[near].sum(axis=1) < min_rows]
        before = width
    return np.concatenate(queries).astype(np.int32), np.concatenate(chosen)


def region_task(
    segments: Sequence[Segment],
    cells: Cells,
    regions: Sequence[Region],
    queries: Queries,
    k: int,
    exclude_self: bool,
    within: float,
    effort: Effort,
    threads: int,
) -> Task:
    """Make the task that searches regions: from probes sorted by region to candidates."""

    def task(batches: Batches) -> Batches:
        faiss.omp_set_num_threads(threads)
        for number, rows in groupby(_rows(batches), itemgetter("region")):
            partition = RegionPartition(segments, cells, regions[number], k + exclude_self)
            wanted = max(effort.candidates, k)
            query_bytes = 16 * partition.vectors.shape[1] + 40 * wanted
            max_queries = max(_MAX_BATCH_BYTES // query_bytes, 1)
            for some in _batch(_unpack(rows, max_queries), max_queries):
                yield from _search(partition, queries, some, k, exclude_self, within, effort)

    return task


class Probes(NamedTuple):
    """Queries of a block, by position (q,); and pairs of a query's number and its cell, (n,)."""

    block: int
    places: npt.NDArray[np.int32]
    numbers: Numbers
    cells: npt.NDArray[np.int32]


def _unpack(rows: Iterable[dict[str, Any]], max_queries: int) -> Iterator[Probes]:
    """Unpack rows of `PROBES_SCHEMA`, at most `max_queries` queries at a time."""
    for row in rows:
        places, numbers = np.unique(np.frombuffer(row["queries"], np.int32), return_inverse=True)
        cells = np.frombuffer(row["cells"], np.int32)
        for start in range(0, len(places), max_queries):
            here = (numbers >= start) & (numbers < start + max_queries)
            some = places[start : start + max_queries]
            yield Probes(row["block"], some, numbers[here] - start, cells[here])


def _batch(probes: Iterable[Probes], max_queries: int) -> Iterator[list[Probes]]:
    """Batch at most `max_queries` queries, since products of small matrices are slow."""
    batch: list[Probes] = []
    count = 0
    for one in probes:
        if batch and count + len(one.places) > max_queries:
            yield batch
            batch, count = [], 0
        batch.append(one)
        count += len(one.places)
    if batch:
        yield batch


def _search(
    partition: RegionPartition,
    queries: Queries,
    batch: Sequence[Probes],
    k: int,
    exclude_self: bool,
    within: float,
    effort: Effort,
) -> Batches:
    starts = np.cumsum([0, *(len(one.places) for one in batch)])
    vectors = np.concatenate([queries.vectors(one.block)[one.places] for one in batch])
    ids = np.concatenate([queries.ids(one.block)[one.places] for one in batch])
    numbers = [one.numbers + start for one, start in zip(batch, starts, strict=False)]
    cells = np.concatenate([one.cells for one in batch]).astype(np.int64)
    found, distances = partition.nearest_in_cells(
        vectors,
        k,
        ids if exclude_self else None,
        (np.concatenate(numbers), cells),
        effort.candidates,
        within,
        effort.late_rank,
    )
    for one, start in zip(batch, starts, strict=False):
        here = slice(start, start + len(one.places))
        yield _pack(one.block, one.places, found[here], distances[here], within)


def merge_task(queries: Queries, k: int) -> Task:
    """Make the task that merges candidates, sorted by block, to the k nearest of each query."""

    def task(batches: Batches) -> Batches:
        for block, rows in groupby(_rows(batches), itemgetter("block")):
            parts = [
                (
                    np.frombuffer(row["queries"], np.int32),
                    np.frombuffer(row["neighbors"], np.int64),
                    np.frombuffer(row["distances"], np.float32),
                )
                for row in rows
            ]
            query, neighbor, distance = map(np.concatenate, zip(*parts, strict=True))
            order = np.lexsort((neighbor, distance, query))
            query = query[order]
            rank = np.arange(1, len(query) + 1) - np.searchsorted(query, query)
            best = rank <= k
            order = order[best]
            columns = [
                queries.ids(block)[query[best]],
                rank[best],
                neighbor[order],
                distance[order],
            ]
            yield pa.RecordBatch.from_arrays(
                [
                    pa.array(one, kind.type)
                    for one, kind in zip(columns, NEIGHBORS_SCHEMA, strict=True)
                ],
                schema=NEIGHBORS_SCHEMA,
            )

    return task


def _pack(
    block: int, places: npt.NDArray[Any], neighbors: Numbers, distances: Vectors, within: float
) -> pa.RecordBatch:
    """Pack ids and distances (q, k) of the queries at `places` (q,)."""
    there = np.isfinite(distances) & (distances <= within)
    row = {
        "block": block,
        "queries": places.astype(np.int32)[np.nonzero(there)[0]].tobytes(),
        "neighbors": neighbors[there].tobytes(),
        "distances": distances[there].astype(np.float32).tobytes(),
    }
    return pa.RecordBatch.from_pylist([row], schema=CANDIDATES_SCHEMA)


def _rows(batches: Batches) -> Iterator[dict[str, Any]]:
    return chain.from_iterable(batch.to_pylist() for batch in batches)


def _column(batches: Batches, name: str) -> Iterator[Any]:
    return chain.from_iterable(batch[name].to_pylist() for batch in batches)


def spark_schema(schema: pa.Schema) -> str:
    """Return a schema in Spark's DDL."""
    names = {"int32": "int", "int64": "bigint", "float": "float"}
    return ", ".join(f"{field.name} {names.get(str(field.type), field.type)}" for field in schema)
