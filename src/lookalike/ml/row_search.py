"""Search an index from the tasks of Spark, for `NearestNeighborsModel.transform`."""

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lookalike.errors import LookalikeError
from lookalike.ingest.vectors.values import parse
from lookalike.search.knn.partitions import Partition, group_segments
from lookalike.search.searcher import Searcher
from lookalike.storage import EmbeddingTable
from lookalike.system.arrays import Numbers, Vectors

if TYPE_CHECKING:
    import pandas as pd


BLOCK_QUERIES = 1_024
"""Queries that are compared at a time."""


class Place(NamedTuple):
    """One version of an index, told from another that was written to the same folder."""

    path: Path
    version: int
    identity: str

    @classmethod
    def of(cls, table: EmbeddingTable) -> Self:
        """Return the place of an open index."""
        return cls(table.path.absolute(), table.version, table.identity)


def nearest_rows(
    chunk: "pd.Series[Any]", index: Place, k: int, recall: float, threads: int
) -> "pd.DataFrame":
    """Return the k nearest items to each vector, nearest first, as ids and Euclidean distances.

    Parameters
    ----------
    chunk : Series
        Lists of numbers; null for none.
    index
        The index to search.
    k, recall
        How many are found, and which share of the true ones: exactly at 1.
    threads
        Threads of the search.

    Returns
    -------
    DataFrame
        Its columns `ids` and `distances` have an array for each vector, null for null.

    Raises
    ------
    LookalikeError
        For a vector that cannot be compared with those of the index.

    """
    import pandas as pd

    faiss.omp_set_num_threads(threads)
    searcher = _searcher(index)
    table = searcher.table
    given = pa.Array.from_pandas(chunk, type=pa.list_(pa.float64()))
    parsed = parse(given, int(table.about_model["width"]), table.metric)
    for reason, is_null in zip(parsed.reasons, given.is_null().to_pylist(), strict=True):
        if reason is not None and not is_null:
            raise LookalikeError(f"a row has no neighbours: {reason}")
    ids: list[Any] = [None] * len(chunk)
    distances: list[Any] = [None] * len(chunk)
    for start in range(0, len(parsed.rows), BLOCK_QUERIES):
        rows = parsed.rows[start : start + BLOCK_QUERIES]
        found, far = _nearest(searcher, parsed.vectors[start : start + BLOCK_QUERIES], k, recall)
        for row, numbers, away in zip(rows.tolist(), found, far, strict=True):
            there = numbers >= 0
            ids[row] = _keys(searcher, numbers[there])
            distances[row] = away[there]
    return pd.DataFrame({"ids": ids, "distances": distances})


@lru_cache(2)
def _searcher(index: Place) -> Searcher:
    return Searcher(EmbeddingTable.open(index.path, index.version))


@lru_cache(1)
def _only_partition(index: Place) -> Partition:
    return Partition.load(_searcher(index).rows.segments)


def _keys(searcher: Searcher, numbers: Numbers) -> npt.NDArray[Any]:
    """Return the keys of rows by their numbers in the index."""
    rows = searcher.rows.find(numbers)
    assert searcher.rows.keys is not None
    keys: npt.NDArray[Any] = searcher.rows.keys.take(pa.array(rows)).to_numpy()
    return keys


def _nearest(
    searcher: Searcher, queries: Vectors, k: int, recall: float
) -> tuple[Numbers, Vectors]:
    """Return numbers of rows, int64 (q, k), -1 for none, and distances, float32 (q, k)."""
    if searcher.may_approximate("auto", recall, len(searcher.rows)):
        return _approximately(searcher, queries, k, recall)
    table = searcher.table
    groups = group_segments(searcher.rows.segments, 1, int(table.about_model["width"]))
    if len(groups) == 1:  # it stays in memory
        return _only_partition(Place.of(table)).nearest(queries, k, None)
    parts = [Partition.load(group).nearest(queries, k, None) for group in groups]
    numbers = np.concatenate([found for found, _ in parts], axis=1)
    distances = np.concatenate([far for _, far in parts], axis=1)
    order = np.lexsort((numbers, distances), axis=1)[:, :k]
    return np.take_along_axis(numbers, order, 1), np.take_along_axis(distances, order, 1)


def _approximately(
    searcher: Searcher, queries: Vectors, k: int, recall: float
) -> tuple[Numbers, Vectors]:
    numbers = np.full((len(queries), k), -1)
    distances = np.full((len(queries), k), np.inf, np.float32)
    for place, query in enumerate(queries):
        found, *_ = searcher.nearest(query, k, recall=recall)
        numbers[place, : len(found)] = [one.number for one in found]
        distances[place, : len(found)] = [one.distance for one in found]
    return numbers, distances
