"""Check the columns of a DataFrame of Spark with vectors."""

from collections import Counter
from typing import TYPE_CHECKING

from lookalike.errors import LookalikeError
from lookalike.storage.schema import KeyType

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame


VECTOR = "vector"
"""The column of vectors among those that tasks get."""


def key_type_of(frame: "DataFrame", column: str | None) -> KeyType | None:
    """Return the type of the keys in a column. Raises `LookalikeError` for what is no key."""
    from pyspark.sql.types import IntegralType, StringType

    if column is None:
        return None
    kind = frame.schema[column].dataType
    if isinstance(kind, IntegralType):
        return "int64"
    if isinstance(kind, StringType):
        return "string"
    raise LookalikeError(
        f"column {column!r} holds {kind.simpleString()}, no keys: choose an `id_column` of whole "
        "numbers or strings"
    )


def vector_column(frame: "DataFrame", name: str) -> "Column":
    """Return a column of vectors or of arrays of numbers as arrays of floats or doubles."""
    from pyspark.ml.functions import vector_to_array
    from pyspark.ml.linalg import VectorUDT
    from pyspark.sql import functions as F
    from pyspark.sql.types import ArrayType, FloatType, NumericType

    column, kind = column_of(frame, name), frame.schema[name].dataType
    if isinstance(kind, VectorUDT):
        return F.when(column.isNotNull(), vector_to_array(column))
    if not (isinstance(kind, ArrayType) and isinstance(kind.elementType, NumericType)):
        raise LookalikeError(
            f"column {name!r} of the DataFrame holds {kind.simpleString()}, no vectors: give lists "
            "of numbers"
        )
    return column if isinstance(kind.elementType, FloatType) else column.cast("array<double>")


def column_of(frame: "DataFrame", name: str) -> "Column":
    """Return a column of a DataFrame, whatever its name."""
    return frame[f"`{name.replace('`', '``')}`"]


def count_widths(frame: "DataFrame", column: str, rows: int) -> "Counter[int]":
    """Count the widths of the first vectors."""
    from pyspark.sql import functions as F

    vector = vector_column(frame, column).alias(VECTOR)
    sizes = frame.select(vector).filter(F.col(VECTOR).isNotNull()).select(F.size(VECTOR))
    return Counter(size for (size,) in sizes.limit(rows).collect())
