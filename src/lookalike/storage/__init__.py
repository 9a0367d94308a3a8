"""The collection: a Delta table of embeddings, and per data file a cache that search maps.

Nothing else knows its layout, which is

    INDEX/lookalike.json      format, where the images lie, the model in words
    INDEX/model/              the model itself
    INDEX/_delta_log/         the versions
    INDEX/data/UUID/*.parquet the segments: immutable data files, written by Spark's tasks
    INDEX/lsh/                hash models, derived (see `hashing`)
    INDEX/signatures/         what signatures are made with, and what they are worth (`searcher`)
    INDEX/.writers            locked by whoever writes
    INDEX/.watch/             what a stream of Spark's has seen (`watch`)

A table of Delta Lake, https://github.com/delta-io/delta/blob/master/PROTOCOL.md, that any of its
readers can read; written through https://delta-io.github.io/delta-rs/.
"""

from lookalike.storage.caches import forget, forget_all
from lookalike.storage.data_folders import discard, is_unfinished, new_data_folder
from lookalike.storage.description import FORMAT, is_index
from lookalike.storage.errors import Conflict
from lookalike.storage.locks import (
    is_busy,
    making_anew,
    successor,
    working,
    writing,
)
from lookalike.storage.log import Log
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
    "FORMAT",
    "SEGMENT",
    "SEGMENT_DDL",
    "EmbeddingTable",
    "Conflict",
    "Log",
    "Segment",
    "SegmentRecord",
    "discard",
    "forget",
    "forget_all",
    "is_busy",
    "is_index",
    "is_intact",
    "is_unfinished",
    "making_anew",
    "new_data_folder",
    "rewrite_segment",
    "successor",
    "working",
    "write_segment",
    "writing",
]
