"""Vectors of a DataFrame of Spark: tasks check them, list them and write segments."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from lookalike.images.inputs.listing import task_count
from lookalike.ingest.vectors.frames import VECTOR
from lookalike.ingest.vectors.inputs import VectorInput
from lookalike.ingest.vectors.plan import nulls_error, repeats_error
from lookalike.ingest.vectors.rows import listed_columns, rows_of, small_batches
from lookalike.ingest.vectors.tables import Batch
from lookalike.search.columns import vector_column
from lookalike.spark import local_uri, parallelism, progress, small_arrow_batches
from lookalike.spark.columns import column_of, ddl
from lookalike.storage.schema import KEY

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


MAX_TASK_ROWS = 65_536
"""Rows of a task on average, above which a DataFrame is divided into more parts."""


class RowCount(NamedTuple):
    """The number of rows of a DataFrame, and of its parts that have some."""

    rows: int
    parts: int


def rows_frame(opened: VectorInput, count: RowCount) -> "DataFrame":
    """Return the rows of a DataFrame with the columns to read alone, the vectors as arrays.

    Where its parts are too large for segments, rows are divided among tasks by their keys, so that
    a task that is tried again has the same rows.
    """
    frame, own = opened.frame, opened.own
    assert frame is not None
    named = [name for name in own.columns if name != own.embedding_column]
    others = [column_of(frame, name).alias(name) for name in named]
    kept = frame.select(*others, vector_column(frame, own.embedding_column).alias(VECTOR))
    name = own.id_column
    assert name is not None
    if count.rows <= MAX_TASK_ROWS * count.parts:
        return kept
    tasks = task_count(count.rows, parallelism(frame.sparkSession))
    return kept.repartition(tasks, column_of(kept, name))


def count_named(opened: VectorInput) -> RowCount:
    """Count the rows. Raises `LookalikeError` where rows lack a key, or share one."""
    from pyspark.sql import functions as F

    name = opened.own.id_column
    assert name is not None and opened.frame is not None
    named = opened.frame.select(
        column_of(opened.frame, name).alias("name"), F.spark_partition_id().alias("part")
    )
    counted = named.groupBy("name").agg(F.count("*").alias("times"), F.max("part").alias("part"))
    again = F.when(F.expr("times > 1 and name is not null"), F.struct("name", "times"))
    ((count, nulls, repeated, parts),) = counted.agg(
        F.sum("times"),
        F.sum(F.expr("if(name is null, times, 0)")),
        F.min(again),
        F.countDistinct("part"),
    ).collect()
    if nulls:
        raise nulls_error(opened.name, name, nulls)
    if repeated:
        raise repeats_error(opened.name, name, repeated["name"], repeated["times"])
    return RowCount(int(count or 0), int(parts))


def _with_vectors(opened: VectorInput, batch: pa.RecordBatch) -> Batch:
    """Return a batch of a task with the user's name of the column of vectors."""
    names = [opened.own.embedding_column if one == VECTOR else one for one in batch.schema.names]
    return Batch("", 0, pa.RecordBatch.from_arrays(batch.columns, names=names))


def for_tasks(opened: VectorInput) -> VectorInput:
    """Return what tasks need: a DataFrame cannot travel to them."""
    return VectorInput(opened.own, opened.width, opened.root)


def list_frame(opened: VectorInput, rows: "DataFrame", folder: Path) -> list[Path]:
    """Write the listing of a DataFrame (`plan.list_rows`) without row numbers; return its files."""
    checked = for_tasks(opened)
    names = [KEY] * (opened.own.key is not None) + listed_columns(opened.own)

    def task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            made = rows_of(checked, _with_vectors(checked, batch), np.zeros(batch.num_rows, int))
            yield pa.RecordBatch.from_arrays([made[name] for name in names], names=names)

    schema = opened.own.schema
    columns = ddl(pa.schema([schema.field(name) for name in names]))
    spark = rows.sparkSession
    with progress(spark, "listing vectors"), small_arrow_batches(spark):
        rows.mapInArrow(task, columns).write.parquet(local_uri(folder))
    return sorted(folder.glob("*.parquet"))


def with_ids(
    opened: VectorInput, rows: "DataFrame", wanted: Path | None, first_id: int
) -> "DataFrame":
    """Return rows with their new `id`, which rises within a task: all, or those of a plan."""
    from pyspark.sql import functions as F

    if wanted is not None:
        assert opened.own.id_column is not None
        chosen = rows.sparkSession.read.parquet(local_uri(wanted)).select(F.col(KEY).alias("_key"))
        rows = rows.join(chosen, column_of(rows, opened.own.id_column) == F.col("_key"), "leftsemi")
    return rows.withColumn("id", F.monotonically_increasing_id() + first_id)


def rows_of_frame(
    opened: VectorInput, batches: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of an index for the batches of a task, which have ids."""

    def made() -> Iterator[pa.RecordBatch]:
        for batch in batches:
            ids = batch["id"].to_numpy()
            others = batch.select([name for name in batch.schema.names if name != "id"])
            yield rows_of(opened, _with_vectors(opened, others), ids)

    return small_batches(made())
