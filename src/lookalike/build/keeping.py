"""A collection made, gone on with, added to, brought up to date with its folder."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lookalike import images
from lookalike.build.jobs import Changed, Done, Job, Options, Report, prepare
from lookalike.build.place import (
    Place,
    again,
    meant,
    outside,
    place_of,
    place_of_root,
    remembered,
)
from lookalike.build.running import Inputs, Wanted, embed_all, nothing_readable
from lookalike.cache import delete_folder, make_free, put_in_place, staging_folder
from lookalike.errors import LookalikeError
from lookalike.given import Name, local_path
from lookalike.images.frame import image_frame
from lookalike.images.listing import label_images, list_images
from lookalike.images.matching import LabelCounts
from lookalike.images.table_frame import read_only
from lookalike.images.uri_frame import read_listed
from lookalike.ingest import diff
from lookalike.ingest.diff import Plan, Say, Settled
from lookalike.ingest.remove import matching
from lookalike.models import Model, calibration
from lookalike.progress import progress_line
from lookalike.searcher import EXACT_UP_TO, Searcher
from lookalike.spark import local_uri, progress, session
from lookalike.storage import (
    EmbeddingTable,
    SegmentRecord,
    commits,
    discard,
    forget_all,
    is_index,
    is_unfinished,
    making_anew,
    new_data_folder,
    successor,
    working,
    writing,
)
from lookalike.weights import AUTO

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

_HANDFUL = 64  # images, which no cluster is asked for
_READ_BY_NAME = 10_000  # files of a URI, at most: of more, all are read and some are taken

Photos = Name | Sequence[Name]


@dataclass(frozen=True)
class Found:
    """What was listed; where there is a collection, compared with it."""

    inputs: Inputs
    plan: Plan | None
    labelled: LabelCounts = field(default_factory=LabelCounts)


Find = Callable[[Job, EmbeddingTable, Path, Place], Found]
"""Lists inputs and compares them with a collection; a folder for what it writes is given."""


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
    with calibration.preload(options.precision == "int8"):
        job = prepare(photos, options)
        # Where a run like this one was killed, it is gone on with as well.
        if not (overwrite and (is_index(out) or is_index(successor(out)))):
            return _fill(job, out, options)
        with making_anew(out) as beside:
            if is_index(beside) and _misfit(EmbeddingTable.open(beside), job, options, anew=True):
                with writing(beside, alone=True):
                    delete_folder(beside)
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
            made, done = _bring_in(job, found, out, None, staging, "index", share)
            return _ready(made), Report.of(done, found.labelled, job.ignored)
    if misfit := _misfit(stored, job, options, anew=anew):
        raise LookalikeError(
            f"{out} is there already, {misfit}: choose another `out`, or set `overwrite=True`"
        )
    model = stored.model
    job = replace(job, full=model, precision=model.precision, chosen=True)
    with writing(out), staging_folder(out / "work") as staging:
        stored = stored.newest()
        found = look(job, stored, staging, keep_labels=not anew)
        made, done = _bring_in(job, found, out, stored, staging, "index")
        assert found.plan is not None
        same = found.plan.same
        gone = np.union1d(found.plan.whole, found.plan.gone if anew else found.plan.whole)
        if len(gone):
            made = commits.remove(made, lambda _: gone, "index")
        if not made.counts()[0]:
            raise nothing_readable(made.files(), job.ignored)
        return _ready(made), Report.of(done, found.labelled, job.ignored, same)


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
        if entry.is_dir():
            delete_folder(entry)
        elif entry.name != ".writers":
            entry.unlink()


def add(
    stored: EmbeddingTable,
    photos: Photos | None,
    options: Options,
    *,
    dry_run: bool = False,
    say: Say | None = None,
    settled: Settled | None = None,
) -> tuple[EmbeddingTable, Changed]:
    """Embed what is new or changed among some images and commit it, wave by wave.

    Network and precision are the collection's own; of the options those count that say how images
    are read. Images outside its root keep their whole paths; without `photos` it is those below it.
    With `dry_run` nothing is changed; `say` is told what is found. What is not `settled` is left
    for another time.
    """
    find = partial(look, say=say and _kept(say), settled=settled)
    return update(stored, photos, options, "add", find, dry_run=dry_run)


def sync(
    stored: EmbeddingTable,
    photos: Photos | None,
    options: Options,
    *,
    dry_run: bool = False,
    say: Say | None = None,
    settled: Settled | None = None,
) -> tuple[EmbeddingTable, Changed]:
    """Make a collection equal to a folder: `add`, and remove what the folder has no longer.

    Without `photos` the folder is the collection's root; else only what lies in `photos` may be
    removed. What lies in a folder that cannot be read stays, as does what is not `settled`.
    """
    find = partial(look, say=say, settled=settled)
    return update(stored, photos, options, "sync", find, dry_run=dry_run)


def update(
    stored: EmbeddingTable,
    photos: Photos | None,
    options: Options,
    what: str,
    find: Find,
    *,
    dry_run: bool = False,
) -> tuple[EmbeddingTable, Changed]:
    """Do what `find` says is to do with some images, by default those it was made of."""
    source = stored.source
    options = replace(
        options,
        image_column=options.image_column or source.image_column,
        label_column=options.label_column or source.label_column,
    )
    # What was made of files stays so, whatever tables lie beside them by now.
    kind = "files" if source.kind == "files" and not options.image_column else None
    job = prepare(again(stored) if photos is None else photos, options, stored, kind=kind)
    place = place_of(stored, job.source)
    with working(stored.path, only_looks=dry_run) as staging:
        stored = stored.newest()
        new = outside(stored, job.source, place)
        if new and not dry_run:
            stored = stored.add_folders(new)
        found = find(job, stored, staging, place)
        plan = found.plan
        assert plan is not None
        gone = plan.gone if what == "sync" else plan.gone[:0]
        changed = Changed(
            stored.version,
            plan.new,
            plan.changed,
            plan.same,
            len(gone),
            unused_labels=found.labelled.unused,
            loose_labels=found.labelled.loose,
            missing_labels=found.labelled.missing,
            not_looked_at=job.ignored.counts(),
            backbone=job.full.backbone,
        )
        if dry_run:
            return stored, changed
        if job.spark is None and plan.count <= _HANDFUL:  # a cluster at hand or not
            job = replace(job, spark=False)
        stored, done = _bring_in(job, found, stored.path, stored, staging, what)
        gone = np.union1d(gone, plan.whole)
        if len(gone):
            stored = commits.remove(stored, lambda _: gone, what)
        if stored.version != changed.version:
            stored = _ready(stored)
        return stored, replace(
            changed, version=stored.version, images=done.images, skipped=done.skipped
        )


def _kept(say: Say) -> Say:
    return lambda sign, path: None if sign == "-" else say(sign, path)


def look(
    job: Job,
    stored: EmbeddingTable | None,
    staging: Path,
    place: Place | None = None,
    say: Say | None = None,
    settled: Settled | None = None,
    *,
    keep_labels: bool = True,
) -> Found:
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
        return Found(Inputs(count, listing), None, labelled)
    with progress_line("comparing with what is there"):
        plan = diff.plan(stored, [listing], place.below, staging, say, settled, keep_labels)
    return Found(Inputs(plan.count, plan.wanted, known=plan.known), plan, labelled)


def _look_with_spark(
    job: Job,
    stored: EmbeddingTable | None,
    staging: Path,
    say: Say | None,
    settled: Settled | None,
    keep_labels: bool,
) -> Found:
    spark = session()
    from pyspark.errors import AnalysisException

    with progress(spark, "listing images"):
        frame, names, labelled = image_frame(
            spark, job.source, staging, job.labels, ignored=job.ignored
        )
    if stored is None:
        return Found(Inputs(frame=frame), None, labelled)
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
    return Found(wanted_of(frame, plan, staging), plan, labelled)


def wanted_of(frame: "DataFrame", plan: Plan, staging: Path) -> Inputs:
    """Return those rows of a frame as inputs that a plan wants."""
    return Inputs(
        plan.count,
        frame=frame,
        known=plan.known,
        wanted=Wanted.of(plan.wanted, staging / "wanted.npy"),
        first_id=plan.first_id,
    )


def _bring_in(
    job: Job,
    found: Found,
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


def _ready(stored: EmbeddingTable) -> EmbeddingTable:
    """Make what follows every change; whatever goes wrong here is done by the next, or a search."""
    with suppress(Exception):
        stored = commits.compact(stored)
    if stored.counts()[0] > EXACT_UP_TO:
        with progress_line("measuring recall"), suppress(Exception):
            Searcher(stored).get_ready()
    return stored


def remove(
    stored: EmbeddingTable, names: Sequence[str], *, dry_run: bool = False, say: Say | None = None
) -> tuple[EmbeddingTable, Changed]:
    """Remove images from a collection: paths, folders, or globs, in which `*` matches slashes too.

    A path is that of a file or folder, or is taken from the root of the collection. The files
    themselves stay. Raises `LookalikeError`, and removes nothing, where a name is of no image.
    """
    wanted = {images.encode_path(name): meant(stored.source, name) for name in names}
    with working(stored.path, only_looks=dry_run) as staging:
        stored = stored.newest()
        gone = matching(stored, wanted, staging, say)
        if not dry_run:
            stored = commits.remove(
                stored, lambda newest: matching(newest, wanted, staging), "remove"
            )
            stored = _ready(stored)
        return stored, Changed(stored.version, removed=len(gone))
