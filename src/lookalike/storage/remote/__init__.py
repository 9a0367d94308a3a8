"""Indexes in a store, such as `s3://bucket/cars.index`, through local copies of them.

All other modules work on a folder. For an index in a store it is a local copy: a folder of the
cache with the files that were needed so far. The store decides what the index is: a version exists
once its commit was put under a name that did not exist.
"""

from lookalike.storage.remote.copies import (
    DamagedObject,
    LocalCopy,
    copy_at,
    fetch_data,
    fetched,
    index_path,
    is_stored,
    local_rows,
    mend_log,
    name_of,
    open_copy,
    pull,
    push,
)
from lookalike.storage.remote.publishing import publish_checkpoint

__all__ = [
    "DamagedObject",
    "LocalCopy",
    "copy_at",
    "fetch_data",
    "fetched",
    "index_path",
    "is_stored",
    "local_rows",
    "mend_log",
    "name_of",
    "open_copy",
    "publish_checkpoint",
    "pull",
    "push",
]
