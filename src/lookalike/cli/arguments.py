"""Arguments and options that several commands take."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from lookalike.build import Options
from lookalike.build.jobs import WAVE
from lookalike.weights import AUTO

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
ModelName = Annotated[
    str,
    typer.Option(
        "--model",
        help="`efficientnet-lite0`, for photos of anything; `resnet18`, for cars; or another "
        "classification network of torchvision's. `auto`: the first, or what an index has.",
    ),
]
Weights = Annotated[
    str,
    typer.Option(
        help="`imagenet`, or a file. `auto`: the model's bundled ones.", metavar="NAME|FILE"
    ),
]
Precision = Annotated[str, typer.Option(help="auto, f32, bf16 or int8.")]
Like = Annotated[
    Path | None,
    typer.Option(metavar="INDEX", help="With the very model of this index: both can be joined."),
]
Truncated = Annotated[
    bool,
    typer.Option("--truncated", help="Take images that were cut short too, as far as they go."),
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
UseSpark = Annotated[
    bool | None,
    typer.Option(
        "--spark/--no-spark",
        help="On Spark, or in this process. [default: by the number of images]",
    ),
]
Wave = Annotated[
    int,
    typer.Option(
        help="Commit so often that a killed run loses no more than N images.", metavar="N"
    ),
]
Every = Annotated[float, typer.Option(help="Seconds between two looks.", metavar="SECONDS")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Change nothing; list what would be.")]
Out = Annotated[Path, typer.Option(help="Where to write it.")]
NoFormulas = Annotated[
    bool,
    typer.Option(
        "--no-formulas",
        help="Put ' before names and labels that a spreadsheet takes for formulas (CSV only).",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Version = Annotated[
    int | None, typer.Option(help="An older version (`info --history`). [default: the newest]")
]
Recall = Annotated[
    float, typer.Option(help="Share of the true neighbours to find; 1 compares all images.")
]
K = Annotated[int, typer.Option("-k", help="How many neighbours.")]


def takes_images(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the arguments that say which images are embedded, and how.

    It gets the images, `out`, the `Options`, `overwrite` and `as_json`; options of its own come
    after them.
    """

    def with_arguments(
        images: ImagesArgument,
        out: Out,
        labels: Labels = None,
        image_name: ImageName = "image",
        label_name: LabelName = "Class",
        image_column: ImageColumn = None,
        label_column: LabelColumn = None,
        model: ModelName = AUTO,
        weights: Weights = AUTO,
        precision: Precision = "auto",
        like: Like = None,
        device: Device = "auto",
        spark: UseSpark = None,
        wave: Wave = WAVE,
        truncated: Truncated = False,
        overwrite: Overwrite = False,
        as_json: AsJson = False,
        **own: Any,
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
            wave,
            like,
            truncated,
        )
        command(images, out, options, overwrite, as_json, **own)

    common = list(inspect.signature(with_arguments).parameters.values())[:-1]
    others = list(inspect.signature(command).parameters.values())[5:]
    with_arguments.__doc__ = command.__doc__
    with_arguments.__signature__ = inspect.Signature([*common, *others])  # type: ignore[attr-defined]
    return with_arguments
