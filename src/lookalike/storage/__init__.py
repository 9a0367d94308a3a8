"""The Delta table of embeddings, and per data file a cache that search maps.

No other package knows the files of an index:

    INDEX/_lookalike.json     format, where the images lie, the model in words
    INDEX/lookalike.json      the format, for versions of lookalike before format 3
    INDEX/_model/             the model
    INDEX/_model-N/           the model after the Nth upgrade
    INDEX/_delta_log/         the versions
    INDEX/data/UUID/*.parquet the segments: immutable data files
    INDEX/_lsh/VERSION/       hash models, made again when needed
    INDEX/_signatures/        cells and measured recall, made again when needed
    INDEX/_regions/           rows in the order of their cells, for search by ranges
    INDEX/_upgrade/           the vectors of another model, until they are complete
    INDEX/.writers            locked by each writer
    INDEX/.watch/             the checkpoint of a Spark stream

A table of Delta Lake, https://github.com/delta-io/delta/blob/master/PROTOCOL.md, that any of its
readers can read; written through https://delta-io.github.io/delta-rs/. In a store it has the same
names, and `remote` keeps a local copy of what is needed.
"""

from lookalike.storage.data_folders import discard, is_unfinished, new_data_folder
from lookalike.storage.description import NEWEST_FORMAT, is_index
from lookalike.storage.locks import is_busy, rebuild_folder, rebuilding, working, writing
from lookalike.storage.log import Log
from lookalike.storage.remote import (
    copy_at,
    fetch_data,
    index_path,
    local_rows,
    name_of,
    pull,
    push,
)
from lookalike.storage.segment_caches import forget, forget_all
from lookalike.storage.segments import (
    SEGMENT,
    SEGMENT_DDL,
    Segment,
    SegmentRecord,
    is_intact,
    rewrite_segment,
    write_segment,
)
from lookalike.storage.table import EmbeddingTable

__all__ = [
    "NEWEST_FORMAT",
    "SEGMENT",
    "SEGMENT_DDL",
    "EmbeddingTable",
    "Log",
    "Segment",
    "SegmentRecord",
    "copy_at",
    "discard",
    "fetch_data",
    "forget",
    "forget_all",
    "index_path",
    "is_busy",
    "is_index",
    "is_intact",
    "is_unfinished",
    "local_rows",
    "name_of",
    "pull",
    "push",
    "rebuilding",
    "new_data_folder",
    "rewrite_segment",
    "rebuild_folder",
    "working",
    "write_segment",
    "writing",
]
