"""Add images to an index, remove them, or make it equal to its folder."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from lookalike import images
from lookalike.ingest.diff import IsStable, OnChange
from lookalike.ingest.discovery import Discover, discover_changes
from lookalike.ingest.options import Options, Photos, prepare
from lookalike.ingest.paths import (
    PathRewriter,
    as_recorded,
    path_rewriter,
    recorded_inputs,
    stored_name,
    unrecorded_folders,
)
from lookalike.ingest.report import Changed
from lookalike.ingest.selection import matching_ids
from lookalike.ingest.waves import compact_and_measure, embed_and_commit
from lookalike.storage import EmbeddingTable, commits, working

_MAX_IMAGES_WITHOUT_CLUSTER = 64  # smaller updates run in this process


def add(
    stored: EmbeddingTable,
    photos: Photos | None,
    options: Options,
    *,
    dry_run: bool = False,
    on_change: OnChange | None = None,
    is_stable: IsStable | None = None,
) -> tuple[EmbeddingTable, Changed]:
    """Embed new and changed images and commit them, wave by wave.

    Parameters
    ----------
    stored
        The table of the index.
    photos
        The images, by default those that the index was made of. Images outside the root of the
        index get absolute paths.
    options
        How to read images. The model is that of the index.
    dry_run
        Only report the changes.
    on_change
        Called for each change.
    is_stable
        Tells which changes to apply; the others are left for a later call.

    Returns
    -------
    The newest table, and the counts of changes.

    Raises
    ------
    LookalikeError
        If an option is wrong, or the images cannot be added to this index.

    """
    on_added = on_change and _without_removed(on_change)
    discover = partial(discover_changes, on_change=on_added, is_stable=is_stable)
    return update(stored, photos, options, "add", discover, dry_run=dry_run)


def sync(
    stored: EmbeddingTable,
    photos: Photos | None,
    options: Options,
    *,
    dry_run: bool = False,
    on_change: OnChange | None = None,
    is_stable: IsStable | None = None,
) -> tuple[EmbeddingTable, Changed]:
    """Make an index equal to its folder: `add`, and remove images that are gone.

    Only images in `photos` can be removed. Images in an unreadable folder stay, and so do those
    whose removal is not stable. Parameters and result are those of `add`.
    """
    discover = partial(discover_changes, on_change=on_change, is_stable=is_stable)
    return update(stored, photos, options, "sync", discover, dry_run=dry_run)


def update(
    stored: EmbeddingTable,
    photos: Photos | None,
    options: Options,
    operation: str,
    discover: Discover,
    *,
    dry_run: bool = False,
) -> tuple[EmbeddingTable, Changed]:
    """Apply the changes that `discover` returns, as `add` and `sync` do.

    `operation` is "add" or "sync"; the history of the index shows it.
    """
    stored = stored.newest()
    source = stored.source
    if stored.own is None:
        options = replace(
            options,
            image_column=options.image_column or source.image_column,
            label_column=options.label_column or source.label_column,
        )
    # An index of files stays one, even if the folder has Parquet tables now.
    kind = "files" if source.kind == "files" and not options.image_column else None
    job = prepare(recorded_inputs(stored) if photos is None else photos, options, stored, kind=kind)
    job = replace(job, source=as_recorded(source, job.source))
    rewriter = PathRewriter() if job.rows is not None else path_rewriter(stored, job.source)
    if operation == "add" and job.vectors is not None:
        job.vectors.check_named()
    with working(stored.path, dry_run=dry_run) as staging:
        stored = stored.newest()
        found = discover(job, stored, staging, rewriter)
        new = found.folders or unrecorded_folders(stored, job.source, rewriter)
        if new and not dry_run:
            stored = stored.add_folders(new)
        plan = found.plan
        assert plan is not None
        gone = plan.gone if operation == "sync" else plan.gone[:0]
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
            backbone=job.full.backbone if stored.has_network else "",
        )
        if dry_run:
            return stored, changed
        if job.spark is None and plan.count <= _MAX_IMAGES_WITHOUT_CLUSTER:
            job = replace(job, spark=False)
        stored, done = embed_and_commit(job, found, stored.path, stored, staging, operation)
        gone = np.union1d(gone, plan.resolved)
        if len(gone):
            stored = commits.remove(stored, lambda _: gone, operation)
        if stored.version != changed.version:
            stored = compact_and_measure(stored)
        return stored, replace(
            changed, version=stored.version, images=done.images, skipped=done.skipped
        )


def _without_removed(on_change: OnChange) -> OnChange:
    return lambda sign, path: None if sign == "-" else on_change(sign, path)


def remove(
    stored: EmbeddingTable,
    names: Sequence[str],
    *,
    dry_run: bool = False,
    on_change: OnChange | None = None,
) -> tuple[EmbeddingTable, Changed]:
    """Remove images from an index by path, folder or glob, in which `*` matches slashes too.

    A path is relative to this process's folder or to the root of the index. The files stay. Raises
    `LookalikeError`, and removes nothing, if a name matches no image. The other parameters and the
    result are those of `add`.
    """
    if stored.own is None:
        paths = {images.encode_path(name): stored_name(stored.source, name) for name in names}
    else:
        paths = {name: name for name in names}
    with working(stored.path, dry_run=dry_run) as staging:
        stored = stored.newest()
        gone = matching_ids(stored, paths, staging, on_change)
        if not dry_run:
            stored = commits.remove(
                stored, lambda newest: matching_ids(newest, paths, staging), "remove"
            )
            stored = compact_and_measure(stored)
        return stored, Changed(stored.version, removed=len(gone))
