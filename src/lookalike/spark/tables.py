"""Files for Spark to read."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lookalike.errors import LookalikeError
from lookalike.spark import classic
from lookalike.spark.sessions import require_classic
from lookalike.system.untrusted import foreign_types

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


_GLOB = re.compile(r"[][{}*?\\]")


def is_frame(given: Any) -> bool:
    """Tell whether a DataFrame of Spark is given.

    Ask this first: a DataFrame of Spark Connect has an attribute of any name, a column.
    """
    if "pyspark" not in sys.modules:
        return False
    from pyspark.sql import DataFrame

    return isinstance(given, DataFrame)


def local_uri(path: str | Path) -> str:
    """Return the URI of a local path: Spark may have another default file system."""
    return f"file://{Path(path).absolute()}"


def read_parquet(spark: "SparkSession", path: str, files: Sequence[str]) -> "DataFrame":
    """Read files of a table with unknown columns from an untrusted source.

    Raises `LookalikeError` for user-defined types, which can run code.
    """
    require_classic(f"reading {path}, which only Spark can reach,", "unset SPARK_REMOTE")
    # Without this setting, a column of nanoseconds makes the whole table unreadable.
    key = "spark.sql.legacy.parquet.nanosAsLong"
    before = spark.conf.get(key, None)
    spark.conf.set(key, "true")
    try:
        reader = spark.read
        if path not in files:  # keep the columns of partition folders
            within = _GLOB.split(path)[0]
            reader.option("basePath", path if within == path else within.rpartition("/")[0])
        frame = reader.parquet(*(_GLOB.sub(r"\\\g<0>", file) for file in files))
    finally:
        spark.conf.unset(key) if before is None else spark.conf.set(key, before)
    if foreign := foreign_types(classic.schema_json(frame)):
        raise LookalikeError(
            f"{path} has a column of the type {foreign[0]}, which can run code: remove that column "
            "from the table"
        )
    return frame
