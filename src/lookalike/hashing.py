"""Locality-sensitive hashing on Spark: steps 5 to 8 and 11, with parameters that come from data.

Random projections of vectors: Datar, Immorlica, Indyk, Mirrokni, "Locality-sensitive hashing
scheme based on p-stable distributions" (2004), as `BucketedRandomProjectionLSH` of Spark ML has it,
https://spark.apache.org/docs/latest/ml-features.html#locality-sensitive-hashing. Sets: MinHash.
"""

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lookalike.embedding import Vectors
from lookalike.errors import LookalikeError

if TYPE_CHECKING:
    from pyspark.ml.feature import BucketedRandomProjectionLSHModel, MinHashLSHModel
    from pyspark.sql import DataFrame, SparkSession

Floats: TypeAlias = npt.NDArray[np.float64]

RECALL = 0.95  # what the parameters are chosen for
TABLES = (1, 2, 3, 4, 6, 8, 12, 16)  # more cost time and, for whole-vector hashes, gain little
SAMPLE = 100  # rows whose neighbours are looked up to choose the parameters
NEIGHBORS = 10


def read_embeddings(spark: "SparkSession", csv: str | Path, width: int = 512) -> "DataFrame":
    """Step 5: the CSV file of `lookalike embed` as a DataFrame `image, label, e0, e1, ...`."""
    numbers = ", ".join(f"e{i} float" for i in range(width))
    schema = f"image string, label string, {numbers}"
    # A quote inside a name is doubled, as everywhere but in Spark; a name may hold a line break.
    return spark.read.csv(str(csv), schema=schema, header=True, escape='"', multiLine=True)


def assemble(frame: "DataFrame", width: int = 512, column: str = "features") -> "DataFrame":
    """Step 6: the columns `e0, e1, ...` as one vector column, made by `VectorAssembler`."""
    from pyspark.ml.feature import VectorAssembler

    names = [f"e{i}" for i in range(width)]
    return VectorAssembler(inputCols=names, outputCol=column).transform(frame).drop(*names)


def with_vectors(frame: "DataFrame", column: str = "features") -> "DataFrame":
    """Turn the array column `embedding` of a collection into a vector column, as step 6 does."""
    from pyspark.ml.functions import array_to_vector
    from pyspark.sql import functions as F

    embedded = frame.filter("status = 'ok'")
    vector = array_to_vector(F.col("embedding").cast("array<double>"))
    return embedded.select("id", "path", "label", vector.alias(column))


def numbered(frame: "DataFrame", without: str | None = None) -> "DataFrame":
    """Give the rows of `assemble` the columns `id` and `path` of a collection.

    The image named `without` is left out: it is new to the rest.
    """
    from pyspark.sql import functions as F

    kept = frame if without is None else frame.filter(F.col("image") != without)
    return kept.withColumn("id", F.monotonically_increasing_id()).withColumnRenamed("image", "path")


@dataclass(frozen=True)
class Parameters:
    """Parameters of `BucketedRandomProjectionLSH`, and what to expect of them.

    `recall` is the share of true neighbours that fall into a bucket of the query in at least one
    table; `candidates` the share of all rows that do, each of which Spark compares with the query.
    `predicted_*` come from the distances alone, `measured_*` from the model's own hashes.
    """

    bucket_length: float
    tables: int
    predicted_recall: float
    predicted_candidates: float
    measured_recall: float | None = None
    measured_candidates: float | None = None


@dataclass(frozen=True)
class Sample:
    """Rows drawn from a collection, with their true neighbours among all of it.

    `queries` is float32 (q, width), `neighbors` float32 (q, k, width), `others` float32
    (n, width), drawn without regard to distance.
    """

    queries: Vectors
    neighbors: Vectors
    others: Vectors

    def near(self) -> Floats:
        """Distances of the queries to their neighbours, (q * k,)."""
        distances: Floats = np.linalg.norm(self.neighbors - self.queries[:, None], axis=2)
        return distances.ravel()

    def far(self) -> Floats:
        """Distances of the queries to any row, (q * n,)."""
        return np.concatenate([np.linalg.norm(self.others - q, axis=1) for q in self.queries])


def collision_probability(distance: Floats, bucket_length: float | Floats, width: int) -> Floats:
    """Probability that two vectors at a distance share a bucket of one hash.

    The hash is floor(x.v / bucket_length), v a random unit vector, as Spark draws it. The projected
    difference is then normal with deviation distance / sqrt(width) (for large widths); Datar et
    al., section 4.2.
    """
    scale = np.maximum(distance, 1e-12) / math.sqrt(width)
    ratio = bucket_length / scale
    tail = np.vectorize(math.erfc, otypes=[float])(ratio / math.sqrt(2))
    slope = 2 / (math.sqrt(2 * math.pi) * ratio) * (1 - np.exp(-(ratio**2) / 2))
    return np.asarray(1 - tail - slope)


