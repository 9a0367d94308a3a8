"""The commands that look at a collection as a whole: what is in it twice, what belongs together."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from lookalike.cli.arguments import (
    AsJson,
    IndexArgument,
    NoFormulas,
    Overwrite,
    Recall,
    UseSpark,
)
from lookalike.cli.printing import (
    answers,
    notes,
    show_json,
    words_of_clusters,
    words_of_gallery,
    words_of_groups,
    words_of_outliers,
    words_of_pairs,
)
from lookalike.groupings.showing import IN_GALLERY, SHOWN
from lookalike.groups.alignment import AGREES
from lookalike.groups.aside import Aside, How
from lookalike.groups.aside import check as check_aside
from lookalike.groups.duplicates import KEEP
from lookalike.groups.pairs import CAP
from lookalike.groups.results import Found
from lookalike.searcher import RECALL
from lookalike.storage import EmbeddingTable

if TYPE_CHECKING:
    from lookalike.index import Index

OutFolder = Annotated[Path, typer.Option(help="The folder to write: tables and pictures.")]
Within = Annotated[
    float | None,
    typer.Option(help="The largest distance, 0 to 2. [default: suggested from the images]"),
]
Cap = Annotated[int, typer.Option(help="Pairs that an image brings in at most, its nearest.")]
Csv = Annotated[bool, typer.Option("--csv", help="Write the table as CSV too.")]
_ASIDE = {
    "already": "set aside before",
    "gone": "gone",
    "alone": "kept, for the one to keep is gone",
    "same": "the very file that is kept",
    "outside": "outside the folders of the index",
    "changed": "changed, or what is kept has, since they were compared: find them again",
}


@dataclass(frozen=True)
class Asked:
    """What was asked of any of these commands: an index, where to write, how."""

    index: Path
    out: Path
    how: dict[str, Any]
    """Options of the method that does it."""
    as_csv: bool
    no_formulas: bool
    as_json: bool

    def opened(self) -> "Index":
        """Open the index."""
        from lookalike.create import open_index

        return open_index(self.index)

    def show(self, found: Found, lines: Callable[[dict[str, Any]], list[str]]) -> None:
        """Print what was found; write its table as CSV beside it where that is wanted."""
        if self.as_csv or self.no_formulas:
            file = found.folder / f"{Path(found.table).stem}.csv"
            found.to_csv(file, no_formulas=self.no_formulas)
            notes.print(f"wrote {file}", markup=False)
        if self.as_json:
            show_json(found.figures)
            return
        for line in lines(found.figures):
            answers.print(line, markup=False)
        page = found.folder / "index.html"
        notes.print(f"wrote {page if page.is_file() else found.folder / found.table}", markup=False)


def _finds(
    command: Callable[..., None],
    shown: int = SHOWN,
    of_what: str = "Groups in the gallery; 0 for none.",
) -> Callable[..., None]:
    """Give a command the arguments that all have; it gets them as `Asked`, then its own."""

    def with_arguments(
        index: IndexArgument,
        out: OutFolder,
        recall: Recall = RECALL,
        spark: UseSpark = None,
        shown: Annotated[int, typer.Option(help=of_what, metavar="N")] = shown,
        as_csv: Csv = False,
        no_formulas: NoFormulas = False,
        overwrite: Overwrite = False,
        as_json: AsJson = False,
        **own: Any,
    ) -> None:
        how = {"recall": recall, "spark": spark, "shown": shown, "overwrite": overwrite}
        command(Asked(index, out, how, as_csv, no_formulas, as_json), **own)

    index, out, *common = list(inspect.signature(with_arguments).parameters.values())[:-1]
    own = list(inspect.signature(command).parameters.values())[1:]
    with_arguments.__doc__ = command.__doc__
    with_arguments.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [index, out, *own, *common]
    )
    return with_arguments


@_finds
def join(
    asked: Asked,
    other: Annotated[
        Path | None, typer.Argument(metavar="OTHER", help="Another index. [default: none]")
    ] = None,
    within: Within = None,
    k: Annotated[int | None, typer.Option("-k", help="Only the k nearest of each image.")] = None,
    cap: Cap = CAP,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Compare the pixels of each pair too.")
    ] = False,
    engine: Annotated[
        str,
        typer.Option(
            help="auto, exact, approximate (by signatures), or spark-lsh (Spark ML's own join)."
        ),
    ] = "auto",
) -> None:
    """Find pairs of images within a distance: of one index, or of one and another.

    Example: `lookalike join train.index test.index --within 0.4 --out leaks`
    """
    found = asked.opened().pairs(
        asked.out,
        other,
        within=within,
        k=k,
        cap=cap,
        verify=verify,
        engine=engine,  # type: ignore[arg-type]
        **asked.how,
    )
    asked.show(found, words_of_pairs)


@_finds
def duplicates(
    asked: Asked,
    within: Within = None,
    keep: Annotated[
        str, typer.Option(help=f"Which one of a group to keep: {', '.join(KEEP)} (by path).")
    ] = "largest",
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Compare pixels, or trust distances.")
    ] = True,
    agrees: Annotated[float, typer.Option(help="How well pixels have to agree, 0 to 1.")] = AGREES,
    cap: Cap = CAP,
    apply: Annotated[
        str | None,
        typer.Option(metavar="HOW", help="With images to drop: copy, move, link or list them."),
    ] = None,
    to: Annotated[Path | None, typer.Option(help="Where to. [default: OUT.aside]")] = None,
) -> None:
    """Find what is in an index more than once, and which of it to keep.

    Nothing happens to the images unless --apply says so; `lookalike undo` takes that back. With
    --apply, what OUT holds already is applied as it is.

    Example: `lookalike duplicates cars.index --out twice --apply move`
    """
    if apply is not None and apply not in get_args(How):
        raise typer.BadParameter(f"no way {apply!r} to apply it: say {', '.join(get_args(How))}")
    opened, out = asked.opened(), asked.out
    folder = to or out.with_name(f"{out.name}.aside")
    if apply is not None:
        source = EmbeddingTable.open(asked.index).source
        check_aside(apply, source, folder)  # type: ignore[arg-type]
    if apply is not None and out.exists() and not asked.how["overwrite"]:
        found = Found.open(out)  # which somebody has looked at
    else:
        found = opened.duplicates(
            out,
            within=within,
            keep=keep,  # type: ignore[arg-type]
            verify=verify,
            agrees=agrees,
            cap=cap,
            **asked.how,
        )
    asked.show(found, words_of_groups)
    if apply is not None:
        aside = opened.set_aside(found, apply, folder)  # type: ignore[arg-type]
        _show_aside(aside, apply, folder, asked.index)


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


@_finds
def clusters(
    asked: Asked,
    resolution: Annotated[
        float, typer.Option(help="Above 1 makes more and smaller clusters, below 1 fewer.")
    ] = 1.0,
    least: Annotated[int, typer.Option(help="Images in a cluster at least.")] = 2,
    k: Annotated[int, typer.Option("-k", help="Neighbours of each image in the graph.")] = 15,
) -> None:
    """Find what belongs together: clusters of look-alikes, with one typical image of each.

    Example: `lookalike clusters cars.index --out clusters`
    """
    found = asked.opened().clusters(asked.out, resolution=resolution, least=least, k=k, **asked.how)
    asked.show(found, words_of_clusters)


@_finds
def outliers(
    asked: Asked,
    k: Annotated[int, typer.Option("-k", help="Neighbours of each image that count.")] = 15,
) -> None:
    """Find what does not belong: images unlike all others, and labels unlike those around them.

    Example: `lookalike outliers cars.index --out outliers`
    """
    asked.show(asked.opened().outliers(asked.out, k=k, **asked.how), words_of_outliers)


@partial(_finds, shown=IN_GALLERY, of_what="Images in each part of the gallery.")
def gallery(
    asked: Asked,
    k: Annotated[int, typer.Option("-k", help="Neighbours of each image that count.")] = 15,
    seed: Annotated[int, typer.Option(help="Which images are drawn.")] = 0,
) -> None:
    """Make a folder to look through: what is typical of an index, what is not, what is like what.

    OUT/index.html opens in any browser, without a server; the folder can be zipped and sent.

    Example: `lookalike gallery cars.index --out cars.gallery`
    """
    found = asked.opened().gallery(asked.out, k=k, seed=seed, **asked.how)
    asked.show(found, words_of_gallery)
