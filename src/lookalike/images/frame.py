"""Images that Spark reads, as a DataFrame: one row an input, with its label and content."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from lookalike.errors import LookalikeError
from lookalike.images.decoding import MAX_BYTES
from lookalike.images.listing import IMAGE, LISTING
from lookalike.images.matching import Labelled, match_labels
from lookalike.images.sources import EXTENSIONS, Source, decode_path, encode_path
from lookalike.spark import local_uri, read_parquet
from lookalike.sql import connect, parquet_in, quoted

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession


class Vanished(LookalikeError):
    """A file that was asked for by its name is there no longer."""


def image_frame(
    spark: "SparkSession",
    source: Source,
    staging: Path,
    labels: Iterator[pa.RecordBatch] | None = None,
    paths: Sequence[str] | None = None,
) -> "tuple[DataFrame, Labelled]":
    """Return a DataFrame with the columns of `listing.IMAGE`, and how labels were given to it.

    For what only Spark can read: URIs and tables of bytes. `id` is unique, and rises within a task.
    The labels pass through the folder `staging`, which all workers must see. With `paths`, encoded
    ones, no more than these files of a URI are read: one that is gone is `Vanished`, one that goes
    later is left out.
    """
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException
    from pyspark.sql import functions as F

    try:
        if source.kind == "table":
            frame = _read_table(spark, source)
        else:
            frame = _read_uri(spark, source.root if paths is None else list(map(literal, paths)))
    except (PySparkException, Py4JError) as error:
        detail = " ".join(str(error).split())[:300]
        gone = paths is not None and "PATH_NOT_FOUND" in detail
        kind = Vanished if gone else LookalikeError
        raise kind(f"Spark cannot read {source.root}: {detail}") from None
    labelled = Labelled()
    if labels is not None:
        frame, labelled = _join_labels(frame, labels, staging, source.root, some=paths is not None)
    elif "label" not in frame.columns:
        frame = frame.withColumn("label", F.lit(None).cast("string"))
    return frame.select(*IMAGE.names), labelled


def task_count(images: int, cores: int) -> int:
    """Return the number of tasks, and so of segments, for a number of images.

    Enough to show progress and to keep all cores busy to the end, few enough for search: a task
    has from 256 to 16,384 images, fewer only where cores would have nothing to do.
    """
    rows = min(max(images // 200, 256), 16_384)
    rounds = -(-images // (rows * cores))
    return min(rounds * cores, images)


def new_files(spark: "SparkSession", root: str, at_once: int) -> "DataFrame":
    """Return a stream of the images below a folder or URI, each once, as soon as Spark lists them.

    Columns `path, length, modificationTime`: what passes through Spark's `foreachBatch` is read as
    often as it is asked of, which must not happen to contents. Up to `at_once` files are a batch.
    https://spark.apache.org/docs/latest/streaming/apis-on-dataframes-and-datasets.html
    """
    names = "path string, modificationTime timestamp, length long"
    reader = spark.readStream.format("binaryFile").schema(f"{names}, content binary")
    for option, value in {
        "recursiveFileLookup": "true",
        "maxFilesPerTrigger": str(at_once),
        # Else what is moved in and older than the newest file by a week is never seen.
        "maxFileAge": "36500d",
        # Else a file that is gone by now ends the stream, at every start again.
        "ignoreMissingFiles": "true",
    }.items():
        reader = reader.option(option, value)
    return reader.load(root).filter(_is_image()).drop("content")


def list_found(files: "DataFrame", folder: Path) -> list[Path]:
    """Write what `new_files` gave of a URI to `folder` as a listing without labels."""
    from pyspark.sql import functions as F

    listing = _named(files.withColumn("reason", F.lit(None).cast("string")))
    listing = listing.withColumn("label", F.lit(None).cast("string"))
    listing.select(*LISTING.names).write.parquet(local_uri(folder))
    return sorted(folder.glob("*.parquet"))


def _is_image() -> "Column":
    from pyspark.sql import functions as F

    return F.lower(F.regexp_extract("path", r"\.[^./]+$", 0)).isin(*EXTENSIONS)


def literal(path: str) -> str:
    """Name a file so that Hadoop, which takes names for globs, finds it alone."""
    return re.sub(r"([][{}*?\\])", r"\\\1", decode_path(path))


def _read_uri(spark: "SparkSession", paths: str | list[str]) -> "DataFrame":
    from pyspark.sql import functions as F

    reader = spark.read.format("binaryFile").option("recursiveFileLookup", "true")
    if not isinstance(paths, str):  # of an earlier listing: some may be gone
        reader = reader.option("ignoreMissingFiles", "true")
    files = reader.load(paths).filter(_is_image())
    # Asked of the listing alone: Spark fails the whole job on a file of over two gigabytes.
    large = files.filter(F.col("length") > MAX_BYTES).select(
        "path",
        "length",
        "modificationTime",
        F.format_string("file of %,d bytes, over the limit", "length").alias("reason"),
        F.lit(None).cast("binary").alias("content"),
    )
    # (Empty files never appear: Spark leaves them out of every listing.)
    small = files.filter(F.col("length") <= MAX_BYTES)
    fine = F.lit(None).cast("string").alias("reason")
    frame = small.select("path", "length", "modificationTime", fine, "content")
    return _named(frame.unionByName(large))


def _named(files: "DataFrame") -> "DataFrame":
    """Give Spark's columns of a file the names and values that listings have."""
    from pyspark.sql import functions as F

    return files.select(
        _running_id(),
        _encoded(F.col("path")).alias("path"),
        "reason",
        F.col("length").alias("size"),
        _nanoseconds("modificationTime"),
        *(name for name in files.columns if name == "content"),
    )


