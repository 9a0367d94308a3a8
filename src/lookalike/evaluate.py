"""How good an index is: retrieval by label, and the recall of hashing against exact search."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lookalike import search
from lookalike.collection import Segment
from lookalike.embedding import Vectors
from lookalike.errors import LookalikeError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from lookalike.hashing import Hasher


def draw_queries(
    segments: Sequence[Segment], count: int, seed: int = 0
) -> list[tuple[int, str | None, Vectors]]:
    """Draw rows at random, each once: id, label, and embedding, float32 (width,)."""
    total = sum(len(segment.ids) for segment in segments)
    if total < 2:
        raise LookalikeError("nothing to evaluate: an index needs at least 2 embedded images")
    places = np.sort(
        np.random.default_rng(seed).choice(total, min(count, total), replace=False, shuffle=False)
    )
    drawn = []
    start = 0
    for segment in segments:
        inside = places[(places >= start) & (places < start + len(segment.ids))] - start
        labels = segment.rows["label"].take(inside).to_pylist()
        for at, label in zip(inside, labels, strict=True):
            drawn.append((int(segment.ids[at]), label, np.array(segment.vectors[at])))
        start += len(segment.ids)
    return drawn


def by_label(segments: Sequence[Segment], count: int = 2000, seed: int = 0) -> dict[str, Any]:
    """Return R@1 and P@5 of exact search: the share of the nearest one and five of equal label.

    Each drawn image that has a label searches all others. Empty where there are no labels.
    """
    firsts: list[bool] = []
    fives: list[float] = []
    for number, label, vector in draw_queries(segments, count, seed):
        if label is None:
            continue
        same = [n.label == label for n in search.exact(segments, vector, 5, without=number)]
        firsts.append(same[0])
        fives.append(sum(same) / len(same))
    if not firsts:
        return {}
    return {
        "labelled_queries": len(firsts),
        "R@1": round(float(np.mean(firsts)), 4),
        "P@5": round(float(np.mean(fives)), 4),
    }


def hash_recall(
    segments: Sequence[Segment],
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
    total = sum(len(segment.ids) for segment in segments)
    shares: list[float] = []
    found: list[float] = []
    fewer = 0
    for number, _, vector in draw_queries(segments, count, seed):
        wanted = {n.id for n in search.exact(segments, vector, k, without=number)}
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
