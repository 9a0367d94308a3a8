"""Steps 7, 8 and 11: Spark ML's `BucketedRandomProjectionLSH`, with parameters from the data.

https://spark.apache.org/docs/latest/ml-features.html#locality-sensitive-hashing
"""

import json
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq

from lookalike.embedding import Vectors
from lookalike.errors import LookalikeError, one_line
from lookalike.files import delete_folder, new_folder
from lookalike.given import Name, local_path
from lookalike.hashing.frames import check_widths
from lookalike.hashing.parameters import RECALL, Floats, Parameters, choose_parameters, predict
from lookalike.hashing.sample import draw_sample
from lookalike.spark import local_uri
from lookalike.untrusted import foreign_types, read_json

if TYPE_CHECKING:
    from pyspark.ml.feature import BucketedRandomProjectionLSHModel
    from pyspark.sql import DataFrame, SparkSession


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
        return self.model.transform(self._checked(vectors))

    def _checked(self, vectors: "DataFrame") -> "DataFrame":
        return check_widths(vectors, self._width, self.input_column)

    @cached_property
    def _width(self) -> int:
        return int(directions(self.model).shape[1])

    def _check_query(self, query: Vectors) -> None:
        if query.shape != (self._width,):
            raise LookalikeError(
                f"a query of {query.size} numbers, but the hash tables are for {self._width}: "
                "embed it with the same model"
            )

    def nearest(self, vectors: "DataFrame", query: Vectors, k: int) -> "DataFrame":
        """Step 11: `approxNearestNeighbors`, at most k rows with their `distance`, nearest first.

        Rows that share no bucket with the query are not compared, so fewer may come back.
        """
        from pyspark.ml.linalg import DenseVector

        self._check_query(query)
        key = DenseVector(query.astype(float).tolist())
        return self.model.approxNearestNeighbors(self._checked(vectors), key, k, distCol="distance")

    def explain(self, vectors: "DataFrame", query: Vectors) -> "DataFrame":
        """Say of every row which tables it shares a bucket with the query in, counted from 1.

        Adds `tables array<int>`; rows where it is not empty are the candidates.
        """
        from pyspark.ml.functions import vector_to_array
        from pyspark.sql import functions as F

        self._check_query(query)
        own = np.floor(directions(self.model) @ query / self.model.getBucketLength())
        shared = [
            F.when(vector_to_array(F.col("hashes")[table])[0] == float(bucket), table + 1)
            for table, bucket in enumerate(own)
        ]
        return self.transform(vectors).withColumn("tables", F.array_compact(F.array(*shared)))

    def save(self, folder: Name) -> None:
        """Write model and parameters; an older one there is replaced."""
        folder = local_path(folder)
        delete_folder(folder)
        with new_folder(folder) as staging:
            self.model.save(local_uri(staging / "model"))
            about = json.dumps(asdict(self.parameters), indent=1)
            (staging / "parameters.json").write_text(about + "\n")

    @classmethod
    def load(cls, folder: Name) -> "Hasher":
        """Read back what `save` wrote."""
        from py4j.protocol import Py4JError
        from pyspark.errors import PySparkException
        from pyspark.ml.feature import BucketedRandomProjectionLSHModel

        folder = local_path(folder)
        try:
            parameters = Parameters(**read_json(folder / "parameters.json"))
            _check_types(folder / "model" / "data")
            model = BucketedRandomProjectionLSHModel.load(local_uri(folder / "model"))
        except (OSError, ValueError, TypeError, Py4JError, PySparkException) as error:
            detail = one_line(error)
            raise LookalikeError(f"no hash model in {folder} ({detail}): make it again") from None
        return cls(model, parameters)


def _check_types(folder: Path) -> None:
    """Raise `ValueError` where a table of Spark's names types that are not its own.

    Java makes one of each class that is named there, whatever it does, before anything is read.
    """
    # All that Spark looks at, whatever its name; of nothing is `_SUCCESS`.
    files = [file for file in folder.rglob("[!.]*") if file.is_file() and file.stat().st_size]
    for file in files:
        about = pq.read_metadata(file).metadata or {}
        for schema in (value for key, value in about.items() if key.endswith(b".row.metadata")):
            if foreign := foreign_types(schema.decode()):
                raise ValueError(f"a column of the type {foreign[0]}")


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
    overrule it. The model is the same for the same data, partitions and seed.
    """
    from pyspark.ml.feature import BucketedRandomProjectionLSH

    sample = draw_sample(vectors, column, seed)
    width = sample.queries.shape[1]
    if (bucket_length is None) != (tables is None):
        raise LookalikeError("give bucket_length and tables together, or neither")
    near, far = sample.near(), sample.far()
    if bucket_length is not None and tables is not None:
        parameters = predict(near, far, width, bucket_length, tables)
    else:
        parameters = choose_parameters(near, far, width, recall, sample.scale())
    lsh = BucketedRandomProjectionLSH(
        inputCol=column,
        outputCol="hashes",
        seed=seed,
        bucketLength=parameters.bucket_length,
        numHashTables=parameters.tables,
    )
    model = lsh.fit(vectors)
    hashes = partial(buckets, directions(model), parameters)
    return Hasher(model, sample.measure(parameters, hashes))


def buckets(projections: Floats, parameters: Parameters, vectors: Vectors) -> Floats:
    """The bucket numbers that Spark gives vectors: (..., width) to (..., tables)."""
    numbers: Floats = np.floor(vectors @ projections.T / parameters.bucket_length)
    return numbers


def directions(model: "BucketedRandomProjectionLSHModel") -> Floats:
    """The random unit vectors of a fitted model, (tables, width)."""
    # Spark gives Python no other way to see them.
    return np.array(model._call_java("randMatrix").toArray())


def spark_directions(spark: "SparkSession", width: int, tables: int, seed: int) -> Floats:
    """The directions that a model for vectors of this width gets from a seed, (tables, width).

    Those of fewer tables are the first of these.
    """
    from pyspark.ml.feature import BucketedRandomProjectionLSH
    from pyspark.ml.linalg import DenseVector

    one = spark.createDataFrame([(DenseVector([0.0] * width),)], ["v"])
    lsh = BucketedRandomProjectionLSH(
        inputCol="v", bucketLength=1.0, numHashTables=tables, seed=seed
    )
    return directions(lsh.fit(one))
