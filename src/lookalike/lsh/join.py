"""Spark ML's `approxSimilarityJoin`, only where its shuffle fits on the disk.

It writes every pair that shares a bucket, with both vectors, before it computes a distance; a
self-join soon needs more than any disk has. The rows are counted beforehand.
https://spark.apache.org/docs/latest/ml-features.html#approximate-similarity-join
"""

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lookalike.errors import LookalikeError
from lookalike.lsh.projection import Hasher, directions

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


_BYTES_PER_NUMBER = 8  # of a vector; a row has two vectors
_OTHER_ROW_BYTES = 200
_MAX_DISK_SHARE = 0.5  # of the free space


class Candidates(NamedTuple):
    """The size of a join by hashes: at most `pairs` pairs of different rows, and shuffled `rows`.

    Spark ML makes a row for each pair and each table in which the two share a bucket; in a
    self-join in both directions, and of each row with itself.
    """

    pairs: int
    rows: int


def candidates(
    hasher: Hasher, vectors: "DataFrame", others: "DataFrame | None" = None
) -> Candidates:
    """Count what Spark ML would compare to join a table with another one, or with itself."""
    from pyspark.sql import functions as F

    def buckets(rows: "DataFrame", name: str) -> "DataFrame":
        hashes = hasher.transform(rows).select(F.posexplode("hashes").alias("table", "hash"))
        return hashes.groupBy("table", "hash").agg(F.count("*").alias(name))

    one = buckets(vectors, "one")
    both = (
        one.withColumn("other", F.col("one"))
        if others is None
        else one.join(buckets(others, "other"), ["table", "hash"])
    )
    # Each row is in one bucket of the first table.
    first = F.when(F.col("table") == 0, F.col("one"))
    ((shuffled, counted),) = both.agg(F.sum(F.col("one") * F.col("other")), F.sum(first)).collect()
    rows = int(shuffled or 0)
    if others is not None:
        return Candidates(min(rows, vectors.count() * others.count()), rows)
    count = int(counted or 0)
    selves = count * hasher.parameters.tables
    return Candidates(min((rows - selves) // 2, count * (count - 1) // 2), rows)


def similarity_join(
    hasher: Hasher,
    vectors: "DataFrame",
    within: float,
    others: "DataFrame | None" = None,
    room: int | None = None,
) -> "DataFrame":
    """Join rows that share a bucket and are within a distance.

    Parameters
    ----------
    hasher : Hasher
    vectors : DataFrame
        With `id` and the column of the hasher.
    within : float
        Euclidean distance.
    others : DataFrame, optional
        A second table; without it `vectors` is joined with itself.
    room : int, optional
        Bytes for the shuffle; by default half of the free space where Spark shuffles.

    Returns
    -------
    DataFrame
        `a_id, b_id, distance`.

    Raises
    ------
    LookalikeError
        Where the shuffle needs more than `room`.
    """
    from pyspark.sql import functions as F

    spark = vectors.sparkSession
    compared = candidates(hasher, vectors, others)
    width = directions(hasher.model).shape[1]
    needed = compared.rows * 2 * (_BYTES_PER_NUMBER * width + _OTHER_ROW_BYTES)
    if room is None:
        local = spark.conf.get("spark.local.dir", None) or tempfile.gettempdir()
        place = Path(local.split(",")[0])
        room = int(_MAX_DISK_SHARE * shutil.disk_usage(place if place.exists() else Path("/")).free)
    if needed > room:
        raise LookalikeError(
            f"Spark ML's join would compare {compared.pairs:,} pairs or fewer and write "
            f"{compared.rows:,} rows for them, about {needed / 1e9:,.1f} GB, and there is room for "
            f"{room / 1e9:,.1f}: use another `engine`"
        )
    columns = ["id", hasher.input_column]
    one, other = vectors.select(*columns), (vectors if others is None else others).select(*columns)
    found = hasher.model.approxSimilarityJoin(one, other, within, "distance").select(
        F.col("datasetA.id").alias("a_id"), F.col("datasetB.id").alias("b_id"), "distance"
    )
    return found if others is not None else found.filter("a_id < b_id")
