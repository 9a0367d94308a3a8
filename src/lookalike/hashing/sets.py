"""Set-like features and `MinHashLSH`, which hashes sets by their Jaccard distance.

https://spark.apache.org/docs/latest/ml-features.html#minhash-for-jaccard-distance
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.ml.feature import MinHashLSHModel
    from pyspark.sql import DataFrame


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
