"""The commands that look at a collection as a whole: what is in it twice, what belongs together."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from lookalike.cli.arguments import (
    AsJson,
    IndexArgument,
    NoFormulas,
    Overwrite,
    Recall,
    UseSpark,
)
from lookalike.cli.printing import answers, notes, show_json
from lookalike.groupings.showing import SHOWN
from lookalike.groups.alignment import AGREES
from lookalike.groups.aside import Aside, How
from lookalike.groups.aside import check as check_aside
from lookalike.groups.duplicates import KEEP
from lookalike.groups.pairs import CAP
from lookalike.groups.results import Found
from lookalike.searcher import RECALL

OutFolder = Annotated[Path, typer.Option(help="The folder to write: tables and pictures.")]
Within = Annotated[
    float | None,
    typer.Option(help="The largest distance, 0 to 2. [default: suggested from the images]"),
]
Cap = Annotated[int, typer.Option(help="Pairs that an image brings in at most, its nearest.")]
Shown = Annotated[int, typer.Option(help="Groups in the gallery; 0 for none.", metavar="N")]
Csv = Annotated[bool, typer.Option("--csv", help="Write the table as CSV too.")]
_ASIDE = {
    "already": "set aside before",
    "gone": "gone",
    "alone": "kept, for the one to keep is gone",
    "same": "the very file that is kept",
    "outside": "outside the folders of the index",
    "changed": "changed, or what is kept has, since they were compared: find them again",
}


def join(
    index: IndexArgument,
    out: OutFolder,
    other: Annotated[
        Path | None, typer.Argument(metavar="OTHER", help="Another index. [default: none]")
    ] = None,
    within: Within = None,
    k: Annotated[int | None, typer.Option("-k", help="So many nearest of each image.")] = None,
    cap: Cap = CAP,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Compare the pixels of each pair too.")
    ] = False,
    engine: Annotated[
        str, typer.Option(help="auto, exact, lsh, or spark: Spark ML's own.")
    ] = "auto",
    recall: Recall = RECALL,
    spark: UseSpark = None,
    shown: Shown = SHOWN,
    as_csv: Csv = False,
    no_formulas: NoFormulas = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Find pairs of images within a distance: of one index, or of one and another.

    Example: `lookalike join train.index test.index --within 0.4 --out leaks`
    """
    from lookalike.index import open as open_index

    if engine not in ("auto", "exact", "lsh", "spark"):
        raise typer.BadParameter(f"no engine {engine!r}: say auto, exact, lsh or spark")
    found = open_index(index).join(
        out,
        other,
        within=within,
        k=k,
        cap=cap,
        verify=verify,
        engine=engine,  # type: ignore[arg-type]
        recall=recall,
        spark=spark,
        shown=shown,
        overwrite=overwrite,
    )
    _show(found, as_json, _pairs, as_csv or no_formulas, no_formulas)


def _pairs(figures: dict[str, Any]) -> list[str]:
    within = figures["within"]
    return [
        f"{figures['pairs']:,} pairs" + ("" if within is None else f" within {within:g}"),
        *([f"{figures['agreeing']:,} of them show the same"] if "agreeing" in figures else []),
        *_of_pairs(figures),
    ]


def _of_pairs(figures: dict[str, Any]) -> list[str]:
    """Say what may be missing among the pairs."""
    lines = []
    if figures["cut"]:
        lines.append(
            f"{figures['cut']:,} of {figures['images']:,} images have more than {figures['cap']} "
            "others so near, and the farther of them are left out: --cap"
        )
    if figures["recall"] is not None and figures["recall"] < 1:
        lines.append(
            f"{figures['recall']:.1%} of the true pairs were found (of {figures['recall_of']:,} "
            "that were checked)"
        )
    return lines


