"""The command line. Every command says what it did; a problem is one line and exit code 1."""

import io
import json
import logging
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from lookalike.build import Options
from lookalike.errors import LookalikeError
from lookalike.images import BadImage
from lookalike.searcher import RECALL

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Visual similarity search for image collections of any size, on Apache Spark.",
)
notes = Console(stderr=True, highlight=False, soft_wrap=True)
answers = Console(highlight=False, soft_wrap=True)

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
Precision = Annotated[str, typer.Option(help="auto, f32, bf16 or int8.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
UseSpark = Annotated[
    bool | None,
    typer.Option(
        "--spark/--no-spark", help="On Spark, or in a plain loop. [default: by the number of files]"
    ),
]
Out = Annotated[Path, typer.Option(help="Where to write it.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
K = Annotated[int, typer.Option("-k", help="How many neighbours.")]


_INTERRUPTED = 130  # what typer makes of Ctrl-C


def main() -> NoReturn:
    """Run the command line: exit code 0, 1 with a one-line error, or 2 for wrong usage."""
    logging.getLogger().addHandler(logging.NullHandler())  # else py4j tells of every Ctrl-C
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a name must not fail a terminal without UTF-8
    try:
        app(standalone_mode=True)
        sys.exit(0)
    except LookalikeError as error:
        message = str(error)
    except OSError as error:
        message = f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"
    except Exception as error:
        if not type(error).__module__.startswith(("pyspark", "py4j")):
            raise
        message = last_words(error)
    except SystemExit as ended:
        if ended.code != _INTERRUPTED:
            raise
        message = "stopped; nothing was changed: run the same command to start again"
    notes.print(f"[bold red]error:[/] {escape(printable(' '.join(message.split())))}")
    sys.exit(1)


def last_words(error: Exception) -> str:
    """Return the line of a Spark error that says what went wrong in the worker."""
    lines = [line.strip() for line in str(error).splitlines()]
    named = [line for line in lines if re.match(r"[\w.]+(Error|Exception)\b.*: ", line)]
    return f"Spark gave up: {(named or lines or [type(error).__name__])[-1]}"


def takes_images(command: Callable[[list[str], Path, Options, bool], None]) -> Callable[..., None]:
    """Give a command the arguments that say which images are embedded, and how."""

    def with_arguments(
        images: ImagesArgument,
        out: Out,
        labels: Labels = None,
        image_name: ImageName = "image",
        label_name: LabelName = "Class",
        image_column: ImageColumn = None,
        label_column: LabelColumn = None,
        model: ModelName = "resnet18",
        weights: Weights = "cars",
        precision: Precision = "auto",
        device: Device = "auto",
        spark: UseSpark = None,
        overwrite: Overwrite = False,
    ) -> None:
        options = Options(
            labels,
            image_name,
            label_name,
            image_column,
            label_column,
            model,
            weights,
            precision,
            device,
            spark,
        )
        command(images, out, options, overwrite)

    with_arguments.__doc__ = command.__doc__
    return with_arguments


@app.command("embed")
@takes_images
def embed(images: list[str], out: Path, options: Options, overwrite: bool) -> None:
    """Embed images into a CSV file (`--out` ends in .csv) or a folder of Parquet.

    Example: `lookalike embed cars_train --labels cardatasettrain.csv --out cars.csv`
    """
    from lookalike.export import build_table

    report = build_table(images, out, options, overwrite)
    _say_report(report, out)
    if report.skipped:
        notes.print(f"  why: {out.absolute().parent / 'skipped.csv'}", markup=False)


@app.command("index")
@takes_images
def index(images: list[str], out: Path, options: Options, overwrite: bool) -> None:
    """Embed images and keep them as an index to search.

    Example: `lookalike index cars_train --labels cardatasettrain.csv --out cars.index`
    """
    from lookalike.build import build_collection

    report = build_collection(images, out, options, overwrite)[1]
    _say_report(report, out)
    if report.skipped:
        notes.print(f"  why: lookalike info {out} --skipped", markup=False)


def _say_report(report: Any, path: Path) -> None:
    rate = report.images / max(report.seconds, 1e-9)
    shown = escape(printable(str(path)))
    model = report.model
    notes.print(
        f"{report.images:,} images embedded into {shown} ({rate:.0f} a second, {model.precision})"
    )
    if model.agreement is not None:
        notes.print(
            f"{model.precision} was chosen in {report.choosing_seconds:.0f} s: on a sample of "
            f"these images {model.agreement:.0%} of the five nearest neighbours are those of f32"
        )
    elif report.choosing_seconds >= 1:
        notes.print(f"{model.precision} was made ready in {report.choosing_seconds:.0f} s")
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
    model = facts.pop("model")
    recall = facts.pop("recall")
    facts["model"] = f"{model['backbone']}, weights {model['weights']}, {model['precision']}"
    if model.get("agreement"):
        facts["model"] += f", {model['agreement']:.0%} of its neighbours as in f32"
    facts["recall"] = ", ".join(
        f"{engine} {'not measured' if value is None else f'{value:.3f}'}"
        for engine, value in recall.items()
    )
    for name, value in facts.items():
        shown = f"{value:,}" if isinstance(value, int) else str(value)
        answers.print(f"{name:>9}  {shown}", markup=False)


@app.command()
def search(
    index: IndexArgument,
    image: Annotated[str | None, typer.Argument(metavar="[IMAGE]", help="A photo.")] = None,
    random: Annotated[
        bool, typer.Option("--random", help="Query with an indexed photo taken at random.")
    ] = False,
    seed: Annotated[int | None, typer.Option(help="Makes --random repeatable.")] = None,
    k: Annotated[
        int | None, typer.Option("-k", help="How many neighbours. [default: 5, or all --within]")
    ] = None,
    engine: Annotated[str, typer.Option(help="auto, exact, lsh or spark.")] = "auto",
    recall: Annotated[
        float, typer.Option(help="Share of the true neighbours to find; 1 compares all images.")
    ] = RECALL,
    within: Annotated[
        float | None, typer.Option(help="Only neighbours within this distance, 0 to 2.")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="Only images with this label; may be repeated.")
    ] = None,
    path: Annotated[
        list[str] | None, typer.Option(help="Only images whose path matches this glob.")
    ] = None,
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
    try:
        query = opened.random(seed) if random else opened.query(str(image))
    except BadImage as error:
        raise LookalikeError(f"{image} is no picture to search with: {error}") from None
    hits = opened.nearest(
        query,
        k,
        engine=engine,  # type: ignore[arg-type]
        recall=recall,
        within=within,
        label=label,
        path=path,
        explain=explain,
    )
    if picture is not None:
        _written(picture, lambda path: hits.picture().save(path, format="PNG"))
    if html is not None:
        _written(
            html,
            lambda path: path.write_text(hits.html(_note(hits, len(opened))), encoding="utf-8"),
        )
    if as_json:
        print(json.dumps(hits.to_dict()))  # noqa: T201
        return
    show_hits(hits, len(opened))


def _written(path: Path, write: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path)
    notes.print(f"wrote {path}", markup=False)


def _note(hits: Any, images: int) -> str:
    return f"{hits.engine} search over {images:,} images, {hits.took_ms:.1f} ms"


def show_hits(hits: Any, images: int) -> None:
    """Print neighbours as a table, with what is worth knowing of the search."""
    shown = hits.to_dict()
    label = f" ({shown['query']['label']})" if shown["query"]["label"] else ""
    query = printable(shown["query"]["path"] or "a vector")
    answers.print(f"look-alikes of {query}{label}", markup=False)
    labels = [printable(hit["label"] or "-") for hit in shown["neighbors"]]
    width = max(map(len, labels), default=0)
    for hit, name in zip(shown["neighbors"], labels, strict=True):
        path = printable(hit["path"])
        tables = f"  tables {', '.join(map(str, hit['tables']))}" if "tables" in hit else ""
        line = f"{hit['rank']:>3}  {hit['distance']:.4f}  {name:{width}}  {path}{tables}"
        answers.print(line, markup=False)
    answers.print(f"[dim]{_note(hits, images)}[/]")
    if hits.candidates is not None:
        share = hits.candidates / max(images, 1)
        how = {
            "spark": "shared a bucket with the query",
            "lsh": "had a signature near that of the query",
        }[hits.engine]
        answers.print(f"[dim]{hits.candidates:,} rows, {share:.2%}, {how}[/]")


def printable(text: str) -> str:
    """Replace what a terminal cannot show: bytes of a name that are not UTF-8, line breaks."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


@app.command()
def neighbors(
    index: IndexArgument,
    out: Annotated[Path, typer.Option(help="The folder of Parquet files to write.")],
    queries: Annotated[
        Path | None, typer.Option(help="Another index, whose images ask. [default: its own]")
    ] = None,
    k: Annotated[int, typer.Option("-k", help="How many neighbours of each image.")] = 10,
    engine: Annotated[str, typer.Option(help="auto, exact or lsh.")] = "auto",
    recall: Annotated[
        float, typer.Option(help="Share of the true neighbours to find; 1 compares all images.")
    ] = RECALL,
    paths: Annotated[bool, typer.Option("--paths", help="Add paths to the ids.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Find the neighbours of every image, on Spark.

    Example: `lookalike neighbors cars.index -k 10 --out cars.neighbors`
    """
    from lookalike.index import open as open_index

    if engine not in ("auto", "exact", "lsh"):
        raise typer.BadParameter(f"no engine {engine!r}: say auto, exact or lsh")
    opened = open_index(index)
    table = opened.neighbors(
        out,
        k,
        queries,
        engine=engine,  # type: ignore[arg-type]
        recall=recall,
        paths=paths,
        overwrite=overwrite,
    )
    notes.print(f"wrote {table.count():,} pairs into {out}", markup=False)


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
    from lookalike.index import open as open_index

    opened = open_index(index)
    opened.hash(out, family, overwrite=overwrite)
    notes.print(f"wrote {out / 'hashes'} and {out / 'model'}", markup=False)
    if family == "projection":
        show_parameters(opened.hasher().parameters)


def show_parameters(parameters: Any) -> None:
    """Print what the hash tables are and what they are worth, said plainly."""
    answers.print(
        f"{parameters.tables} hash tables, bucket length {parameters.bucket_length:.4f}: "
        f"recall {parameters.measured_recall:.3f} (predicted {parameters.predicted_recall:.3f}), "
        f"a query is compared with {parameters.measured_candidates:.0%} of all rows"
    )


@app.command()
def evaluate(
    index: IndexArgument,
    k: K = 5,
    queries: Annotated[int, typer.Option(help="Images drawn to measure recall with.")] = 50,
    seed: Annotated[int, typer.Option(help="Which images are drawn.")] = 0,
    spark: Annotated[bool, typer.Option(help="Measure Spark's hashing too.")] = True,
    as_json: AsJson = False,
) -> None:
    """Measure an index: recall against exact search; R@1, P@5 and mAP@R where there are labels.

    Example: `lookalike evaluate cars.index --json`
    """
    from lookalike.index import open as open_index

    figures = open_index(index).evaluate(k, queries, seed, spark=spark)
    if as_json:
        print(json.dumps(figures))  # noqa: T201
        return
    lsh = figures.pop("lsh")
    hashed = figures.pop("spark", None)
    for name, value in figures.items():
        answers.print(f"{name}: {value}", markup=False)
    measured = [("signatures", lsh, lsh["compared"])]
    if hashed is not None:
        measured.append(("Spark's hashing", hashed, hashed["candidates"]))
    for name, found, share in measured:
        low, high = found["recall_95"]
        answers.print(
            f"recall@{k} of {name}: {found['recall']:.3f} ({low:.3f} to {high:.3f}), comparing a "
            f"query with {share:.1%} of all rows",
            markup=False,
        )
    answers.print(
        f"one query: {lsh['exact_ms']['p50']} ms exact, {lsh['lsh_ms']['p50']} ms by signatures",
        markup=False,
    )


@app.command()
def demo(
    images: Annotated[
        str | None, typer.Option(help="A folder of photos. [default: draws its own]")
    ] = None,
    labels: Labels = None,
    out: Annotated[Path, typer.Option(help="Where everything is written.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Which picture is the query.")] = 6,
    image_name: ImageName = "image",
    label_name: LabelName = "Class",
    model: ModelName = "resnet18",
    weights: Weights = "cars",
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
    answers.print(f"next: lookalike search {done.index} --random --picture found.png")
    if images is None:
        answers.print("yours: lookalike demo --images FOLDER [--labels CSV], or lookalike index")
