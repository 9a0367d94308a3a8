"""Files for Spark to read."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lookalike.errors import LookalikeError
from lookalike.system.untrusted import SPARK_SCHEMA, foreign_types

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


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


def read_parquet(spark: "SparkSession", folder: Path) -> "DataFrame":
    """Read the Parquet files of a local folder from an untrusted source.

    Raises `LookalikeError` for user-defined types, which can run code, for damaged files, and for
    other files: Spark would read these too, or take the types of `_metadata`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    for file in sorted(folder.iterdir()):
        if file.name == "_SUCCESS" or file.name.startswith("."):
            continue
        if file.suffix != ".parquet" or file.name.startswith("_") or not file.is_file():
            raise LookalikeError(f"{file} is no part of a saved table: remove it")
        try:
            described = (pq.read_schema(file).metadata or {}).get(SPARK_SCHEMA, b"{}").decode()
            foreign = foreign_types(described)
        except (pa.ArrowException, OSError, ValueError, RecursionError, AttributeError, TypeError):
            raise LookalikeError(f"{file} cannot be read: save it again") from None
        if foreign:  # Spark would import it
            raise LookalikeError(
                f"{folder} has a column of the type {foreign[0]}, which can run code: remove that "
                "column from the table"
            )
    return spark.read.parquet(local_uri(folder))
