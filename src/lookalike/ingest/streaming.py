"""What a stream of Spark's has found, added to a collection batch by batch."""

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
from lookalike.ingest.diff import Settled
from lookalike.ingest.discovery import Discovery, wanted_of
from lookalike.ingest.inputs import Inputs
from lookalike.ingest.options import Changed, Job, Options
from lookalike.ingest.paths import Place
from lookalike.ingest.update import Photos, update
from lookalike.storage import EmbeddingTable

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


_LOOKS = 5  # at a batch of which files vanish while it is looked at


def add_batch(
    stored: EmbeddingTable,
    photos: Photos | None,
    options: Options,
    files: "DataFrame",
    settled: Settled,
) -> tuple[EmbeddingTable, Changed]:
    """Add, as `add` does, those of some photos that `files`, of `frame.new_files`, names.

    They are embedded on Spark. What is there already is left alone, so that a batch may come again.
    """
    find = partial(_look_at, files, settled)
    return update(stored, photos, replace(options, spark=True), "add", find)


def _look_at(
    files: "DataFrame",
    settled: Settled,
    job: Job,
    stored: EmbeddingTable,
    staging: Path,
    place: Place,
) -> Discovery:
    if job.source.kind == "files":
        return _look_at_files(files, settled, job, stored, staging, place)
    looks = 0
    while True:
        looks += 1
        listing = list_found(files, staging / f"listing-{looks}", job.ignored)
        plan = diff.plan(stored, listing, (), staging, settled=settled)
        if not plan.count:
            return Discovery(Inputs(), plan)
        wanted = pq.read_table(plan.wanted, columns=["path"])["path"].to_pylist()
        try:
            frame, _, labelled = image_frame(
                files.sparkSession, job.source, staging, job.labels, wanted
            )
            return Discovery(wanted_of(frame, plan, staging), plan, labelled)
        except FileVanished:  # which the next look does not find
            if looks == _LOOKS:
                raise


def _look_at_files(
    files: "DataFrame",
    settled: Settled,
    job: Job,
    stored: EmbeddingTable,
    staging: Path,
    place: Place,
) -> Discovery:
    """Look at local files again, for their times to the nanosecond and for those gone by now."""
    listing = staging / "listing.parquet"
    names = sorted(_names(files, job.source.root, job.ignored))
    there = images.walk(replace(job.source, names=tuple(names))) if names else iter(())
    write_inputs(there, listing, place)
    labelled = LabelCounts()
    if job.labels is not None:
        root = images.encode_path(stored.source.root)
        labelled = label_images(listing, job.labels, root, allow_unmatched=True)
    plan = diff.plan(stored, [listing], (), staging, settled=settled)
    return Discovery(Inputs(plan.count, plan.wanted, known=plan.known), plan, labelled)


def _names(files: "DataFrame", root: str, ignored: images.IgnoredFiles) -> Iterator[str]:
    """Give the names below a local folder of images that are still there."""
    for row in files.select("path").collect():  # no more than a batch
        path = "/" + row["path"].removeprefix("file:").lstrip("/")
        name = os.path.relpath(path, root)
        if name.startswith("../") or not os.path.exists(path):  # a checkpoint may say anything
            continue
        if ignored.accepts(path):
            yield name
