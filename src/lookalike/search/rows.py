"""The rows of an index, mapped and ready to be compared with queries."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lookalike.errors import LookalikeError
from lookalike.search.filters import Filter
from lookalike.storage import Segment
from lookalike.storage.own_vectors import Described
from lookalike.storage.remote import is_stored
from lookalike.storage.remote.copied_log import TRANSFERS
from lookalike.system.arrays import Mask, Numbers, Vectors

COPY = 1e-5
"""Largest squared distance of a vector of length 1 to itself, as matrix products round it."""
MAX_LENGTH = 1e15
"""Length of a vector up to which float32 holds squared distances."""

_MASKS = 8  # cached filters
_UNIT_TOLERANCE = 1e-2
_MAX_OFFSET = 8  # lengths of the centre of vectors, in those of their differences from it


@dataclass(frozen=True)
class Neighbor:
    """One neighbour of a query.

    Attributes
    ----------
    rank : int
        1 for the nearest.
    id : int or str
        The number of its row in the index, or its key, where the user's vectors have keys.
    path : str
        Its path below the root of the index; an absolute path outside it.
    label : str or None
    distance : float
        Euclidean distance between vectors of length 1: from 0 to 2. With the metric `l2` between
        vectors as they were given.
    tables : tuple of int or None
        The hash tables in which it shares a bucket with the query, with `explain=True`.
    number : int
        The number of its row in the index.
    content_hash : str
        The hash of its file, where the search had it at hand; not compared.
    copies : int or None
        How many images of the result were left out as copies of this one; None where copies are
        results of their own. Not compared.
    vector : float32 (width,), or None
        Its vector, where the search had it at hand; not compared.
    """

    rank: int
    id: int | str
    path: str
    label: str | None
    distance: float
    tables: tuple[int, ...] | None = None
    number: int = -1
    content_hash: str = field(default="", compare=False, repr=False)
    copies: int | None = field(default=None, compare=False, repr=False)
    vector: Vectors | None = field(default=None, compare=False, repr=False)


def fetch(segments: Sequence[Segment]) -> Sequence[Segment]:
    """Return segments; fetch those of an index in a store, several at once."""
    if segments and is_stored(segments[0].file):
        with ThreadPoolExecutor(TRANSFERS) as pool:
            list(pool.map(lambda segment: segment.ids, segments))
    return segments


class Rows:
    """The embedded rows of an index, numbered from 0 through all its segments."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        self.segments = [segment for segment in segments if len(segment.ids)]
        self.starts = np.cumsum([0, *(len(segment.ids) for segment in self.segments)])
        self._masks: dict[Filter | None, Mask] = {}

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

    def chosen(self, chosen: Filter) -> Mask | None:
        """Return a mask of the rows that a filter chooses: bool (rows,); None without a filter."""
        if not chosen:
            return None
        mask = self._masks.get(chosen)
        if mask is None:
            while len(self._masks) >= _MASKS:
                self._masks.pop(next(iter(self._masks), None), None)
            mask = self._masks[chosen] = chosen.mask(self.segments)
        return mask

    def left(self, mask: Mask | None) -> Numbers:
        """Return the rows where a mask of `chosen` is True, rising; all rows for None."""
        return np.arange(len(self)) if mask is None else np.flatnonzero(mask)

    def neighbors(self, rows: Numbers, squared: Vectors) -> list[Neighbor]:
        """Make neighbours of rows (n,), nearest first, and their squared distances (n,)."""
        each = zip(rows.tolist(), self.ids[rows].tolist(), squared.tolist(), strict=True)
        return [
            Neighbor(
                rank,
                self.id_of(row),
                self.paths[row].as_py(),
                self.labels[row].as_py(),
                distance**0.5,
                number=number,
            )
            for rank, (row, number, distance) in enumerate(each, 1)
        ]

    def id_of(self, row: int) -> int | str:
        """Return the key of a row, or its id where rows have no keys."""
        if self.keys is None:
            return int(self.ids[row])
        key: int | str = self.keys[row].as_py()
        return key

    def row_of(self, id_: int | str) -> int | None:
        """Return the row with a key, or with an id where rows have no keys; None without one."""
        if self.keys is None:
            is_id = isinstance(id_, int | np.integer) and 0 <= id_ < 2**63
            row = int(self.find(np.array([id_]))[0]) if is_id else -1
        else:
            is_text = pa.types.is_string(self.keys.type)
            if isinstance(id_, str) != is_text:
                return None
            try:
                row = int(pc.index(self.keys, pa.scalar(id_, self.keys.type)).as_py())
            except (pa.ArrowException, OverflowError, UnicodeError):  # no key of that type
                return None
        return None if row < 0 else row

    @cached_property
    def paths(self) -> pa.ChunkedArray:
        """The paths of all rows, memory-mapped."""
        return self._named("path")

    @cached_property
    def labels(self) -> pa.ChunkedArray:
        """The labels of all rows."""
        return self._named("label")

    @cached_property
    def keys(self) -> pa.ChunkedArray | None:
        """The keys of all rows, int64 or string; None where rows have none."""
        columns = [one.rows["key"] for one in self.segments if "key" in one.rows.column_names]
        if not columns:
            return None
        return pa.chunked_array([chunk for one in columns for chunk in one.chunks], columns[0].type)

    @cached_property
    def hashes(self) -> pa.ChunkedArray:
        """The content hashes of all rows' files."""
        return self._named("content_hash")

    def _named(self, column: str) -> pa.ChunkedArray:
        columns = [segment.rows[column] for segment in self.segments]
        return pa.chunked_array([chunk for one in columns for chunk in one.chunks], pa.string())