def choose_parameters(near: Floats, far: Floats, width: int, recall: float = RECALL) -> Parameters:
    """Choose the bucket length and number of tables that reach a recall with least candidates.

    `near` are distances to true neighbours, `far` to any row, both 1-D. Every number of tables
    gets the smallest bucket length that is predicted to reach `recall`.
    """
    if not 0 < recall < 1:
        raise LookalikeError(f"recall {recall} is not between 0 and 1")
    near, far = _thinned(near), _thinned(far)
    if near.max(initial=0) == 0:  # all vectors equal: any bucket will do
        return Parameters(1.0, 1, 1.0, 1.0)

    def either(distances: Floats, length: float, tables: int) -> float:
        return float(np.mean(1 - (1 - collision_probability(distances, length, width)) ** tables))

    best: Parameters | None = None
    for tables in TABLES:
        low, high = 1e-6, 100.0 * float(near.max())
        for _ in range(40):  # bisection, on a logarithmic scale
            middle = math.sqrt(low * high)
            low, high = (low, middle) if either(near, middle, tables) >= recall else (middle, high)
        expected = Parameters(high, tables, either(near, high, tables), either(far, high, tables))
        if best is None or expected.predicted_candidates < best.predicted_candidates:
            best = expected
    assert best is not None
    return best


def _thinned(distances: Floats, most: int = 2000) -> Floats:
    """Take evenly spaced quantiles: the means over them are those over all."""
    if len(distances) <= most:
        return distances
    quantiles: Floats = np.quantile(distances, (np.arange(most) + 0.5) / most)
    return quantiles


def draw_sample(vectors: "DataFrame", column: str = "features", seed: int = 0) -> Sample:
    """Draw rows from a vector column and find their true neighbours, in one pass over the table.

    Every task compares its rows with the drawn ones and gives back the nearest alone: what
    reaches the driver is `SAMPLE` times `NEIGHBORS` vectors a task.
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
            best.add(rows.reshape(batch.num_rows, -1))
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
        values = self.rows.reshape(count * kept, -1)
        return pa.RecordBatch.from_pydict(
            {
                "q": np.repeat(np.arange(count, dtype=np.int32), kept),
                "d": self.distances.ravel(),
                "v": [vector.tobytes() for vector in values],
            },
            schema=pa.schema({"q": pa.int32(), "d": pa.float64(), "v": pa.binary()}),
        )


def measured(
    parameters: Parameters, model: "BucketedRandomProjectionLSHModel", sample: Sample
) -> Parameters:
    """Add to the parameters the recall and the share of candidates that the model's hashes have."""
    directions = _directions(model)

    def hashes(vectors: Vectors) -> Floats:
        return np.floor(vectors @ directions.T / parameters.bucket_length)

    own = hashes(sample.queries)
    found = (hashes(sample.neighbors) == own[:, None]).any(axis=2)
    candidates = (hashes(sample.others)[None] == own[:, None]).any(axis=2)
    return Parameters(
        parameters.bucket_length,
        parameters.tables,
        parameters.predicted_recall,
        parameters.predicted_candidates,
        float(found.mean()),
        float(candidates.mean()),
    )


def _directions(model: "BucketedRandomProjectionLSHModel") -> Floats:
    """The random unit vectors of a fitted model, (tables, width)."""
    matrix = model._call_java("randMatrix")  # Spark gives Python no other way to see them
    return np.array(matrix.toArray()) if hasattr(matrix, "toArray") else np.array(matrix)


