"""Search for one query: exact, approximate by signatures, or by LSH on Spark."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lookalike import images
from lookalike.embedding import Vectors
from lookalike.errors import LookalikeError
from lookalike.given import is_text
from lookalike.hashing.signatures import Effort, Signatures
from lookalike.storage import Segment

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from lookalike.hashing import Hasher

Mask = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.int64]

COPY = 1e-5
"""Largest squared distance of a vector to itself, as matrix products round it."""

_MASKS = 8  # cached filters
_MORE = 4  # times as many cells or candidates in a wider search
_CHECKED = 10  # neighbours, at least, whose ranks decide whether to search wider


@dataclass(frozen=True)
class Neighbor:
    """One neighbour of a query.

    Attributes
    ----------
    rank : int
        1 for the nearest.
    id : int
        The id of its row in the index.
    path : str
        Its path below the root of the index; an absolute path outside it.
    label : str or None
    distance : float
        Euclidean distance between vectors of length 1: from 0 to 2.
    tables : tuple of int or None
        The hash tables in which it shares a bucket with the query, with `explain=True`.
    """

    rank: int
    id: int
    path: str
    label: str | None
    distance: float
    tables: tuple[int, ...] | None = None


class Rows:
    """The embedded rows of a collection, numbered from 0 through all its segments."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        self.segments = [segment for segment in segments if len(segment.ids)]
        self.starts = np.cumsum([0, *(len(segment.ids) for segment in self.segments)])
        self._masks: dict[object, Mask] = {}

    def __len__(self) -> int:
        return int(self.starts[-1])

    @cached_property
    def ids(self) -> Numbers:
        """The ids of all rows, int64 (rows,)."""
        parts = [segment.ids for segment in self.segments]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def find(self, numbers: Numbers) -> Numbers:
        """Return the row of each id, both int64 (n,); -1 for an unknown id."""
        if not len(self):
            return np.full(len(numbers), -1)
        place = np.searchsorted(self.ids, numbers, sorter=self._by_id).clip(max=len(self) - 1)
        rows = place if self._by_id is None else self._by_id[place]
        return np.where(self.ids[rows] == numbers, rows, -1)

    @cached_property
    def _by_id(self) -> Numbers | None:
        """The rows sorted by id; None where they are sorted already."""
        rising = bool((self.ids[1:] > self.ids[:-1]).all())
        return None if rising else np.argsort(self.ids)

    def squared_distances(self, query: Vectors, rows: Numbers | None = None) -> Vectors:
        """Return squared Euclidean distances of a query to all rows, or to some.

        Sums of squared differences, without a copy of the vectors.

        Parameters
        ----------
        query : float32 (width,)
        rows : int64 (n,), optional
            Row numbers, rising.

        Returns
        -------
        float32 (n,)
        """
        squared = np.empty(len(self) if rows is None else len(rows), np.float32)
        at = self.starts if rows is None else np.searchsorted(rows, self.starts)
        for number, segment in enumerate(self.segments):
            start, stop = at[number], at[number + 1]
            if start < stop:
                some = None if rows is None else rows[start:stop] - self.starts[number]
                squared[start:stop] = squared_distances(segment.vectors, query, some)
        return squared

    def vectors(self, rows: Numbers) -> Vectors:
        """Copy the vectors of some rows, in rising order: float32 (n, width)."""
        at = np.searchsorted(rows, self.starts)
        parts = [
            segment.vectors[rows[at[number] : at[number + 1]] - self.starts[number]]
            for number, segment in enumerate(self.segments)
        ]
        return np.concatenate(parts)

    def chosen(self, labels: list[str] | None, globs: list[str] | None) -> Mask | None:
        """Return a mask of the rows with one of the labels and a path that matches a glob.

        bool (rows,); None without a filter. `*` matches slashes too.
        """
        if labels is None and globs is None:
            return None
        key = tuple(None if one is None else tuple(one) for one in (labels, globs))
        mask = self._masks.get(key)
        if mask is None:
            while len(self._masks) >= _MASKS:
                self._masks.pop(next(iter(self._masks), None), None)
            mask = self._masks[key] = self._mask(labels, globs)
        return mask

    def left(self, mask: Mask | None) -> Numbers:
        """Return the rows where a mask of `chosen` is True, rising; all rows for None."""
        return np.arange(len(self)) if mask is None else np.flatnonzero(mask)

    def _mask(self, labels: list[str] | None, globs: list[str] | None) -> Mask:
        parts = []
        for segment in self.segments:
            mask = np.ones(len(segment.ids), bool)
            if labels is not None:
                # No row has a label that is not UTF-8.
                wanted = pa.array([one for one in labels if is_text(one)], pa.string())
                mask &= pc.is_in(segment.rows["label"], wanted).to_numpy()
            if globs is not None:
                patterns = "|".join(map(images.glob_pattern, globs)) or "$."
                try:
                    fits = pc.match_substring_regex(segment.rows["path"], f"(?s)^(?:{patterns})$")
                except pa.ArrowInvalid as error:
                    raise LookalikeError(f"no glob for paths: {globs} ({error})") from None
                mask &= fits.to_numpy()
            parts.append(mask)
        return np.concatenate(parts) if parts else np.empty(0, bool)

    def neighbors(self, rows: Numbers, squared: Vectors) -> list[Neighbor]:
        """Make neighbours of rows (n,), nearest first, and their squared distances (n,)."""
        each = zip(rows.tolist(), self.ids[rows].tolist(), squared.tolist(), strict=True)
        return [
            Neighbor(rank, number, self.paths[row].as_py(), self.labels[row].as_py(), distance**0.5)
            for rank, (row, number, distance) in enumerate(each, 1)
        ]

    @cached_property
    def paths(self) -> pa.ChunkedArray:
        """The paths of all rows, memory-mapped."""
        return self._named("path")

    @cached_property
    def labels(self) -> pa.ChunkedArray:
        """The labels of all rows."""
        return self._named("label")

    @cached_property
    def hashes(self) -> pa.ChunkedArray:
        """The content hashes of all rows' files."""
        return self._named("content_hash")

    def _named(self, column: str) -> pa.ChunkedArray:
        columns = [segment.rows[column] for segment in self.segments]
        return pa.chunked_array([chunk for one in columns for chunk in one.chunks], pa.string())


