"""List the inputs of a job and compare them with the index."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lookalike import images
from lookalike.images.inputs.archive_listing import list_archives
from lookalike.images.inputs.label_matching import LabelCounts
from lookalike.images.inputs.listing import label_images, list_images
from lookalike.images.inputs.spark_reader import image_frame
from lookalike.images.inputs.spark_tables import read_only
from lookalike.images.inputs.store_listing import list_store
from lookalike.ingest import diff
from lookalike.ingest.diff import IsStable, OnChange, Plan
from lookalike.ingest.image_rows.discovery import discover_rows
from lookalike.ingest.job_inputs import Inputs, PathSet
from lookalike.ingest.options import Job
from lookalike.ingest.paths import PathRewriter, own_path_rewriter
from lookalike.ingest.vectors.discovery import discover_vectors
from lookalike.spark import local_uri, progress, session
from lookalike.storage import EmbeddingTable
from lookalike.storage.own_columns import OwnColumns
from lookalike.system.progress import progress_line

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


@dataclass(frozen=True)
class Discovery:
    """The inputs of a job, its changes to an existing index (`plan`), and counts of labels.

    `source` and `columns` are known now, where the inputs had to be listed for that. `folders` are
    places outside the root that the index does not record yet.
    """

    inputs: Inputs
    plan: Plan | None
    labelled: LabelCounts = field(default_factory=LabelCounts)
    source: images.Source | None = None
    columns: OwnColumns | None = None
    folders: tuple[str, ...] = ()

    def settle(self, job: Job) -> Job:
        """Return the job with what is known of its source and columns now."""
        source = job.source
        if self.source is not None:
            source = replace(self.source, truncated=source.truncated)
        return replace(job, source=source, columns=self.columns or job.columns)


Discover = Callable[[Job, EmbeddingTable, Path, PathRewriter], Discovery]
"""Lists inputs and compares them with a table; takes a staging folder and a path rewriter."""


def discover_changes(
    job: Job,
    stored: EmbeddingTable | None,
    staging: Path,
    rewriter: PathRewriter | None = None,
    on_change: OnChange | None = None,
    is_stable: IsStable | None = None,
    *,
    keep_labels: bool = True,
) -> Discovery:
    """List the inputs of a job and compare them with the stored table, if there is one.

    `on_change`, `is_stable` and `keep_labels` are those of `diff.plan`.
    """
    if job.vectors is not None:
        return Discovery(*discover_vectors(job.vectors, stored, staging, on_change))
    if job.rows is not None:
        rows = discover_rows(job.rows, stored, staging, on_change, keep_labels=keep_labels)
        return Discovery(rows.inputs, rows.plan, source=rows.source, folders=rows.folders)
    rewriter = rewriter or own_path_rewriter(job.source)
    if job.source.kind == "table":
        return _discover_on_spark(job, stored, staging, on_change, is_stable, keep_labels)
    listing = staging / "listing.parquet"
    if job.source.kind in ("uri", "archive"):
        write = list_store if job.source.kind == "uri" else list_archives
        with progress_line("listing images"):
            count = write(job.source, listing, job.ignored)
    else:
        count = list_images(job.source, listing, rewriter, job.ignored)
    labelled = LabelCounts()
    if job.labels is not None:
        root = (stored.source if stored else job.source).root
        labelled = label_images(
            listing, job.labels, images.encode_path(root), allow_unmatched=is_stable is not None
        )
    if stored is None:
        return Discovery(Inputs(count, listing), None, labelled)
    with progress_line("comparing with the index"):
        plan = diff.plan(
            stored, [listing], rewriter.below, staging, on_change, is_stable, keep_labels
        )
    return Discovery(Inputs(plan.count, plan.to_read, lookup=plan.lookup), plan, labelled)


def _discover_on_spark(
    job: Job,
    stored: EmbeddingTable | None,
    staging: Path,
    on_change: OnChange | None,
    is_stable: IsStable | None,
    keep_labels: bool,
) -> Discovery:
    spark = session()
    with progress(spark, "listing images"):
        found = image_frame(spark, job.source, staging, job.labels, job.columns.kept)
    frame, names, labelled, kept = found
    columns = replace(job.columns, kept=kept)
    if stored is None:
        return Discovery(Inputs(frame=frame), None, labelled, columns=columns)
    with progress(spark, "comparing with the index"):
        names.write.parquet(local_uri(staging / "listing"))
        files = sorted((staging / "listing").glob("*.parquet"))
        plan = diff.plan(stored, files, [""], staging, on_change, is_stable, keep_labels)
    if not plan.listed:  # `list_images` checks it for local files
        raise images.no_images_error(job.source, job.ignored)
    read_only(plan.to_read, staging)
    return Discovery(frame_inputs(frame, plan, staging), plan, labelled)


def frame_inputs(frame: "DataFrame", plan: Plan, staging: Path) -> Inputs:
    """Return the rows of a DataFrame that a plan reads, as inputs."""
    return Inputs(
        plan.count,
        frame=frame,
        lookup=plan.lookup,
        paths=PathSet.of(plan.to_read, staging / "wanted.npy"),
        first_id=plan.first_id,
    )