@dataclass(frozen=True)
class Hasher:
    """A fitted `BucketedRandomProjectionLSH` with the parameters it was given."""

    model: "BucketedRandomProjectionLSHModel"
    parameters: Parameters

    @property
    def input_column(self) -> str:
        """The vector column it hashes."""
        return str(self.model.getInputCol())

    def transform(self, vectors: "DataFrame") -> "DataFrame":
        """Step 8: add the column `hashes`, one bucket number a hash table."""
        return self.model.transform(vectors)

    def nearest(self, vectors: "DataFrame", query: Vectors, k: int) -> "DataFrame":
        """Step 11: `approxNearestNeighbors`, at most k rows with their `distance`, nearest first.

        Rows that share no bucket with the query are not compared, so fewer may come back.
        """
        from pyspark.ml.linalg import DenseVector

        key = DenseVector(query.astype(float).tolist())
        return self.model.approxNearestNeighbors(vectors, key, k, distCol="distance")

    def explain(self, vectors: "DataFrame", query: Vectors) -> "DataFrame":
        """Say of every row which tables it shares a bucket with the query in, counted from 1.

        Adds `tables array<int>`; rows where it is not empty are the candidates.
        """
        from pyspark.ml.functions import vector_to_array
        from pyspark.sql import functions as F

        own = np.floor(_directions(self.model) @ query / self.model.getBucketLength())
        shared = [
            F.when(vector_to_array(F.col("hashes")[table])[0] == float(bucket), table + 1)
            for table, bucket in enumerate(own)
        ]
        return self.transform(vectors).withColumn("tables", F.array_compact(F.array(*shared)))

    def save(self, folder: Path) -> None:
        """Write model and parameters; an older one there is replaced."""
        folder.mkdir(parents=True, exist_ok=True)
        self.model.write().overwrite().save(str(folder / "model"))
        (folder / "parameters.json").write_text(
            json.dumps(asdict(self.parameters), indent=1) + "\n"
        )

    @classmethod
    def load(cls, folder: Path) -> "Hasher":
        """Read back what `save` wrote."""
        from pyspark.ml.feature import BucketedRandomProjectionLSHModel

        try:
            parameters = Parameters(**json.loads((folder / "parameters.json").read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise LookalikeError(f"no hash model in {folder} ({error}): make it again") from None
        return cls(BucketedRandomProjectionLSHModel.load(str(folder / "model")), parameters)


def fit(
    vectors: "DataFrame",
    *,
    column: str = "features",
    recall: float = RECALL,
    bucket_length: float | None = None,
    tables: int | None = None,
    seed: int = 0,
) -> Hasher:
    """Step 7: a `BucketedRandomProjectionLSH` model whose parameters come from the data.

    A sample of nearest-neighbour distances decides; `bucket_length` and `tables`, given together,
    overrule it. The model is the same for the same data and seed.
    """
    from pyspark.ml.feature import BucketedRandomProjectionLSH

    sample = draw_sample(vectors, column, seed)
    width = sample.queries.shape[1]
    if bucket_length is not None and tables is not None:
        parameters = Parameters(bucket_length, tables, math.nan, math.nan)
    else:
        parameters = choose_parameters(sample.near(), sample.far(), width, recall)
    lsh = BucketedRandomProjectionLSH(
        inputCol=column,
        outputCol="hashes",
        seed=seed,
        bucketLength=parameters.bucket_length,
        numHashTables=parameters.tables,
    )
    model = lsh.fit(vectors)
    return Hasher(model, measured(parameters, model, sample))


def with_sets(frame: "DataFrame", strongest: int = 32, column: str = "features") -> "DataFrame":
    """Turn each vector into the set of its strongest components, as a 0/1 vector.

    Adds the column `set`. Which features of an image stand out, and not how far, is a set-like
    feature, which `MinHashLSH` hashes by Jaccard distance.
    """
    from pyspark.ml.functions import array_to_vector, vector_to_array
    from pyspark.sql import functions as F

    values = F.col("_values")
    with_least = frame.withColumn("_values", vector_to_array(F.col(column))).withColumn(
        "_least", F.sort_array(values, asc=False)[strongest - 1]
    )
    members = F.transform(
        values, lambda value: ((value >= F.col("_least")) & (value > 0)).cast("double")
    )
    return with_least.withColumn("set", array_to_vector(members)).drop("_values", "_least")


def fit_sets(
    sets: "DataFrame", *, column: str = "set", tables: int = 8, seed: int = 0
) -> "MinHashLSHModel":
    """A `MinHashLSH` model for a column of 0/1 vectors. Its `hashes` column has one row a table."""
    from pyspark.ml.feature import MinHashLSH

    lsh = MinHashLSH(inputCol=column, outputCol="hashes", numHashTables=tables, seed=seed)
    return lsh.fit(sets)


def bucket_columns(hashed: "DataFrame", tables: int) -> "DataFrame":
    """Turn the column `hashes` of vectors into `array<double>`, which all of Parquet reads."""
    from pyspark.ml.functions import vector_to_array
    from pyspark.sql import functions as F

    buckets: list[Any] = [vector_to_array(F.col("hashes")[table])[0] for table in range(tables)]
    return hashed.withColumn("hashes", F.array(*buckets))
