"""Add the batches of a Spark stream to an index."""

import os
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq

from lookalike import images
from lookalike.images.inputs.label_matching import LabelCounts
from lookalike.images.inputs.listing import label_images, write_inputs
from lookalike.images.inputs.spark_files import list_found
from lookalike.images.inputs.spark_reader import FileVanished, image_frame
from lookalike.ingest import diff
from lookalike.ingest.diff import IsStable
from lookalike.ingest.discovery import Discovery, frame_inputs
from lookalike.ingest.job_inputs import Inputs
from lookalike.ingest.options import Job, Options, Photos
from lookalike.ingest.paths import PathRewriter
from lookalike.ingest.report import Changed
from lookalike.ingest.update import update
from lookalike.storage import EmbeddingTable

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


_MAX_ATTEMPTS = 5  # to read a batch whose files vanish


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
    if job.source.kind == "files":
        return _discover_local_files(files, is_stable, job, stored, staging, rewriter)
    for attempt in range(1, _MAX_ATTEMPTS + 1):
        listing = list_found(files, staging / f"listing-{attempt}", job.ignored)
        plan = diff.plan(stored, listing, (), staging, is_stable=is_stable)
        if not plan.count:
            return Discovery(Inputs(), plan)
        paths = pq.read_table(plan.to_read, columns=["path"])["path"].to_pylist()
        try:
            frame, _, labelled = image_frame(
                files.sparkSession, job.source, staging, job.labels, paths
            )
            return Discovery(frame_inputs(frame, plan, staging), plan, labelled)
        except FileVanished:  # the next attempt does not list it
            if attempt == _MAX_ATTEMPTS:
                raise
    raise AssertionError("unreachable")


def _discover_local_files(
    files: "DataFrame",
    is_stable: IsStable,
    job: Job,
    stored: EmbeddingTable,
    staging: Path,
    rewriter: PathRewriter,
) -> Discovery:
    """List local files anew: for modification times in nanoseconds, and without deleted files."""
    listing = staging / "listing.parquet"
    names = sorted(_existing_names(files, job.source.root, job.ignored))
    found = images.walk(replace(job.source, names=tuple(names))) if names else iter(())
    write_inputs(found, listing, rewriter)
    labelled = LabelCounts()
    if job.labels is not None:
        root = images.encode_path(stored.source.root)
        labelled = label_images(listing, job.labels, root, allow_unmatched=True)
    plan = diff.plan(stored, [listing], (), staging, is_stable=is_stable)
    return Discovery(Inputs(plan.count, plan.to_read, lookup=plan.lookup), plan, labelled)


def _existing_names(files: "DataFrame", root: str, ignored: images.IgnoredFiles) -> Iterator[str]:
    """Yield the names of existing images, relative to a local folder."""
    for row in files.select("path").collect():  # one batch at most
        path = "/" + row["path"].removeprefix("file:").lstrip("/")
        name = os.path.relpath(path, root)
        if name.startswith("../") or not os.path.exists(path):  # a checkpoint is untrusted
            continue
        if ignored.accepts(path):
            yield name
