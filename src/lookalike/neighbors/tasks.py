"""The tasks of a run on Spark: functions from batches to batches, made with what they need.

Arrays travel as bytes, thousands of numbers a row: a row for Spark costs a microsecond and more.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, groupby
from operator import itemgetter
from typing import Any, NamedTuple

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lookalike.embedding import Vectors
from lookalike.hashing.cells import Cells
from lookalike.hashing.signatures import Effort
from lookalike.neighbors.held import Held, HeldCells, Region
from lookalike.neighbors.queries import Queries
from lookalike.search import Numbers
from lookalike.storage import Segment

_PORTION = 2**28  # bytes that queries and what is found for them take at a time

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
"""Pairs that a task found: queries of a block (int32, by place), ids (int64), distances (float)."""
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


def comparing(
    groups: Sequence[Sequence[Segment]],
    asked: Queries,
    k: int,
    own: bool,
    within: float,
    threads: int,
) -> Task:
    """Make the task of exact search: from numbers of groups to `FOUND`, a row a block."""

    def task(batches: Batches) -> Batches:
        faiss.omp_set_num_threads(threads)
        for number in _column(batches, "id"):
            held = Held.of(groups[number])
            for block in range(len(asked.blocks)):
                ids, vectors = asked.ids(block), asked.vectors(block)
                found = held.nearest(vectors, k, ids if own else None)
                yield _found(block, np.arange(len(ids)), *found, within)

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
    queries = [np.repeat(np.arange(len(near)), near.shape[1])]
    looks = [near.ravel()]
    poor = np.flatnonzero(counts[near].sum(axis=1) < least)
    before = width = near.shape[1]
    while len(poor) and width < len(cells):
        width = min(4 * width, len(cells))
        near = cells.nearest(rotated[poor], width)
        queries.append(np.repeat(poor, width - before))
        looks.append(near[:, before:].ravel())
        poor = poor[counts[near].sum(axis=1) < least]
        before = width
    return np.concatenate(queries).astype(np.int32), np.concatenate(looks)


def looking(
    segments: Sequence[Segment],
    cells: Cells,
    plan: Sequence[Region],
    asked: Queries,
    k: int,
    own: bool,
    within: float,
    effort: Effort,
    threads: int,
) -> Task:
    """Make the task of a region: from `LOOKS`, sorted by region, to `FOUND`."""

    def task(batches: Batches) -> Batches:
        faiss.omp_set_num_threads(threads)
        for number, rows in groupby(_rows(batches), itemgetter("region")):
            held = HeldCells(segments, cells, plan[number], k + own)
            wanted = max(effort.candidates, k)
            most = max(_PORTION // (16 * held.vectors.shape[1] + 40 * wanted), 1)
            for some in _portions(_asking(rows, most), most):
                yield from _look(held, asked, some, k, own, within, effort)

    return task


class Asking(NamedTuple):
    """Queries of a block, by place (q,); which of them, by number (n,), look into which cells."""

    block: int
    places: npt.NDArray[np.int32]
    numbers: Numbers
    cells: npt.NDArray[np.int32]


def _asking(rows: Iterable[dict[str, Any]], most: int) -> Iterator[Asking]:
    """Unpack rows of `LOOKS`, `most` queries or fewer at a time."""
    for row in rows:
        places, numbers = np.unique(np.frombuffer(row["queries"], np.int32), return_inverse=True)
        cells = np.frombuffer(row["cells"], np.int32)
        for start in range(0, len(places), most):
            here = (numbers >= start) & (numbers < start + most)
            some = places[start : start + most]
            yield Asking(row["block"], some, numbers[here] - start, cells[here])


def _portions(asking: Iterable[Asking], most: int) -> Iterator[list[Asking]]:
    """Put `most` queries or fewer together: products of small matrices are slow."""
    some: list[Asking] = []
    held = 0
    for one in asking:
        if some and held + len(one.places) > most:
            yield some
            some, held = [], 0
        some.append(one)
        held += len(one.places)
    if some:
        yield some


def _look(
    held: HeldCells,
    asked: Queries,
    portion: Sequence[Asking],
    k: int,
    own: bool,
    within: float,
    effort: Effort,
) -> Batches:
    """Answer what queries ask of a region."""
    starts = np.cumsum([0, *(len(one.places) for one in portion)])
    vectors = np.concatenate([asked.vectors(one.block)[one.places] for one in portion])
    ids = np.concatenate([asked.ids(one.block)[one.places] for one in portion])
    numbers = [one.numbers + start for one, start in zip(portion, starts, strict=False)]
    cells = np.concatenate([one.cells for one in portion]).astype(np.int64)
    looks = np.concatenate(numbers), cells
    alone = ids if own else None
    found, distances = held.nearest_in(
        vectors, k, alone, looks, effort.candidates, within, effort.late_rank
    )
    for one, start in zip(portion, starts, strict=False):
        here = slice(start, start + len(one.places))
        yield _found(one.block, one.places, found[here], distances[here], within)


def merging(asked: Queries, k: int) -> Task:
    """Make the task that merges what was found: from `FOUND`, sorted by block, to `NEIGHBORS`."""

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
            columns = [asked.ids(block)[query[best]], rank[best], neighbor[order], distance[order]]
            yield pa.RecordBatch.from_arrays(
                [pa.array(one, kind.type) for one, kind in zip(columns, NEIGHBORS, strict=True)],
                schema=NEIGHBORS,
            )

    return task


def _found(
    block: int, places: npt.NDArray[Any], neighbors: Numbers, distances: Vectors, within: float
) -> pa.RecordBatch:
    """Pack what was found for the queries at `places` (q,): ids and distances, (q, k)."""
    there = np.isfinite(distances) & (distances <= within)
    row = {
        "block": block,
        "queries": places.astype(np.int32)[np.nonzero(there)[0]].tobytes(),
        "neighbors": neighbors[there].tobytes(),
        "distances": distances[there].astype(np.float32).tobytes(),
    }
    return pa.RecordBatch.from_pylist([row], schema=FOUND)


def _rows(batches: Batches) -> Iterator[dict[str, Any]]:
    return chain.from_iterable(batch.to_pylist() for batch in batches)


def _column(batches: Batches, name: str) -> Iterator[Any]:
    return chain.from_iterable(batch[name].to_pylist() for batch in batches)


def ddl(schema: pa.Schema) -> str:
    """Write a schema as Spark does."""
    names = {"int32": "int", "int64": "bigint", "float": "float"}
    return ", ".join(f"{field.name} {names.get(str(field.type), field.type)}" for field in schema)
