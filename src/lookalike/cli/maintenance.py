"""The commands that check, repair and clean up an index."""

from typing import TYPE_CHECKING, Annotated

import typer

from lookalike.cli.options import (
    AsJson,
    Device,
    DryRun,
    IndexArgument,
    ModelName,
    Precision,
    UseSpark,
    Wave,
    Weights,
)
from lookalike.cli.output import answers, notes, printable, show_json
from lookalike.errors import LookalikeError
from lookalike.system.defaults import KEEP_DAYS, WAVE_IMAGES

if TYPE_CHECKING:
    from lookalike.ingest import Upgraded
    from lookalike.storage.maintenance import Checked, Repaired, Vacuumed


def check(
    index: IndexArgument,
    repair: Annotated[
        bool, typer.Option("--repair", help="Repair it; nothing else may write meanwhile.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check that an index is complete and undamaged: its files, its rows, its caches.

    Example: `lookalike check cars.index --repair`
    """
    from lookalike.create import open_index

    opened = open_index(index, check_files=False)
    if repair:
        repaired = opened.repair()
        checked, result = repaired.left, repaired.to_dict()
    else:
        repaired, checked = None, opened.check()
        result = checked.to_dict()
    if as_json:
        show_json(result)
    elif repaired is not None:
        _show_repaired(repaired, index)
    else:
        _show_checked(checked)
    if not checked.ok:
        raise LookalikeError(_advice(checked, index))


def vacuum(
    index: IndexArgument,
    keep_days: Annotated[
        float, typer.Option(help="Keep the versions of the last N days.", metavar="N", min=0)
    ] = KEEP_DAYS,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Delete the data of old versions of an index, and merge its small segments.

    Example: `lookalike vacuum cars.index --keep-days 30`
    """
    from lookalike.create import open_index

    done = open_index(index).vacuum(keep_days, dry_run=dry_run)
    if as_json:
        show_json(done.to_dict())
        return
    notes.print(_summary(done, dry_run), markup=False)


def regions(
    index: IndexArgument,
    anew: Annotated[bool, typer.Option("--anew", help="Write all rows again.")] = False,
    spark: UseSpark = None,
    as_json: AsJson = False,
) -> None:
    """Prepare an index larger than this machine for search, or add the rows that came since.

    Rows are written once more, near ones together: a search then reads what it needs by ranges.

    Example: `lookalike regions cars.index`
    """
    from lookalike.create import open_index

    done = open_index(index).build_regions(anew=anew, spark=spark)
    if as_json:
        show_json(done.to_dict())
        return
    if not done.added:
        notes.print(f"the regions have all {done.rows:,} rows of version {done.version}")
        return
    size = f"{done.files:,} files, {done.bytes / 1e6:,.1f} MB"
    notes.print(
        f"wrote {done.added:,} rows into {size}: {done.rows:,} rows in {done.cells:,} cells"
    )


def root(
    index: IndexArgument,
    folder: Annotated[
        str, typer.Argument(metavar="FOLDER", help="The folder where the images are now.")
    ],
) -> None:
    """Tell an index where its images are, after they or the index were moved.

    Example: `lookalike root cars.index /mnt/photos`
    """
    from lookalike.create import open_index

    open_index(index).relocate(folder)
    notes.print(f"the images of {index} are in {folder}", markup=False)


def upgrade(
    index: IndexArgument,
    model: ModelName,
    weights: Weights = "auto",
    precision: Precision = "auto",
    device: Device = "auto",
    spark: UseSpark = None,
    wave: Wave = WAVE_IMAGES,
    as_json: AsJson = False,
) -> None:
    """Embed all images of an index with another model, or in another precision, and switch to it.

    Until then, searches answer from the old vectors. Ids, paths and labels stay, and older versions
    keep the old model. Run the same command again to continue where it was stopped.

    Example: `lookalike upgrade cars.index --model resnet18`
    """
    from lookalike.create import open_index

    done = open_index(index).upgrade(
        model=model, weights=weights, precision=precision, device=device, spark=spark, wave=wave
    )
    if as_json:
        show_json(done.to_dict())
        return
    for line in _describe_upgrade(done):
        notes.print(line, markup=False)


def _describe_upgrade(done: "Upgraded") -> list[str]:
    if not done.embedded:
        return ["the index has this model already: nothing was changed"]
    old, new = (
        f"{one['backbone']}, weights {printable(one['weights'])}, {one['precision']}"
        for one in (done.before, done.after)
    )
    lines = [f"version {done.version} has {new} in place of {old}"]
    for name in ("width", "images", "skipped", "recall", "R@1", "P@5", "mAP@R"):
        values = [one.get(name) for one in (done.before, done.after)]
        if values[0] != values[1]:
            before, after = ("unknown" if value is None else f"{value:,}" for value in values)
            lines.append(f"  {name}: {before} -> {after}")
    return lines


def _show_checked(checked: "Checked") -> None:
    for finding in checked.examples:
        line = f"{finding.kind}: {printable(finding.name)} {printable(finding.detail)}"
        answers.print(line, markup=False)
    for kind, count in checked.counts.items():
        named = sum(finding.kind == kind for finding in checked.examples)
        if count > named:
            answers.print(f"{kind}: {count - named:,} more", markup=False)
    if checked.ok:
        answers.print(
            f"whole: {checked.rows:,} rows in {checked.files:,} files, version {checked.version}"
        )
        gone = checked.older - checked.openable
        if gone:
            answers.print(f"{gone:,} of {checked.older:,} older versions can no longer be opened")


def _show_repaired(done: "Repaired", index: str) -> None:
    _show_checked(done.found)
    if done.found.ok:
        return
    _show_left(done)
    if done.inputs:
        notes.print(
            f"{done.inputs:,} inputs were removed from the index: `lookalike sync {index}` "
            "reads them again (add --labels if they had any)",
            markup=False,
        )


def _show_left(done: "Repaired") -> None:
    if done.ok:
        notes.print(f"repaired: version {done.left.version} is whole", markup=False)
    else:
        notes.print("could not be repaired:", markup=False)
        _show_checked(done.left)


def _advice(checked: "Checked", index: str) -> str:
    from lookalike.storage.maintenance import MODEL

    counts = ", ".join(f"{count:,} x {kind}" for kind, count in checked.counts.items())
    if set(checked.counts) == {MODEL}:
        return f"{index} is not whole ({counts}): restore {index}/_model, or index again"
    return f"{index} is not whole ({counts}): `lookalike check {index} --repair`"


def _summary(done: "Vacuumed", dry_run: bool) -> str:
    size = f"{done.bytes / 1e6:,.1f} MB in {done.files:,} data files"
    gone = f"{done.versions:,} older versions can no longer be opened"
    if dry_run:
        return f"would be: {size} deleted, {gone}; nothing was changed"
    merged = f", {done.merged:,} small segments merged" if done.merged else ""
    return f"deleted {size}{merged}; {gone}"
