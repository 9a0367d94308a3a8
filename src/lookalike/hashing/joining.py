"""Spark ML's `approxSimilarityJoin`, asked only where what it shuffles fits on the disk.

It writes every pair that shares a bucket, vectors included, before it looks at a single distance:
of a table with itself soon more than any disk holds. How many rows that are is counted beforehand.
https://spark.apache.org/docs/latest/ml-features.html#approximate-similarity-join
"""

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lookalike.errors import LookalikeError
from lookalike.hashing.projection import Hasher, directions

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_NUMBER = 8  # bytes of each number of a vector, and it comes with two
_BESIDE = 200  # bytes of whatever else a row has
_SHARE = 0.5  # of the free disk may be filled


class Candidates(NamedTuple):
    """What a join by hashes compares: pairs of different rows, and the rows that are shuffled.

    Spark ML makes a row of a pair for each table in which both share a bucket, of a table with
    itself from both of its ends and of each row with itself as well. How many of them are of one
    pair is not looked up: there are at most so many `pairs`.
    """

    pairs: int
    rows: int


def candidates(
    hasher: Hasher, vectors: "DataFrame", others: "DataFrame | None" = None
) -> Candidates:
    """Count what Spark ML's join of a table with another one, or with itself, would compare."""
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
    ((shuffled,),) = both.select(F.sum(F.col("one") * F.col("other"))).collect()
    rows = int(shuffled or 0)
    if others is not None:
        return Candidates(min(rows, vectors.count() * others.count()), rows)
    count = vectors.count()
    selves = count * hasher.parameters.tables
    return Candidates(min((rows - selves) // 2, count * (count - 1) // 2), rows)


def similarity_join(
    hasher: Hasher,
    vectors: "DataFrame",
    within: float,
    others: "DataFrame | None" = None,
    room: int | None = None,
) -> "DataFrame":
    """Return pairs of rows that share a bucket and are within a distance: `a_id, b_id, distance`.

    `vectors`, and `others` where it is not joined with itself, have `id` and the column of the
    hasher. Raises `LookalikeError` where the candidates need more than `room` bytes, by default
    half of what is free where Spark shuffles.
    """
    from pyspark.sql import functions as F

    spark = vectors.sparkSession
    compared = candidates(hasher, vectors, others)
    width = directions(hasher.model).shape[1]
    needed = compared.rows * 2 * (_NUMBER * width + _BESIDE)
    if room is None:
        local = spark.conf.get("spark.local.dir", None) or tempfile.gettempdir()
        place = Path(local.split(",")[0])
        room = int(_SHARE * shutil.disk_usage(place if place.exists() else Path("/")).free)
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
