"""Which code to search by: how early the true neighbours come, and what a scan takes. JSON.

    python benchmarks/vectors.py --images cars_train more --crops 101000 --out crops.npy
    OPENBLAS_NUM_THREADS=1 python benchmarks/codes.py --vectors crops.npy --rows 100000 --json

Every code is made of the same rows and asked for the neighbours of the same rows that nobody was
given. Of each: bytes a vector; how many candidates, in the order of its estimates, have 98 and 99 %
of all ten nearest among them; how many have 98 % where only rows of the same few cells count, which
parts what a code is worth from what cells are; recall@10 of the first 50 and 100; CPU milliseconds
of one query, its rotation included, that returns the candidates of 98 %; CPU seconds to encode all
rows. One thread.

    rabitq-N     signs of N leading directions, randomly rotated, and two numbers (FAISS, qb 4)
    rabitq-NxB   the same with B bits a direction
    cells-N      rabitq-N from the centre of its cell, as lookalike does; 4 bytes are the cell
    ...-fast     the same codes in FAISS's layout for fast scans
    signs-N      signs of N random directions from the mean, compared by Hamming distance
    signs-N-led  the same of the N leading directions, randomly rotated
    int8-N       the N leading directions in 8 bits each
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from lookalike.search.cells import (
    ROTATION_SAMPLE_ROWS,
    SAMPLE_ROWS_PER_CELL,
    Cells,
    Rotation,
    cell_count,
)
from lookalike.system.arrays import Numbers, Vectors
from measure import machine
from stored import exact_ids

K = 10
HELD_OUT = 300  # rows that are queries and nothing else
TURNS, IN_TURN = 5, 20  # queries that are timed one by one, the codes taking turns
MOST = 0.02  # of all rows are candidates, as in `lookalike.search.searcher`
HELD = 0.993  # of the neighbours are in the cells that are looked into: its share at 98 %
BLOCK = 65_536  # rows encoded at a time
RABITQ = ((128, 1), (256, 1), (80, 2), (32, 2))  # directions, bits each: 24, 40, 40, 28 bytes
SIGNS = 192
LEADING = 24

Search = Callable[[Vectors, int], Numbers]
"""From queries (q, width) and a count to the rows of least estimated distance, (q, count)."""


@dataclass(frozen=True)
class Code:
    """All rows in one code, ready to be scanned."""

    search: Search
    bytes: int
    encode_s: float


@dataclass(frozen=True)
class Known:
    """Queries (q, width), their nearest rows (q, K), the cell of each row, cells of each query."""

    queries: Vectors
    true: Numbers
    homes: Numbers
    near: Numbers


def main() -> None:
    """Make all codes, then compare them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vectors", type=Path, required=True, help="float32 (n, width), .npy")
    parser.add_argument("--rows", type=int, help="take only so many")
    parser.add_argument("--json", action="store_true", help="the only form there is")
    given = parser.parse_args()
    whole = np.load(given.vectors, mmap_mode="r")
    vectors, queries = whole[:-HELD_OUT][: given.rows], np.array(whole[-HELD_OUT:])
    faiss.omp_set_num_threads(1)
    true = np.array(exact_ids(vectors, queries, K))
    sample = np.array(vectors[:ROTATION_SAMPLE_ROWS])
    started = time.process_time()
    cells = fit_cells(vectors, sample)
    fit_s = round(time.process_time() - started, 1)
    count = cells_holding(cells, vectors[true.ravel()], queries)
    plain = cells.empty_index()
    codes = {**dict(flat(vectors, sample)), **dict(celled(plain, vectors, cells, count))}
    plain.make_direct_map()
    homes = faiss.vector_to_array(plain.direct_map.array) >> 32  # a cell and a place in it
    known = Known(queries, true, homes, cells.nearest(cells.rotation(queries), count))
    figures = compare(codes, known, round(MOST * len(vectors)))
    about = {"cells": len(cells), "looked_into": count, "cells_fit_s": fit_s}
    told = {"machine": machine(), "rows": len(vectors), **about, "codes": figures}
    print(json.dumps(told))  # noqa: T201


def flat(vectors: Vectors, sample: Vectors) -> Iterator[tuple[str, Code]]:
    """Make the codes that are scanned from the first to the last."""
    for bits, each in RABITQ:
        name = f"rabitq-{bits}" if each == 1 else f"rabitq-{bits}x{each}"
        rotation = Rotation.fit(sample, bits)
        plain = faiss.IndexRaBitQ(bits, faiss.METRIC_L2, each)
        plain.qb = 4
        yield name, encoded(plain, vectors, rotation, sample)
        fast = faiss.IndexRaBitQFastScan(bits, faiss.METRIC_L2, 32, each)
        yield f"{name}-fast", encoded(fast, vectors, rotation, sample)
    for name, rotation in (
        (f"signs-{SIGNS}", random_directions(sample, SIGNS)),
        (f"signs-{SIGNS}-led", Rotation.fit(sample, SIGNS)),
    ):
        yield name, encoded(faiss.IndexBinaryFlat(SIGNS), vectors, signs(rotation), sample)
    index = faiss.IndexScalarQuantizer(LEADING, faiss.ScalarQuantizer.QT_8bit)
    yield f"int8-{LEADING}", encoded(index, vectors, leading(sample, LEADING), sample)


