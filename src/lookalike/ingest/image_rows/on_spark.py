"""Reduce a DataFrame to the columns that tasks need, list its rows, and read its images."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from lookalike.errors import LookalikeError
from lookalike.images.inputs.image_columns import input_column
from lookalike.images.inputs.listing import LISTING_BATCH_ROWS, task_count
from lookalike.ingest.image_rows import rows as names
from lookalike.ingest.image_rows.given import PLACE, ImageRows
from lookalike.ingest.image_rows.rows import RowReader
from lookalike.spark import (
    is_spark_error,
    local_uri,
    parallelism,
    progress,
    short_error,
    small_arrow_batches,
)
from lookalike.spark.columns import column_of, ddl

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame


def reduced(given: ImageRows, *, with_images: bool) -> "DataFrame":
    """Return the columns of a DataFrame that tasks need, under the names of `rows`."""
    from pyspark.sql import functions as F

    frame, own = given.frame, given.columns
    assert frame is not None and own.image_column is not None

    def given_column(name: str | None, kind: str) -> "Column":
        return F.lit(None).cast(kind) if name is None else column_of(frame, name)

    path = given_column(own.path_column, "string")
    if given.kind == "path":
        path = input_column(frame, own.image_column)[1]
    elif given.name_field is not None:
        path = column_of(frame, own.image_column).getField(given.name_field)
    size, time = given_column(None, "bigint"), given_column(None, "bigint")
    if given.is_binary_file:
        size = column_of(frame, "length")
        time = F.unix_micros(column_of(frame, "modificationTime")) * 1000
    columns = {
        names.PATH: path,
        names.LABEL: given_column(own.label_column, "string"),
        names.SIZE: size,
        names.TIME: time,
        **{name: column_of(frame, name) for name, _ in own.kept},
    }
    if own.id_column is not None:
        columns[names.NAME] = column_of(frame, own.id_column)
    if with_images:
        columns[names.IMAGES] = input_column(frame, own.image_column)[1]
    return frame.select(*(column.alias(name) for name, column in columns.items()))


def list_frame(given: ImageRows, reader: RowReader, folder: Path, *, with_images: bool) -> None:
    """Write a listing of the rows of a DataFrame, as `RowReader.list_rows` makes it, to Parquet."""

    def task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        from pyspark import TaskContext

        context = TaskContext.get()
        assert context is not None
        return reader.list_rows(batches, context.partitionId())

    frame = reduced(given, with_images=with_images)
    spark = frame.sparkSession
    try:
        with progress(spark, "listing images"), small_arrow_batches(spark):
            listed = frame.mapInArrow(task, ddl(reader.listing_schema))
            listed.write.parquet(local_uri(folder))
    except Exception as error:
        if not is_spark_error(error):
            raise
        raise LookalikeError(f"Spark cannot read {PLACE}: {short_error(error)}") from None


def images_frame(given: ImageRows, count: int, parts: int) -> "DataFrame":
    """Return the rows of a DataFrame with their images and an id that rises within a task.

    Where it has fewer parts than tasks can run, or too large ones, rows are divided by their names,
    so that a task that is tried again has the same rows.
    """
    from pyspark.sql import functions as F

    frame = reduced(given, with_images=True)
    at_once = parallelism(frame.sparkSession)
    tasks = task_count(count, at_once)
    if parts < min(tasks, at_once) or count > parts * LISTING_BATCH_ROWS:
        name = names.PATH if given.columns.id_column is None else names.NAME
        frame = frame.repartition(tasks, frame[name])
    return frame.withColumn("id", F.monotonically_increasing_id())
