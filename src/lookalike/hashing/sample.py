"""A sample of a collection with its true neighbours, found in one pass on Spark."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from lookalike.embedding import Vectors
from lookalike.errors import LookalikeError
from lookalike.hashing.parameters import Floats, Parameters

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

SAMPLE = 100  # rows whose neighbours are looked up to choose the parameters
NEIGHBORS = 10
ROWS = 1000  # drawn without regard to distance


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
        """Median length of the vectors that have one; 1 for embeddings as lookalike makes them."""
        lengths = np.linalg.norm(self.others, axis=1)
        return float(np.median(lengths[lengths > 0])) if lengths.any() else 1.0

    def near(self) -> Floats:
        """The queries with their neighbours, as pairs (q * k, 3): distance and both lengths."""
        return _pairs(self.queries[:, None], self.neighbors).reshape(-1, 3)

    def far(self) -> Floats:
        """The queries with any row, as pairs (q * n, 3): distance and both lengths."""
        return np.concatenate([_pairs(query, self.others) for query in self.queries])

    def halves(self) -> "tuple[Sample, Sample]":
        """One half of the queries to choose by, the other to measure what was chosen.

        Those that measure are in nothing of the first half. Both are all of a sample so small that
        hardly more than its queries were drawn.
        """
        count = len(self.queries)
        if len(self.others) < 2 * count:
            return self, self
        half = count // 2
        others = np.concatenate([self.others[:half], self.others[count:]])
        return (
            Sample(self.queries[:half], self.neighbors[:half], others),
            Sample(self.queries[half:], self.neighbors[half:], self.others),
        )

    def mapped(self, change: Callable[[Vectors], Vectors]) -> "Sample":
        """The same rows after a change of their vectors, (..., width) to (..., other width)."""
        return Sample(change(self.queries), change(self.neighbors), change(self.others))

    def measure(self, parameters: Parameters, hashes: Callable[[Vectors], Any]) -> Parameters:
        """Add to parameters the recall and the share of candidates that actual hashes have.

        `hashes` makes vectors (..., width) into numbers (..., tables).
        """
        own = hashes(self.queries)
        rows = hashes(self.others)
        found = (hashes(self.neighbors) == own[:, None]).any(axis=2)
        return replace(
            parameters,
            measured_recall=float(found.mean()),
            measured_candidates=float(np.mean([(rows == one).any(axis=1).mean() for one in own])),
        )


def _pairs(one: Vectors, others: Vectors) -> Floats:
    distance = np.linalg.norm(others - one, axis=-1)
    lengths = [np.broadcast_to(np.linalg.norm(v, axis=-1), distance.shape) for v in (one, others)]
    return np.stack([distance, *lengths], axis=-1, dtype=np.float64)


def draw_sample(
    vectors: "DataFrame", column: str = "features", seed: int = 0, count: int = SAMPLE
) -> Sample:
    """Draw rows from a vector column and find their true neighbours, in one pass over the table.

    Every task compares its rows with `count` drawn ones and gives back the nearest alone: a
    task sends on `count` times `NEIGHBORS` vectors, and the nearest of all reach the driver.
    """
    from pyspark.ml.functions import vector_to_array
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    others = draw_rows(vectors, column, seed)
    if len(others) < 2:
        raise LookalikeError("hashing needs at least 2 embedded images: index more")
    queries = others[:count]

    def nearest(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        best = _Nearest(queries, NEIGHBORS + 1)
        for batch in batches:
            rows = batch["v"].flatten().to_numpy(zero_copy_only=False)
            best.add(rows.reshape(batch.num_rows, queries.shape[1]))
        yield best.batch()

    frame = vectors.select(vector_to_array(F.col(column), "float32").alias("v"))
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


def draw_rows(vectors: "DataFrame", column: str = "features", seed: int = 0) -> Vectors:
    """Draw `ROWS` rows of a vector column, or all if there are fewer: float32 (n, width)."""
    from pyspark.ml.functions import vector_to_array
    from pyspark.sql import functions as F

    # The smallest of random numbers: a sample without a count, and without keeping the table.
    frame = vectors.select(vector_to_array(F.col(column), "float32").alias("v"))
    drawn = frame.withColumn("r", F.rand(seed)).orderBy("r").limit(ROWS)
    return np.array([row["v"] for row in drawn.collect()], np.float32)


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
