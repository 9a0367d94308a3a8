"""The neighbours of many images at once, on Spark: all of a collection, or those of other vectors.

Exactly: a task holds a group of segments, and all queries pass by in blocks. By cells: a task holds
a region, cells that lie together, and gets the queries that look into one of them; what travels to
it are numbers of queries and cells, packed by the thousand, and no vector. Either way the k best
rows that tasks found for a query are merged to the k best of all, a block of queries at a time.
Nothing is joined on buckets and nothing is collected; memory is bounded by a group or region and a
block, what is shuffled by k rows a query and region.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Literal

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lookalike.collection import Collection, Segment
from lookalike.embedding import Vectors
from lookalike.hashing.cells import Cells
from lookalike.neighbors.held import REGION_ROWS, Held, HeldCells, Region, regions
from lookalike.neighbors.queries import Queries, Source, store
from lookalike.search import Numbers, check_k
from lookalike.searcher import RECALL, Searcher, home

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

__all__ = ["neighbors", "store"]

GROUP_ROWS = 131_072
"""Rows that a task of exact search holds at most: a quarter of a gigabyte of vectors."""
_REGIONS = 2  # a core at least, which differ in cost; with more a query looks into more of them
_TASKS = 4  # a core
_LOOKS = 2**20  # of queries into cells of a region at a time

LOOKS = pa.schema(
    {"region": pa.int32(), "block": pa.int32(), "queries": pa.binary(), "cells": pa.binary()}
)
"""Which queries of a block (int32, by place) look into which cells (int32) of a region."""
FOUND = pa.schema(
    {
        "block": pa.int32(),
        "queries": pa.binary(),
        "neighbors": pa.binary(),
        "distances": pa.binary(),
    }
)
"""What a task found for queries of a block (int32, by place): k ids (int64) and distances each."""
NEIGHBORS = pa.schema(
    {
        "query_id": pa.int64(),
        "rank": pa.int32(),
        "neighbor_id": pa.int64(),
        "distance": pa.float32(),
    }
)
Batches = Iterator[pa.RecordBatch]
Task = Callable[[Batches], Batches]


def neighbors(
    spark: "SparkSession",
    collection: Collection,
    k: int,
    queries: Sequence[Source] | None = None,
    engine: Literal["auto", "exact", "lsh"] = "auto",
    recall: float = RECALL,
) -> "DataFrame":
    """Find the k nearest rows of a collection to each query: a DataFrame with a row a pair.

    Its columns are `query_id, rank, neighbor_id, distance`. Without `queries` the rows of the
    collection ask, each of which then leaves itself out. Distances are Euclidean, equal ones
    ordered by id; of more equal ones than there is room for, any may be given. `auto` is exact for
    small collections.
    """
    check_k(k)
    searcher = Searcher(collection)
    segments = searcher.rows.segments
    effort = searcher.effort(k, engine, recall, len(searcher.rows))
    asked = Queries.of(segments if queries is None else queries)
    tasks = spark.sparkContext.defaultParallelism
    threads = int(spark.conf.get("spark.task.cpus", "1") or 1)
    own = queries is None
    if effort is None:
        groups = group(segments, tasks)
        compare = comparing(groups, asked, k, own, threads)
        found = spark.range(0, len(groups), 1, len(groups)).mapInArrow(compare, _ddl(FOUND))
    else:
        cells = searcher.cells
        homes = (home(segment, cells) for segment in segments)
        counts = np.zeros(len(cells), np.int64)
        for some in homes:
            counts += np.bincount(some, minlength=len(cells))
        most = min(REGION_ROWS, max(-(-len(searcher.rows) // (_REGIONS * tasks)), 1))
        plan = list(regions(counts, most))
        route = routing(cells, counts, plan, asked, effort.cells, k + own, threads)
        look = looking(segments, cells, plan, asked, k, own, effort.candidates, threads)
        blocks = spark.range(0, len(asked.blocks), 1, _TASKS * tasks)
        looks = blocks.mapInArrow(route, _ddl(LOOKS)).repartition(_TASKS * tasks, "region")
        found = looks.sortWithinPartitions("region").mapInArrow(look, _ddl(FOUND))
    merged = found.repartition(_TASKS * tasks, "block").sortWithinPartitions("block")
    return merged.mapInArrow(merging(asked, k), _ddl(NEIGHBORS))


def group(segments: Sequence[Segment], tasks: int) -> list[list[Segment]]:
    """Put neighbouring segments together: `tasks` groups or more, of `GROUP_ROWS` or fewer.

    A segment stays whole, so that there may be fewer groups, and larger ones of one segment.
    """
    sizes = [len(segment.ids) for segment in segments]
    most = min(GROUP_ROWS, max(-(-sum(sizes) // max(tasks, 1)), 1))
    groups: list[list[Segment]] = []
    held = 0
    for segment, size in zip(segments, sizes, strict=True):
        if groups and held + size <= most:
            groups[-1].append(segment)
            held += size
        else:
            groups.append([segment])
            held = size
    return groups


def comparing(
    groups: Sequence[Sequence[Segment]], asked: Queries, k: int, own: bool, threads: int
) -> Task:
    """Make the task of exact search: from numbers of groups to `FOUND`, a row a block."""

    def task(batches: Batches) -> Batches:
        faiss.omp_set_num_threads(threads)
        for number in _column(batches, "id"):
            held = Held.of(groups[number])
            for block in range(len(asked.blocks)):
                ids, vectors = asked.ids(block), asked.vectors(block)
                found = held.nearest(vectors, k, ids if own else None)
                yield _found(block, np.arange(len(ids)), *found)

    return task


def routing(
    cells: Cells,
    counts: Numbers,
    plan: Sequence[Region],
    asked: Queries,
    looked_into: int,
    least: int,
    threads: int,
) -> Task:
    """Make the task that sends queries to regions: from numbers of blocks to `LOOKS`.

    A query looks into so many cells, and into more where those hold fewer than `least` rows.
    """
    parts = np.zeros(len(cells), np.int64)  # regions of a cell; none for one without rows
    first = np.zeros(len(cells), np.int64)  # the first of them
    for number, region in reversed(list(enumerate(plan))):
        parts[region.first : region.stop] = region.parts
        first[region.first : region.stop] = number

    def task(batches: Batches) -> Batches:
        faiss.omp_set_num_threads(threads)
        for block in _column(batches, "id"):
            queries, near = look_into(cells, counts, asked.vectors(block), looked_into, least)
            often = parts[near]
            # A cell in several regions is looked into in each of them.
            step = np.arange(often.sum()) - np.repeat(np.cumsum(often) - often, often)
            region = np.repeat(first[near], often) + step
            order = np.argsort(region, kind="stable")
            queries = np.repeat(queries, often)[order]
            looks = np.repeat(near, often)[order].astype(np.int32)
            numbers, starts = np.unique(region[order], return_index=True)
            each = zip(
                numbers.tolist(),
                np.split(queries, starts[1:]),
                np.split(looks, starts[1:]),
                strict=False,
            )
            rows = [
                {
                    "region": number,
                    "block": block,
                    "queries": who.tobytes(),
                    "cells": where.tobytes(),
                }
                for number, who, where in each
            ]
            yield pa.RecordBatch.from_pylist(rows, schema=LOOKS)

    return task


def look_into(
    cells: Cells, counts: Numbers, vectors: Vectors, looked_into: int, least: int
) -> tuple[npt.NDArray[np.int32], Numbers]:
    """Return which queries, by place (n,), look into which cells (n,)."""
    rotated = cells.rotation(vectors)
    near = cells.nearest(rotated, looked_into)
    poor = np.flatnonzero(counts[near].sum(axis=1) < least)
    order = cells.nearest(rotated[poor], len(cells))
    before = np.cumsum(counts[order], axis=1) - counts[order]
    more, place = np.nonzero((before < least) & (np.arange(len(cells)) >= near.shape[1]))
    queries = np.concatenate([np.repeat(np.arange(len(near)), near.shape[1]), poor[more]])
    return queries.astype(np.int32), np.concatenate([near.ravel(), order[more, place]])


def looking(
    segments: Sequence[Segment],
    cells: Cells,
    plan: Sequence[Region],
    asked: Queries,
    k: int,
    own: bool,
    candidates: int,
    threads: int,
) -> Task:
    """Make the task of a region: from `LOOKS`, sorted by region, to `FOUND`."""

    def task(batches: Batches) -> Batches:
        faiss.omp_set_num_threads(threads)
        for number, rows in groupby(_rows(batches), itemgetter("region")):
            held = HeldCells(segments, cells, plan[number], k + own)
            for some in _portions(rows):
                yield from _look(held, asked, some, k, own, candidates)

    return task


def _look(
    held: HeldCells,
    asked: Queries,
    rows: Sequence[dict[str, Any]],
    k: int,
    own: bool,
    candidates: int,
) -> Batches:
    """Answer what the blocks of some rows of `LOOKS` ask of a region."""
    blocks, places, ids, vectors, asking, cells = [], [], [], [], [], []
    before = 0
    for row in rows:
        who, number = np.unique(np.frombuffer(row["queries"], np.int32), return_inverse=True)
        blocks.append(row["block"])
        places.append(who)
        ids.append(asked.ids(row["block"])[who])
        vectors.append(asked.vectors(row["block"])[who])
        asking.append(number + before)
        cells.append(np.frombuffer(row["cells"], np.int32))
        before += len(who)
    looks = np.concatenate(asking), np.concatenate(cells).astype(np.int64)
    without = np.concatenate(ids) if own else None
    found, distances = held.nearest_in(np.concatenate(vectors), k, without, looks, candidates)
    at = 0
    for block, who in zip(blocks, places, strict=True):
        here = slice(at, at + len(who))
        yield _found(block, who, found[here], distances[here])
        at += len(who)


def merging(asked: Queries, k: int) -> Task:
    """Make the task that merges what was found: from `FOUND`, sorted by block, to `NEIGHBORS`."""

    def task(batches: Batches) -> Batches:
        for block, rows in groupby(_rows(batches), itemgetter("block")):
            parts = [
                (
                    np.repeat(np.frombuffer(row["queries"], np.int32), k),
                    np.frombuffer(row["neighbors"], np.int64),
                    np.frombuffer(row["distances"], np.float32),
                )
                for row in rows
            ]
            query, neighbor, distance = map(np.concatenate, zip(*parts, strict=True))
            there = np.isfinite(distance)
            query, neighbor, distance = query[there], neighbor[there], distance[there]
            order = np.lexsort((neighbor, distance, query))
            query = query[order]
            rank = np.arange(1, len(query) + 1) - np.searchsorted(query, query)
            best = rank <= k
            order = order[best]
            columns = [asked.ids(block)[query[best]], rank[best], neighbor[order], distance[order]]
            yield pa.RecordBatch.from_arrays(
                [pa.array(one, kind.type) for one, kind in zip(columns, NEIGHBORS, strict=True)],
                schema=NEIGHBORS,
            )

    return task


def _portions(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Put rows of `LOOKS` together: products of small matrices are slow, large ones take memory."""
    some: list[dict[str, Any]] = []
    for row in rows:
        some.append(row)
        if sum(len(one["cells"]) for one in some) >= 4 * _LOOKS:
            yield some
            some = []
    if some:
        yield some


def _found(
    block: int, places: npt.NDArray[Any], neighbors: Numbers, distances: Vectors
) -> pa.RecordBatch:
    row = {
        "block": block,
        "queries": places.astype(np.int32).tobytes(),
        "neighbors": neighbors.tobytes(),
        "distances": distances.astype(np.float32).tobytes(),
    }
    return pa.RecordBatch.from_pylist([row], schema=FOUND)


def _rows(batches: Batches) -> Iterator[dict[str, Any]]:
    return chain.from_iterable(batch.to_pylist() for batch in batches)


def _column(batches: Batches, name: str) -> Iterator[Any]:
    return chain.from_iterable(batch[name].to_pylist() for batch in batches)


def _ddl(schema: pa.Schema) -> str:
    """Write a schema as Spark does."""
    names = {"int32": "int", "int64": "bigint", "float": "float"}
    return ", ".join(f"{field.name} {names.get(str(field.type), field.type)}" for field in schema)
