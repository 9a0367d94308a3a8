"""From images to a collection: made, resumed, added to, brought up to date."""

from lookalike.ingest.build import build_collection
from lookalike.ingest.discovery import look
from lookalike.ingest.embedding import embed_all, nothing_readable, stored_rows
from lookalike.ingest.options import Changed, Job, Options, ReadOptions, Report, prepare
from lookalike.ingest.streaming import add_batch
from lookalike.ingest.update import Photos, add, remove, sync

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
