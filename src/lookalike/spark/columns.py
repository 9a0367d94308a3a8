"""Columns of DataFrames, and their types as Spark writes them."""

from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame


DDL_TYPES: dict[pa.DataType, str] = {
    pa.int32(): "int",
    pa.int64(): "bigint",
    pa.string(): "string",
    pa.bool_(): "boolean",
    pa.float64(): "double",
    pa.float32(): "float",
    pa.date32(): "date",
    pa.timestamp("us", "UTC"): "timestamp",
    pa.binary(): "binary",
    pa.list_(pa.float32()): "array<float>",
}
"""The types of columns as Spark writes schemas."""


def ddl(schema: pa.Schema) -> str:
    """Return a schema of `DDL_TYPES` as Spark writes it."""
    return ", ".join(f"`{field.name}` {DDL_TYPES[field.type]}" for field in schema)


def column_of(frame: "DataFrame", name: str) -> "Column":
    """Return a column of a DataFrame, whatever its name."""
    return frame[f"`{name.replace('`', '``')}`"]
