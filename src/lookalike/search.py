"""One query: its nearest neighbours, exactly, without a JVM; or by hashing, on Spark."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
    distances: list[npt.NDArray[np.float32]] = []
    places: list[tuple[int, npt.NDArray[np.int64]]] = []
    for number, segment in enumerate(segments):
        squared = squared_distances(segment.vectors, query)
        if without is not None:
            squared[segment.ids == without] = np.inf
        rows = _smallest(squared, k)
        distances.append(squared[rows])
        places.append((number, rows))
    found = np.concatenate(distances) if distances else np.empty(0, np.float32)
    where = np.concatenate([np.full(len(rows), number) for number, rows in places] or [[]])
    at = np.concatenate([rows for _, rows in places] or [[]])
    ids = np.concatenate([segments[number].ids[rows] for number, rows in places] or [[]])
    order = [i for i in np.lexsort((ids, found))[:k] if np.isfinite(found[i])]
    neighbors = []
    for rank, i in enumerate(order, 1):
        row = segments[int(where[i])].rows.slice(int(at[i]), 1).to_pylist()[0]
        distance = float(np.sqrt(found[i]))
        neighbors.append(Neighbor(rank, row["id"], row["path"], row["label"], distance))
    return neighbors


def squared_distances(vectors: Vectors, query: Vectors) -> npt.NDArray[np.float32]:
    """Squared Euclidean distances of a query (width,) to the rows (n, width), as float32 (n,).

    Taken as sums of squared differences by FAISS, without a copy of the (mapped) rows.
    https://faiss.ai/cpp_api/namespace/namespacefaiss.html
    """
    import faiss

    query = np.ascontiguousarray(query, np.float32)
    rows, width = vectors.shape
    distances = np.empty(rows, np.float32)
    if rows:
        faiss.fvec_L2sqr_ny(
            faiss.swig_ptr(distances), faiss.swig_ptr(query), faiss.swig_ptr(vectors), width, rows
        )
    return distances


def _smallest(values: npt.NDArray[np.float32], k: int) -> npt.NDArray[np.int64]:
    """Positions of the k smallest values and of all that equal the k-th, unordered."""
    if k >= len(values):
        return np.arange(len(values))
    border = np.partition(values, k - 1)[k - 1]
    return np.flatnonzero(values <= border)


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
