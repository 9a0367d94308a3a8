"""A collection made, gone on with, added to, brought up to date with its folder."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lookalike import images
from lookalike.build.inputs import Inputs, Wanted
from lookalike.build.jobs import Changed, Done, Job, Options, prepare
from lookalike.build.place import Place, again, meant, outside, place_of, place_of_root, remembered
from lookalike.build.running import embed_all, nothing_readable
from lookalike.given import Name
from lookalike.images.frame import image_frame
from lookalike.images.listing import label_images, list_images
from lookalike.images.matching import LabelCounts
from lookalike.images.table_frame import read_only
from lookalike.images.uri_frame import read_listed
from lookalike.ingest import diff
from lookalike.ingest.diff import Plan, Say, Settled
from lookalike.ingest.remove import matching
from lookalike.models import Model
from lookalike.progress import progress_line
from lookalike.searcher import EXACT_UP_TO, Searcher
from lookalike.spark import local_uri, progress, session
from lookalike.storage import (
    EmbeddingTable,
    SegmentRecord,
    commits,
    discard,
    new_data_folder,
    working,
)

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
        stored, done = bring_in(job, found, stored.path, stored, staging, what)
        gone = np.union1d(gone, plan.whole)
        if len(gone):
            stored = commits.remove(stored, lambda _: gone, what)
        if stored.version != changed.version:
            stored = make_ready(stored)
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


def bring_in(
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


def make_ready(stored: EmbeddingTable) -> EmbeddingTable:
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
            stored = make_ready(stored)
        return stored, Changed(stored.version, removed=len(gone))
