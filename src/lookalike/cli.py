"""The command line. Every command says what it did; a problem is one line and exit code 1."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from lookalike.errors import LookalikeError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Visual similarity search for image collections of any size, on Apache Spark.",
)
notes = Console(stderr=True, highlight=False, soft_wrap=True)
out = Console(highlight=False, soft_wrap=True)

ImagesArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="IMAGES", help="A folder, file, glob or URI, or a Parquet table of image bytes."
    ),
]
IndexArgument = Annotated[Path, typer.Argument(metavar="INDEX", help="An index.")]
Labels = Annotated[
    Path | None, typer.Option(help="CSV file with the columns `image` and `Class`.", metavar="CSV")
]
ImageName = Annotated[str, typer.Option(help="Column of the label file that names the image.")]
LabelName = Annotated[str, typer.Option(help="Column of the label file that holds the label.")]
ImageColumn = Annotated[
    str | None, typer.Option(help="Column of a table that holds image bytes. [default: image]")
]
LabelColumn = Annotated[str | None, typer.Option(help="Column of a table that holds labels.")]
ModelName = Annotated[str, typer.Option("--model", help="A torchvision classification network.")]
Weights = Annotated[
    str, typer.Option(help="`cars` (bundled), `imagenet`, or a file.", metavar="NAME|FILE")
]
Precision = Annotated[str, typer.Option(help="auto, f32 or bf16.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
K = Annotated[int, typer.Option("-k", help="How many neighbours.")]


def main() -> NoReturn:
    """Run the command line: exit code 0, 1 with a one-line error, or 2 for wrong usage."""
    try:
        app(standalone_mode=True)
        sys.exit(0)
    except LookalikeError as error:
        message = str(error)
    except ValueError as error:
        if type(error).__name__ != "BadImage":
            raise
        message = f"cannot read the image: {error}"
    except OSError as error:
        message = f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"
    except KeyboardInterrupt:
        message = "stopped; nothing was changed: run the same command to start again"
    notes.print(f"[bold red]error:[/] {' '.join(message.split())}", markup=True)
    sys.exit(1)


def _options(**given: Any) -> Any:
    from lookalike.build import Options

    return Options(**given)


@app.command()
def embed(
    images: ImagesArgument,
    out: Annotated[Path, typer.Option(help="A file ending in .csv, or a folder for Parquet.")],
    labels: Labels = None,
    image_name: ImageName = "image",
    label_name: LabelName = "Class",
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    model: ModelName = "resnet18",
    weights: Weights = "cars",
    precision: Precision = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Embed images into a CSV file or Parquet: one row an image, 512 numbers.

    Example: `lookalike embed cars_train --labels cardatasettrain.csv --out cars.csv`
    """
    from lookalike.build import build_table

    options = _options(
        labels=labels,
        image_name=image_name,
        label_name=label_name,
        image_column=image_column,
        label_column=label_column,
        backbone=model,
        weights=weights,
        precision=precision,
    )
    report = build_table(images, out, options, overwrite)
    _say_report(report, out)
    if report.skipped:
        notes.print(f"  why: {out.absolute().parent / 'skipped.csv'}")


