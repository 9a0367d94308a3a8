"""Add the batches of a Spark stream to an index."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lookalike import images
from lookalike.images.inputs.label_matching import LabelCounts
from lookalike.images.inputs.listing import label_images, write_inputs
from lookalike.images.inputs.store_listing import list_named
from lookalike.ingest import diff
from lookalike.ingest.diff import IsStable
from lookalike.ingest.discovery import Discovery
from lookalike.ingest.job_inputs import Inputs
from lookalike.ingest.options import Job, Options, Photos
from lookalike.ingest.paths import PathRewriter
from lookalike.ingest.report import Changed
from lookalike.ingest.update import update
from lookalike.storage import EmbeddingTable

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def add_batch(
    stored: EmbeddingTable,
    photos: Photos | None,
    options: Options,
    files: "DataFrame",
    is_stable: IsStable,
) -> tuple[EmbeddingTable, Changed]:
    """Add the photos that are named in `files`, a DataFrame of `new_files`, on Spark.

    Unchanged images are not embedded again, so a batch may be repeated. The other parameters and
    the result are those of `add`.
    """
    discover = partial(_discover_batch, files, is_stable)
    return update(stored, photos, replace(options, spark=True), "add", discover)


def _discover_batch(
    files: "DataFrame",
    is_stable: IsStable,
    job: Job,
    stored: EmbeddingTable,
    staging: Path,
    rewriter: PathRewriter,
) -> Discovery:
    listing = staging / "listing.parquet"
    paths = [row["path"] for row in files.select("path").collect()]  # one batch at most
    if job.source.kind == "files":
        names = sorted(_existing_names(paths, job.source.root, job.ignored))
        # Anew, for modification times in nanoseconds, and without deleted files.
        found = images.walk(replace(job.source, names=tuple(names))) if names else iter(())
        write_inputs(found, listing, rewriter)
    else:
        list_named(job.source, paths, listing, job.ignored)
    labelled = LabelCounts()
    if job.labels is not None:
        root = images.encode_path(stored.source.root)
        labelled = label_images(listing, job.labels, root, allow_unmatched=True)
    plan = diff.plan(stored, [listing], (), staging, is_stable=is_stable)
    return Discovery(Inputs(plan.count, plan.to_read, lookup=plan.lookup), plan, labelled)


def _existing_names(paths: Sequence[str], root: str, ignored: images.IgnoredFiles) -> Iterator[str]:
    """Yield the names of existing images, relative to a local folder."""
    for uri in paths:
        path = "/" + uri.removeprefix("file:").lstrip("/")
        name = os.path.relpath(path, root)
        if name.startswith("../") or not os.path.exists(path):  # a checkpoint is untrusted
            continue
        if ignored.accepts(path):
            yield name
