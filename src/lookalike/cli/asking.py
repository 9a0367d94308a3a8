"""The commands that ask an index: what it holds, what looks alike, how well it finds that."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from lookalike.cli.arguments import AsJson, IndexArgument, K, Overwrite, Recall, Version
from lookalike.cli.printing import (
    answers,
    note_of,
    note_of_signatures,
    notes,
    printable,
    show_figures,
    show_history,
    show_hits,
    show_json,
)
from lookalike.errors import ImageError, LookalikeError
from lookalike.given import local_path
from lookalike.searcher import RECALL


def info(
    index: IndexArgument,
    as_json: AsJson = False,
    skipped: Annotated[bool, typer.Option(help="List skipped inputs instead.")] = False,
    history: Annotated[bool, typer.Option(help="List its versions instead.")] = False,
    version: Version = None,
) -> None:
    """Say what an index holds: counts, model, size, measured recall.

    Example: `lookalike info cars.index`
    """
    from lookalike.index import Index
    from lookalike.storage import EmbeddingTable

    if skipped and history:
        raise typer.BadParameter("give --skipped or --history, not both")
    table = EmbeddingTable.open(index, version)
    opened = Index(table)
    if history:
        versions = opened.versions()
        if as_json:
            show_json({"versions": versions})
        else:
            show_history(versions)
        return
    if skipped and as_json:
        reasons = table.skipped()
        show_json({"skipped": [{"path": path, "reason": reason} for path, reason in reasons]})
        return
    if skipped:
        for path, reason in table.skipped():
            print(f"{path}\t{reason}")  # noqa: T201 - plain text, to be piped
        return
    facts: dict[str, Any] = {**opened.info()}
    if as_json:
        show_json(facts)
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
    facts["approximate"] = note_of_signatures(facts.pop("approximate"))
    for name, value in facts.items():
        shown = f"{value:,}" if isinstance(value, int) else str(value)
        answers.print(f"{name:>11}  {shown}", markup=False)


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
    engine: Annotated[
        str,
        typer.Option(
            help="auto, exact, approximate (by signatures), or spark-lsh (Spark ML's hash tables)."
        ),
    ] = "auto",
    recall: Recall = RECALL,
    within: Annotated[
        float | None, typer.Option(help="Only neighbours within this distance, 0 to 2.")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="Only images with this label; may be repeated.")
    ] = None,
    path: Annotated[
        list[str] | None,
        typer.Option(help="Only images whose path matches this glob; may be repeated."),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Which hash tables collided (--engine spark-lsh).")
    ] = False,
    picture: Annotated[Path | None, typer.Option(help="Write a contact sheet, PNG.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write the same as a web page.")] = None,
    version: Version = None,
    as_json: AsJson = False,
) -> None:
    """Find the look-alikes of a photo.

    Example: `lookalike search cars.index photo.jpg --picture found.png`
    """
    from lookalike.index import Index
    from lookalike.queries import make_query, random_query
    from lookalike.storage import EmbeddingTable

    if (image is None) != random:
        raise typer.BadParameter("give an IMAGE, or --random, and not both")
    for written in filter(None, (picture, html)):
        local_path(written)  # before any work
    table = EmbeddingTable.open(index, version)
    opened = Index(table)
    try:
        query = random_query(table, seed) if random else make_query(table, str(image))
    except ImageError as error:
        raise LookalikeError(f"{image} is no picture to search with: {error}") from None
    hits = opened.search(  # type: ignore[call-overload]
        query,
        k,
        engine=engine,
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
            lambda path: path.write_text(hits.html(note_of(hits, len(opened))), encoding="utf-8"),
        )
    if as_json:
        show_json(hits.to_dict())
        return
    show_hits(hits, len(opened))


def _written(path: Path, write: Callable[[Path], object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path)
    notes.print(f"wrote {path}", markup=False)


def neighbors(
    index: IndexArgument,
    out: Annotated[Path, typer.Option(help="The folder of Parquet files to write.")],
    queries: Annotated[
        Path | None, typer.Option(help="Another index, whose images ask. [default: its own]")
    ] = None,
    k: Annotated[int, typer.Option("-k", help="How many neighbours of each image.")] = 10,
    engine: Annotated[
        str, typer.Option(help="auto, exact, or approximate (by signatures).")
    ] = "auto",
    recall: Recall = RECALL,
    paths: Annotated[bool, typer.Option("--paths", help="Add paths to the ids.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Find the neighbours of every image, on Spark.

    Example: `lookalike neighbors cars.index -k 10 --out cars.neighbors`
    """
    from lookalike.create import open_index

    found = open_index(index).kneighbors(
        queries,
        k,
        engine=engine,  # type: ignore[arg-type]
        recall=recall,
    )
    table = found.write(out, paths=paths, overwrite=overwrite)
    notes.print(f"wrote {table.count():,} pairs into {out}", markup=False)


def tune(
    index: IndexArgument,
    recall: Annotated[float, typer.Option(help="Share of the ten nearest to find.")] = 0.9,
    seed: Annotated[int, typer.Option(help="Which images are drawn.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Say what hashing by Spark ML is worth for an index, and with which parameters.

    Example: `lookalike tune cars.index --recall 0.9`
    """
    from lookalike.on_spark import tune_index

    tuned = tune_index(index, recall, seed)
    if as_json:
        show_json(tuned.to_dict())
    else:
        answers.print(str(tuned), markup=False)


def evaluate(
    index: IndexArgument,
    k: K = 5,
    queries: Annotated[int, typer.Option(help="Images drawn to measure recall with.")] = 50,
    seed: Annotated[int, typer.Option(help="Which images are drawn.")] = 0,
    spark: Annotated[
        bool | None,
        typer.Option(help="Measure Spark's hashing too. [default: where it is installed]"),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw recall against speed, .png or .svg.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure an index: recall and speed of each engine; R@1, P@5 and mAP@R by label.

    Example: `lookalike evaluate cars.index --plot recall.png`
    """
    from lookalike import plots
    from lookalike.create import open_index
    from lookalike.evaluate import series

    if plot is not None:
        plots.check(plot)
    figures = open_index(index).evaluate(k, queries, seed, spark=spark)
    if plot is not None:
        title = f"recall@{k} of {printable(index.resolve().name)}, {figures['images']:,} images"
        _written(plot, lambda path: plots.draw(series(figures), title, path))
    if as_json:
        show_json(figures)
        return
    show_figures(figures)
