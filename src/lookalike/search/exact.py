"""Search for one query: exact, approximate by signatures, or by LSH on Spark."""

import faiss
import numpy as np
import numpy.typing as npt

from lookalike.search.rows import Neighbor, Rows, centre_of, nearest_by_products
from lookalike.system.arrays import Mask, Numbers, Vectors

_MORE = 4  # times as many cells or candidates in a wider search
_CHECKED = 10  # neighbours, at least, whose ranks decide whether to search wider


def exact(
    rows: Rows, query: Vectors, k: int, without: int | None = None, allowed: Mask | None = None
) -> list[Neighbor]:
    """Compare a query with all rows and return the k nearest, equal distances by id.

    Parameters
    ----------
    rows : Rows
    query : float32 (width,)
    k : int
    without : int, optional
        Leave out the row with this id.
    allowed : bool (rows,), optional
        Leave out the rows where this is False.

    Returns
    -------
    list of Neighbor
        Fewer than k where there are fewer rows.
    """
    some = None if allowed is None else np.flatnonzero(allowed)
    return _nearest(rows, query, k, without, some)


def exact_many(rows: Rows, queries: Vectors, k: int) -> tuple[Vectors, Numbers]:
    """Return the k nearest rows to each of many queries.

    Blocked matrix products are tens of times as quick as one query at a time, and less exact in
    the last digits.

    Parameters
    ----------
    rows : Rows
    queries : float32 (q, width)
    k : int

    Returns
    -------
    squared : float32 (q, k)
        Squared distances.
    rows : int64 (q, k)
        -1 where there are fewer than k rows.
    """
    heap, centre = faiss.ResultHeap(len(queries), k), centre_of(queries)
    for start, segment in zip(rows.starts, rows.segments, strict=False):
        if len(segment.ids):
            wanted = min(k, len(segment.ids))
            squared, near = nearest_by_products(queries, segment.vectors, wanted, centre)
            heap.add_result(squared, near + start)
    heap.finalize()
    return heap.D, heap.I


def within(
    rows: Rows,
    query: Vectors,
    distance: float,
    k: int | None = None,
    without: int | None = None,
    allowed: Mask | None = None,
) -> list[Neighbor]:
    """Return all rows within a distance of a query, or the k nearest of them, as `exact` does."""
    some = None if allowed is None else np.flatnonzero(allowed)
    squared = rows.squared_distances(query, some)
    near = np.flatnonzero(np.sqrt(squared, dtype=np.float64) <= distance)  # the reported type
    if some is not None:
        near = some[near]
    return _nearest(rows, query, len(near) if k is None else k, without, near)


def _nearest(
    rows: Rows, query: Vectors, k: int, without: int | None, some: Numbers | None
) -> list[Neighbor]:
    """Return the k nearest neighbours among `some` rows, rising, or all."""
    squared, best = _best(rows, query, k, without, some)
    return rows.neighbors(best if some is None else some[best], squared[best])


def _best(
    rows: Rows, query: Vectors, k: int, without: int | None, some: Numbers | None
) -> tuple[Vectors, Numbers]:
    """Return squared distances of `some` rows, or all, and the positions of the k nearest."""
    squared = rows.squared_distances(query, some)
    ids = rows.ids if some is None else rows.ids[some]
    if without is not None:
        squared[ids == without] = np.inf
    best = _smallest(squared, ids, k)
    return squared, best[np.isfinite(squared[best])]


def _smallest(values: npt.NDArray[np.float32], ids: Numbers, k: int) -> Numbers:
    """Return the positions of the k smallest `values` (n,), in order, equal ones by `ids` (n,)."""
    rows = np.arange(len(values))
    if k < len(values):  # keep all ties with the k-th; ids decide
        rows = np.flatnonzero(values <= np.partition(values, k - 1)[k - 1])
    return rows[np.lexsort((ids[rows], values[rows]))[:k]]
