"""Evaluate an index: retrieval by label, and the recall and speed of each engine."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lookalike.errors import LookalikeError
from lookalike.search import exact
from lookalike.search.recall import RECALLS
from lookalike.search.rows import Rows, draw
from lookalike.search.searcher import Searcher
from lookalike.system.arrays import Numbers, Vectors
from lookalike.system.defaults import TARGET_RECALL
from lookalike.system.progress import progress_line

DrawnQuery: TypeAlias = tuple[int, str | None, Vectors]
"""A drawn query: its id, label and vector, float32 (width,)."""

_NO_ROW = -1  # the id of a query that is no row
_BLOCK_QUERIES = 256  # per matrix product
_MAX_LABEL_NEIGHBOURS = 1000  # largest R of mAP@R


def draw_queries(rows: Rows, count: int, seed: int = 0) -> list[DrawnQuery]:
    """Draw `count` rows at random, without repetition.

    Raises `LookalikeError` for fewer than 2 rows.
    """
    return _queries_at(rows, draw(len(rows), count, seed))


def _queries_at(rows: Rows, places: Numbers) -> list[DrawnQuery]:
    if len(rows) < 2:
        raise LookalikeError("nothing to evaluate: an index needs at least 2 embedded images")
    labels = rows.labels.take(pa.array(places)).to_pylist()
    return list(zip(rows.ids[places].tolist(), labels, rows.vectors(places), strict=True))


def by_label(rows: Rows, count: int = 2000, seed: int = 0) -> dict[str, Any]:
    """Measure R@1, P@5 and mAP@R of exact search with drawn images that have a label.

    R@1 is the share of queries whose nearest neighbour has the same label; P@5 is the share of the
    five nearest with the same label. mAP@R is the mean precision up to each correct neighbour among
    the R nearest (Musgrave et al., "A metric learning reality check", 2020); R is the number of
    other images with that label, 1,000 at most.

    Parameters
    ----------
    rows : Rows
    count : int
        Number of queries.
    seed : int

    Returns
    -------
    dict
        `labelled_queries`, `R@1`, `P@5`, `mAP@R`; empty where no image has a label.
    """
    labelled = np.flatnonzero(rows.labels.is_valid())
    drawn = _queries_at(rows, labelled[draw(len(labelled), count, seed)])
    counts = {row["values"]: row["counts"] for row in rows.labels.value_counts().to_pylist()}
    sums = np.zeros(3)
    for start in range(0, len(drawn), _BLOCK_QUERIES):
        block = drawn[start : start + _BLOCK_QUERIES]
        others = [min(counts[label] - 1, _MAX_LABEL_NEIGHBOURS) for _, label, _ in block]
        queries = np.array([vector for _, _, vector in block])
        k = min(max(5, *others) + 1, len(rows))
        _, found = exact.exact_many(rows, queries, k)
        for (number, label, _), places, near in zip(block, others, found, strict=True):
            near = near[rows.ids[near] != number]
            same = np.array(rows.labels.take(pa.array(near)).to_pylist()) == label
            right = same[:places]
            precision = np.cumsum(right) / np.arange(1, len(right) + 1)
            sums += (
                same[0],
                same[:5].mean(),
                (precision * right).sum() / places if places else 0.0,
            )
    if not drawn:
        return {}
    names = ("R@1", "P@5", "mAP@R")
    means = sums / len(drawn)
    figures = {name: round(float(mean), 4) for name, mean in zip(names, means, strict=True)}
    return {"labelled_queries": len(drawn), **figures}


@dataclass(frozen=True)
class EngineAnswers:
    """The answers of one engine to drawn queries.

    `ids` are the neighbours of each query, `compared` is the mean share of all rows that a query
    was compared with, `times` are milliseconds per query.
    """

    ids: list[set[int]]
    compared: float
    times: list[float]


def by_signatures(
    searcher: Searcher, k: int = 5, count: int = 50, seed: int = 0
) -> dict[str, dict[str, Any] | list[dict[str, Any]]]:
    """Measure recall@k and cost of approximate search against exact search.

    Parameters
    ----------
    searcher : Searcher
    k : int
    count : int
        Number of queries.
    seed : int

    Returns
    -------
    dict
        `approximate` has the figures at the default target recall. `curve` has a point for each of
        `RECALLS`, always by signatures, and exact search last. In a point, `compared` is the mean
        share of all rows whose vectors were compared with a query; `ms` are milliseconds per query,
        one at a time; `queries_per_s` follows from their median.
    """
    drawn = draw_queries(searcher.rows, count, seed)
    searcher.get_ready()
    true = _answers(searcher, drawn, k, "exact", 1)
    curve = []
    with progress_line("measuring recall") as move:
        for done, recall in enumerate(RECALLS):
            move(done, len(RECALLS))
            found = _answers(searcher, drawn, k, "approximate", recall)
            curve.append(_point("approximate", recall, found, true))
    curve.append(_point("exact", 1.0, true, true))
    usual = curve[RECALLS.index(TARGET_RECALL)]
    return {"approximate": _summary(len(drawn), k, usual, curve[-1]), "curve": curve}


def by_vectors(searcher: Searcher, vectors: Vectors, k: int = 5) -> dict[str, Any]:
    """Measure recall@k and cost of approximate search with queries that are no rows, such as words.

    Parameters
    ----------
    searcher : Searcher
    vectors : float32 (n, width)
    k : int

    Returns
    -------
    dict
        As `approximate` of `by_signatures`.
    """
    queries: list[DrawnQuery] = [(_NO_ROW, None, vector) for vector in vectors]
    searcher.get_ready()
    true = _answers(searcher, queries, k, "exact", 1)
    found = _answers(searcher, queries, k, "approximate", TARGET_RECALL)
    return _summary(
        len(queries),
        k,
        _point("approximate", TARGET_RECALL, found, true),
        _point("exact", 1.0, true, true),
    )


def _summary(queries: int, k: int, usual: dict[str, Any], best: dict[str, Any]) -> dict[str, Any]:
    return {
        "queries": queries,
        "k": k,
        **{name: usual[name] for name in ("recall", "recall_95", "compared")},
        "approximate_ms": usual["ms"],
        "exact_ms": best["ms"],
    }


def _answers(
    searcher: Searcher,
    drawn: list[DrawnQuery],
    k: int,
    engine: Literal["exact", "approximate"],
    recall: float,
) -> EngineAnswers:
    ids, shares, times = [], [], []
    for number, _, vector in [drawn[0], *drawn]:  # the first warms up
        started = time.perf_counter()
        found, _, compared = searcher.nearest(
            vector, k, engine=engine, recall=recall, without=number
        )
        times.append((time.perf_counter() - started) * 1000)
        ids.append({neighbor.number for neighbor in found})
        shares.append(compared / len(searcher.rows))
    return EngineAnswers(ids[1:], float(np.mean(shares[1:])), times[1:])


def _point(engine: str, asked: float, found: EngineAnswers, true: EngineAnswers) -> dict[str, Any]:
    return {
        "engine": engine,
        "asked": asked,
        **_recall(found.ids, true.ids),
        "compared": round(found.compared, 5),
        **_speed(found.times),
    }


def _recall(found: list[set[int]], true: list[set[int]]) -> dict[str, Any]:
    if found is true:  # exact search
        return {"recall": 1.0, "recall_95": [1.0, 1.0]}
    shares = np.array(
        [len(some & all_) / len(all_) for some, all_ in zip(found, true, strict=True)]
    )
    return {
        "recall": round(float(shares.mean()), 4),
        "recall_95": [round(bound, 4) for bound in interval(shares)],
    }


def _speed(times: list[float]) -> dict[str, Any]:
    """Return percentiles of times in milliseconds, and queries per second from their median."""
    return {
        "ms": {f"p{p}": round(float(np.percentile(times, p)), 3) for p in (50, 99)},
        "queries_per_s": round(1000 / float(np.median(times)), 2),
    }


def points(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the points of the curve, with `spark-lsh` last where it was measured."""
    hashed = figures.get("spark-lsh")
    more = [{"engine": "spark-lsh", "compared": hashed["candidates"], **hashed}] if hashed else []
    return [*figures["curve"], *more]


