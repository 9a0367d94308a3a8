"""Make an index of images, or continue one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from lookalike.errors import LookalikeError
from lookalike.ingest.commit import bring_in, make_ready
from lookalike.ingest.discovery import look
from lookalike.ingest.embedding import nothing_readable
from lookalike.ingest.options import Job, Options, Report, prepare
from lookalike.ingest.paths import remembered
from lookalike.ingest.update import Photos
from lookalike.models import quantization
from lookalike.models.weights import AUTO
from lookalike.storage import (
    EmbeddingTable,
    commits,
    forget_all,
    is_index,
    is_unfinished,
    making_anew,
    successor,
    writing,
)
from lookalike.system.files import delete, delete_folder, make_free, put_in_place, staging_folder
from lookalike.system.paths import Name, local_path


def build_collection(
    photos: Photos, out: Name, options: Options, overwrite: bool = False
) -> tuple[EmbeddingTable, Report]:
    """Embed all images into a collection in the folder `out`, wave by wave.

    Where `out` is a collection of the same images, it is gone on with: what is in it and has not
    changed is not embedded again. Raises `LookalikeError` where it is one of others; with
    `overwrite` a new one then takes its place when it is complete. What fails before the first
    wave leaves `out` as it was.
    """
    out = local_path(out).absolute()
    make_free(out, overwrite=True)
    if out.exists() and not (is_index(out) or is_unfinished(out)):
        raise LookalikeError(
            f"{out} is not an index and will not be replaced: choose another `out`"
        )
    with quantization.preload(options.precision == "int8"):
        job = prepare(photos, options)
        # Where a run like this one was killed, it is gone on with as well.
        if not (overwrite and (is_index(out) or is_index(successor(out)))):
            return _fill(job, out, options)
        with making_anew(out) as beside:
            if is_index(beside) and _misfit(EmbeddingTable.open(beside), job, options, anew=True):
                with writing(beside, alone=True):
                    forget_all(beside)
                    delete_folder(beside)
                    if beside.exists():
                        raise LookalikeError(f"{beside} cannot be deleted: delete it yourself")
            report = _fill(job, beside, options, anew=True)[1]
            if is_index(out):
                with writing(out, alone=True):
                    put_in_place(beside, out, before_deleting=forget_all)
            else:
                put_in_place(beside, out, before_deleting=forget_all)
            return EmbeddingTable.open(out), report


def _fill(
    job: Job, out: Path, options: Options, *, anew: bool = False
) -> tuple[EmbeddingTable, Report]:
    """Fill a collection, or go on with one. `anew` says that what it has beyond the job goes."""
    stored = EmbeddingTable.open(out) if is_index(out) else None
    if stored is None:
        with _new_place(out) as share, staging_folder(out / "work") as staging:
            found = look(job, None, staging)
            made, done = bring_in(job, found, out, None, staging, "index", share)
            return make_ready(made), Report.of(done, found.labelled, job.ignored)
    if misfit := _misfit(stored, job, options, anew=anew):
        raise LookalikeError(
            f"{out} is there already, {misfit}: choose another `out`, or set `overwrite=True`"
        )
    model = stored.model
    job = replace(job, full=model, precision=model.precision, chosen=True)
    with writing(out), staging_folder(out / "work") as staging:
        stored = stored.newest()
        found = look(job, stored, staging, keep_labels=not anew)
        made, done = bring_in(job, found, out, stored, staging, "index")
        assert found.plan is not None
        same = found.plan.same
        gone = np.union1d(found.plan.whole, found.plan.gone if anew else found.plan.whole)
        if len(gone):
            made = commits.remove(made, lambda _: gone, "index")
        if not made.counts()[0]:
            raise nothing_readable(made.files(), job.ignored)
        return make_ready(made), Report.of(done, found.labelled, job.ignored, same)


def _misfit(stored: EmbeddingTable, job: Job, options: Options, *, anew: bool) -> str | None:
    """Say what a collection was made of, where that is not what is wanted now."""
    about, source = stored.about_model, stored.source
    wanted = remembered(job.source)
    if wanted.truncated != source.truncated:
        return f"made {'with' if source.truncated else 'without'} `truncated`"
    if replace(wanted, names=()) != replace(source, names=(), also=()):
        return f"made of {source.root}"
    if job.chosen:
        same = about["fingerprint"] == job.full.fingerprint
        return None if same else f"made with another model than {options.like}"
    if about["preprocessing"] != job.full.preprocessing:
        return f"made with the preprocessing {about['preprocessing']}"
    # Where no other is asked for, an index keeps the weights that it has, whatever comes along now.
    keeps = options.weights == AUTO and options.model in (AUTO, about["backbone"]) and not anew
    if not keeps and stored.full_model != job.full_model:
        same = (about["backbone"], about["weights"]) == (job.full.backbone, job.full.weights)
        others = "other weights named" if same else "the weights"
        return f"made with {about['backbone']} and {others} {about['weights']}"
    if options.precision not in ("auto", about["precision"]):
        return f"in {about['precision']}"
    return None


@contextmanager
def _new_place(out: Path) -> Iterator[Callable[[], None]]:
    """Make the folder of a new collection; it goes again unless something was committed.

    Gives a function that lets others write as well.
    """
    was_there = out.exists()
    out.mkdir(parents=True, exist_ok=True)
    with writing(out, alone=True) as share:
        if is_index(out):
            raise LookalikeError(f"something else has just made {out}: run the same command again")
        _empty(out)  # of a run that was killed before its first wave
        try:
            yield share
        finally:
            if not is_index(out):
                _empty(out)
                if not was_there:
                    delete_folder(out)


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.name != ".writers":
            delete(entry)
