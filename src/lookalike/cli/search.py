"""The commands that search an index, describe it and measure it."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from lookalike.cli.options import (
    AllCopies,
    AsJson,
    EngineOption,
    IndexArgument,
    K,
    KnnEngineOption,
    MinBand,
    OptionalSeed,
    Out,
    Overwrite,
    Recall,
    SearchK,
    Seed,
    Version,
)
from lookalike.cli.output import (
    answers,
    note_of,
    note_of_signatures,
    notes,
    printable,
    show_figures,
    show_history,
    show_json,
    show_neighbors,
)
from lookalike.system.defaults import TARGET_RECALL


def info(
    index: IndexArgument,
    as_json: AsJson = False,
    skipped: Annotated[
        bool, typer.Option("--skipped", help="List skipped inputs with their reasons.")
    ] = False,
    history: Annotated[
        bool, typer.Option("--history", help="List the versions of the index.")
    ] = False,
    version: Version = None,
) -> None:
    """Show what an index holds: counts, model, size, measured recall.

    Example: `lookalike info cars.index`
    """
    from lookalike.index import Index
    from lookalike.search.bands.kept import saved_bands
    from lookalike.search.bands.names import NOT_MEASURED
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
    if not table.has_network:
        facts["model"] = f"{model['backbone']}, {model['width']:,} numbers"
    if model.get("agreement"):
        facts["model"] += f", {model['agreement']:.0%} of its neighbours as in f32"
    facts["recall"] = ", ".join(
        f"{engine} {'not measured' if value is None else f'{value:.3f}'}"
        for engine, value in recall.items()
    )
    facts["approximate"] = note_of_signatures(facts.pop("approximate"))
    facts.pop("bands")
    facts["bands"] = str(saved_bands(table) or NOT_MEASURED)
    facts["regions"] = _note_of_regions(facts.pop("regions"))
    for name, value in facts.items():
        shown = f"{value:,}" if isinstance(value, int) else str(value)
        answers.print(f"{name:>11}  {shown}", markup=False)


def _note_of_regions(about: dict[str, Any] | None) -> str:
    if about is None:
        return "none: `lookalike regions INDEX` makes them"
    if "reason" in about:
        return str(about["reason"])
    recall = "not measured" if about["recall"] is None else f"{about['recall']:.3f}"
    return f"{about['rows']:,} rows of version {about['version']:,}, recall {recall}"


def search(
    index: IndexArgument,
    image: Annotated[str | None, typer.Argument(metavar="[IMAGE]", help="An image.")] = None,
    id_: Annotated[
        str | None,
        typer.Option("--id", help="Search with an image by its id, or a vector by its key."),
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(help="Search with words, where the model embeds them.", metavar="WORDS"),
    ] = None,
    random: Annotated[
        bool, typer.Option("--random", help="Search with a random image of the index.")
    ] = False,
    seed: OptionalSeed = None,
    k: SearchK = None,
    engine: EngineOption = "auto",
    recall: Recall = TARGET_RECALL,
    within: Annotated[
        float | None, typer.Option(help="Largest distance, 0 to 2. [default: any]")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="Only images with this label; may be repeated.")
    ] = None,
    path: Annotated[
        list[str] | None,
        typer.Option(
            help="Only images whose path matches this glob; may be repeated.", metavar="GLOB"
        ),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(
            help='Only images for which a condition holds: --where "width > 640".', metavar="SQL"
        ),
    ] = None,
    min_band: MinBand = None,
    all_copies: AllCopies = False,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Show which hash tables collided, with `spark-lsh`."),
    ] = False,
    picture: Annotated[
        Path | None, typer.Option(help="Write a contact sheet, PNG.", metavar="FILE")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write a web page.", metavar="FILE")] = None,
    version: Version = None,
    as_json: AsJson = False,
) -> None:
    """Find the images that look most like a given one: five, or all within a distance.

    Copies of one photo are one result, with their number.

    Example: `lookalike search cars.index photo.jpg --picture found.png`
    """
    from lookalike.errors import ImageError, LookalikeError
    from lookalike.index import Index
    from lookalike.search.query import (
        id_of_text,
        make_query,
        queries_of_texts,
        query_of_id,
        random_query,
    )
    from lookalike.storage import EmbeddingTable
    from lookalike.system.paths import local_path

    if [image is not None, id_ is not None, text is not None, random].count(True) != 1:
        raise typer.BadParameter("give either an IMAGE, --id, --text or --random")
    for file in filter(None, (picture, html)):
        local_path(file)  # before any work
    table = EmbeddingTable.open(index, version)
    opened = Index(table)
    try:
        if text is not None:
            query = queries_of_texts(table, [text])[0]
        elif id_ is not None:
            query = query_of_id(opened._searcher, id_of_text(table, id_))
        else:
            query = random_query(table, seed) if random else make_query(table, str(image))
    except ImageError as error:
        raise LookalikeError(f"{image} cannot be searched with: {error}") from None
    found = opened.search(
        query,
        k,
        engine=engine,
        recall=recall,
        within=within,
        label=label,
        path=path,
        where=where,
        explain=explain,
        min_band=min_band,
        all_copies=all_copies or engine == "spark-lsh",
    )
    if picture is not None:
        _write(picture, lambda path: found.picture().save(path, format="PNG"))
    if html is not None:
        _write(
            html,
            lambda path: path.write_text(found.html(note_of(found, len(opened))), encoding="utf-8"),
        )
    if as_json:
        show_json(found.to_dict())
        return
    show_neighbors(found, len(opened))


def _write(path: Path, write: Callable[[Path], object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path)
    notes.print(f"wrote {path}", markup=False)


def neighbors(
    index: IndexArgument,
    out: Out,
    queries: Annotated[
        Path | None,
        typer.Option(help="Another index with the query images. [default: this one]"),
    ] = None,
    k: K = 10,
    engine: KnnEngineOption = "auto",
    recall: Recall = TARGET_RECALL,
    paths: Annotated[bool, typer.Option("--paths", help="Add paths to the ids.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Find the neighbours of every image, on Spark, and write them as Parquet files.

    Example: `lookalike neighbors cars.index -k 10 -o cars.neighbors`
    """
    from lookalike.create import open_index

    found = open_index(index).kneighbors(queries, k, engine=engine, recall=recall)
    table = found.write(out, paths=paths, overwrite=overwrite)
    notes.print(f"wrote {table.count():,} pairs into {out}", markup=False)


