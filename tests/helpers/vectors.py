"""Drawn vectors, also as Spark has those of an index."""

from functools import reduce

import numpy as np
import pyarrow as pa
from pyspark.ml.functions import array_to_vector
from pyspark.sql import DataFrame, Row
from pyspark.sql import functions as F

from lookalike.spark import session
from lookalike.system.arrays import Floats, Vectors


def frame(vectors: Vectors, partitions: int = 2) -> DataFrame:
    """Return vectors as Spark has those of a collection, in some order of its own."""
    table = pa.table(
        {
            "id": np.arange(len(vectors)),
            "path": [f"{row}.jpg" for row in range(len(vectors))],
            "label": [str(row % 7) for row in range(len(vectors))],
            "v": pa.array(vectors.astype(float).tolist(), pa.list_(pa.float64())),
        }
    )
    rows = session().createDataFrame(table).repartition(partitions)
    return rows.select("id", "path", "label", array_to_vector(F.col("v")).alias("features")).cache()


def collect_all(*frames: DataFrame) -> list[list[Row]]:
    """Return the rows of several tables with the same columns, collected in one job of Spark."""
    numbered = [one.withColumn("table", F.lit(number)) for number, one in enumerate(frames)]
    rows = reduce(DataFrame.unionByName, numbered).collect()
    return [[row for row in rows if row["table"] == number] for number in range(len(frames))]


def units(count: int, width: int, seed: int) -> Floats:
    drawn: Floats = np.random.default_rng(seed).normal(size=(count, width))
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    return drawn
