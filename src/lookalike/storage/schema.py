"""The columns of an index."""

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
