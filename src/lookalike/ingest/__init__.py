"""Embed images into an index: build it, continue it, add to it, keep it up to date."""

from lookalike.ingest.build import build_index
from lookalike.ingest.discovery import discover_changes
from lookalike.ingest.embedding import embed_all, nothing_readable_error, rows_with_status
from lookalike.ingest.keywords import ModelOptions, ReadOptions
from lookalike.ingest.model_upgrade import Upgraded, upgrade
from lookalike.ingest.options import Job, Options, Photos, prepare
from lookalike.ingest.report import Changed, Report
from lookalike.ingest.streaming import add_batch
from lookalike.ingest.update import add, remove, sync

__all__ = [
    "Changed",
    "Job",
    "ModelOptions",
    "Options",
    "Photos",
    "ReadOptions",
    "Report",
    "Upgraded",
    "add",
    "add_batch",
    "build_index",
    "embed_all",
    "discover_changes",
    "nothing_readable_error",
    "prepare",
    "remove",
    "rows_with_status",
    "sync",
    "upgrade",
]
