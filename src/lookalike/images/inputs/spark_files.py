"""Follow the new files of a folder or a store by a Spark stream."""

import re
from typing import TYPE_CHECKING

from lookalike.images.inputs.source import decode_path

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


def new_files(spark: "SparkSession", root: str, at_once: int) -> "DataFrame":
    """Return a stream of the new files below a folder or URI, up to `at_once` in a batch.

    The columns are `path, length, modificationTime`. Contents are left out, since `foreachBatch`
    may read them several times.
    https://spark.apache.org/docs/latest/streaming/apis-on-dataframes-and-datasets.html
    """
    names = "path string, modificationTime timestamp, length long"
    reader = spark.readStream.format("binaryFile").schema(f"{names}, content binary")
    for option, value in {
        "recursiveFileLookup": "true",
        "maxFilesPerTrigger": str(at_once),
        # Else files that are a week older than the newest one are skipped.
        "maxFileAge": "36500d",
        # Else a file that has vanished ends the stream at every start.
        "ignoreMissingFiles": "true",
    }.items():
        reader = reader.option(option, value)
    return reader.load(root).drop("content")


def literal(path: str) -> str:
    """Decode a path and escape the characters of Hadoop's globs."""
    return re.sub(r"([][{}*?\\])", r"\\\1", decode_path(path))
