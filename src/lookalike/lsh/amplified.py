"""`AmplifiedProjectionLSH`: LSH with AND-amplification, as stages of `pyspark.ml`."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from pyspark.ml import Estimator, Model
from pyspark.ml.functions import vector_to_array
from pyspark.ml.linalg import Vector, VectorUDT
from pyspark.ml.param import Param, Params, TypeConverters
from pyspark.ml.param.shared import HasInputCol, HasOutputCol, HasSeed
from pyspark.ml.util import (
    DefaultParamsReadable,
    DefaultParamsReader,
    DefaultParamsWritable,
    DefaultParamsWriter,
    MLReadable,
    MLReader,
    MLWritable,
    MLWriter,
)
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import pandas_udf

from lookalike.errors import LookalikeError
from lookalike.lsh.frames import check_widths
from lookalike.lsh.parameters import Parameters
from lookalike.lsh.sample import draw_rows
from lookalike.lsh.tables import Tables, leading_axes
from lookalike.system.arrays import Floats

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


Key = Vector | npt.ArrayLike
"""A query: a vector of Spark, an array, or a list of numbers."""


class _Amplified(HasInputCol, HasOutputCol, HasSeed):
    """The parameters of both the estimator and its model."""

    bucketLength: Param[float] = Param(  # noqa: N815 - as in Spark
        Params._dummy(),
        "bucketLength",
        "the length of the buckets, on the scale of the distances (> 0)",
        TypeConverters.toFloat,
    )
    numHashTables: Param[int] = Param(  # noqa: N815
        Params._dummy(),
        "numHashTables",
        "the number of tables; a candidate agrees in any of them (OR)",
        TypeConverters.toInt,
    )
    numHashFunctions: Param[int] = Param(  # noqa: N815
        Params._dummy(),
        "numHashFunctions",
        "the number of projections per table, all of which must agree (AND)",
        TypeConverters.toInt,
    )
    subspace: Param[int] = Param(
        Params._dummy(),
        "subspace",
        "the number of leading directions of the data to hash; 0 hashes the vectors as they are",
        TypeConverters.toInt,
    )

    def __init__(self, **values: Any) -> None:
        super().__init__()
        self._setDefault(numHashTables=1, numHashFunctions=1, subspace=0, outputCol="hashes")
        self._setDefault(inputCol="features", seed=0)
        unknown = values.keys() - {param.name for param in self.params}
        if unknown:
            raise LookalikeError(f"unknown parameter {min(unknown)!r}: see explainParams()")
        self._set(**values)


class AmplifiedProjectionLSH(
    _Amplified,
    Estimator["AmplifiedProjectionLSHModel"],
    DefaultParamsReadable[Any],
    DefaultParamsWritable,
):
    """Locality-sensitive hashing of vectors by Euclidean distance, with AND and OR.

    `BucketedRandomProjectionLSH` with two additions: a table combines `numHashFunctions`
    projections, and buckets are shifted at random (Datar et al., 2004). With `subspace` it hashes
    the leading directions of a sample, along which neighbours stand out more. `lsh.tune` finds
    the parameters for a target recall.

        model = AmplifiedProjectionLSH(
            bucketLength=1.5, numHashTables=32, numHashFunctions=12, subspace=32
        ).fit(vectors)
        hashed = model.transform(vectors).cache()
        model.approxNearestNeighbors(hashed, key, 5)
    """

    @classmethod
    def read(cls) -> "DefaultParamsReader[Any]":
        """Return the reader behind `load(path)`."""
        return _EstimatorReader(cls)

    def _fit(self, dataset: "DataFrame") -> "AmplifiedProjectionLSHModel":
        length = self.getOrDefault(self.bucketLength) if self.isDefined("bucketLength") else 0.0
        tables, hashes, subspace = (
            self.getOrDefault(name) for name in ("numHashTables", "numHashFunctions", "subspace")
        )
        if not (length > 0 and math.isfinite(length)):
            raise LookalikeError(f"bucketLength is {length}: give a length above 0")
        for name, count in (("numHashTables", tables), ("numHashFunctions", hashes)):
            if count < 1:
                raise LookalikeError(f"{name} is {count}: give at least 1")
        column = _checked(dataset, self.getInputCol())
        rows = draw_rows(dataset, column, self.getSeed())
        if not len(rows):
            raise LookalikeError("hashing needs at least 1 vector")
        axes = leading_axes(rows, subspace)
        parameters = Parameters(length, tables, 0, 0, hashes=hashes)
        drawn = Tables.draw(parameters, axes, self.getSeed())
        return self._copyValues(AmplifiedProjectionLSHModel(drawn))


class AmplifiedProjectionLSHModel(
    _Amplified, Model, MLReadable["AmplifiedProjectionLSHModel"], MLWritable
):
    """The fitted tables: add a column of hashes; find candidates and neighbours."""

    def __init__(self, tables: Tables) -> None:
        super().__init__()
        self.tables = tables

    def _transform(self, dataset: "DataFrame") -> "DataFrame":
        """Add the column of hashes, `array<bigint>`, one number per table."""
        tables = self.tables

        def hashes(vectors: pd.Series) -> pd.Series:
            return pd.Series(list(tables(_stacked(vectors, tables.width))))

        column = _checked(dataset, self.getInputCol())
        dataset = check_widths(dataset, tables.width, column)
        vectors = vector_to_array(F.col(column), "float32")
        hashed = pandas_udf(hashes, "array<bigint>")(vectors)  # type: ignore[call-overload]
        return dataset.withColumn(self.getOutputCol(), hashed)

    def candidates(self, dataset: "DataFrame", key: Key) -> "DataFrame":
        """Keep the rows that share a bucket with a query in any table.

        `dataset` has the vector column; it is hashed unless it has the column of hashes too. With
        stored hashes Spark filters the rows without reading their vectors.
        """
        column = self.getOutputCol()
        hashed = dataset if column in dataset.columns else self.transform(dataset)
        own = self.tables(self._numbers(key).astype(np.float32))  # float32, as the rows
        return hashed.filter(F.arrays_overlap(F.col(column), F.lit(own)))

    def approxNearestNeighbors(  # noqa: N802 - as in Spark
        self,
        dataset: "DataFrame",
        key: Key,
        numNearestNeighbors: int,  # noqa: N803
        distCol: str = "distCol",  # noqa: N803
    ) -> "DataFrame":
        """Find the k nearest candidates of a query, nearest first, with their Euclidean distance.

        As the method of Spark. Rows that share no bucket with the query are not compared, so there
        may be fewer than k.
        """
        if numNearestNeighbors < 1:
            raise LookalikeError(f"numNearestNeighbors is {numNearestNeighbors}: give at least 1")
        numbers = self._numbers(key)

        def distances(vectors: pd.Series) -> pd.Series:
            return pd.Series(np.linalg.norm(_stacked(vectors, len(numbers)) - numbers, axis=1))

        found = check_widths(self.candidates(dataset, key), len(numbers), self.getInputCol())
        vectors = vector_to_array(F.col(self.getInputCol()))
        distance = pandas_udf(distances, "double")(vectors)  # type: ignore[call-overload]
        return found.withColumn(distCol, distance).orderBy(distCol).limit(numNearestNeighbors)

    def _numbers(self, key: Key) -> Floats:
        """Return a query as float64 (width,)."""
        numbers = np.asarray(key.toArray() if isinstance(key, Vector) else key, np.float64)
        if numbers.shape != (self.tables.width,):
            raise LookalikeError(
                f"the key has {numbers.size} numbers, but the vectors have {self.tables.width}"
            )
        return numbers

    def write(self) -> MLWriter:
        """Return the writer behind `save(path)`; `write().overwrite()` replaces."""
        return _Writer(self)

    @classmethod
    def read(cls) -> "MLReader[AmplifiedProjectionLSHModel]":
        """Return the reader behind `load(path)`."""
        return _Reader()


class _EstimatorReader(DefaultParamsReader[Any]):
    def load(self, path: str) -> AmplifiedProjectionLSH:
        # The reader of Spark would instantiate any class that the file names.
        metadata = _metadata(path, self.sparkSession, AmplifiedProjectionLSH)
        estimator = AmplifiedProjectionLSH()
        estimator._resetUid(metadata["uid"])
        DefaultParamsReader.getAndSetParams(estimator, metadata)
        return estimator


class _Writer(MLWriter):
    def __init__(self, model: AmplifiedProjectionLSHModel) -> None:
        super().__init__()
        self.model = model

    def saveImpl(self, path: str) -> None:  # noqa: N802 - as in Spark
        DefaultParamsWriter.saveMetadata(self.model, path, self.sparkSession)
        row = [(self.model.tables.to_bytes(),)]
        self.sparkSession.createDataFrame(row, "tables binary").write.parquet(f"{path}/tables")


class _Reader(MLReader[AmplifiedProjectionLSHModel]):
    def load(self, path: str) -> AmplifiedProjectionLSHModel:
        metadata = _metadata(path, self.sparkSession, AmplifiedProjectionLSHModel)
        tables = self.sparkSession.read.schema("tables binary").parquet(f"{path}/tables")
        row = tables.first()
        if row is None:
            raise LookalikeError(f"no hash tables in {path}: save the model again")
        model = AmplifiedProjectionLSHModel(Tables.from_bytes(bytes(row["tables"])))
        model._resetUid(metadata["uid"])
        DefaultParamsReader.getAndSetParams(model, metadata)
        return model


def _metadata(path: str, spark: "SparkSession", kind: type) -> dict[str, Any]:
    """Read the metadata of a stage. Raises `LookalikeError` for another kind of stage."""
    try:
        return DefaultParamsReader.loadMetadata(path, spark, f"{kind.__module__}.{kind.__name__}")
    except (AssertionError, ValueError, KeyError) as error:
        raise LookalikeError(f"no {kind.__name__} in {path}: {error}") from None


def _checked(dataset: "DataFrame", column: str) -> str:
    """Return the name of a column of vectors. Raises `LookalikeError` for any other."""
    if column not in dataset.columns:
        raise LookalikeError(f"unknown column {column!r}: choose {', '.join(dataset.columns)}")
    if not isinstance(dataset.schema[column].dataType, VectorUDT):
        raise LookalikeError(f"the column {column!r} has no vectors: use VectorAssembler")
    return column


def _stacked(vectors: pd.Series, width: int) -> npt.NDArray[Any]:
    """Stack a batch of vectors: (n, width)."""
    if not len(vectors):
        return np.empty((0, width))
    lengths = vectors.str.len()
    if (lengths != width).any():
        raise LookalikeError(f"a vector is null or has another width than {width}")
    stacked: npt.NDArray[Any] = np.stack(list(vectors))
    return stacked
