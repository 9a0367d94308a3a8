"""Build an index of images, or continue one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from lookalike.errors import LookalikeError
from lookalike.ingest.discovery import discover_changes
from lookalike.ingest.embedding import nothing_readable_error
from lookalike.ingest.options import Job, Options, Photos, prepare
from lookalike.ingest.paths import as_recorded, recorded_source
from lookalike.ingest.report import Report
from lookalike.ingest.waves import compact_and_measure, embed_and_commit
from lookalike.models import quantization
from lookalike.models.weights import AUTO
from lookalike.storage import (
    EmbeddingTable,
    commits,
    copy_at,
    forget_all,
    index_path,
    is_index,
    is_unfinished,
    pull,
    rebuild_folder,
    rebuilding,
    writing,
)
from lookalike.storage.remote.publishing import check_free_place, just_created
from lookalike.system.files import check_free, delete, delete_folder, put_in_place, staging_folder
from lookalike.system.paths import Name


def build_index(
    photos: Photos, out: Name, options: Options, overwrite: bool = False
) -> tuple[EmbeddingTable, Report]:
    """Embed all images into an index in the folder `out`, wave by wave.

    An index of the same images is continued: unchanged images are not embedded again. With
    `overwrite`, a new index replaces the one in `out` once it is complete. A failure before the
    first commit leaves `out` as it was.

    Raises
    ------
    LookalikeError
        If `out` holds an index of other images or of another model, or something that is no index.

    """
    out = index_path(out).absolute()
    if copy_at(out) is None:
        check_free(out, overwrite=True)
    pull(out)
    if not is_index(out):
        check_free_place(out)
    elif overwrite and copy_at(out) is not None:
        raise LookalikeError(
            f"{out} already exists, and an index in a store is not replaced: choose another `out`, "
            "or delete it first"
        )
    if out.exists() and not (is_index(out) or is_unfinished(out)):
        raise LookalikeError(
            f"{out} is not an index and will not be replaced: choose another `out`"
        )
    with quantization.preload(options.precision == "int8"):
        job = prepare(photos, options)
        # A killed run with `overwrite` has left an incomplete new index: continue that one.
        if not (overwrite and (is_index(out) or is_index(rebuild_folder(out)))):
            return _build(job, out, options)
        with rebuilding(out) as fresh:
            if is_index(fresh) and _difference(
                EmbeddingTable.open(fresh), job, options, rebuild=True
            ):
                with writing(fresh, alone=True):
                    forget_all(fresh)
                    delete_folder(fresh)
                    if fresh.exists():
                        raise LookalikeError(f"{fresh} cannot be deleted: delete it yourself")
            report = _build(job, fresh, options, rebuild=True)[1]
            if is_index(out):
                with writing(out, alone=True):
                    put_in_place(fresh, out, before_deleting=forget_all)
            else:
                put_in_place(fresh, out, before_deleting=forget_all)
            made = EmbeddingTable.open(out)
            if job.full.function is not None:
                made.attach(job.full)
            return made, report


def _build(
    job: Job, out: Path, options: Options, *, rebuild: bool = False
) -> tuple[EmbeddingTable, Report]:
    """Create an index or continue one; with `rebuild`, remove rows that are not in the job."""
    stored = EmbeddingTable.open(out) if is_index(out) else None
    if stored is None:
        with _new_index_folder(out) as allow_writers, staging_folder(out / "work") as staging:
            found = discover_changes(job, None, staging)
            made, done = embed_and_commit(job, found, out, None, staging, "index", allow_writers)
            return compact_and_measure(made), Report.of(done, found.labelled, job.ignored)
    job = replace(job, source=as_recorded(stored.source, job.source))
    if difference := _difference(stored, job, options, rebuild=rebuild):
        raise LookalikeError(
            f"{out} already exists, {difference}: choose another `out`, or set `overwrite=True`"
        )
    job = replace(job, columns=stored.columns)  # with the types of those that are kept
    if job.full.function is not None:
        stored.attach(job.full)
    model = stored.model
    job = replace(job, full=model, precision=model.precision, chosen=True)
    with writing(out), staging_folder(out / "work") as staging:
        stored = stored.newest()
        found = discover_changes(job, stored, staging, keep_labels=not rebuild)
        made, done = embed_and_commit(job, found, out, stored, staging, "index")
        assert found.plan is not None
        same = found.plan.same
        gone = found.plan.resolved
        if rebuild:
            gone = np.union1d(gone, found.plan.gone)
        if len(gone):
            made = commits.remove(made, lambda _: gone, "index")
        if not made.counts()[0]:
            raise nothing_readable_error(made.files(), job.ignored)
        return compact_and_measure(made), Report.of(done, found.labelled, job.ignored, same)


def _difference(stored: EmbeddingTable, job: Job, options: Options, *, rebuild: bool) -> str | None:
    """Return how an existing index differs from the job, as part of a message; None if not."""
    about, source = stored.about_model, stored.source
    if job.vectors is not None or stored.own is not None:
        return _other_vectors(stored, job)
    new = recorded_source(job.source)
    if new.truncated != source.truncated:
        return f"made {'with' if source.truncated else 'without'} `truncated`"
    is_same = replace(new, names=()) == replace(source, names=(), also=())
    if job.rows is not None:  # their place is not known yet
        is_same = stored.columns.are_of_frame
    if not is_same:
        return f"made of {source.root}"
    if job.columns.named != stored.columns.named:
        return "made with other columns"
    if job.chosen:
        same = about["fingerprint"] == job.full.fingerprint
        return None if same else f"made with another model than {options.like}"
    if about["preprocessing"] != job.full.preprocessing:
        return f"made with the preprocessing {about['preprocessing']}"
    # By default an index keeps its weights, even if the bundled ones change.
    keeps = options.weights == AUTO and options.model in (AUTO, about["backbone"]) and not rebuild
    if not keeps and stored.full_model != job.full_model:
        same = (about["backbone"], about["weights"]) == (job.full.backbone, job.full.weights)
        others = "other weights named" if same else "the weights"
        return f"made with {about['backbone']} and {others} {about['weights']}"
    if options.precision not in ("auto", about["precision"]):
        return f"in {about['precision']}"
    return None


def _other_vectors(stored: EmbeddingTable, job: Job) -> str | None:
    """Return how an existing index differs from a job with vectors, or from one without."""
    own = job.vectors.own if job.vectors else None
    if stored.own is None or own is None or stored.own.place != own.place:
        before = stored.own.place if stored.own else stored.source.root
        return f"made of {before or 'rows of another process'}"
    if stored.own != own:
        return "made with other columns or another metric"
    if stored.about_model["fingerprint"] != job.full.fingerprint:
        about = stored.about_model
        return f"made with the model {about['backbone']} of {about['width']:,} numbers"
    return None


@contextmanager
def _new_index_folder(out: Path) -> Iterator[Callable[[], None]]:
    """Create the folder of a new index; remove it unless something was committed.

    Yields a function that lets other processes write too.
    """
    existed = out.exists()
    out.mkdir(parents=True, exist_ok=True)
    with writing(out, alone=True) as allow_writers:
        pull(out)
        if is_index(out):
            raise just_created(out)
        _empty(out)  # files of a run that was killed before its first commit
        try:
            yield allow_writers
        finally:
            if not is_index(out):
                _empty(out)
                if not existed:
                    delete_folder(out)


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.name != ".writers":
            delete(entry)