def series(figures: Mapping[str, Any]) -> dict[str, list[tuple[float, float]]]:
    """Return (queries per second, recall) of each point, by engine, for a plot."""
    found: dict[str, list[tuple[float, float]]] = {}
    for point in points(figures):
        one = (point["queries_per_s"], point["recall"])
        found.setdefault(point["engine"], []).append(one)
    return found


def interval(shares: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95 % confidence interval of the mean of shares, float64 (n,), each from 0 to 1.

    Wilson's score interval (1927), which keeps a width even where all shares are 1. Neighbours of
    one query are found or missed together, so the number of independent trials comes from the
    spread of the shares and of one more query with a share of one half; 10 per query at most.

    Examples
    --------
    >>> [round(float(bound), 3) for bound in interval(np.ones(100))]
    [0.981, 1.0]
    """
    mean = float(shares.mean())
    some = np.append(shares, 0.5)
    most = some.mean() * (1 - some.mean())  # the variance if each share were 0 or 1
    z2 = 1.96**2 / (len(shares) * most / max(some.var(), most / 10))
    middle = (mean + z2 / 2) / (1 + z2)
    half = (z2 * (mean * (1 - mean) + z2 / 4)) ** 0.5 / (1 + z2)
    return max(middle - half, 0.0), min(middle + half, 1.0)
