"""Steps 5 and 6: DataFrames with a vector column; hashes as plain numbers."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


def read_embeddings(spark: "SparkSession", csv: str | Path, width: int = 512) -> "DataFrame":
    """Step 5: read the CSV file of `lookalike embed` as a DataFrame `image, label, e0, e1, ...`."""
    numbers = ", ".join(f"e{i} float" for i in range(width))
    schema = f"image string, label string, {numbers}"
    # Unlike the default of Spark, a quote in a name is doubled; a name may have a line break.
    return spark.read.csv(str(csv), schema=schema, header=True, escape='"', multiLine=True)


def assemble(frame: "DataFrame", width: int = 512, column: str = "features") -> "DataFrame":
    """Step 6: assemble the columns `e0, e1, ...` to one vector column, by `VectorAssembler`."""
    from pyspark.ml.feature import VectorAssembler

    names = [f"e{i}" for i in range(width)]
    return VectorAssembler(inputCols=names, outputCol=column).transform(frame).drop(*names)


def check_widths(frame: "DataFrame", width: int, column: str = "features") -> "DataFrame":
    """Check the width of each vector when Spark reads it.

    A vector of another width, or null, raises a `SparkRuntimeException` of one line, without the
    traceback of a task.
    """
    from pyspark.ml.functions import vector_to_array
    from pyspark.sql import functions as F

    vector = F.col(column)
    found = F.coalesce(F.size(vector_to_array(vector)), F.lit(0))
    words = "numbers in the column", f"{column!r}, but the hash tables are for {width}: embed them"
    error = F.raise_error(F.concat_ws(" ", found, *map(F.lit, words), F.lit("with one model")))
    return frame.withColumn(column, F.when(found == width, vector).otherwise(error))


def with_vectors(frame: "DataFrame", column: str = "features") -> "DataFrame":
    """Convert the array column `embedding` of a collection to a vector column."""
    from pyspark.ml.functions import array_to_vector
    from pyspark.sql import functions as F

    embedded = frame.filter("status = 'ok'")
    vector = array_to_vector(F.col("embedding").cast("array<double>"))
    return embedded.select("id", "path", "label", vector.alias(column))


def numbered(frame: "DataFrame", without: str | None = None) -> "DataFrame":
    """Add the columns `id` and `path` of a collection to rows of `assemble`.

    The image named `without` is left out, so that it is new to the others.
    """
    from pyspark.sql import functions as F

    kept = frame if without is None else frame.filter(F.col("image") != without)
    return kept.withColumn("id", F.monotonically_increasing_id()).withColumnRenamed("image", "path")


def bucket_columns(hashed: "DataFrame", tables: int) -> "DataFrame":
    """Convert the column `hashes` from vectors to `array<double>`, for other readers of Parquet."""
    from pyspark.ml.functions import vector_to_array
    from pyspark.sql import functions as F

    buckets: list[Any] = [vector_to_array(F.col("hashes")[table])[0] for table in range(tables)]
    return hashed.withColumn("hashes", F.array(*buckets))
