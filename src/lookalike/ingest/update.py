"""A collection made, gone on with, added to, brought up to date with its folder."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from lookalike import images
from lookalike.ingest.commit import bring_in, make_ready
from lookalike.ingest.diff import Say, Settled
from lookalike.ingest.discovery import Find, look
from lookalike.ingest.options import Changed, Options, prepare
from lookalike.ingest.paths import again, meant, outside, place_of
from lookalike.ingest.selection import matching
from lookalike.storage import EmbeddingTable, commits, working
from lookalike.system.paths import Name

_HANDFUL = 64  # images, which no cluster is asked for

Photos = Name | Sequence[Name]


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