def duplicates(
    index: IndexArgument,
    out: OutFolder,
    within: Within = None,
    keep: Annotated[
        str, typer.Option(help=f"Which one of a group to keep: {', '.join(KEEP)} (by path).")
    ] = "largest",
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Compare pixels, or trust distances.")
    ] = True,
    agrees: Annotated[float, typer.Option(help="How well pixels have to agree, 0 to 1.")] = AGREES,
    cap: Cap = CAP,
    recall: Recall = RECALL,
    spark: UseSpark = None,
    shown: Shown = SHOWN,
    apply: Annotated[
        str | None,
        typer.Option(
            help="What to do with images to drop: copy, move, link or list.", metavar="HOW"
        ),
    ] = None,
    to: Annotated[Path | None, typer.Option(help="Where to. [default: OUT.aside]")] = None,
    as_csv: Csv = False,
    no_formulas: NoFormulas = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Find what is in an index more than once, and which of it to keep.

    Nothing happens to the images unless --apply says so; `lookalike undo` takes that back. With
    --apply, what OUT holds already is applied as it is.
    Example: `lookalike duplicates cars.index --out twice --apply move`
    """
    from lookalike.index import open as open_index

    if apply is not None and apply not in get_args(How):
        raise typer.BadParameter(f"no way {apply!r} to apply it: say {', '.join(get_args(How))}")
    opened = open_index(index)
    folder = to or out.with_name(f"{out.name}.aside")
    if apply is not None:
        check_aside(apply, opened.collection.source, folder)  # type: ignore[arg-type]
    if apply is not None and out.exists() and not overwrite:
        found = Found.open(out)  # which somebody has looked at
    else:
        found = opened.duplicates(
            out,
            within=within,
            keep=keep,  # type: ignore[arg-type]
            verify=verify,
            agrees=agrees,
            cap=cap,
            recall=recall,
            spark=spark,
            shown=shown,
            overwrite=overwrite,
        )
    _show(found, as_json, _groups, as_csv or no_formulas, no_formulas)
    if apply is not None:
        aside = opened.set_aside(found, apply, folder)  # type: ignore[arg-type]
        _show_aside(aside, apply, folder, index)


def _groups(figures: dict[str, Any]) -> list[str]:
    lines = [
        f"{figures['groups']:,} groups: {figures['drop']:,} images to drop, "
        f"{figures['same_bytes']:,} of them the same to the byte, {figures['bytes'] / 1e6:,.1f} MB",
        f"{figures['pairs']:,} pairs within {figures['within']:g}"
        + (", those kept whose pixels agree" if figures["verified"] else ""),
    ]
    if "copies_within" in figures:
        lines.append(
            f"that distance is suggested: {figures['copies_within']:.0%} of copies lie within it, "
            f"and {figures['images_with_another_within']:.0%} of images have another image there"
        )
    if figures["unreadable_pairs"]:
        lines.append(
            f"{figures['unreadable_pairs']:,} pairs could not be compared: their photos are gone"
        )
    return lines + _of_pairs(figures)


def _show_aside(aside: Aside, how: str, folder: Path, index: Path) -> None:
    done = {"move": "moved into", "copy": "copied into", "link": "linked in", "list": "listed in"}
    notes.print(f"{aside.done:,} images {done[how]} {folder}", markup=False)
    for name, what in _ASIDE.items():
        if count := getattr(aside, name):
            notes.print(f"{count:,} {what}", markup=False)
    if how == "move" and aside.done:
        notes.print(
            f"`lookalike sync {index}` takes them out of the index, `lookalike undo {folder}` "
            "puts them back",
            markup=False,
        )


def undo(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="What --apply wrote.")],
) -> None:
    """Put back what `duplicates --apply` moved, and remove its copies and links.

    Example: `lookalike undo twice.aside`
    """
    from lookalike.groups.aside import undo as undo_aside

    count = undo_aside(folder, lambda line: notes.print(line, markup=False))
    notes.print(f"{count:,} images are back as they were", markup=False)


def clusters(
    index: IndexArgument,
    out: OutFolder,
    resolution: Annotated[
        float, typer.Option(help="Above 1 makes more and smaller clusters, below 1 fewer.")
    ] = 1.0,
    least: Annotated[int, typer.Option(help="Images in a cluster at least.")] = 2,
    k: Annotated[int, typer.Option("-k", help="Neighbours of each image in the graph.")] = 15,
    recall: Recall = RECALL,
    spark: UseSpark = None,
    shown: Shown = SHOWN,
    as_csv: Csv = False,
    no_formulas: NoFormulas = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Find what belongs together: clusters of look-alikes, with one typical image of each.

    Example: `lookalike clusters cars.index --out clusters`
    """
    from lookalike.index import open as open_index

    found = open_index(index).clusters(
        out,
        resolution=resolution,
        least=least,
        k=k,
        recall=recall,
        spark=spark,
        shown=shown,
        overwrite=overwrite,
    )
    _show(found, as_json, _clusters, as_csv or no_formulas, no_formulas)


def _clusters(figures: dict[str, Any]) -> list[str]:
    return [
        f"{figures['clusters']:,} clusters of {figures['in_clusters']:,} images, the largest of "
        f"{figures['largest']:,}, half of them of {figures['median']:g} or fewer",
        f"{figures['alone']:,} images are in none",
    ]


def outliers(
    index: IndexArgument,
    out: OutFolder,
    k: Annotated[int, typer.Option("-k", help="Neighbours of each image that count.")] = 15,
    recall: Recall = RECALL,
    spark: UseSpark = None,
    shown: Shown = SHOWN,
    as_csv: Csv = False,
    no_formulas: NoFormulas = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Find what does not belong: images unlike all others, and labels unlike those around them.

    Example: `lookalike outliers cars.index --out outliers`
    """
    from lookalike.index import open as open_index

    found = open_index(index).outliers(
        out, k=k, recall=recall, spark=spark, shown=shown, overwrite=overwrite
    )
    _show(found, as_json, _outliers, as_csv or no_formulas, no_formulas)


def _outliers(figures: dict[str, Any]) -> list[str]:
    return [
        f"{figures['images']:,} images ranked, the most isolated first",
        f"{figures['suspects']:,} of {figures['labelled']:,} labels to look at"
        if figures["labelled"]
        else "no labels to look at",
    ]


def _show(
    found: Found,
    as_json: bool,
    lines: Callable[[dict[str, Any]], list[str]],
    as_csv: bool,
    no_formulas: bool,
) -> None:
    """Print what was found; write its table as CSV beside it where that is wanted."""
    if as_csv:
        file = found.folder / f"{Path(found.table).stem}.csv"
        found.to_csv(file, no_formulas=no_formulas)
        notes.print(f"wrote {file}", markup=False)
    if as_json:
        show_json(found.figures)
        return
    for line in lines(found.figures):
        answers.print(line, markup=False)
    page = found.folder / "index.html"
    notes.print(f"wrote {page if page.is_file() else found.folder / found.table}", markup=False)
