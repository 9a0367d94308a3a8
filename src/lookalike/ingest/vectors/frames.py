"""Check the columns of a DataFrame of Spark with vectors."""

from collections import Counter
from typing import TYPE_CHECKING

from lookalike.errors import LookalikeError
from lookalike.images.inputs import kept_columns
from lookalike.images.inputs.kept_columns import Kept
from lookalike.search.columns import vector_column
from lookalike.storage.schema import KeyType

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


VECTOR = "vector"
"""The column of vectors among those that tasks get."""


def key_type_of(frame: "DataFrame", column: str) -> KeyType:
    """Return the type of the keys in a column. Raises `LookalikeError` for what is no key."""
    from pyspark.sql.types import IntegralType, StringType

    kind = frame.schema[column].dataType
    if isinstance(kind, IntegralType):
        return "int64"
    if isinstance(kind, StringType):
        return "string"
    raise LookalikeError(
        f"column {column!r} holds {kind.simpleString()}, no keys: choose an `id_column` of whole "
        "numbers or strings"
    )


def kept_types(frame: "DataFrame", kept: Kept) -> Kept:
    """Return kept columns with their types. Raises `LookalikeError` for a type that is not kept."""
    from pyspark.sql import types

    kinds: dict[str, tuple[type, ...]] = {
        "bool": (types.BooleanType,),
        "int64": (types.IntegralType,),
        "double": (types.FractionalType,),
        "string": (types.StringType,),
        "date": (types.DateType,),
        "timestamp": (types.TimestampType, types.TimestampNTZType),
    }
    typed = []
    for name, before in kept:
        type_ = frame.schema[name].dataType
        found = next((kind for kind, some in kinds.items() if isinstance(type_, some)), None)
        if isinstance(type_, types.NullType):
            found = before or "string"
        if found is None:
            raise kept_columns.not_kept_error(name, type_.simpleString())
        kept_columns.check_type(name, type_.simpleString(), found, before, "the DataFrame")
        typed.append((name, found))
    return tuple(typed)


def count_widths(frame: "DataFrame", column: str, rows: int) -> "Counter[int]":
    """Count the widths of the first vectors."""
    from pyspark.sql import functions as F

    vector = vector_column(frame, column).alias(VECTOR)
    sizes = frame.select(vector).filter(F.col(VECTOR).isNotNull()).select(F.size(VECTOR))
    return Counter(size for (size,) in sizes.limit(rows).collect())