def copy_limits(queries: Vectors) -> Vectors:
    """Return for each query (q, width) the squared distance up to which a row is a copy: (q, 1)."""
    if (centre := centre_of(queries)) is not None:
        queries = queries - centre
    squares = np.einsum("ij,ij->i", queries, queries)[:, None]
    limits: Vectors = np.where(np.abs(squares - 1) < _UNIT_TOLERANCE, 1, squares) * np.float32(COPY)
    return limits


def as_given(vectors: npt.NDArray[Any]) -> Vectors:
    """Return vectors (n, width) as float32, of any length.

    Raises `LookalikeError` for one that is longer than `MAX_LENGTH`.
    """
    with np.errstate(over="ignore"):
        rows: Vectors = vectors.astype(np.float32)
    if not (np.linalg.norm(rows.astype(np.float64), axis=1) <= MAX_LENGTH).all():
        raise LookalikeError(f"a vector is longer than {MAX_LENGTH:g}: scale the vectors down")
    return rows


def is_centred(queries: Vectors) -> bool:
    """Tell whether matrix products of vectors like these round distances little.

    Products lose the digits that lengths have more than distances. Vectors of length 1 are fine.
    """
    if not len(queries):
        return True
    middle = queries.mean(axis=0)
    spread = np.linalg.norm(queries - middle, axis=1)
    return bool(np.linalg.norm(middle) <= _MAX_OFFSET * np.median(spread))


def nearest_by_products(
    queries: Vectors, vectors: Vectors, k: int, centre: Vectors | None = None
) -> tuple[Vectors, Numbers]:
    """Return squared distances and positions of the k nearest vectors, by matrix products.

    `centre` (width,) is taken from both sides first, which keeps distances and their digits.
    """
    if centre is not None:
        queries, vectors = queries - centre, vectors - centre
    found: tuple[Vectors, Numbers] = faiss.knn(queries, vectors, k)
    return found


def centre_of(queries: Vectors) -> Vectors | None:
    """Return the centre to compare vectors like these around, None where that is not needed."""
    if is_centred(queries):
        return None
    centre: Vectors = queries.mean(axis=0)
    return centre


def draw(total: int, count: int, seed: int = 0) -> Numbers:
    """Draw `count` of `total` rows at random, without repetition: int64, rising.

    Examples
    --------
    >>> draw(3, 5)
    array([0, 1, 2])
    """
    rng = np.random.default_rng(seed)
    return np.sort(rng.choice(total, min(count, total), replace=False, shuffle=False))


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


def check_k(k: int) -> None:
    """Raise `LookalikeError` unless k is a whole number of at least 1."""
    if isinstance(k, bool) or not isinstance(k, int | np.integer):
        raise LookalikeError(f"k is {k!r}: give a whole number")
    if k < 1:
        raise LookalikeError(f"k is {k}: give at least 1 neighbour")


def check_within(table: Described, within: float | None) -> None:
    """Raise `LookalikeError` for a distance that two vectors of a table cannot have."""
    largest = 2 if table.metric == "cosine" else np.finfo(np.float32).max
    if within is None or 0 <= within <= largest:
        return
    limits = "a distance from 0 to 2" if table.metric == "cosine" else "a distance from 0 on"
    raise LookalikeError(f"`within` is {within}: give {limits}")


def check_seed(seed: int | None) -> None:
    """Raise `LookalikeError` for a negative seed, which NumPy refuses."""
    if seed is not None and seed < 0:
        raise LookalikeError(f"`seed` is {seed}: give 0 or more")


def check_recall(recall: float) -> None:
    """Raise `LookalikeError` unless a target recall is above 0 and at most 1."""
    if not 0 < recall <= 1:
        raise LookalikeError(f"`recall` is {recall}: give a share above 0 and up to 1")