def _read_table(spark: "SparkSession", source: Source) -> "DataFrame":
    from pyspark.sql import functions as F
    from pyspark.sql.types import BinaryType, StructType

    path = "/".join(part for part in (source.root.rstrip("/"), source.names[0]) if part)
    frame = read_parquet(spark, path)
    for column in filter(None, (source.image_column, source.label_column)):
        if column not in frame.columns:
            raise LookalikeError(
                f"{path} has no column {column!r}; it has {', '.join(frame.columns)}: "
                "name the right one with --image-column or --label-column"
            )
    column = str(source.image_column)
    kind = frame.schema[column].dataType
    if isinstance(kind, StructType) and "bytes" in kind.names:  # Hugging Face: {bytes, path}
        content = F.col(column)["bytes"]
    elif isinstance(kind, BinaryType):
        content = F.col(column)
    else:
        raise LookalikeError(
            f"column {column!r} of {path} holds {kind.typeName()}, no image bytes: "
            "name the right one with --image-column"
        )
    label = F.col(source.label_column) if source.label_column else F.lit(None)
    return frame.select(
        _running_id(),
        _row_path(source).alias("path"),
        label.cast("string").alias("label"),
        F.when(content.isNull(), "empty cell").alias("reason"),
        # Of the file that the row is in: a file that is as it was has no other rows.
        F.col("_metadata.file_size").alias("size"),
        _nanoseconds("_metadata.file_modification_time"),
        content.alias("content"),
    )


def _nanoseconds(column: str) -> "Column":
    from pyspark.sql import functions as F

    return F.try_multiply(F.unix_micros(column), F.lit(1000)).alias("modified")


def _row_path(source: Source) -> "Column":
    """Name a row of a table `FILE#ROW`: the file below the root, the row counted from 0."""
    from pyspark.sql import functions as F

    file = F.url_decode(F.replace(F.col("_metadata.file_path"), F.lit("+"), F.lit("%2B")))
    if "://" not in source.root:
        file = F.regexp_replace(file, "^file:(//)?", "")
        file = F.substring(file, F.lit(len(source.root) + 2), F.length(file))
    return F.concat(_encoded(file), F.lit("#"), F.col("_metadata.row_index"))


def _encoded(path: "Column") -> "Column":
    """Encode as `encode_path` does; Spark knows no path with control characters."""
    from pyspark.sql import functions as F

    return F.replace(path, F.lit("%"), F.lit("%25"))


def _running_id() -> "Column":
    from pyspark.sql import functions as F

    return F.monotonically_increasing_id().alias("id")


def _join_labels(
    frame: "DataFrame",
    labels: Iterator[pa.RecordBatch],
    staging: Path,
    root: str,
    *,
    some: bool = False,
) -> "tuple[DataFrame, Labelled]":
    """Give every image its label, as `match_labels` says. Names alone pass through `staging`."""
    frame.select("path").write.parquet(local_uri(staging / "paths"))
    with connect(staging) as sql:
        paths = parquet_in(staging / "paths")
        sql.execute(f"create temp view images as select path as id, path from {paths}")
        done = match_labels(sql, labels, staging, encode_path(root), some=some)
        file = staging / "labelled.parquet"
        sql.execute(
            f"copy (select id as path, label from labelled) to {quoted(file)} (format parquet)"
        )
    by_path = frame.sparkSession.read.parquet(local_uri(file))
    return frame.drop("label").join(by_path, "path", "left"), done
