"""Arguments and options that several commands take: each has one name and one text."""

import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from lookalike.search.bands.names import Band
from lookalike.search.engines import Engine, KnnEngine
from lookalike.system.defaults import WAVE_IMAGES

PrecisionName = Literal["auto", "f32", "bf16", "int8"]
DeviceName = Literal["auto", "cpu", "cuda"]

_NETWORKS = ("auto", "efficientnet-lite0", "resnet18", "resnet50", "mobilenet_v3_large", "vit_b_16")
_LIBRARIES = ("timm:", "clip:", "hf:", "sentence-transformers:")
_WEIGHTS = ("auto", "general", "cars", "imagenet")


def _complete(names: Iterable[str]) -> Callable[[str], list[str]]:
    def matching(incomplete: str) -> list[str]:
        return [name for name in names if name.startswith(incomplete)]

    return matching


ImagesArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="IMAGES",
        help="A folder, file, glob or URI; a Parquet table of image bytes; tar or zip archives.",
    ),
]
IndexArgument = Annotated[
    str, typer.Argument(metavar="INDEX", help="The folder or URI of an index.")
]
IndexesArgument = Annotated[
    list[str], typer.Argument(metavar="INDEX...", help="The folders or URIs of indexes.")
]
Labels = Annotated[
    Path | None, typer.Option(help="CSV file of labels, with a header line.", metavar="CSV")
]
ImageName = Annotated[
    str, typer.Option(help="Column of the label file with the name of the image.", metavar="COLUMN")
]
LabelName = Annotated[
    str, typer.Option(help="Column of the label file with the label.", metavar="COLUMN")
]
ImageColumn = Annotated[
    str | None,
    typer.Option(help="Column of a table with image bytes. [default: image]", metavar="COLUMN"),
]
LabelColumn = Annotated[
    str | None, typer.Option(help="Column of a table with labels.", metavar="COLUMN")
]
ModelName = Annotated[
    str,
    typer.Option(
        "--model",
        help="`efficientnet-lite0` for photos of anything, `resnet18` for cars, another "
        "classification network of torchvision, `timm:NAME`, `clip:NAME/TAG`, `hf:NAME`, "
        "`sentence-transformers:NAME`, or an ONNX file. `auto`: the model of an existing index, or "
        "the first.",
        metavar="NAME|FILE",
        autocompletion=_complete((*_NETWORKS, *_LIBRARIES)),
    ),
]
Weights = Annotated[
    str,
    typer.Option(
        help="`imagenet` or a file. `auto`: the weights bundled with the model.",
        metavar="NAME|FILE",
        autocompletion=_complete(_WEIGHTS),
    ),
]
Precision = Annotated[
    PrecisionName,
    typer.Option(help="Precision of the model. `auto`: the fastest that agrees with f32."),
]
Like = Annotated[
    Path | None,
    typer.Option(
        metavar="INDEX",
        help="Use the same model as this index, so that the two can be compared.",
    ),
]
Truncated = Annotated[
    bool, typer.Option("--truncated", help="Accept images that are cut short, as far as they go.")
]
Device = Annotated[DeviceName, typer.Option(help="Device that runs the model.")]
UseSpark = Annotated[
    bool | None,
    typer.Option(
        "--spark/--no-spark",
        help="Run on Spark, or in this process. [default: by the number of images]",
    ),
]
Wave = Annotated[int, typer.Option(help="Save progress every N images.", metavar="N")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Where to write the result.")]
NoFormulas = Annotated[
    bool,
    typer.Option(
        "--no-formulas",
        help="In CSV, put ' before text that a spreadsheet would run as a formula.",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing result.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Version = Annotated[
    int | None,
    typer.Option(
        help="Open an older version (see `info --history`). [default: the newest]", metavar="N"
    ),
]
Recall = Annotated[float, typer.Option(help="Target share of the true neighbours, above 0.")]
K = Annotated[int, typer.Option("-k", help="Number of neighbours of each image.")]
MinBand = Annotated[
    Band | None,
    typer.Option(help="Leave out weaker results than this band. [default: weak]"),
]
AllCopies = Annotated[
    bool,
    typer.Option("--all-copies", "--all", help="Show each copy of a photo as a result of its own."),
]
SearchK = Annotated[
    int | None,
    typer.Option(
        "-k", help="Number of neighbours of each image. [default: 5, or all with --within]"
    ),
]
JoinK = Annotated[
    int | None, typer.Option("-k", help="Number of neighbours of each image. [default: all]")
]
EmbeddingColumn = Annotated[
    str | None,
    typer.Option(
        help="Index vectors of your own: the column of a Parquet, Delta or CSV table with lists of "
        "numbers. `e` stands for `e0, e1, ...` too.",
        metavar="COLUMN",
    ),
]
IdColumn = Annotated[
    str | None,
    typer.Option(
        help="Column with the keys of your vectors, whole numbers or strings.", metavar="COLUMN"
    ),
]
KeepColumns = Annotated[
    list[str] | None,
    typer.Option(help="Column of a table to keep, for --where; may be repeated.", metavar="COLUMN"),
]
PathColumn = Annotated[
    str | None,
    typer.Option(help="Column with the paths of their pictures.", metavar="COLUMN"),
]
MetricOption = Annotated[
    Literal["cosine", "l2"],
    typer.Option(
        "--metric",
        help="`cosine` scales your vectors to length 1, `l2` keeps them as they are.",
    ),
]
_SEED = typer.Option(help="Random seed for sampling.")
Seed = Annotated[int, _SEED]
OptionalSeed = Annotated[int | None, _SEED]
_HOW = "`exact` compares all images, `approximate` those with similar signatures"
_AUTO = "`auto`: by the number of images."
KnnEngineOption = Annotated[
    KnnEngine, typer.Option("--engine", metavar="ENGINE", help=f"{_HOW}. {_AUTO}")
]
EngineOption = Annotated[
    Engine,
    typer.Option(
        "--engine",
        metavar="ENGINE",
        help=f"{_HOW}, `spark-lsh` those in the same buckets of Spark ML. {_AUTO}",
    ),
]


def takes_images(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that choose images and the model that embeds them.

    The command is called with the images, `out`, the `Options`, `overwrite` and `as_json`, followed
    by options of its own.
    """

    def with_options(
        images: ImagesArgument,
        out: Out,
        labels: Labels = None,
        image_name: ImageName = "image",
        label_name: LabelName = "Class",
        image_column: ImageColumn = None,
        label_column: LabelColumn = None,
        model: ModelName = "auto",
        weights: Weights = "auto",
        precision: Precision = "auto",
        like: Like = None,
        device: Device = "auto",
        spark: UseSpark = None,
        wave: Wave = WAVE_IMAGES,
        truncated: Truncated = False,
        overwrite: Overwrite = False,
        as_json: AsJson = False,
        **own: Any,
    ) -> None:
        from lookalike.ingest import Options

        options = Options(
            labels=labels,
            image_name=image_name,
            label_name=label_name,
            image_column=image_column,
            label_column=label_column,
            model=model,
            weights=weights,
            precision=precision,
            device=device,
            spark=spark,
            wave=wave,
            like=like,
            truncated=truncated,
        )
        command(images, out, options, overwrite, as_json, **own)

    common = list(inspect.signature(with_options).parameters.values())[:-1]
    own = list(inspect.signature(command).parameters.values())[5:]
    return with_signature(with_options, command, [*common, *own])


def with_signature(
    wrapper: Callable[..., None],
    command: Callable[..., object],
    parameters: Iterable[inspect.Parameter],
) -> Callable[..., None]:
    """Give a wrapper the help text of its command and these parameters."""
    wrapper.__doc__ = command.__doc__
    wrapper.__signature__ = inspect.Signature(list(parameters))  # type: ignore[attr-defined]
    return wrapper
