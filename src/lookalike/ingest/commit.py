"""Embed what was found and commit it, wave by wave."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from lookalike import images
from lookalike.ingest.discovery import Discovery
from lookalike.ingest.embedding import embed_all, nothing_readable
from lookalike.ingest.options import Done, Job
from lookalike.ingest.paths import remembered
from lookalike.models import Model
from lookalike.search.searcher import EXACT_UP_TO, Searcher
from lookalike.storage import EmbeddingTable, SegmentRecord, commits, discard, new_data_folder
from lookalike.system.progress import progress_line


def bring_in(
    job: Job,
    found: Discovery,
    out: Path,
    stored: EmbeddingTable | None,
    staging: Path,
    what: str,
    share: Callable[[], None] = lambda: None,
) -> tuple[EmbeddingTable, Done]:
    """Embed what was found and commit it wave by wave; return the collection as it then is."""
    plan = found.plan
    if stored is not None and plan is not None and not plan.count:
        return stored, Done(job.full)
    if stored is not None:
        stored = stored.record_preprocessing()
    source = stored.source if stored is not None else remembered(job.source)
    folder = new_data_folder(out)
    since = -1 if stored is None else stored.version
    beside = False  # whether others write as well
    held: list[SegmentRecord] = []  # of nothing no index is made

    def deliver(written: list[SegmentRecord], model: Model) -> None:
        nonlocal stored, beside
        if stored is None:
            held.extend(written)
            if any(row["embedded"] for row in held):
                stored = EmbeddingTable.create(out, source, model, held, job.full_model)
                share()
        else:
            first_id = plan.first_id if plan else 0
            replaces = bool(plan and plan.changed)
            stored, beside = commits.grow(
                stored,
                written,
                first_id,
                staging,
                what,
                beside=beside,
                replaces=replaces,
            )

    try:
        done = embed_all(replace(job, source=source), found.inputs, folder, deliver)
        if stored is None and held:
            raise nothing_readable([Path(row["path"]) for row in held], job.ignored)
    finally:  # of what was never committed: of a task that was tried again, or of a wave given up
        discard(out, folder, since)
    if stored is None:
        raise images.no_images_error(job.rooted, job.ignored)
    return stored, done


def make_ready(stored: EmbeddingTable) -> EmbeddingTable:
    """Make what follows every change; whatever goes wrong here is done by the next, or a search."""
    with suppress(Exception):
        stored = commits.compact(stored)
    if stored.counts()[0] > EXACT_UP_TO:
        with progress_line("measuring recall"), suppress(Exception):
            Searcher(stored).get_ready()
    return stored
