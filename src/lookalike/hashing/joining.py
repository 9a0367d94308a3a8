"""Spark ML's `approxSimilarityJoin`, asked only where what it shuffles fits on the disk.

It writes every pair that shares a bucket, vectors included, before it looks at a single distance:
of a table with itself soon more than any disk holds. How many pairs that are is counted beforehand.
https://spark.apache.org/docs/latest/ml-features.html#approximate-similarity-join
"""

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from lookalike.errors import LookalikeError
from lookalike.hashing.projection import Hasher, directions

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_NUMBER = 8  # bytes of each number of a vector, and it comes with two
_BESIDE = 200  # bytes of whatever else a row has
_SHARE = 0.5  # of the free disk may be filled


def candidate_pairs(hasher: Hasher, vectors: "DataFrame", others: "DataFrame | None" = None) -> int:
    """Count the pairs that share a bucket, once for each table in which they do.

    A table with itself counts every pair from both of its ends, as Spark ML makes them.
    """
    from pyspark.sql import functions as F

    def buckets(rows: "DataFrame", name: str) -> "DataFrame":
        hashes = hasher.transform(rows).select(F.posexplode("hashes").alias("table", "hash"))
        return hashes.groupBy("table", "hash").agg(F.count("*").alias(name))

    counted = buckets(vectors, "one")
    if others is None:
        counted = counted.withColumn("other", F.col("one"))
    else:
        counted = counted.join(buckets(others, "other"), ["table", "hash"])
    ((total,),) = counted.select(F.sum(F.col("one") * F.col("other"))).collect()
    return int(total or 0)


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
    count = candidate_pairs(hasher, vectors, others)
    width = directions(hasher.model).shape[1]
    needed = count * 2 * (_NUMBER * width + _BESIDE)
    if room is None:
        local = spark.conf.get("spark.local.dir", None) or tempfile.gettempdir()
        place = Path(local.split(",")[0])
        room = int(_SHARE * shutil.disk_usage(place if place.exists() else Path("/")).free)
    if needed > room:
        raise LookalikeError(
            f"Spark ML's join would write {count:,} pairs, about {needed / 1e9:,.0f} GB, and there "
            f"is room for {room / 1e9:,.0f}: leave --engine spark out"
        )
    columns = ["id", hasher.input_column]
    one, other = vectors.select(*columns), (vectors if others is None else others).select(*columns)
    found = hasher.model.approxSimilarityJoin(one, other, within, "distance").select(
        F.col("datasetA.id").alias("a_id"), F.col("datasetB.id").alias("b_id"), "distance"
    )
    return found if others is not None else found.filter("a_id < b_id")
