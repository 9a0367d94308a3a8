"""How good an index is: retrieval by label, and the recall of hashing against exact search."""

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lookalike import search
from lookalike.embedding import Vectors
from lookalike.errors import LookalikeError
from lookalike.search import Rows
from lookalike.searcher import RECALL, Searcher

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from lookalike.hashing import Hasher


_BLOCK = 256  # queries at a time
_PLACES = 1000  # looked at for mAP@R


def draw_queries(rows: Rows, count: int, seed: int = 0) -> list[tuple[int, str | None, Vectors]]:
    """Draw rows at random, each once: id, label, and embedding, float32 (width,)."""
    total = len(rows)
    if total < 2:
        raise LookalikeError("nothing to evaluate: an index needs at least 2 embedded images")
    places = np.sort(
        np.random.default_rng(seed).choice(total, min(count, total), replace=False, shuffle=False)
    )
    drawn = []
    start = 0
    for segment in rows.segments:
        inside = places[(places >= start) & (places < start + len(segment.ids))] - start
        labels = segment.rows["label"].take(inside).to_pylist()
        for at, label in zip(inside, labels, strict=True):
            drawn.append((int(segment.ids[at]), label, np.array(segment.vectors[at])))
        start += len(segment.ids)
    return drawn


def by_label(rows: Rows, count: int = 2000, seed: int = 0) -> dict[str, Any]:
    """Return R@1, P@5 and mAP@R of exact search, over drawn images that have a label.

    R@1 is how often the nearest of all others has the label of the query, P@5 the share of the five
    nearest that have. mAP@R looks at as many neighbours as there are others with that label, at
    most 1,000: the mean, over all places, of the precision up to each place that is right (Musgrave
    et al., "A metric learning reality check", 2020). Empty where there are no labels.
    """
    labels = pa.chunked_array([segment.rows["label"].cast("string") for segment in rows.segments])
    counts = {row["values"]: row["counts"] for row in labels.value_counts().to_pylist()}
    drawn = [one for one in draw_queries(rows, count, seed) if one[1] is not None]
    sums = np.zeros(3)
    for start in range(0, len(drawn), _BLOCK):
        block = drawn[start : start + _BLOCK]
        others = [min(counts[label] - 1, _PLACES) for _, label, _ in block]
        queries = np.array([vector for _, _, vector in block])
        k = min(max(5, *others) + 1, len(rows))
        _, found = search.exact_many(rows, queries, k)
        for (number, label, _), places, near in zip(block, others, found, strict=True):
            near = near[rows.ids[near] != number]
            same = np.array(labels.take(pa.array(near)).to_pylist()) == label
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


def signature_recall(
    searcher: Searcher, k: int = 5, count: int = 50, seed: int = 0, recall: float = RECALL
) -> dict[str, Any]:
    """Return recall@k of search by signatures against exact search, and what both cost.

    `compared` is the mean share of all rows whose vectors were compared with the query; times are
    in milliseconds, of one query at a time.
    """
    found: list[float] = []
    shares: list[float] = []
    times: dict[str, list[float]] = {"lsh": [], "exact": []}
    for number, _, vector in draw_queries(searcher.rows, count, seed):
        ids: dict[str, set[int]] = {}
        for engine in ("exact", "lsh"):
            started = time.perf_counter()
            neighbors, _, compared = searcher.nearest(
                vector, k, engine=engine, recall=recall, without=number
            )
            times[engine].append((time.perf_counter() - started) * 1000)
            ids[engine] = {n.id for n in neighbors}
        found.append(len(ids["exact"] & ids["lsh"]) / len(ids["exact"]))
        shares.append(compared / len(searcher.rows))
    return {
        "queries": len(found),
        "k": k,
        "recall": round(float(np.mean(found)), 4),
        "recall_95": [round(bound, 4) for bound in interval(np.array(found))],
        "compared": round(float(np.mean(shares)), 5),
        **{
            f"{engine}_ms": {f"p{p}": round(float(np.percentile(some, p)), 3) for p in (50, 99)}
            for engine, some in times.items()
        },
    }


def hash_recall(
    rows: Rows,
    vectors: "DataFrame",
    hasher: "Hasher",
    k: int = 5,
    count: int = 50,
    seed: int = 0,
) -> dict[str, Any]:
    """Return recall@k of `approxNearestNeighbors` against exact search, and what it cost.

    `candidates` is the mean share of all rows that shared a bucket with the query, and so were
    compared with it; `fewer_than_k` counts queries that got fewer neighbours than asked for.
    """
    total = len(rows)
    shares: list[float] = []
    found: list[float] = []
    fewer = 0
    for number, _, vector in draw_queries(rows, count, seed):
        wanted = {n.id for n in search.exact(rows, vector, k, without=number)}
        got = {n.id for n in search.hashed(vectors, hasher, vector, k, without=number)}
        found.append(len(wanted & got) / len(wanted))
        fewer += len(got) < len(wanted)
        candidates = hasher.explain(vectors, vector).filter("size(tables) > 0").count()
        shares.append(candidates / total)
    return {
        "queries": len(found),
        "k": k,
        "recall": round(float(np.mean(found)), 4),
        "recall_95": [round(bound, 4) for bound in interval(np.array(found))],
        "candidates": round(float(np.mean(shares)), 4),
        "fewer_than_k": fewer,
    }


def interval(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95 % confidence interval of the mean, by normal approximation."""
    half = 1.96 * float(values.std(ddof=1)) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return max(float(values.mean()) - half, 0.0), min(float(values.mean()) + half, 1.0)
