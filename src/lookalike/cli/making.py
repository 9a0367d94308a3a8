"""The commands that make something: tables of embeddings, indexes, hashes, and the demo."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from lookalike.build import Options, Report
from lookalike.cli.arguments import (
    ImageName,
    IndexArgument,
    LabelName,
    Labels,
    ModelName,
    NoFormulas,
    Overwrite,
    Precision,
    Weights,
    takes_images,
)
from lookalike.cli.printing import (
    answers,
    notes,
    printable,
    show_hits,
    show_json,
    show_labels,
    show_left_out,
    show_parameters,
    stopped_well,
)
from lookalike.storage import is_index, successor
from lookalike.weights import AUTO


@takes_images
def embed(
    images: list[str],
    out: Path,
    options: Options,
    overwrite: bool,
    as_json: bool,
    no_formulas: NoFormulas = False,
) -> None:
    """Embed images into a CSV file (`--out` ends in .csv) or a folder of Parquet.

    Example: `lookalike embed cars_train --labels cardatasettrain.csv --out cars.csv`
    """
    from lookalike.export import build_table, is_csv, skipped_of

    if no_formulas and not is_csv(out):
        raise typer.BadParameter("--no-formulas is for CSV files: give an --out that ends in .csv")
    report = build_table(images, out, options, overwrite, no_formulas=no_formulas)
    if as_json:
        show_json(report.to_dict())
        return
    _say_report(report, out)
    if report.skipped:
        notes.print(f"  why: {skipped_of(out.absolute())}", markup=False)


@takes_images
def index(images: list[str], out: Path, options: Options, overwrite: bool, as_json: bool) -> None:
    """Embed images and keep them as an index to search.

    What is done is committed wave by wave: the same command goes on where it was stopped, and later
    embeds what is new or changed.

    Example: `lookalike index cars_train --labels cardatasettrain.csv --out cars.index`
    """
    from lookalike.build import build_collection

    # What is there stays until its successor is complete.
    growing = successor(out) if overwrite and is_index(out) else out
    with stopped_well(growing, "nothing was changed"):
        report = build_collection(images, out, options, overwrite)[1]
    if as_json:
        show_json(report.to_dict())
        return
    if report.same and not report.images + report.skipped:
        notes.print(f"nothing is new or changed: {report.same:,} inputs are in {out} already")
        show_left_out(report.not_looked_at)
    else:
        _say_report(report, out)
    if report.skipped:
        notes.print(f"  why: lookalike info {out} --skipped", markup=False)


def _say_report(report: Report, path: Path) -> None:
    rate = report.images / max(report.seconds, 1e-9)
    shown = escape(printable(str(path)))
    model = report.model
    notes.print(
        f"{report.images:,} images embedded into {shown} "
        f"({rate:.0f} a second, {model.backbone} in {model.precision})"
    )
    if model.agreement is not None:
        notes.print(
            f"{model.precision} was chosen in {report.choosing_seconds:.0f} s: on a sample of "
            f"these images {model.agreement:.0%} of the five nearest neighbours are those of f32"
        )
    elif report.choosing_seconds >= 1:
        notes.print(f"{model.precision} was made ready in {report.choosing_seconds:.0f} s")
    if report.same:
        notes.print(f"{report.same:,} more were there already, and have not changed")
    if report.skipped:
        notes.print(f"[yellow]{report.skipped:,} skipped[/], each with its reason")
    show_left_out(report.not_looked_at)
    show_labels(report.unused_labels, report.loose_labels, report.missing_labels)


def hash_(
    index: IndexArgument,
    out: Annotated[Path, typer.Option(help="The folder for `hashes` (Parquet) and `model`.")],
    family: Annotated[
        str, typer.Option(help="`projection` of the vectors, or `minhash` of their top features.")
    ] = "projection",
    overwrite: Overwrite = False,
) -> None:
    """Hash an index with Spark ML: a column of buckets, and the model that made it.

    Example: `lookalike hash cars.index --out cars.hashes`
    """
    from lookalike.on_spark import load_hasher, write_hashes

    write_hashes(index, out, family, overwrite=overwrite)  # type: ignore[arg-type]
    notes.print(f"wrote {out / 'hashes'} and {out / 'model'}", markup=False)
    if family == "projection":
        show_parameters(load_hasher(index).parameters)


def demo(
    images: Annotated[
        str | None, typer.Option(help="A folder of photos. [default: draws its own]")
    ] = None,
    labels: Labels = None,
    out: Annotated[Path, typer.Option(help="Where everything is written.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Which picture is the query.")] = 2,
    image_name: ImageName = "image",
    label_name: LabelName = "Class",
    model: ModelName = AUTO,
    weights: Weights = AUTO,
    precision: Precision = "auto",
) -> None:
    """All twelve steps, from a folder of photos to five look-alikes as pictures.

    Example: `lookalike demo --images cars_train --labels cardatasettrain.csv`
    """
    from lookalike import demo as steps

    if labels is not None and images is None:
        raise typer.BadParameter("--labels goes with --images")
    options = Options(
        None, image_name, label_name, model=model, weights=weights, precision=precision
    )
    done = steps.run(
        images, labels, out, partial(answers.print, markup=False), seed=seed, options=options
    )
    show_hits(done.hits, done.images)
    answers.print(f"next: lookalike serve {done.index}, a page to drop photos on")
    if images is None:
        answers.print("yours: lookalike demo --images FOLDER [--labels CSV], or lookalike index")
