"""Read tables of images into a DataFrame: one Spark job inspects files, another reads rows."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from lookalike.errors import LookalikeError
from lookalike.images.inputs.listing import read_listing, task_count, write_inputs
from lookalike.images.inputs.source import Source, encode_path
from lookalike.images.inputs.tables import PART, ROWS, inspect_files, read_parts, shards
from lookalike.spark import local_uri, parallelism
from lookalike.system.sql import connect, create_view, fetch_row, write_parquet

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession


logger = logging.getLogger(__name__)

_MIN_TASK_FILES = 64  # if there are many files
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
    count = write_inputs(shards(source), listing)
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
        rows, lacks, lacking, files = fetch_row(
            sql,
            """select coalesce(sum(rows), 0), min(lacks),
                count(distinct path) filter (lacks is not null),
                count(distinct path) filter (reason is null)
            from parts""",
        )
        bad = sql.execute("select path, reason from parts where reason is not null order by path")
        first = bad.fetchone()
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


def running_id() -> "Column":
    """Return unique ids that rise within a task."""
    from pyspark.sql import functions as F

    return F.monotonically_increasing_id().alias("id")
