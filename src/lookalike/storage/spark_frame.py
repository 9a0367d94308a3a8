"""An index as a Spark DataFrame."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from lookalike.spark import local_uri, parallelism
from lookalike.storage.remote import is_stored
from lookalike.storage.segments import Segment, row_batches, row_columns

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

_TASKS_PER_CORE = 4


def spark_frame(
    spark: "SparkSession", segments: Sequence[Segment], schema: pa.Schema, columns: str
) -> "DataFrame":
    """Return the rows of segments as a Spark DataFrame with a schema, `columns` for Spark.

    Spark reads the files of a disk. Those in a store are read by Python tasks: Spark would need a
    jar for it.
    """
    if not segments or not is_stored(segments[0].file):
        # Spark has no Delta jar here: the log says which files make up the version. The schema is
        # ours, not that of a file, which might name types that run code.
        files = (local_uri(segment.file) for segment in segments)
        return spark.read.schema(columns).parquet(*files)

    def read(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for number in batch["id"].to_pylist():
                file = segments[number].file
                for rows in row_batches(file, row_columns(file)):
                    yield _as_schema(rows, schema)

    tasks = max(min(len(segments), _TASKS_PER_CORE * parallelism(spark)), 1)
    return spark.range(0, len(segments), 1, tasks).mapInArrow(read, columns)


def _as_schema(rows: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return rows with the columns of a schema; what a file lacks is null."""
    columns = [
        rows[field.name].cast(field.type)
        if field.name in rows.schema.names
        else pa.nulls(rows.num_rows, field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)
