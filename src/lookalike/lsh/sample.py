"""Draw rows of a collection and find their true neighbours, in one pass on Spark."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from lookalike.errors import LookalikeError
from lookalike.lsh.parameters import Parameters
from lookalike.system.arrays import Floats, Vectors

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


SAMPLE_QUERIES = 100
SAMPLE_NEIGHBORS = 10
SAMPLE_ROWS = 1000


@dataclass(frozen=True)
class Sample:
    """Drawn rows of a collection, with their true neighbours among all rows.

    `queries` is float32 (q, width), `neighbors` is float32 (q, k, width), `others` are random rows,
    float32 (n, width).
    """

    queries: Vectors
    neighbors: Vectors
    others: Vectors

    def scale(self) -> float:
        """Return the median norm of the vectors, without zeros; 1 for embeddings of lookalike."""
        lengths = np.linalg.norm(self.others, axis=1)
        return float(np.median(lengths[lengths > 0])) if lengths.any() else 1.0

    def near(self) -> Floats:
        """Return pairs of queries and their neighbours, (q * k, 3): distance and both norms."""
        return _pairs(self.queries[:, None], self.neighbors).reshape(-1, 3)

    def far(self) -> Floats:
        """Return pairs of queries and random rows, (q * n, 3): distance and both norms."""
        return np.concatenate([_pairs(query, self.others) for query in self.queries])

    def halves(self) -> "tuple[Sample, Sample]":
        """Split into a half to choose parameters by, and a half to measure them on.

        The first half has no query of the second. A sample with few rows beside its queries is
        returned twice instead.
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
        """Return the sample with changed vectors: (..., width) to (..., other width)."""
        return Sample(change(self.queries), change(self.neighbors), change(self.others))

    def measure(self, parameters: Parameters, hashes: Callable[[Vectors], Any]) -> Parameters:
        """Add the recall and the share of candidates of actual hashes to parameters.

        `hashes` maps vectors (..., width) to numbers (..., tables).
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
    vectors: "DataFrame", column: str = "features", seed: int = 0, count: int = SAMPLE_QUERIES
) -> Sample:
    """Draw rows from a vector column and find their true neighbours, in one pass over the table.

    Every task compares its rows with the drawn ones and returns only the nearest: `count` times
    `SAMPLE_NEIGHBORS` vectors per task, of which the nearest reach the driver.

    Parameters
    ----------
    vectors : DataFrame
    column : str
    seed : int
    count : int
        Number of queries.

    Raises
    ------
    LookalikeError
        For fewer than 2 vectors.
    """
    from pyspark.ml.functions import vector_to_array
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    others = draw_rows(vectors, column, seed)
    if len(others) < 2:
        raise LookalikeError("hashing needs at least 2 embedded images: index more")
    queries = others[:count]

    def nearest(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        best = _Nearest(queries, SAMPLE_NEIGHBORS + 1)
        for batch in batches:
            rows = batch["v"].flatten().to_numpy(zero_copy_only=False)
            best.add(rows.reshape(batch.num_rows, queries.shape[1]))
        yield best.batch()

    frame = vectors.select(vector_to_array(F.col(column), "float32").alias("v"))
    in_task = frame.mapInArrow(nearest, "q int, d double, v binary")
    rank = F.row_number().over(Window.partitionBy("q").orderBy("d"))
    rows = in_task.withColumn("rank", rank).filter(f"rank <= {SAMPLE_NEIGHBORS + 1}")
    lists: list[list[bytes]] = [[] for _ in queries]
    for row in sorted(rows.collect(), key=lambda row: (row["q"], row["rank"])):
        lists[row["q"]].append(bytes(row["v"]))
    # The first is the query itself. A small collection has fewer neighbours.
    nearest_first = [b"".join(vectors[1:]) for vectors in lists]
    shape = (len(queries), -1, queries.shape[1])
    return Sample(
        queries, np.frombuffer(b"".join(nearest_first), np.float32).reshape(shape), others
    )


def draw_rows(vectors: "DataFrame", column: str = "features", seed: int = 0) -> Vectors:
    """Draw at most `SAMPLE_ROWS` rows of a vector column: float32 (n, width)."""
    from pyspark.ml.functions import vector_to_array
    from pyspark.sql import functions as F

    # The rows with the smallest random numbers: no count and no cache of the table.
    frame = vectors.select(vector_to_array(F.col(column), "float32").alias("v"))
    drawn = frame.withColumn("r", F.rand(seed)).orderBy("r").limit(SAMPLE_ROWS)
    return np.array([row["v"] for row in drawn.collect()], np.float32)


class _Nearest:
    """The k rows nearest to each query, over several blocks of rows."""

    def __init__(self, queries: Vectors, k: int) -> None:
        self.queries, self.k = queries, k
        self.middle = queries.mean(axis=0)
        self.distances = np.empty((len(queries), 0))
        self.rows = np.empty((len(queries), 0, queries.shape[1]), np.float32)

    def add(self, block: Vectors) -> None:
        # Rounding of these products does not matter: exact distances follow. Around the middle of
        # the queries it is small, wherever the vectors lie.
        rows, queries = block - self.middle, self.queries - self.middle
        squares = (rows**2).sum(1) - 2 * queries @ rows.T
        near = np.argsort(squares, axis=1)[:, : self.k]
        found = block[near]
        exact = np.linalg.norm(found - self.queries[:, None], axis=2)
        distances = np.concatenate([self.distances, exact], axis=1)
        order = np.argsort(distances, axis=1, kind="stable")[:, : self.k]
        self.distances = np.take_along_axis(distances, order, axis=1)
        rows = np.concatenate([self.rows, found], axis=1)
        self.rows = np.take_along_axis(rows, order[:, :, None], axis=1)

    def batch(self) -> pa.RecordBatch:
        """Return the rows as `q, d, v`."""
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