def celled(plain: Any, vectors: Vectors, cells: Cells, count: int) -> Iterator[tuple[str, Code]]:
    """Make lookalike's code, `count` cells looked into: plain in an empty index, and fast."""
    plain.nprobe, plain.qb = count, 4
    code = encoded(plain, vectors, cells.rotation)
    name, size = f"cells-{plain.d}", code.bytes + 4
    yield name, Code(code.search, size, code.encode_s)
    started = time.process_time()
    fast = faiss.IndexIVFRaBitQFastScan(plain)
    fast.nprobe = count
    seconds = code.encode_s + time.process_time() - started
    yield f"{name}-fast", Code(searching(fast, cells.rotation), size, seconds)


def encoded(
    index: Any, vectors: Vectors, turn: Callable[[Vectors], Any], sample: Vectors | None = None
) -> Code:
    """Fill an index with vectors, each turned into what the index takes."""
    if sample is not None:
        index.train(turn(sample))
    seconds = 0.0
    for block in blocks(vectors):
        started = time.process_time()
        index.add(turn(block))
        seconds += time.process_time() - started
    return Code(searching(index, turn), int(index.code_size), seconds)


def searching(index: Any, turn: Callable[[Vectors], Any]) -> Search:
    """Return how an index is asked."""

    def search(queries: Vectors, count: int) -> Numbers:
        found: Numbers = index.search(turn(queries), count)[1]
        return found

    return search


def blocks(vectors: Vectors) -> Iterator[Vectors]:
    """Read mapped vectors piece by piece."""
    for start in range(0, len(vectors), BLOCK):
        yield np.array(vectors[start : start + BLOCK])


def signs(rotation: Rotation) -> Callable[[Vectors], Any]:
    """Return what turns vectors (n, width) into their signs, uint8 (n, bits / 8)."""
    return lambda vectors: np.packbits(rotation(vectors) > 0, axis=1)


def random_directions(sample: Vectors, bits: int) -> Rotation:
    """Return random directions at right angles, counted from the mean of a sample."""
    random = np.random.default_rng(0).standard_normal((sample.shape[1], bits))
    directions = np.linalg.qr(random)[0].T.astype(np.float32)
    return Rotation(directions, -directions @ sample.mean(axis=0))


def leading(sample: Vectors, bits: int) -> Rotation:
    """Return the leading directions of a sample as they are, not rotated among themselves."""
    found = faiss.PCAMatrix(sample.shape[1], bits)
    found.train(sample)
    directions = faiss.vector_to_array(found.A).reshape(bits, sample.shape[1])
    return Rotation(directions, faiss.vector_to_array(found.b))


def fit_cells(vectors: Vectors, sample: Vectors) -> Cells:
    """Fit cells as a collection of these vectors has them."""
    rotation = Rotation.fit(sample)
    some = vectors[: SAMPLE_ROWS_PER_CELL * cell_count(len(vectors))]
    rotated = np.concatenate([rotation(block) for block in blocks(some)])
    return Cells.fit(rotation, rotated, len(vectors))


def cells_holding(cells: Cells, neighbors: Vectors, queries: Vectors) -> int:
    """Return in how many cells, nearest first, `HELD` of the neighbours (q * K, width) are."""
    homes = cells.assign(neighbors).reshape(len(queries), K, 1)
    order = cells.nearest(cells.rotation(queries), len(cells))[:, None]
    return least(np.argmax(order == homes, axis=2) + 1, HELD)


def compare(codes: dict[str, Code], known: Known, most: int) -> dict[str, dict[str, Any]]:
    """Return the figures of each code; those of candidates are `most` where it takes more."""
    figures: dict[str, dict[str, Any]] = {}
    counts = {}
    for name, code in codes.items():
        found = code.search(known.queries, most)
        ranks = ranks_of(known.true, found)
        inside = [
            rows[np.isin(known.homes[rows], near)]
            for rows, near in zip(found, known.near, strict=True)
        ]
        counts[name] = min(least(ranks, 0.98), most)
        figures[name] = {
            "bytes": code.bytes,
            "candidates": {"0.98": counts[name], "0.99": min(least(ranks, 0.99), most)},
            "candidates_in_cells": min(least(ranks_of(known.true, inside), 0.98), most),
            "recall_10_of": {n: round(float(np.mean(ranks <= n)), 4) for n in (50, 100)},
            "encode_s": round(code.encode_s, 1),
        }
    for name, seconds in timed(codes, known.queries, counts).items():
        figures[name]["query_ms"] = round(statistics.median(seconds) * 1000, 3)
    return figures


def timed(codes: dict[str, Code], queries: Vectors, counts: dict[str, int]) -> dict[str, Any]:
    """Return the CPU seconds of each code for each of some queries, asked one by one in turns."""
    spent: dict[str, list[float]] = {name: [] for name in codes}
    for some in np.split(queries[: TURNS * IN_TURN], TURNS):
        for name, code in codes.items():
            for query in some:
                started = time.thread_time()
                code.search(query[None], counts[name])
                spent[name].append(time.thread_time() - started)
    return spent


def ranks_of(true: Numbers, found: Sequence[Numbers] | Numbers) -> Numbers:
    """Return which candidate each neighbour (q, K) is, counted from 1; a huge number for none."""
    ranks = np.full(true.shape, np.iinfo(np.int32).max)
    for rank, wanted, some in zip(ranks, true, found, strict=True):
        same = some == wanted[:, None]
        rank[same.any(axis=1)] = np.nonzero(same)[1] + 1
    return ranks


def least(ranks: Numbers, share: float) -> int:
    """Return the least value that so large a share does not exceed."""
    return int(np.quantile(ranks, share, method="inverted_cdf"))


if __name__ == "__main__":
    main()
