"""The columns of a user's table that an index keeps: their types and values."""

import pyarrow as pa
import pyarrow.compute as pc

from lookalike.errors import LookalikeError

Kept = tuple[tuple[str, str], ...]
"""The columns of a user's table that an index keeps: their names and types of `KEPT_TYPES`."""

KEPT_TYPES: dict[str, pa.DataType] = {
    "bool": pa.bool_(),
    "int64": pa.int64(),
    "double": pa.float64(),
    "string": pa.string(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us", "UTC"),
}
"""The types of kept columns, by name."""

UNKNOWN = ""
"""The type of a column that has only nulls so far."""


def with_types(kept: Kept, schema: pa.Schema, place: str) -> Kept:
    """Return kept columns with the types that a table or file has.

    Raises `LookalikeError` for a type that is not kept, or another than that of the files before.
    """
    typed = []
    for name, before in kept:
        kind = schema.field(name).type
        found = before if pa.types.is_null(kind) else type_of(kind, name)
        check_type(name, str(kind), found, before, place)
        typed.append((name, found))
    return tuple(typed)


def check_type(name: str, kind: str, found: str, before: str, place: str) -> None:
    """Raise `LookalikeError` where a column has another type than in the index."""
    if before not in (UNKNOWN, found):
        raise LookalikeError(
            f"column {name!r} of {place} holds {kind}, but the index has a {before}: give one type"
        )


def known_types(kept: Kept) -> Kept:
    """Return kept columns; those that have only nulls as strings."""
    return tuple((name, kind or "string") for name, kind in kept)


def type_of(kind: pa.DataType, name: str) -> str:
    """Return the type of `KEPT_TYPES` in which a column of another type is kept.

    Raises `LookalikeError` for lists, structs, bytes and other types.
    """
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    types = pa.types
    kinds = {
        "bool": types.is_boolean,
        "int64": types.is_integer,
        "double": lambda one: types.is_floating(one) or types.is_decimal(one),
        "string": lambda one: any(
            is_kind(one)
            for is_kind in (types.is_string, types.is_large_string, types.is_string_view)
        ),
        "date": types.is_date,
        "timestamp": types.is_timestamp,
    }
    for found, is_kind in kinds.items():
        if is_kind(kind):
            return found
    raise not_kept_error(name, str(kind))


def not_kept_error(name: str, kind: str) -> LookalikeError:
    """Return the error for a column of a type that an index does not keep."""
    return LookalikeError(
        f"column {name!r} holds {kind}, which is not kept: choose numbers, strings, dates or times"
    )


def converted(column: pa.Array, name: str, kind: str) -> pa.Array:
    """Return a column as an index keeps it. Times without a zone are taken as UTC."""
    wanted = KEPT_TYPES[kind]
    try:
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if pa.types.is_timestamp(column.type):
            if column.type.tz is None:
                column = pc.assume_timezone(column, "UTC")
            return column.cast(wanted, safe=False)  # nanoseconds are cut to microseconds
        return column.cast(wanted)
    except pa.ArrowException as error:
        raise LookalikeError(
            f"the column {name!r} cannot be kept as {kind} ({' '.join(str(error).split())[:120]}): "
            "convert it, or leave it out"
        ) from None