def draw(total: int, count: int, seed: int = 0) -> Numbers:
    """Draw `count` of `total` rows at random, without repetition: int64, rising.

    Examples
    --------
    >>> draw(3, 5)
    array([0, 1, 2])
    """
    rng = np.random.default_rng(seed)
    return np.sort(rng.choice(total, min(count, total), replace=False, shuffle=False))


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
    heap = faiss.ResultHeap(len(queries), k)
    for start, segment in zip(rows.starts, rows.segments, strict=False):
        if len(segment.ids):
            squared, near = faiss.knn(queries, segment.vectors, min(k, len(segment.ids)))
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


def approximate(
    rows: Rows,
    signatures: Signatures,
    query: Vectors,
    k: int,
    effort: Effort,
    without: int | None = None,
    allowed: Mask | None = None,
) -> tuple[list[Neighbor], int | None]:
    """Return the k nearest of the rows whose signatures are nearest to a query.

    Neighbours that rank late, among the scanned cells or among the candidates, hint at more beyond:
    the search then widens until they rank early or nothing changes. It also widens where the cells
    hold fewer than k rows. A search that would compare a large share of all rows is exact instead.

    Parameters
    ----------
    rows : Rows
    signatures : Signatures
        Of the same rows.
    query : float32 (width,)
    k : int
    effort : Effort
    without, allowed
        As in `exact`.

    Returns
    -------
    neighbors : list of Neighbor
    compared : int or None
        Number of rows whose vectors were compared; None for all.
    """
    own = without is not None
    count, cells = max(effort.candidates, k) + own, effort.cells
    wanted, before, is_late, is_far = count + 1, np.empty(0, np.int64), False, False
    while wanted < len(rows) // 8 and cells <= len(signatures.cells):
        (estimates,), (found,), (cells_near,) = signatures.nearest_with_cells(
            query[None], wanted, cells, allowed
        )
        filled = int(np.count_nonzero(found >= 0))
        if filled == wanted and estimates[count - 1] == estimates[-1]:
            wanted *= _MORE  # rows that tie with the last candidate are candidates too
            continue
        if filled < k + own:
            cells *= _MORE
            continue
        last = estimates[min(count, filled) - 1]
        order = np.argsort(found[: np.searchsorted(estimates[:filled], last, side="right")])
        candidates = found[order]
        squared, best = _best(rows, query, max(k, _CHECKED), without, candidates)
        near = candidates[best[:k]]
        if np.array_equal(near, before):
            break
        compared = len(candidates)
        ranks = signatures.cell_ranks(candidates[best], cells_near)
        is_late = is_late or order[best].sum() > effort.late_rank * compared * len(best)
        is_far = is_far or ranks.sum() > effort.late_cell * cells * len(best)
        is_late, is_far = is_late and filled == wanted, is_far and cells < len(signatures.cells)
        if not is_late and not is_far:
            break
        before = near
        count = compared * _MORE if is_late else count
        cells = min(cells * _MORE, len(signatures.cells)) if is_far else cells
        wanted = count + 1
    else:
        return exact(rows, query, k, without, allowed), None
    return rows.neighbors(near, squared[best[:k]]), len(candidates)


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


