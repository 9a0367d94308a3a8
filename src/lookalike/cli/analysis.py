"""The commands that analyse an index as a whole: duplicates, clusters, outliers, pairs, gallery."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lookalike.cli.options import (
    AsJson,
    EngineOption,
    IndexArgument,
    JoinK,
    K,
    NoFormulas,
    Out,
    Overwrite,
    Recall,
    Seed,
    UseSpark,
    with_signature,
)
from lookalike.cli.output import (
    answers,
    lines_of_clusters,
    lines_of_gallery,
    lines_of_groups,
    lines_of_outliers,
    lines_of_pairs,
    notes,
    show_json,
)
from lookalike.system.defaults import (
    GALLERY_IMAGES,
    MAX_PAIRS_PER_IMAGE,
    MAX_SHOWN_GROUPS,
    MIN_AGREEMENT,
    TARGET_RECALL,
)

if TYPE_CHECKING:
    from lookalike.analysis.cleanup.aside import Aside
    from lookalike.analysis.result import AnalysisResult
    from lookalike.index import Index


Within = Annotated[
    float | None,
    typer.Option(help="Largest distance, 0 to 2. [default: suggested from the images]"),
]
Cap = Annotated[int, typer.Option(help="Use at most the N nearest pairs of an image.", metavar="N")]
Verify = Annotated[bool, typer.Option("--verify/--no-verify", help="Compare pixels too.")]
Csv = Annotated[bool, typer.Option("--csv", help="Write the table as CSV too.")]
_SET_ASIDE = {"move": "moved to", "copy": "copied to", "link": "linked in", "list": "listed in"}
_NOT_SET_ASIDE = {
    "already": "were set aside before",
    "gone": "are gone",
    "alone": "stay, since the one to keep is gone",
    "same": "are the same file as the one to keep",
    "outside": "are outside the folders of the index",
    "changed": "changed since they were compared, or the one to keep did: find duplicates again",
}


@dataclass(frozen=True)
class Analysis:
    """What all of these commands are given: an index, where to write, and how."""

    index: str
    out: Path
    options: dict[str, Any]
    """Options of the method of `Index`."""
    as_csv: bool
    no_formulas: bool
    as_json: bool

    def opened(self) -> "Index":
        """Open the index."""
        from lookalike.create import open_index

        return open_index(self.index)

    def show(self, found: "AnalysisResult", lines: Callable[[dict[str, Any]], list[str]]) -> None:
        """Print the result; write its table as CSV beside it if that is wanted."""
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


def _analyses(
    command: Callable[..., None],
    shown: int = MAX_SHOWN_GROUPS,
    text: str = "Number of groups in the gallery; 0 writes none.",
) -> Callable[..., None]:
    """Give a command the options that all share; it is called with an `Analysis` and its own."""

    def with_options(
        index: IndexArgument,
        out: Out,
        recall: Recall = TARGET_RECALL,
        spark: UseSpark = None,
        shown: Annotated[int, typer.Option(help=text, metavar="N")] = shown,
        as_csv: Csv = False,
        no_formulas: NoFormulas = False,
        overwrite: Overwrite = False,
        as_json: AsJson = False,
        **own: Any,
    ) -> None:
        options = {"recall": recall, "spark": spark, "shown": shown, "overwrite": overwrite}
        command(Analysis(index, out, options, as_csv, no_formulas, as_json), **own)

    index, out, *common = list(inspect.signature(with_options).parameters.values())[:-1]
    own = list(inspect.signature(command).parameters.values())[1:]
    return with_signature(with_options, command, [index, out, *own, *common])


@_analyses
def join(
    analysis: Analysis,
    other: Annotated[
        Path | None, typer.Argument(metavar="[OTHER]", help="Another index to join with.")
    ] = None,
    within: Within = None,
    k: JoinK = None,
    cap: Cap = MAX_PAIRS_PER_IMAGE,
    verify: Verify = False,
    engine: EngineOption = "auto",
) -> None:
    """Find all pairs of images within a distance, of one index or of two.

    The result is a folder with a table and a gallery.

    Example: `lookalike join train.index test.index --within 0.4 -o leaks`
    """
    found = analysis.opened().pairs(
        analysis.out,
        other,
        within=within,
        k=k,
        cap=cap,
        verify=verify,
        engine=engine,
        **analysis.options,
    )
    analysis.show(found, lines_of_pairs)


@_analyses
def duplicates(
    analysis: Analysis,
    within: Within = None,
    keep: Annotated[
        Literal["largest", "oldest", "sharpest", "first"],
        typer.Option(help="Which image of a group to keep; `first`: by path."),
    ] = "largest",
    verify: Annotated[
        bool | None,
        typer.Option(
            "--verify/--no-verify", help="Compare pixels too. [default: where there are pictures]"
        ),
    ] = None,
    agrees: Annotated[
        float, typer.Option(help="Agreement of pixels that a duplicate needs, 0 to 1.")
    ] = MIN_AGREEMENT,
    cap: Cap = MAX_PAIRS_PER_IMAGE,
    apply: Annotated[
        Literal["copy", "move", "link", "list"] | None,
        typer.Option(help="Copy, move, link or list the images to drop."),
    ] = None,
    to: Annotated[
        Path | None, typer.Option(help="Folder for --apply. [default: OUT.aside]")
    ] = None,
) -> None:
    """Find near-duplicates, and decide which image of each group to keep.

    No image is touched without --apply, and `lookalike undo` takes that back. If OUT exists,
    --apply uses its results as they are.

    Example: `lookalike duplicates cars.index -o twice --apply move`
    """
    from lookalike.analysis.cleanup.aside import check
    from lookalike.analysis.result import AnalysisResult
    from lookalike.index import Index
    from lookalike.storage import EmbeddingTable

    table, out = EmbeddingTable.open(analysis.index), analysis.out
    opened = Index(table)
    folder = to or out.with_name(f"{out.name}.aside")
    if apply is not None:
        check(apply, table.source, folder)
    if apply is not None and out.exists() and not analysis.options["overwrite"]:
        found = AnalysisResult.open(out)  # which somebody has looked at
    else:
        found = opened.duplicates(
            out,
            within=within,
            keep=keep,
            verify=verify,
            agrees=agrees,
            cap=cap,
            **analysis.options,
        )
    analysis.show(found, lines_of_groups)
    if apply is not None:
        aside = opened.set_aside(found, apply, folder)
        _show_aside(aside, apply, folder, analysis.index)


def _show_aside(aside: "Aside", how: str, folder: Path, index: str) -> None:
    notes.print(f"{aside.done:,} images {_SET_ASIDE[how]} {folder}", markup=False)
    for name, text in _NOT_SET_ASIDE.items():
        if count := getattr(aside, name):
            notes.print(f"{count:,} {text}", markup=False)
    if how == "move" and aside.done:
        notes.print(
            f"`lookalike sync {index}` removes them from the index, `lookalike undo {folder}` "
            "puts them back",
            markup=False,
        )


def undo(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="The folder that --apply wrote.")
    ],
) -> None:
    """Put back what `duplicates --apply` moved, and delete its copies and links.

    Example: `lookalike undo twice.aside`
    """
    from lookalike.analysis.cleanup.undo import undo as undo_aside

    count = undo_aside(folder, lambda line: notes.print(line, markup=False))
    notes.print(f"{count:,} images are back as they were", markup=False)


@_analyses
def clusters(
    analysis: Analysis,
    resolution: Annotated[
        float, typer.Option(help="Above 1: more and smaller clusters; below 1: fewer.")
    ] = 1.0,
    least: Annotated[int, typer.Option(help="Smallest number of images in a cluster.")] = 2,
    k: K = 15,
) -> None:
    """Find clusters of images that look alike, with a typical image of each.

    Example: `lookalike clusters cars.index -o clusters`
    """
    found = analysis.opened().clusters(
        analysis.out, resolution=resolution, least=least, k=k, **analysis.options
    )
    analysis.show(found, lines_of_clusters)


@_analyses
def outliers(analysis: Analysis, k: K = 15) -> None:
    """Find images unlike all others, and labels unlike those of similar images.

    Example: `lookalike outliers cars.index -o outliers`
    """
    found = analysis.opened().outliers(analysis.out, k=k, **analysis.options)
    analysis.show(found, lines_of_outliers)


@partial(_analyses, shown=GALLERY_IMAGES, text="Number of images in each part of the gallery.")
def gallery(analysis: Analysis, k: K = 15, seed: Seed = 0) -> None:
    """Make a gallery of an index: typical, isolated and similar images, and suspect labels.

    Open OUT/index.html in a browser. The folder needs no server, and can be zipped and sent.

    Example: `lookalike gallery cars.index -o cars.gallery`
    """
    found = analysis.opened().gallery(analysis.out, k=k, seed=seed, **analysis.options)
    analysis.show(found, lines_of_gallery)
