"""Embed the inputs of a job and commit them, wave by wave."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from lookalike import images
from lookalike.ingest.discovery import Discovery
from lookalike.ingest.embedding import embed_all, nothing_readable_error
from lookalike.ingest.options import Job
from lookalike.ingest.paths import recorded_source
from lookalike.ingest.report import EmbedResult
from lookalike.models import Model
from lookalike.search.bands.kept import measure_if_cheap
from lookalike.search.searcher import EXACT_UP_TO, Searcher
from lookalike.storage import EmbeddingTable, SegmentRecord, commits, discard, new_data_folder
from lookalike.storage.errors import upgraded_meanwhile
from lookalike.system.progress import progress_line


def embed_and_commit(
    job: Job,
    found: Discovery,
    out: Path,
    stored: EmbeddingTable | None,
    staging: Path,
    operation: str,
    on_created: Callable[[], None] = lambda: None,
) -> tuple[EmbeddingTable, EmbedResult]:
    """Embed the found inputs into the index `out` and commit them; return its newest table.

    Parameters
    ----------
    job, found
        What to embed, and how.
    out
        The folder of the index.
    stored
        Its table, None for a new index.
    staging
        A folder for temporary files.
    operation
        The name of the operation in the history of the index.
    on_created
        Called once a new index has its first commit.

    """
    job, plan = found.settle(job), found.plan
    if stored is not None and plan is not None and not plan.count:
        return stored, EmbedResult(job.full)
    if stored is not None:
        if stored.about_model["fingerprint"] != job.full.fingerprint:
            raise upgraded_meanwhile(out)
        stored = stored.record_preprocessing()
    source = stored.source if stored is not None else recorded_source(job.source)
    folder = new_data_folder(out)
    since = -1 if stored is None else stored.version
    others_write = False  # whether other processes have committed meanwhile
    held: list[SegmentRecord] = []  # an index is created only with an embedded image

    def deliver(written: list[SegmentRecord], model: Model) -> None:
        nonlocal stored, others_write
        if stored is None:
            held.extend(written)
            if any(row["embedded"] for row in held):
                stored = EmbeddingTable.create(out, source, model, held, job.full_model, job.own)
                on_created()
        else:
            first_id = plan.first_id if plan else 0
            replaces = bool(plan and plan.changed)
            stored, others_write = commits.grow(
                stored,
                written,
                first_id,
                staging,
                operation,
                beside=others_write,
                replaces=replaces,
            )

    try:
        done = embed_all(replace(job, source=source), found.inputs, folder, deliver)
        if stored is None and held:
            raise nothing_readable_error([Path(row["path"]) for row in held], job.ignored)
    finally:  # delete uncommitted files: of a retried task, or of an interrupted wave
        discard(out, folder, since)
    if stored is None:
        raise images.no_images_error(job.rooted, job.ignored)
    return stored, done


def compact_and_measure(stored: EmbeddingTable) -> EmbeddingTable:
    """Merge small segments, measure recall and the bands of distance after a change.

    Failures are ignored: the next change merges, and the next search measures.
    """
    with suppress(Exception):
        stored = commits.compact(stored)
    if stored.counts()[0] > EXACT_UP_TO:
        with progress_line("measuring recall"), suppress(Exception):
            Searcher(stored).get_ready()
    with suppress(Exception):
        measure_if_cheap(stored)
    return stored
