"""Recall and speed of hashing by Spark ML, beside exact search."""

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from lookalike.lsh import search
from lookalike.search import exact
from lookalike.search.evaluation import _recall, _speed, draw_queries
from lookalike.search.rows import Rows
from lookalike.system.progress import progress_line

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from lookalike.lsh import Hasher


def by_hashing(
    rows: Rows,
    vectors: "DataFrame",
    hasher: "Hasher",
    k: int = 5,
    count: int = 50,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure recall@k and cost of Spark ML's `approxNearestNeighbors` against exact search.

    Parameters
    ----------
    rows : Rows
    vectors : DataFrame
        The same rows, with the vector column of the hasher.
    hasher : Hasher
    k : int
    count : int
        Number of queries.
    seed : int

    Returns
    -------
    dict
        `candidates` is the mean share of all rows that share a bucket with a query, and so are
        compared with it. `fewer_than_k` counts queries with fewer than k neighbours. Times as in
        `by_signatures`.
    """
    shares: list[float] = []
    times: list[float] = []
    true: list[set[int]] = []
    found: list[set[int]] = []
    drawn = draw_queries(rows, count, seed)
    with progress_line("searching with Spark") as move:
        for done, (number, _, vector) in enumerate(drawn):
            move(done, len(drawn))
            true.append({n.number for n in exact.exact(rows, vector, k, without=number)})
            started = time.perf_counter()
            got = search.hashed(vectors, hasher, vector, k, without=number)
            times.append((time.perf_counter() - started) * 1000)
            found.append({n.number for n in got})
            candidates = hasher.explain(vectors, vector).filter("size(tables) > 0").count()
            shares.append(candidates / len(rows))
    return {
        "queries": len(drawn),
        "k": k,
        **_recall(found, true),
        "candidates": round(float(np.mean(shares)), 4),
        "fewer_than_k": sum(len(some) < len(all_) for some, all_ in zip(found, true, strict=True)),
        **_speed(times),
    }
