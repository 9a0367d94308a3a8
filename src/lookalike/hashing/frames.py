"""Steps 5 and 6: DataFrames of embeddings with one vector column; and hashes as plain numbers."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


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


def check_widths(frame: "DataFrame", width: int, column: str = "features") -> "DataFrame":
    """Let a frame whose vector column has a vector of another width, or none, fail with a line.

    Rows are looked at when Spark is asked for them: it is then a `SparkRuntimeException`, with no
    traceback of a task in it.
    """
    from pyspark.ml.functions import vector_to_array
    from pyspark.sql import functions as F

    vector = F.col(column)
    found = F.coalesce(F.size(vector_to_array(vector)), F.lit(0))
    words = "numbers in the column", f"{column!r}, but the hash tables are for {width}: embed them"
    error = F.raise_error(F.concat_ws(" ", found, *map(F.lit, words), F.lit("with one model")))
    return frame.withColumn(column, F.when(found == width, vector).otherwise(error))


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


def bucket_columns(hashed: "DataFrame", tables: int) -> "DataFrame":
    """Turn the column `hashes` of vectors into `array<double>`, which all of Parquet reads."""
    from pyspark.ml.functions import vector_to_array
    from pyspark.sql import functions as F

    buckets: list[Any] = [vector_to_array(F.col("hashes")[table])[0] for table in range(tables)]
    return hashed.withColumn("hashes", F.array(*buckets))
