"""Read tables of images into a DataFrame: one Spark job inspects files, another reads rows."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from lookalike.errors import LookalikeError
from lookalike.images.inputs.kept_columns import Kept, check_type, known_types
from lookalike.images.inputs.listing import read_listing, task_count, write_inputs
from lookalike.images.inputs.source import Source, encode_path
from lookalike.images.inputs.tables import (
    PART,
    inspect_files,
    read_parts,
    rows_schema,
    shards,
)
from lookalike.spark import local_uri, parallelism
from lookalike.spark.columns import ddl
from lookalike.system.sql import connect, create_view, fetch_row, write_parquet

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection
    from pyspark.sql import Column, DataFrame, SparkSession


logger = logging.getLogger(__name__)

_MIN_TASK_FILES = 64  # if there are many files


class TableFrames(NamedTuple):
    """The rows of a table with and without `content`, and the columns that are kept, with types."""

    images: "DataFrame"
    names: "DataFrame"
    kept: Kept


def table_frames(
    spark: "SparkSession", source: Source, staging: Path, kept: Kept = ()
) -> TableFrames:
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

    kept
        More columns to keep, with their types as far as they are known.

    Returns
    -------
    DataFrames with the columns of `listing.IMAGE`, and kept columns.

    Raises
    ------
    LookalikeError
        If no file contains images, or a column cannot be kept.
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
                    yield from inspect_files(source, part.to_pylist(), kept)

    looked = spark.range(0, tasks, 1, tasks).mapInArrow(look, ddl(PART))
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
        typed = _types(sql, kept)
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
                    yield from read_parts(source, own, content=content, kept=typed)

        schema = rows_schema(typed)
        rows = spark.range(0, tasks, 1, tasks).mapInArrow(read, ddl(schema))
        return rows.select(running_id(), *(f"`{name}`" for name in schema.names))

    return TableFrames(frame(True), frame(False).drop("content"), typed)


def _types(sql: "DuckDBPyConnection", kept: Kept) -> Kept:
    """Return kept columns with the types that the files of a table have.

    Raises `LookalikeError` where a column cannot be kept, or files have it in different types.
    """
    (problem,) = fetch_row(sql, "select min(problem) from parts")
    if problem is not None:
        raise LookalikeError(problem)
    query = "select kept, min(path) from parts where kept is not null group by kept order by 2"
    for kinds, path in sql.execute(query).fetchall() if kept else ():
        found = []
        for (name, before), kind in zip(kept, kinds.split(","), strict=True):
            check_type(name, kind, kind or before, before, path)
            found.append((name, kind or before))
        kept = tuple(found)
    return known_types(kept)


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


def running_id() -> "Column":
    """Return unique ids that rise within a task."""
    from pyspark.sql import functions as F

    return F.monotonically_increasing_id().alias("id")
