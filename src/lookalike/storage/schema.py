"""The columns of an index."""

from typing import Literal

import pyarrow as pa

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


def schema_of(key: KeyType | None) -> pa.Schema:
    """Return the columns of an index: `ROW`, and `key` where its rows have keys of this type."""
    return ROW if key is None else ROW.append(pa.field(KEY, _KEY_TYPES[key]))


def key_of(schema: pa.Schema) -> KeyType | None:
    """Return the type of the keys in a data file with this schema, None for rows without keys."""
    if KEY not in schema.names:
        return None
    kind = schema.field(KEY).type
    return "int64" if kind == pa.int64() else "string" if kind == pa.string() else None
