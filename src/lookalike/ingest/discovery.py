"""What a job finds to do: inputs listed, and compared with the index."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lookalike import images
from lookalike.images.inputs.label_matching import LabelCounts
from lookalike.images.inputs.listing import label_images, list_images
from lookalike.images.inputs.spark_files import read_listed
from lookalike.images.inputs.spark_reader import image_frame
from lookalike.images.inputs.spark_tables import read_only
from lookalike.ingest import diff
from lookalike.ingest.diff import Plan, Say, Settled
from lookalike.ingest.inputs import Inputs, Wanted
from lookalike.ingest.options import Job
from lookalike.ingest.paths import Place, place_of_root
from lookalike.spark import local_uri, progress, session
from lookalike.storage import EmbeddingTable
from lookalike.system.progress import progress_line

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


_READ_BY_NAME = 10_000  # files of a URI, at most: of more, all are read and some are taken


@dataclass(frozen=True)
class Discovery:
    """What was listed; where there is a collection, compared with it."""

    inputs: Inputs
    plan: Plan | None
    labelled: LabelCounts = field(default_factory=LabelCounts)


Find = Callable[[Job, EmbeddingTable, Path, Place], Discovery]
"""Lists inputs and compares them with a collection; a folder for what it writes is given."""


def look(
    job: Job,
    stored: EmbeddingTable | None,
    staging: Path,
    place: Place | None = None,
    say: Say | None = None,
    settled: Settled | None = None,
    *,
    keep_labels: bool = True,
) -> Discovery:
    """List the inputs of a job; compare them with what is stored."""
    place = place or place_of_root(job.source)
    if job.source.kind != "files":
        return _look_with_spark(job, stored, staging, say, settled, keep_labels)
    listing = staging / "listing.parquet"
    count = list_images(job.source, listing, place, job.ignored)
    labelled = LabelCounts()
    if job.labels is not None:
        root = (stored.source if stored else job.source).root
        labelled = label_images(
            listing, job.labels, images.encode_path(root), allow_unmatched=settled is not None
        )
    if stored is None:
        return Discovery(Inputs(count, listing), None, labelled)
    with progress_line("comparing with what is there"):
        plan = diff.plan(stored, [listing], place.below, staging, say, settled, keep_labels)
    return Discovery(Inputs(plan.count, plan.wanted, known=plan.known), plan, labelled)


def _look_with_spark(
    job: Job,
    stored: EmbeddingTable | None,
    staging: Path,
    say: Say | None,
    settled: Settled | None,
    keep_labels: bool,
) -> Discovery:
    spark = session()
    from pyspark.errors import AnalysisException

    with progress(spark, "listing images"):
        frame, names, labelled = image_frame(
            spark, job.source, staging, job.labels, ignored=job.ignored
        )
    if stored is None:
        return Discovery(Inputs(frame=frame), None, labelled)
    with progress(spark, "comparing with what is there"):
        names.write.parquet(local_uri(staging / "listing"))
        files = sorted((staging / "listing").glob("*.parquet"))
        plan = diff.plan(stored, files, [""], staging, say, settled, keep_labels)
    if not plan.listed:  # a folder of local files says so itself
        raise images.no_images_error(job.source, job.ignored)
    if job.source.kind == "table":
        read_only(plan.wanted, staging)
    elif 0 < plan.count <= _READ_BY_NAME:
        with suppress(AnalysisException):  # one has gone since
            frame = read_listed(spark, plan.wanted)
    return Discovery(wanted_of(frame, plan, staging), plan, labelled)


def wanted_of(frame: "DataFrame", plan: Plan, staging: Path) -> Inputs:
    """Return those rows of a frame as inputs that a plan wants."""
    return Inputs(
        plan.count,
        frame=frame,
        known=plan.known,
        wanted=Wanted.of(plan.wanted, staging / "wanted.npy"),
        first_id=plan.first_id,
    )
