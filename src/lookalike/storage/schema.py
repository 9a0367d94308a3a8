"""The columns of an index."""

from typing import Any, Literal

import pyarrow as pa

from lookalike.images.inputs.kept_columns import KEPT_TYPES, Kept
from lookalike.system.paths import is_text

ROW = pa.schema(
    {
        "id": pa.int64(),
        "path": pa.string(),
        "label": pa.string(),
        "width": pa.int32(),
        "height": pa.int32(),
        "size": pa.int64(),
        "modified": pa.int64(),
        "content_hash": pa.string(),
        "status": pa.string(),
        "reason": pa.string(),
        "embedding": pa.list_(pa.float32()),
    }
)
"""One row for each input. `status` is `ok`, with an embedding, or `skipped`, with a reason.

`size` of the file in bytes and `modified` in nanoseconds since 1970 may be null.
"""

KeyType = Literal["int64", "string"]
"""The type of the keys that a user's table gives its rows."""

KEY = "key"
"""The last column of an index whose rows have keys."""

_KEY_TYPES: dict[str, pa.DataType] = {"int64": pa.int64(), "string": pa.string()}

_REFUSED = frozenset(" ,;{}()=\"'`\\")


def stored_kept(about: Any) -> Kept:
    """Restore kept columns from JSON. Raises `ValueError` or `TypeError` for anything else."""
    kept = tuple((str(name), str(kind)) for name, kind in about)
    if not all(is_column_name(name) and kind in KEPT_TYPES for name, kind in kept):
        raise ValueError(f"no columns: {str(kept)[:80]!r}")
    return kept


def is_column_name(name: str) -> bool:
    """Tell whether a kept column can have a name: Delta takes it, and it needs no quoting in SQL.

    https://github.com/delta-io/delta/blob/master/PROTOCOL.md#column-mapping
    """
    taken = (not name.startswith("_"), name.isprintable(), is_text(name))
    return bool(name) and all(taken) and not _REFUSED.intersection(name)


def schema_of(key: KeyType | None, kept: Kept = ()) -> pa.Schema:
    """Return the columns of an index: `ROW`, `key` where its rows have keys, and kept columns."""
    schema = ROW if key is None else ROW.append(pa.field(KEY, _KEY_TYPES[key]))
    for name, kind in kept:
        schema = schema.append(pa.field(name, KEPT_TYPES[kind]))
    return schema


def schema_in(schema: pa.Schema) -> pa.Schema:
    """Return the columns of an index that a data file with this schema has."""
    known = {*ROW.names, KEY}
    kept = [
        (field.name, name)
        for field in schema
        for name, kind in KEPT_TYPES.items()
        if field.type == kind and field.name not in known and is_column_name(field.name)
    ]
    return schema_of(_key_of(schema), tuple(kept))


def kept_of(schema: pa.Schema) -> list[str]:
    """Return the names of the kept columns of an index with this schema."""
    return [name for name in schema.names if name not in ROW.names and name != KEY]


def _key_of(schema: pa.Schema) -> KeyType | None:
    """Return the type of the keys in a data file with this schema, None for rows without keys."""
    if KEY not in schema.names:
        return None
    kind = schema.field(KEY).type
    return "int64" if kind == pa.int64() else "string" if kind == pa.string() else None