def evaluate(
    index: IndexArgument,
    k: K = 5,
    queries: Annotated[int, typer.Option(help="Number of query images.")] = 50,
    seed: Seed = 0,
    spark: Annotated[
        bool | None,
        typer.Option(
            "--spark/--no-spark",
            help="Measure hashing by Spark ML too. [default: if it is installed]",
        ),
    ] = None,
    texts: Annotated[
        Path | None,
        typer.Option(help="Measure the recall of words too: a query in each line.", metavar="FILE"),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Plot recall against speed, .png or .svg.", metavar="FILE")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure recall and speed of each engine; by label also R@1, P@5 and mAP@R.

    Example: `lookalike evaluate cars.index --plot recall.png`
    """
    from lookalike.create import open_index
    from lookalike.rendering import plots
    from lookalike.search.evaluation import series

    if plot is not None:
        plots.check(plot)
    words = None
    if texts is not None:
        words = [line for line in texts.read_text("utf-8").splitlines() if line.strip()]
    figures = open_index(index).evaluate(k, queries, seed, spark=spark, texts=words)
    if plot is not None:
        title = (
            f"recall@{k} of {printable(Path(index).resolve().name)}, {figures['images']:,} images"
        )
        _write(plot, lambda path: plots.draw(series(figures), title, path))
    if as_json:
        show_json(figures)
        return
    show_figures(figures)
