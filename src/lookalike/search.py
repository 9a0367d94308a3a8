"""One query: its nearest neighbours, exactly, without a JVM; or by hashing, on Spark."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import faiss
import numpy as np
import numpy.typing as npt

from lookalike.collection import Segment
from lookalike.embedding import Vectors
from lookalike.errors import LookalikeError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from lookalike.hashing import Hasher


@dataclass(frozen=True)
class Neighbor:
    """One look-alike. `distance` is Euclidean between vectors of length 1: from 0 to 2.

    `tables` are the hash tables it was found in, where that was asked for.
    """

    rank: int
    id: int
    path: str
    label: str | None
    distance: float
    tables: tuple[int, ...] | None = None


def exact(
    segments: Sequence[Segment], query: Vectors, k: int, without: int | None = None
) -> list[Neighbor]:
    """Return the k nearest of all rows to a query (width,), equal distances by id.

    The row with the id `without` is left out. Fewer than k only where there are fewer rows.
    """
    found: list[tuple[float, int, Segment, int]] = []
    for segment in segments:
        squared = squared_distances(segment.vectors, query)
        if without is not None:
            squared[segment.ids == without] = np.inf
        for row in _smallest(squared, segment.ids, k):
            if np.isfinite(squared[row]):
                found.append((float(squared[row]), int(segment.ids[row]), segment, int(row)))
    found.sort(key=lambda one: one[:2])
    neighbors = []
    for rank, (distance, number, segment, at) in enumerate(found[:k], 1):
        row = segment.rows.slice(at, 1).to_pylist()[0]
        neighbors.append(Neighbor(rank, number, row["path"], row["label"], distance**0.5))
    return neighbors


def squared_distances(vectors: Vectors, query: Vectors) -> npt.NDArray[np.float32]:
    """Squared Euclidean distances of a query (width,) to the rows (n, width), as float32 (n,).

    Taken as sums of squared differences by FAISS, without a copy of the (mapped) rows.
    https://faiss.ai/cpp_api/namespace/namespacefaiss.html
    """
    query = np.ascontiguousarray(query, np.float32)
    rows, width = vectors.shape
    distances = np.empty(rows, np.float32)
    if rows:
        faiss.fvec_L2sqr_ny(  # type: ignore[attr-defined]
            faiss.swig_ptr(distances), faiss.swig_ptr(query), faiss.swig_ptr(vectors), width, rows
        )
    return distances


def _smallest(
    values: npt.NDArray[np.float32], ids: npt.NDArray[np.int64], k: int
) -> npt.NDArray[np.int64]:
    """Positions of the k smallest of `values` (n,), in order; equal ones by their `ids` (n,)."""
    rows = np.arange(len(values))
    if k < len(values):  # all that equal the k-th are kept, for the ids to decide
        rows = np.flatnonzero(values <= np.partition(values, k - 1)[k - 1])
    return rows[np.lexsort((ids[rows], values[rows]))[:k]]


def hashed(
    vectors: "DataFrame", hasher: "Hasher", query: Vectors, k: int, without: int | None = None
) -> list[Neighbor]:
    """Return at most k approximate neighbours by `approxNearestNeighbors` on Spark.

    `vectors` has `id, path, label` and the vector column of the hasher.
    """
    # One more is asked for than wanted, since the query's own row is the first of them.
    rows = hasher.nearest(vectors, query, k + (without is not None)).select(
        "id", "path", "label", "distance"
    )
    found = sorted((row["distance"], row["id"], row) for row in rows.collect())
    kept = [(distance, row) for distance, number, row in found if number != without][:k]
    return [
        Neighbor(rank, row["id"], row["path"], row["label"], float(distance))
        for rank, (distance, row) in enumerate(kept, 1)
    ]


def check_k(k: int) -> None:
    """Raise `LookalikeError` unless k is a number of neighbours that one can ask for."""
    if k < 1:
        raise LookalikeError(f"k is {k}: ask for at least 1 neighbour")
