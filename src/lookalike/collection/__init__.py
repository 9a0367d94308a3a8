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

from lookalike.collection.caches import forget
from lookalike.collection.left import discard, new_data_folder
from lookalike.collection.log import Log
from lookalike.collection.places import (
    is_busy,
    left_folders,
    make_free,
    making_anew,
    put_in_place,
    staging_folder,
    successor,
    working,
    writing,
)
from lookalike.collection.segments import (
    SEGMENT,
    SEGMENT_DDL,
    Segment,
    Written,
    is_intact,
    rewrite_segment,
    write_segment,
)
from lookalike.collection.table import (
    FORMAT,
    Collection,
    Conflict,
    is_collection,
    is_unfinished,
)

__all__ = [
    "FORMAT",
    "SEGMENT",
    "SEGMENT_DDL",
    "Collection",
    "Conflict",
    "Log",
    "Segment",
    "Written",
    "discard",
    "forget",
    "is_busy",
    "is_collection",
    "is_intact",
    "is_unfinished",
    "left_folders",
    "make_free",
    "making_anew",
    "new_data_folder",
    "put_in_place",
    "rewrite_segment",
    "staging_folder",
    "successor",
    "working",
    "write_segment",
    "writing",
]
