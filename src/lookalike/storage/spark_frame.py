"""An index as a Spark DataFrame."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pyarrow as pa

from lookalike.spark import local_uri, parallelism
from lookalike.storage.remote import copy_at
from lookalike.storage.segments import row_batches, row_columns

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from lookalike.storage.table import EmbeddingTable

_TASKS_PER_CORE = 4


def spark_frame(table: "EmbeddingTable", spark: "SparkSession") -> "DataFrame":
    """Return a table as a Spark DataFrame with the columns of its schema.

    Spark reads the files of a disk. Those in a store are read by Python tasks: Spark would need a
    jar for it. Raises `LookalikeError` where a data file is missing by now.
    """
    table.check_files()
    if copy_at(table.path) is None:
        # Spark has no Delta jar here: the log says which files make up the version. The schema is
        # ours, not that of a file, which might name types that run code.
        files = map(local_uri, table.files())
        return spark.read.schema(table.schema_ddl).parquet(*files)
    segments, schema = table.segments, table.schema

    def read(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for number in batch["id"].to_pylist():
                file = segments[number].file
                for rows in row_batches(file, row_columns(file)):
                    yield _as_schema(rows, schema)

    tasks = max(min(len(segments), _TASKS_PER_CORE * parallelism(spark)), 1)
    return spark.range(0, len(segments), 1, tasks).mapInArrow(read, table.schema_ddl)


def _as_schema(rows: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return rows with the columns of a schema; what a file lacks is null."""
    columns = [
        rows[field.name].cast(field.type)
        if field.name in rows.schema.names
        else pa.nulls(rows.num_rows, field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)
