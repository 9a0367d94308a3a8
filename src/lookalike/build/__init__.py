"""From images to a collection: made, resumed, added to, brought up to date."""

from lookalike.build.batches import add_batch
from lookalike.build.jobs import Changed, Job, Options, ReadOptions, Report, prepare
from lookalike.build.keeping import Photos, add, look, remove, sync
from lookalike.build.making import build_collection
from lookalike.build.running import embed_all, nothing_readable, stored_rows

__all__ = [
    "Changed",
    "Job",
    "Options",
    "Photos",
    "ReadOptions",
    "Report",
    "add",
    "add_batch",
    "build_collection",
    "embed_all",
    "look",
    "nothing_readable",
    "prepare",
    "remove",
    "stored_rows",
    "sync",
]
