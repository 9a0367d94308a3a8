"""The commands that keep an index whole and small: check, vacuum."""

from pathlib import Path
from typing import Annotated

import typer

from lookalike.cli.arguments import AsJson, IndexArgument
from lookalike.cli.printing import answers, notes, printable, show_json
from lookalike.errors import LookalikeError
from lookalike.storage.maintenance import KEEP_DAYS, MODEL, Checked, Repaired, Vacuumed


def check(
    index: IndexArgument,
    repair: Annotated[
        bool, typer.Option("--repair", help="Repair what is wrong; nothing may write meanwhile.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check that an index is whole: every byte, every row, whatever is made of them.

    Example: `lookalike check cars.index --repair`
    """
    from lookalike.create import open_index

    opened = open_index(index, check_files=False)
    done = opened.repair() if repair else opened.check()
    if as_json:
        show_json(done.to_dict())
    elif isinstance(done, Repaired):
        _show_repaired(done, index)
    else:
        _show_checked(done)
    if not done.ok:
        raise LookalikeError(_advice(done.left if isinstance(done, Repaired) else done, index))


def vacuum(
    index: IndexArgument,
    keep_days: Annotated[
        float, typer.Option(help="Days in which the newest versions stay.", min=0)
    ] = KEEP_DAYS,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Change nothing; say how much would be deleted.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Delete what only old versions of an index need; make its small segments one.

    Example: `lookalike vacuum cars.index --keep-days 30`
    """
    from lookalike.create import open_index

    done = open_index(index).vacuum(keep_days, dry_run=dry_run)
    if as_json:
        show_json(done.to_dict())
        return
    notes.print(_said(done, dry_run), markup=False)


def _show_checked(checked: Checked) -> None:
    for one in checked.examples:
        answers.print(f"{one.kind}: {printable(one.name)} {printable(one.detail)}", markup=False)
    for kind, count in checked.counts.items():
        named = sum(one.kind == kind for one in checked.examples)
        if count > named:
            answers.print(f"{kind}: {count - named:,} more", markup=False)
    if checked.ok:
        answers.print(
            f"whole: {checked.rows:,} rows in {checked.files:,} files, version {checked.version}"
        )
        gone = checked.older - checked.openable
        if gone:
            answers.print(f"{gone:,} of {checked.older:,} older versions cannot be opened any more")


def _show_repaired(done: Repaired, index: Path) -> None:
    _show_checked(done.found)
    if done.found.ok:
        return
    _show_left(done)
    if done.inputs:
        notes.print(
            f"{done.inputs:,} inputs are out of the index: `lookalike sync {index}` reads them "
            "again (add --labels where they had any)",
            markup=False,
        )


def _show_left(done: Repaired) -> None:
    if done.ok:
        notes.print(f"repaired: version {done.left.version} is whole", markup=False)
    else:
        notes.print("what could not be repaired:", markup=False)
        _show_checked(done.left)


def _advice(checked: Checked, index: Path) -> str:
    counts = ", ".join(f"{count:,} x {kind}" for kind, count in checked.counts.items())
    if set(checked.counts) == {MODEL}:
        return f"{index} is not whole ({counts}): restore {index / 'model'}, or index again"
    return f"{index} is not whole ({counts}): `lookalike check {index} --repair`"


def _said(done: Vacuumed, dry_run: bool) -> str:
    size = f"{done.bytes / 1e6:,.1f} MB in {done.files:,} data files"
    gone = f"{done.versions:,} older versions can be opened no longer"
    if dry_run:
        return f"would be: {size} deleted, {gone}; nothing was changed"
    merged = f", {done.merged:,} small segments made one" if done.merged else ""
    return f"deleted {size}{merged}; {gone}"
