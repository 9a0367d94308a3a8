"""A sample of a collection with its true neighbours, found in one pass on Spark."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from lookalike.embedding import Vectors
from lookalike.errors import LookalikeError
from lookalike.hashing.parameters import Floats

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

SAMPLE = 100  # rows whose neighbours are looked up to choose the parameters
NEIGHBORS = 10


@dataclass(frozen=True)
class Sample:
    """Rows drawn from a collection, with their true neighbours among all of it.

    `queries` is float32 (q, width), `neighbors` float32 (q, k, width), `others` float32
    (n, width), drawn without regard to distance.
    """

    queries: Vectors
    neighbors: Vectors
    others: Vectors

    def scale(self) -> float:
        """Median length of the vectors; 1 for embeddings as lookalike makes them."""
        return float(np.median(np.linalg.norm(self.others, axis=1))) or 1.0

    def near(self) -> Floats:
        """Distances of the queries to their neighbours, (q * k,)."""
        distances: Floats = np.linalg.norm(self.neighbors - self.queries[:, None], axis=2)
        return distances.ravel()

    def far(self) -> Floats:
        """Distances of the queries to any row, (q * n,)."""
        return np.concatenate([np.linalg.norm(self.others - q, axis=1) for q in self.queries])


def draw_sample(vectors: "DataFrame", column: str = "features", seed: int = 0) -> Sample:
    """Draw rows from a vector column and find their true neighbours, in one pass over the table.

    Every task compares its rows with the drawn ones and gives back the nearest alone: a
    task sends on `SAMPLE` times `NEIGHBORS` vectors, and the nearest of all reach the driver.
    """
    from pyspark.ml.functions import vector_to_array
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    frame = vectors.select(vector_to_array(F.col(column), "float32").alias("v"))
    # The smallest of random numbers: a sample without a count, and without keeping the table.
    drawn = frame.withColumn("r", F.rand(seed)).orderBy("r").limit(10 * SAMPLE)
    others = np.array([row["v"] for row in drawn.collect()], np.float32)
    if len(others) < 2:
        raise LookalikeError("hashing needs at least 2 embedded images: index more")
    queries = others[:SAMPLE]

    def nearest(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        best = _Nearest(queries, NEIGHBORS + 1)
        for batch in batches:
            rows = batch["v"].flatten().to_numpy(zero_copy_only=False)
            best.add(rows.reshape(batch.num_rows, queries.shape[1]))
        yield best.batch()

    in_task = frame.mapInArrow(nearest, "q int, d double, v binary")
    rank = F.row_number().over(Window.partitionBy("q").orderBy("d"))
    rows = in_task.withColumn("rank", rank).filter(f"rank <= {NEIGHBORS + 1}").orderBy("q", "d")
    lists: list[list[bytes]] = [[] for _ in queries]
    for row in rows.collect():
        lists[row["q"]].append(bytes(row["v"]))
    # The first is the query itself. Small collections have fewer neighbours than asked for.
    nearest_first = [b"".join(vectors[1:]) for vectors in lists]
    shape = (len(queries), -1, queries.shape[1])
    return Sample(
        queries, np.frombuffer(b"".join(nearest_first), np.float32).reshape(shape), others
    )


class _Nearest:
    """The k rows nearest to each query, out of blocks of rows that come one after another."""

    def __init__(self, queries: Vectors, k: int) -> None:
        self.queries, self.k = queries, k
        self.distances = np.empty((len(queries), 0))
        self.rows = np.empty((len(queries), 0, queries.shape[1]), np.float32)

    def add(self, block: Vectors) -> None:
        # 2-2x.y is off in the last digits; the order of neighbours here decides nothing alone.
        squares = (block**2).sum(1) - 2 * self.queries @ block.T
        near = np.argsort(squares, axis=1)[:, : self.k]
        found = block[near]
        exact = np.linalg.norm(found - self.queries[:, None], axis=2)
        distances = np.concatenate([self.distances, exact], axis=1)
        order = np.argsort(distances, axis=1, kind="stable")[:, : self.k]
        self.distances = np.take_along_axis(distances, order, axis=1)
        rows = np.concatenate([self.rows, found], axis=1)
        self.rows = np.take_along_axis(rows, order[:, :, None], axis=1)

    def batch(self) -> pa.RecordBatch:
        """All of it as rows `q, d, v`."""
        count, kept = self.distances.shape
        values = self.rows.reshape(count * kept, self.queries.shape[1])
        return pa.RecordBatch.from_pydict(
            {
                "q": np.repeat(np.arange(count, dtype=np.int32), kept),
                "d": self.distances.ravel(),
                "v": [vector.tobytes() for vector in values],
            },
            schema=pa.schema({"q": pa.int32(), "d": pa.float64(), "v": pa.binary()}),
        )
