"""Read tables of images into a DataFrame: one Spark job inspects files, another reads rows."""

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from lookalike.errors import LookalikeError
from lookalike.images.inputs.listing import read_listing, task_count, write_inputs
from lookalike.images.inputs.parquet_shard import is_parquet
from lookalike.images.inputs.scan import ScannedFile
from lookalike.images.inputs.source import Source, decode_path, encode_path, is_uri
from lookalike.images.inputs.tables import PART, ROWS, inspect_files, local_shards, read_parts
from lookalike.spark import local_uri, parallelism, read_parquet, short_error
from lookalike.system.sql import connect, create_view, fetch_row, write_parquet

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession


logger = logging.getLogger(__name__)

_MIN_TASK_FILES = 64  # if there are many files
_DRIVER_THREADS = 16  # that read footers, if only Spark can read the files
_TYPES = {pa.int64(): "bigint", pa.int32(): "int", pa.bool_(): "boolean", pa.binary(): "binary"}


def table_frames(
    spark: "SparkSession", source: Source, staging: Path
) -> "tuple[DataFrame, DataFrame]":
    """Return two DataFrames of the rows of a table, with and without `content`.

    A damaged Parquet file becomes one row with a reason.

    Parameters
    ----------
    spark
        The session.
    source
        A source of the kind "table".
    staging
        A folder that all workers see, for the list of row groups.

    Returns
    -------
    DataFrames with the columns of `listing.IMAGE`.

    Raises
    ------
    LookalikeError
        If no file contains images.
    """
    listing = staging / "shards.parquet"
    remote = is_uri(source.root)
    count = write_inputs(_uris(spark, source.root) if remote else local_shards(source), listing)
    if not count:
        raise LookalikeError(f"no Parquet files in {encode_path(source.root)}: name their folder")
    at_once = parallelism(spark)
    tasks = min(max(at_once, count // _MIN_TASK_FILES), count)

    def look(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for task in batch["id"].to_pylist():
                for part in read_listing(listing, task, tasks):
                    yield from inspect_files(source, part.to_pylist())

    looked = spark.range(0, tasks, 1, tasks).mapInArrow(look, _ddl(PART))
    looked.write.parquet(local_uri(staging / "looked"))
    parts = staging / "parts.parquet"
    with connect(staging) as sql:
        create_view(sql, "looked", staging / "looked")
        sql.execute("create temp table parts as from looked")
        rows, reached, lacks, lacking, files = fetch_row(
            sql,
            """select coalesce(sum(rows), 0), bool_or(reached), min(lacks),
                count(distinct path) filter (lacks is not null),
                count(distinct path) filter (reason is null)
            from parts""",
        )
        bad = sql.execute("select path, reason from parts where reason is not null order by path")
        first = bad.fetchone()
        if not rows and first and remote and not reached:  # a file system that Spark alone knows
            return _read_by_spark(spark, source, listing)
        if not rows:
            said = "it has no rows" if first is None else f"{first[0]}: {first[1]}"
            raise LookalikeError(f"no image can be read from {encode_path(source.root)}: {said}")
        if lacks is not None and lacking == files:
            raise LookalikeError(f"no label can be read from {encode_path(source.root)}: {lacks}")
        if lacking:
            logger.warning(f"{lacking:,} of {files:,} files have no column {source.label_column!r}")
        tasks = task_count(rows, at_once)
        query = """
            select *, least(
                (sum(rows) over (order by path, first_row rows unbounded preceding) - rows)
                    * $tasks // $rows,
                $tasks - 1
            )::bigint as task
            from parts order by path, first_row"""
        write_parquet(sql, query, parts, {"tasks": tasks, "rows": rows})

    def frame(content: bool) -> "DataFrame":
        def read(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
            for batch in batches:
                for task in batch["id"].to_pylist():
                    own = pq.read_table(parts, filters=[("task", "=", task)]).to_pylist()
                    yield from read_parts(source, own, content=content)

        rows = spark.range(0, tasks, 1, tasks).mapInArrow(read, _ddl(ROWS))
        return rows.select(running_id(), *ROWS.names)

    return frame(True), frame(False).drop("content")


def read_only(wanted: Path, staging: Path) -> None:
    """Restrict the rows of `table_frames` to files with a row in the listing `wanted`.

    Call this before Spark reads the rows.
    """
    parts, fewer = staging / "parts.parquet", staging / "fewer.parquet"
    if not parts.exists():  # Spark reads the table itself
        return
    with connect(staging) as sql:
        create_view(sql, "wanted", wanted)
        create_view(sql, "parts", parts)
        query = """
            from parts
            where path in (select regexp_replace(path, '#[0-9]+$', '') from wanted)
                or path in (select path from wanted)
            order by path, first_row"""
        write_parquet(sql, query, fewer)
    fewer.replace(parts)


def _ddl(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {_TYPES.get(field.type, 'string')}" for field in schema)


def _uris(spark: "SparkSession", root: str) -> Iterator[ScannedFile]:
    """Yield the files below a URI in the order of their paths, also empty ones."""
    reader = spark.read.format("binaryFile").option("recursiveFileLookup", "true")
    # No other listing of Spark's contains empty files.
    for uri in sorted(map(unquote, reader.load(root).inputFiles())):
        scheme, _, path = uri.partition("://")
        # As Spark names the file of a row.
        yield ScannedFile(encode_path(f"file:{path}" if scheme == "file" else uri))


def _read_by_spark(
    spark: "SparkSession", source: Source, listing: Path
) -> "tuple[DataFrame, DataFrame]":
    """Read a table on a file system that only Spark can read.

    The driver reads the footer of each file; a bad one gives a reason. Damage after the footer
    fails the job.
    """
    from pyspark.sql import functions as F
    from pyspark.sql.types import BinaryType, StructType

    good, bad = _footers(spark, source, listing)
    if not good:
        said = f"{bad[0][0]}: {bad[0][1]}" if bad else "no file of it is Parquet"
        raise LookalikeError(f"no image can be read from {encode_path(source.root)}: {said}")
    frame = read_parquet(spark, source.root, good)
    for column in filter(None, (source.image_column, source.label_column)):
        if column not in frame.columns:
            raise LookalikeError(
                f"{source.root} has no column {column!r}; it has {', '.join(frame.columns)}: "
                "choose another `image_column` or `label_column`"
            )
    column = str(source.image_column)
    kind = frame.schema[column].dataType
    if isinstance(kind, StructType) and "bytes" in kind.names:  # Hugging Face: {bytes, path}
        content = F.col(f"`{column}`")["bytes"]
    elif isinstance(kind, BinaryType):
        content = F.col(f"`{column}`")
    else:
        raise LookalikeError(
            f"column {column!r} of {source.root} holds {kind.typeName()}, no image bytes: "
            "choose another `image_column`"
        )
    label = F.col(f"`{source.label_column}`") if source.label_column else F.lit(None)
    rows = frame.select(
        _row_path().alias("path"),
        label.cast("string").alias("label"),
        F.when(content.isNull(), "empty cell").alias("reason"),
        # Of the row's file.
        F.col("_metadata.file_size").alias("size"),
        nanoseconds("_metadata.file_modification_time"),
        content.alias("content"),
    )
    if bad:
        reasons = spark.createDataFrame(bad, "path string, reason string")
        rows = rows.unionByName(reasons, allowMissingColumns=True)
    rows = rows.select(running_id(), "*")
    return rows, rows.drop("content")


def _footers(
    spark: "SparkSession", source: Source, listing: Path
) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the URIs of a table's files with images, and paths and reasons of others."""
    from py4j.protocol import Py4JJavaError

    java: Any = spark._jvm  # pyspark cannot read footers
    hadoop = spark._jsparkSession.sessionState().newHadoopConf()
    column = str(source.image_column)

    def look(path: str) -> str | None:
        """Return why a file has no images, "" if it is not Parquet, None if it has images."""
        place = java.org.apache.hadoop.fs.Path(decode_path(path))
        try:
            file = java.org.apache.parquet.hadoop.util.HadoopInputFile.fromPath(place, hadoop)
            reader = java.org.apache.parquet.hadoop.ParquetFileReader.open(file)
        except Py4JJavaError as error:
            return f"unreadable: {short_error(error)[:200]}" if is_parquet(path) else ""
        try:
            schema = reader.getFileMetaData().getSchema()
            kind = str(schema.getType(column)) if schema.containsField(column) else None
        finally:
            reader.close()
        if kind is None or "binary" in kind.split():
            return None if kind else f"no column {column!r}: choose another `image_column`"
        return f"column {column!r} holds {kind}, no image bytes"

    good: list[str] = []
    bad: list[tuple[str, str]] = []
    with ThreadPoolExecutor(_DRIVER_THREADS) as pool:
        for batch in read_listing(listing):
            paths = batch["path"].to_pylist()
            for path, reason in zip(paths, pool.map(look, paths), strict=True):
                if reason is None:
                    good.append(decode_path(path))
                elif reason:
                    bad.append((path, reason))
    return good, bad


def _row_path() -> "Column":
    """Return the path `FILE#ROW` of each row, counted from 0."""
    from pyspark.sql import functions as F

    file = F.url_decode(F.replace(F.col("_metadata.file_path"), F.lit("+"), F.lit("%2B")))
    return F.concat(encoded(file), F.lit("#"), F.col("_metadata.row_index"))


def nanoseconds(column: str) -> "Column":
    """Convert a time of Spark to `modified` of listings."""
    from pyspark.sql import functions as F

    return F.try_multiply(F.unix_micros(column), F.lit(1000)).alias("modified")


def encoded(path: "Column") -> "Column":
    """Encode as `encode_path` does; Spark's paths have no control characters."""
    from pyspark.sql import functions as F

    return F.replace(path, F.lit("%"), F.lit("%25"))


def running_id() -> "Column":
    """Return unique ids that rise within a task."""
    from pyspark.sql import functions as F

    return F.monotonically_increasing_id().alias("id")
