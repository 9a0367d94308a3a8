"""The command that shows all twelve steps of the reference workflow."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from lookalike.cli.options import (
    ImageName,
    LabelName,
    Labels,
    ModelName,
    Out,
    Precision,
    Seed,
    Weights,
)
from lookalike.cli.output import answers, show_neighbors


def demo(
    images: Annotated[
        str | None,
        typer.Option(help="A folder of images. [default: draws images of cars]", metavar="IMAGES"),
    ] = None,
    labels: Labels = None,
    out: Out = Path("demo"),
    seed: Seed = 2,
    image_name: ImageName = "image",
    label_name: LabelName = "Class",
    model: ModelName = "auto",
    weights: Weights = "auto",
    precision: Precision = "auto",
) -> None:
    """Run all twelve steps, from a folder of images to the five nearest as pictures.

    Example: `lookalike demo --images cars_train --labels cardatasettrain.csv`
    """
    from lookalike.cli import walkthrough
    from lookalike.ingest import Options

    if labels is not None and images is None:
        raise typer.BadParameter("--labels needs --images")
    options = Options(
        image_name=image_name,
        label_name=label_name,
        model=model,
        weights=weights,
        precision=precision,
    )
    done = walkthrough.run(
        images, labels, out, partial(answers.print, markup=False), seed=seed, options=options
    )
    show_neighbors(done.neighbors, done.images)
    answers.print(f"next: lookalike serve {done.index}, then drop images on the page", markup=False)
    if images is None:
        answers.print("with your images: lookalike demo --images FOLDER [--labels CSV]")
