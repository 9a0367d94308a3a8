"""The neighbours of many images at once, on Spark: all of a collection, or those of other vectors.

A task holds the rows of some segments, at most `GROUP_ROWS`, and lets all queries pass in blocks:
nothing is joined on buckets and nothing is collected. What the tasks find, k rows a query each, is
merged to the k nearest of all. Memory is bounded by a group and a block, what is shuffled by k rows
a query and group.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lookalike.collection import Collection, Segment
from lookalike.embedding import Vectors
from lookalike.errors import LookalikeError
from lookalike.hashing.signatures import Rotation, Signatures
from lookalike.search import check_k
from lookalike.searcher import RECALL, Searcher, signed

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

GROUP_ROWS = 131_072
"""Rows a task compares with at most: a quarter of a gigabyte of vectors."""
_BLOCK = 1024  # queries at a time, fewer where each has many candidates:
_PAIRS = 2**21  # of queries and candidates, 20 bytes each and more

FOUND = pa.schema({"query_id": pa.int64(), "neighbor_id": pa.int64(), "distance": pa.float32()})
_FOUND_DDL = "query_id bigint, neighbor_id bigint, distance float"

Block = tuple[npt.NDArray[np.int64], Vectors]
"""Ids and vectors of some queries, (q,) and (q, width)."""


def neighbors(
    spark: "SparkSession",
    collection: Collection,
    k: int,
    queries: Sequence[Path] | None = None,
    engine: Literal["auto", "exact", "lsh"] = "auto",
    recall: float = RECALL,
) -> "DataFrame":
    """Find the k nearest rows of a collection to each query: a DataFrame with a row a pair.

    Its columns are `query_id, rank, neighbor_id, distance`. Queries are the rows of Parquet files
    with `id` and `embedding array<float>`, which all workers see; without any, those of the
    collection itself, each of which then leaves itself out. Distances are Euclidean, equal ones
    ordered by id; of more equal ones than there is room for, any may be given. `auto` is exact for
    small collections.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    check_k(k)
    searcher = Searcher(collection)
    count = searcher.candidates(k, engine, recall, len(searcher.rows))
    rotation = None if count is None else searcher.rotation
    own = queries is None
    files = [file.absolute() for file in (collection.files() if queries is None else queries)]
    groups = group(searcher.rows.segments, spark.sparkContext.defaultParallelism)
    width = int(collection.about_model["width"])
    threads = int(spark.conf.get("spark.task.cpus", "1") or 1)

    def task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        faiss.omp_set_num_threads(threads)
        for batch in batches:
            for number in batch["id"].to_pylist():
                some = Group(groups[number], rotation)
                for ids, vectors in blocks(files, width, _PAIRS // max(count or 0, k)):
                    yield some.nearest(ids, vectors, k, count, own)

    found = spark.range(0, len(groups), 1, len(groups)).mapInArrow(task, _FOUND_DDL)
    order = Window.partitionBy("query_id").orderBy("distance", "neighbor_id")
    ranked = found.withColumn("rank", F.row_number().over(order)).filter(F.col("rank") <= k)
    return ranked.select("query_id", "rank", "neighbor_id", "distance")


def group(segments: Sequence[Segment], tasks: int) -> list[list[Segment]]:
    """Put neighbouring segments together: `tasks` groups or more, of `GROUP_ROWS` or fewer.

    A segment stays whole, so that there may be fewer groups, and larger ones of one segment.
    """
    sizes = [len(segment.ids) for segment in segments]
    most = min(GROUP_ROWS, max(-(-sum(sizes) // max(tasks, 1)), 1))
    groups: list[list[Segment]] = []
    held = 0
    for segment, size in zip(segments, sizes, strict=True):
        if groups and held + size <= most:
            groups[-1].append(segment)
            held += size
        else:
            groups.append([segment])
            held = size
    return groups


def blocks(files: Sequence[Path], width: int, most: int) -> Iterator[Block]:
    """Give the embedded rows of Parquet files, a block of `most` rows or fewer at a time."""
    size = min(max(most, 1), _BLOCK)
    for file in files:
        with pq.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches(size, columns=["id", "embedding"]):
                batch = batch.filter(batch["embedding"].is_valid())
                values = batch["embedding"].flatten().to_numpy(zero_copy_only=False)
                if len(values) != batch.num_rows * width:
                    raise LookalikeError(f"{file} holds vectors of another width than {width}")
                if batch.num_rows:
                    vectors = np.ascontiguousarray(values, np.float32).reshape(-1, width)
                    yield batch["id"].to_numpy(), vectors


class Group:
    """The rows of some segments in one array, and their signatures where search goes by them."""

    def __init__(self, segments: Sequence[Segment], rotation: Rotation | None) -> None:
        self.ids = np.concatenate([segment.ids for segment in segments])
        self.vectors = np.concatenate([segment.vectors for segment in segments])
        self.signatures: Signatures | None = None
        if rotation is not None:
            self.signatures = Signatures(rotation, [signed(one, rotation) for one in segments])

    def nearest(
        self, ids: npt.NDArray[np.int64], queries: Vectors, k: int, count: int | None, own: bool
    ) -> pa.RecordBatch:
        """Return the k nearest rows to each query as rows of `FOUND`, fewer where there are fewer.

        `count` are the candidates that signatures give, None for exact search. With `own` a query
        is a row of the collection, known by its id, and no neighbour of itself.
        """
        wanted = min(k + own, len(self.ids))
        if count is None or self.signatures is None:
            # Some more than wanted: matrix products are too coarse to tell near ties apart.
            _, rows = faiss.knn(queries, self.vectors, min(wanted + 4, len(self.ids)))
        else:
            _, rows = self.signatures.nearest(queries, max(count, wanted))
        squared = self._squared(queries, rows)
        found = self.ids[rows]
        squared[rows < 0] = np.inf
        if own:
            squared[found == ids[:, None]] = np.inf
        order = np.lexsort((found, squared), axis=1)[:, :k]
        squared, found = (np.take_along_axis(one, order, axis=1) for one in (squared, found))
        kept = np.isfinite(squared)
        numbers = np.broadcast_to(ids[:, None], found.shape)
        columns = [numbers[kept], found[kept], np.sqrt(squared[kept])]
        return pa.RecordBatch.from_arrays([pa.array(one) for one in columns], schema=FOUND)

    def _squared(self, queries: Vectors, rows: npt.NDArray[np.int64]) -> Vectors:
        """Squared distances of queries (q, width) to rows of their own, (q, n), as differences."""
        rows = np.ascontiguousarray(rows)
        squared = np.empty(rows.shape, np.float32)
        faiss.fvec_L2sqr_by_idx(  # type: ignore[attr-defined]
            *map(faiss.swig_ptr, (squared, queries, self.vectors, rows)),
            queries.shape[1],
            *rows.shape,
        )
        return squared
