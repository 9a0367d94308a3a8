"""The command that trains a network on labels."""

import shlex
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lookalike.cli.options import (
    AsJson,
    Device,
    ImageName,
    LabelName,
    ModelName,
    Out,
    Overwrite,
    Weights,
)
from lookalike.cli.output import answers, notes, show_ignored, show_json, show_labels

if TYPE_CHECKING:
    from lookalike.models.training import Trained


_FEW_PHOTOS = 100  # held out: each is a per cent or more
_FEW_LABELS = 10  # held out: a search will have to tell apart more


def train(
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGES", help="A folder, file or glob, in quotes.")
    ],
    labels: Annotated[
        Path, typer.Option(help="CSV file of labels, with a header line.", metavar="CSV")
    ],
    out: Out,
    image_name: ImageName = "image",
    label_name: LabelName = "Class",
    model: ModelName = "auto",
    weights: Weights = "auto",
    epochs: Annotated[
        int | None,
        typer.Option(help="Views of each image, on average. [default: 12; more for few images]"),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(help="Views in a batch; less needs less memory. [default: up to 128]"),
    ] = None,
    held_out: Annotated[
        float, typer.Option(help="Share of images to measure with; 0 measures nothing.")
    ] = 0.2,
    device: Device = "auto",
    seed: Annotated[int, typer.Option(help="Random seed for sampling.", min=0, max=2**32 - 1)] = 0,
    work: Annotated[
        Path | None,
        typer.Option(help="Folder to keep decoded images in. [default: none are kept]"),
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Train a network on your labels, and measure the gain on images held out.

    The result is a file of weights, .safetensors. A GPU is used if there is one. Run the same
    command again to continue where it was stopped.

    Example: `lookalike train cars_train --labels cardatasettrain.csv -o cars.safetensors`
    """
    from lookalike.models.training.fine_tuning import fine_tune
    from lookalike.models.training.workspace import DECODED, work_folder

    try:
        done = fine_tune(
            images,
            labels,
            out,
            image_name=image_name,
            label_name=label_name,
            model=model,
            weights=weights,
            epochs=epochs,
            batch=batch,
            held_out=held_out,
            device=device,
            seed=seed,
            work=work,
            overwrite=overwrite,
        )
    except KeyboardInterrupt:
        place = work_folder(out, work)
        if not (place / DECODED).is_dir():
            raise KeyboardInterrupt(
                "stopped before all images were decoded: run the same command to start again"
            ) from None
        raise KeyboardInterrupt(
            f"stopped; decoded images and a checkpoint are in {place}: run the same command to "
            "continue"
        ) from None
    if as_json:
        show_json(done.to_dict())
        return
    _show_training(done)
    _show_gain(done)
    command = ["lookalike", "index", *images, "--labels", str(labels)]
    command += [] if image_name == "image" else ["--image-name", image_name]
    command += [] if label_name == "Class" else ["--label-name", label_name]
    command += ["--model", model, "--weights", str(out), "--out", _index_name(images[0])]
    answers.print(f"next: {shlex.join(command)}", markup=False)


def _index_name(images: str) -> str:
    folder = Path(images)
    return f"{(folder.is_dir() and folder.resolve().name) or 'photos'}.index"


def _show_training(done: "Trained") -> None:
    notes.print(
        f"{done.out}: {done.model} was trained on {done.photos:,} images of {done.classes:,} "
        f"labels, {done.views:,} views, in {done.seconds / 60:.1f} minutes on {done.device}",
        markup=False,
    )
    if done.skipped:
        most = Counter(done.skipped).most_common(5)
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in most)
        more = ", and others" if len(done.skipped) > len(most) else ""
        notes.print(f"{sum(done.skipped.values()):,} skipped: {reasons}{more}", markup=False)
    if done.unlabelled:
        have = "image has" if done.unlabelled == 1 else "images have"
        notes.print(f"{done.unlabelled:,} {have} no label and were not used")
    show_ignored(done.not_looked_at)
    show_labels(done.unused_labels, done.loose_labels, done.missing_labels)


def _show_gain(done: "Trained") -> None:
    held = done.held_out
    if held is None:
        answers.print("nothing was measured: no images were held out")
        return
    figures = (f"{name} {held.before[name]:.3f} -> {held.after[name]:.3f}" for name in held.before)
    which = "labels held out" if held.whole else "labels, with these images held out,"
    answers.print(
        f"{', '.join(figures)}: before -> after, {held.photos:,} images of {held.classes:,} "
        f"{which} searched among each other"
    )
    if held.photos < _FEW_PHOTOS:
        notes.print("these figures are rough, from few images: try another --seed")
    if held.whole and held.classes < _FEW_LABELS:
        notes.print("these figures flatter, from few labels: more are harder to tell apart")
    if held.after["R@1"] < held.before["R@1"]:
        notes.print(
            f"the network got worse: keep --weights {done.weights}, or try more images of each "
            "label, or fewer --epochs",
            markup=False,
        )
