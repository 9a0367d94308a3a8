"""Collapse the copies of one photo among the neighbours of a query."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lookalike.search.rows import Neighbor, Rows
from lookalike.system.arrays import Vectors


def collapse(
    found: Sequence[Neighbor], vectors: Vectors, limit: float, k: int | None = None
) -> list[Neighbor]:
    """Keep one neighbour of each photo, and count the others: greedily from the nearest.

    A neighbour is a copy where its vector is within `limit` of that of one kept before; it counts
    for the first of these. So two kept ones are always farther apart.

    Parameters
    ----------
    found : sequence of Neighbor
        n neighbours, nearest first.
    vectors : float32 (n, width)
    limit : float
        The largest distance of "same photo".
    k : int, optional
        Keep at most so many. Copies of them that come later still count.

    Returns
    -------
    list of Neighbor
        With `rank` from 1, and `copies`: how many of the others are copies of it.

    Examples
    --------
    >>> found = [Neighbor(rank, rank, f"{rank}.jpg", None, rank / 10) for rank in (1, 2, 3)]
    >>> vectors = np.array([[1, 0], [1, 0.01], [0, 1]], np.float32)
    >>> [(one.rank, one.path, one.copies) for one in collapse(found, vectors, 0.1)]
    [(1, '1.jpg', 1), (2, '3.jpg', 0)]
    """
    kept: list[int] = []
    counts: list[int] = []
    chosen = np.empty((0, vectors.shape[1] if vectors.ndim == 2 else 0), np.float32)
    for at, vector in enumerate(vectors):
        near = np.flatnonzero(np.linalg.norm(chosen - vector, axis=1) <= limit)
        if len(near):
            counts[near[0]] += 1
        elif k is None or len(kept) < k:
            kept.append(at)
            counts.append(0)
            chosen = vectors[kept]
    return [
        replace(found[at], rank=rank, copies=count)
        for rank, (at, count) in enumerate(zip(kept, counts, strict=True), 1)
    ]


def vectors_of(found: Sequence[Neighbor], rows: "Rows | None") -> Vectors:
    """Return the vectors of neighbours, float32 (n, width): at hand, or of the mapped rows."""
    if rows is None or all(one.vector is not None for one in found):
        return np.array([one.vector for one in found], np.float32)
    places = rows.find(np.array([one.number for one in found], np.int64))
    order = np.argsort(places, kind="stable")
    vectors = rows.vectors(places[order])
    vectors[order] = vectors.copy()
    return vectors