def squared_distances(vectors: Vectors, query: Vectors, some: Numbers | None = None) -> Vectors:
    """Return squared Euclidean distances of a query to vectors, by FAISS.

    Sums of squared differences, without a copy of the (memory-mapped) vectors.
    https://faiss.ai/cpp_api/namespace/namespacefaiss.html

    Parameters
    ----------
    vectors : float32 (n, width)
    query : float32 (width,)
    some : int64 (m,), optional
        Compare these rows of `vectors` alone.

    Returns
    -------
    float32 (n,) or (m,)
    """
    query = np.ascontiguousarray(query, np.float32)
    rows, width = vectors.shape
    distances = np.empty(rows if some is None else len(some), np.float32)
    if not len(distances):
        return distances
    out, one, all_ = map(faiss.swig_ptr, (distances, query, vectors))
    if some is None:
        faiss.fvec_L2sqr_ny(out, one, all_, width, rows)  # type: ignore[attr-defined]
    else:
        at = faiss.swig_ptr(np.ascontiguousarray(some, np.int64))
        # For one query FAISS would start all threads, and wait for busy cores.
        threads = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(1)
        faiss.fvec_L2sqr_by_idx(out, one, all_, at, width, 1, len(some))  # type: ignore[attr-defined]
        faiss.omp_set_num_threads(threads)
    return distances


def _smallest(values: npt.NDArray[np.float32], ids: Numbers, k: int) -> Numbers:
    """Return the positions of the k smallest `values` (n,), in order, equal ones by `ids` (n,)."""
    rows = np.arange(len(values))
    if k < len(values):  # keep all ties with the k-th; ids decide
        rows = np.flatnonzero(values <= np.partition(values, k - 1)[k - 1])
    return rows[np.lexsort((ids[rows], values[rows]))[:k]]


def hashed(
    vectors: "DataFrame", hasher: "Hasher", query: Vectors, k: int, without: int | None = None
) -> list[Neighbor]:
    """Return at most k neighbours by Spark ML's `approxNearestNeighbors`.

    Parameters
    ----------
    vectors : DataFrame
        With `id, path, label` and the vector column of the hasher.
    hasher : Hasher
    query : float32 (width,)
    k : int
    without : int, optional
        Leave out the row with this id.

    Returns
    -------
    list of Neighbor
        Fewer than k where fewer rows share a bucket with the query.
    """
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
    """Raise `LookalikeError` unless k is a whole number of at least 1."""
    if isinstance(k, bool) or not isinstance(k, int | np.integer):
        raise LookalikeError(f"k is {k!r}: give a whole number")
    if k < 1:
        raise LookalikeError(f"k is {k}: give at least 1 neighbour")


def check_seed(seed: int | None) -> None:
    """Raise `LookalikeError` for a negative seed, which NumPy refuses."""
    if seed is not None and seed < 0:
        raise LookalikeError(f"`seed` is {seed}: give 0 or more")


def check_recall(recall: float) -> None:
    """Raise `LookalikeError` unless a target recall is above 0 and at most 1."""
    if not 0 < recall <= 1:
        raise LookalikeError(f"`recall` is {recall}: give a share above 0 and up to 1")
