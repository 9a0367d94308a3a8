"""Sets of the strongest features, hashed with `MinHashLSH` by Jaccard distance.

https://spark.apache.org/docs/latest/ml-features.html#minhash-for-jaccard-distance
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.ml.feature import MinHashLSHModel
    from pyspark.sql import DataFrame


def with_sets(frame: "DataFrame", strongest: int = 32, column: str = "features") -> "DataFrame":
    """Add the column `set`: the strongest components of each vector, as a 0/1 vector.

    `MinHashLSH` hashes these sets by Jaccard distance: which features stand out, not how far.
    """
    from pyspark.ml.functions import array_to_vector, vector_to_array
    from pyspark.sql import functions as F

    values = F.col("_values")
    # As the element of an array the limit is computed once a row: Spark would move any other
    # expression into the loop over the values, and sort them for each of them.
    limit = F.array(F.sort_array(values, asc=False)[strongest - 1])
    members = F.transform(
        limit,
        lambda least: F.transform(
            values, lambda value: ((value >= least) & (value > 0)).cast("double")
        ),
    )[0]
    with_values = frame.withColumn("_values", vector_to_array(F.col(column)))
    return with_values.withColumn("set", array_to_vector(members)).drop("_values")


def fit_sets(
    sets: "DataFrame", *, column: str = "set", tables: int = 8, seed: int = 0
) -> "MinHashLSHModel":
    """Fit `MinHashLSH` to a column of 0/1 vectors; it adds `hashes`, one value per table."""
    from pyspark.ml.feature import MinHashLSH

    lsh = MinHashLSH(inputCol=column, outputCol="hashes", numHashTables=tables, seed=seed)
    return lsh.fit(sets)
