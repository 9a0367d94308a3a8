"""Columns of a DataFrame of Spark with vectors."""

from typing import TYPE_CHECKING

from lookalike.errors import LookalikeError
from lookalike.spark.columns import column_of

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame


def vector_column(frame: "DataFrame", name: str) -> "Column":
    """Return a column of vectors or of arrays of numbers as arrays of floats or doubles.

    Raises `LookalikeError` for a column of another type.
    """
    from pyspark.ml.functions import vector_to_array
    from pyspark.ml.linalg import VectorUDT
    from pyspark.sql import functions as F
    from pyspark.sql.types import ArrayType, FloatType, NumericType

    column, kind = column_of(frame, name), frame.schema[name].dataType
    if isinstance(kind, VectorUDT):
        return F.when(column.isNotNull(), vector_to_array(column))  # it refuses null
    if not (isinstance(kind, ArrayType) and isinstance(kind.elementType, NumericType)):
        raise LookalikeError(
            f"the column {name!r} is {kind.simpleString()}: give vectors or arrays of numbers"
        )
    # As float32, what is beyond that would be infinite or zero.
    return column if isinstance(kind.elementType, FloatType) else column.cast("array<double>")


def unused_name(frame: "DataFrame", name: str) -> str:
    """Return a name of a column that a DataFrame does not have: this one, or a longer one."""
    while name in frame.columns:
        name += "_"
    return name
