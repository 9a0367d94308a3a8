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

from lookalike.errors import LookalikeError, one_line
from lookalike.lsh.frames import check_widths
from lookalike.lsh.parameters import LSH_RECALL, Parameters, choose_parameters, predict
from lookalike.lsh.sample import draw_sample
from lookalike.spark import local_uri, require_classic
from lookalike.system.arrays import Floats, Vectors
from lookalike.system.files import delete_folder, new_folder
from lookalike.system.paths import Name, local_path
from lookalike.system.untrusted import foreign_types, read_json

if TYPE_CHECKING:
    from pyspark.ml.feature import BucketedRandomProjectionLSHModel
    from pyspark.sql import DataFrame, SparkSession


@dataclass(frozen=True)
class Hasher:
    """A fitted `BucketedRandomProjectionLSH` with its parameters."""

    model: "BucketedRandomProjectionLSHModel"
    parameters: Parameters

    @property
    def input_column(self) -> str:
        """The name of the vector column."""
        return str(self.model.getInputCol())

    def transform(self, vectors: "DataFrame") -> "DataFrame":
        """Step 8: add the column `hashes`, one bucket number per table."""
        return self.model.transform(self._checked(vectors))

    def _checked(self, vectors: "DataFrame") -> "DataFrame":
        return check_widths(vectors, self._width, self.input_column)

    @cached_property
    def _width(self) -> int:
        return int(directions(self.model).shape[1])

    def _check_query(self, query: Vectors) -> None:
        if query.shape != (self._width,):
            raise LookalikeError(
                f"the query has {query.size} numbers, but the hash tables are for {self._width}: "
                "embed it with the same model"
            )

    def nearest(self, vectors: "DataFrame", query: Vectors, k: int) -> "DataFrame":
        """Step 11: `approxNearestNeighbors`, at most k rows with `distance`, nearest first.

        Rows that share no bucket with the query are not compared, so there may be fewer than k.
        """
        from pyspark.ml.linalg import DenseVector

        self._check_query(query)
        key = DenseVector(query.astype(float).tolist())
        return self.model.approxNearestNeighbors(self._checked(vectors), key, k, distCol="distance")

    def explain(self, vectors: "DataFrame", query: Vectors) -> "DataFrame":
        """Add `tables array<int>`: the tables, from 1, where a row shares a bucket with the query.

        Rows with a table are the candidates.
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
        """Write the model and its parameters to a folder, which is replaced."""
        folder = local_path(folder)
        delete_folder(folder)
        with new_folder(folder) as staging:
            self.model.save(local_uri(staging / "model"))
            about = json.dumps(asdict(self.parameters), indent=1)
            (staging / "parameters.json").write_text(about + "\n")

    @classmethod
    def load(cls, folder: Name) -> "Hasher":
        """Read a hasher back. Raises `LookalikeError` for a missing or damaged one."""
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
    """Raise `ValueError` for a Parquet file of Spark with column types that are not Spark's own.

    Java would instantiate any class that the schema names, before it reads a row.
    """
    # Every file that Spark reads, whatever its name; `_SUCCESS` is empty.
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
    recall: float = LSH_RECALL,
    bucket_length: float | None = None,
    tables: int | None = None,
    seed: int = 0,
) -> Hasher:
    """Step 7: fit `BucketedRandomProjectionLSH` with parameters from the data.

    The model is the same for the same data, partitions and seed.

    Parameters
    ----------
    vectors : DataFrame
    column : str
        The vector column.
    recall : float
        Target recall of the ten nearest neighbours.
    bucket_length : float, optional
    tables : int, optional
        Given together, these two replace the choice from the data.
    seed : int

    Returns
    -------
    Hasher

    Raises
    ------
    LookalikeError
        For a wrong option, or fewer than 2 vectors.
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
    model = lsh.fit(_no_vectors(vectors.sparkSession, column, width))
    hashes = partial(buckets, directions(model), parameters)
    return Hasher(model, sample.measure(parameters, hashes))


def buckets(projections: Floats, parameters: Parameters, vectors: Vectors) -> Floats:
    """Return the bucket numbers of Spark ML for vectors: (..., width) to (..., tables)."""
    numbers: Floats = np.floor(vectors @ projections.T / parameters.bucket_length)
    return numbers


def check_hashing() -> None:
    """Raise `LookalikeError` under Spark Connect, whose Python cannot read a model's directions."""
    require_classic("hashing with Spark ML", "unset SPARK_REMOTE, or choose another engine")


def directions(model: "BucketedRandomProjectionLSHModel") -> Floats:
    """Return the random unit vectors of a fitted model: float64 (tables, width)."""
    check_hashing()
    # The Python API of Spark does not expose them.
    return np.array(model._call_java("randMatrix").toArray())


def spark_directions(spark: "SparkSession", width: int, tables: int, seed: int) -> Floats:
    """Return the unit vectors that a model draws from a seed: float64 (tables, width).

    Those of fewer tables are the first of these.
    """
    from pyspark.ml.feature import BucketedRandomProjectionLSH

    lsh = BucketedRandomProjectionLSH(
        inputCol="v", bucketLength=1.0, numHashTables=tables, seed=seed
    )
    return directions(lsh.fit(_no_vectors(spark, "v", width)))


def _no_vectors(spark: "SparkSession", column: str, width: int) -> "DataFrame":
    """Return no rows with a vector column of a known width.

    A model depends on the width and the seed. Spark ML reads the first row of a table for the
    width, unless the metadata of the column has it.
    """
    from pyspark.ml.linalg import VectorUDT
    from pyspark.sql.types import StructType

    metadata = {"ml_attr": {"num_attrs": width}}
    return spark.createDataFrame([], StructType().add(column, VectorUDT(), metadata=metadata))