@app.command()
def index(
    images: ImagesArgument,
    out: Annotated[Path, typer.Option(help="The folder of the new index.")],
    labels: Labels = None,
    image_name: ImageName = "image",
    label_name: LabelName = "Class",
    image_column: ImageColumn = None,
    label_column: LabelColumn = None,
    model: ModelName = "resnet18",
    weights: Weights = "cars",
    precision: Precision = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Embed images and keep them as an index to search.

    Example: `lookalike index cars_train --labels cardatasettrain.csv --out cars.index`
    """
    from lookalike.build import build_collection

    options = _options(
        labels=labels,
        image_name=image_name,
        label_name=label_name,
        image_column=image_column,
        label_column=label_column,
        backbone=model,
        weights=weights,
        precision=precision,
    )
    report = build_collection(images, out, options, overwrite)[1]
    _say_report(report, out)
    if report.skipped:
        notes.print(f"  why: lookalike info {out} --skipped")


def _say_report(report: Any, path: Path) -> None:
    rate = report.images / max(report.seconds, 1e-9)
    notes.print(f"{report.images:,} images embedded into {path} ({rate:.0f} a second)")
    if report.skipped:
        notes.print(f"[yellow]{report.skipped:,} skipped[/], each with its reason")
    if report.unused_labels:
        notes.print(f"[yellow]{report.unused_labels:,} labels[/] are of no photo found here")
    if report.advice:
        notes.print(f"[yellow]note:[/] {report.advice}")


@app.command()
def info(
    index: IndexArgument,
    as_json: AsJson = False,
    skipped: Annotated[bool, typer.Option(help="List skipped inputs instead.")] = False,
) -> None:
    """Say what an index holds: counts, model, size, measured recall.

    Example: `lookalike info cars.index`
    """
    from lookalike.index import open as open_index

    opened = open_index(index)
    if skipped:
        for path, reason in opened.collection.skipped():
            print(f"{path}\t{reason}")  # noqa: T201 - plain text, to be piped
        return
    facts = opened.info()
    if as_json:
        print(json.dumps(facts))  # noqa: T201
        return
    table = Table(show_header=False, box=None)
    model = facts.pop("model")
    recall = facts.pop("recall")
    facts["model"] = f"{model['backbone']}, weights {model['weights']}, {model['precision']}"
    facts["recall"] = ", ".join(
        f"{engine} {'not measured' if value is None else f'{value:.3f}'}"
        for engine, value in recall.items()
    )
    for name, value in facts.items():
        table.add_row(f"[bold]{name}[/]", f"{value:,}" if isinstance(value, int) else str(value))
    out.print(table)


@app.command()
def search(
    index: IndexArgument,
    image: Annotated[str | None, typer.Argument(metavar="[IMAGE]", help="A photo.")] = None,
    random: Annotated[
        bool, typer.Option("--random", help="Query with an indexed photo taken at random.")
    ] = False,
    seed: Annotated[int | None, typer.Option(help="Makes --random repeatable.")] = None,
    k: K = 5,
    engine: Annotated[str, typer.Option(help="auto, exact or spark.")] = "auto",
    explain: Annotated[
        bool, typer.Option("--explain", help="Which hash tables collided (--engine spark).")
    ] = False,
    picture: Annotated[Path | None, typer.Option(help="Write a contact sheet, PNG.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write the same as a web page.")] = None,
    as_json: AsJson = False,
) -> None:
    """Find the look-alikes of a photo.

    Example: `lookalike search cars.index photo.jpg --picture found.png`
    """
    from lookalike.index import open as open_index

    if (image is None) != random:
        raise typer.BadParameter("give an IMAGE, or --random, and not both")
    opened = open_index(index)
    query = opened.random(seed) if random else opened.query(str(image))
    hits = opened.nearest(query, k, engine=engine, explain=explain)  # type: ignore[arg-type]
    if picture is not None:
        _written(picture, lambda path: hits.picture().save(path, format="PNG"))
    if html is not None:
        _written(html, lambda path: path.write_text(hits.html(_note(hits, len(opened)))))
    if as_json:
        print(json.dumps(hits.to_dict()))  # noqa: T201
        return
    show_hits(hits, len(opened))


def _written(path: Path, write: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path)
    notes.print(f"wrote {path}")


def _note(hits: Any, images: int) -> str:
    return f"{hits.engine} search over {images:,} images, {hits.took_ms:.1f} ms"


def show_hits(hits: Any, images: int) -> None:
    """Print neighbours as a table, with what is worth knowing of the search."""
    from rich.markup import escape

    shown = hits.to_dict()
    label = f" ({shown['query']['label']})" if shown["query"]["label"] else ""
    out.print(escape(f"query {printable(shown['query']['path'] or 'vector')}{label}"))
    table = Table(box=None, header_style="bold")
    for column, side in (("rank", "right"), ("distance", "right"), ("label", "left"), ("path", "left")):
        table.add_column(column, justify=side, overflow="fold")  # type: ignore[arg-type]
    for hit in shown["neighbors"]:
        values = [str(hit["rank"]), f"{hit['distance']:.4f}", hit["label"] or "-", hit["path"]]
        if "tables" in hit:
            values[-1] += f"  [tables {', '.join(map(str, hit['tables']))}]"
        table.add_row(*(escape(printable(value)) for value in values))
    out.print(table)
    out.print(f"[dim]{_note(hits, images)}[/]")
    if hits.candidates is not None:
        share = hits.candidates / max(images, 1)
        out.print(f"[dim]{hits.candidates:,} rows, {share:.0%}, shared a bucket with the query[/]")


def printable(text: str) -> str:
    """Replace what a terminal cannot show: bytes of a name that are not UTF-8, line breaks."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


@app.command(name="hash")
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
    from lookalike.build import make_free
    from lookalike.index import open as open_index

    make_free(out, overwrite)
    said = open_index(index).hash(out, family)
    notes.print(f"wrote {out / 'hashes'} and {out / 'model'}: {said}")
