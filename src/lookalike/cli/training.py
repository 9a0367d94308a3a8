"""The command that lets a network learn labels."""

import shlex
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lookalike.cli.arguments import (
    AsJson,
    Device,
    ImageName,
    LabelName,
    ModelName,
    Overwrite,
    Weights,
)
from lookalike.cli.printing import answers, notes, show_json, show_labels, show_left_out
from lookalike.errors import LookalikeError
from lookalike.weights import AUTO

if TYPE_CHECKING:
    from lookalike.training import Trained

_FEW = 100  # photos held out, of which each is a per cent or more
_FEW_LABELS = 10  # held out, of all that searches will have to tell apart


def train(
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGES", help="A folder, a file or a glob.")
    ],
    labels: Annotated[
        Path, typer.Option(help="CSV file with the columns `image` and `Class`.", metavar="CSV")
    ],
    out: Annotated[Path, typer.Option(help="The weights to write, .safetensors.")],
    image_name: ImageName = "image",
    label_name: LabelName = "Class",
    model: ModelName = AUTO,
    weights: Weights = AUTO,
    epochs: Annotated[
        int | None,
        typer.Option(help="Looks at each photo, on average. [default: 12; more at few photos]"),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(help="Views at a time, which memory limits. [default: up to 128]"),
    ] = None,
    held_out: Annotated[
        float, typer.Option(help="Share to measure with, not to learn from; 0 measures nothing.")
    ] = 0.2,
    device: Device = "auto",
    seed: Annotated[
        int,
        typer.Option(help="Which photos are held out, which views drawn.", min=0, max=2**32 - 1),
    ] = 0,
    work: Annotated[
        Path | None,
        typer.Option(help="A folder for decoded photos, kept. [default: beside --out, not kept]"),
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Let a network learn your labels, and measure on photos held out what that gains.

    Needs no GPU, but uses one. The same command goes on where it was stopped.

    Example: `lookalike train cars_train --labels cardatasettrain.csv --out cars.safetensors`
    """
    from lookalike.training.job import fine_tune
    from lookalike.training.workspace import DECODED, work_folder

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
            tell=(lambda text: None) if as_json else (lambda text: notes.print(text, markup=False)),
        )
    except KeyboardInterrupt:
        place = work_folder(out, work)
        if not (place / DECODED).is_dir():
            raise LookalikeError(
                "stopped before all photos were decoded: run the same command to begin again"
            ) from None
        raise LookalikeError(
            f"stopped; the decoded photos and what was learned are in {place}: run the same "
            "command to go on"
        ) from None
    if as_json:
        show_json(done.to_dict())
        return
    _say_what_was_done(done)
    _show_what_it_gained(done)
    command = ["lookalike", "index", *images, "--labels", str(labels)]
    command += [] if image_name == "image" else ["--image-name", image_name]
    command += [] if label_name == "Class" else ["--label-name", label_name]
    command += ["--model", model, "--weights", str(out), "--out", _name_of_index(images[0])]
    answers.print(f"next: {shlex.join(command)}", markup=False)


def _name_of_index(images: str) -> str:
    folder = Path(images)
    return f"{(folder.is_dir() and folder.resolve().name) or 'photos'}.index"


def _say_what_was_done(done: "Trained") -> None:
    notes.print(
        f"{done.out}: {done.model} has learned from {done.photos:,} photos of {done.classes:,} "
        f"labels, {done.views:,} views, in {done.seconds / 60:.1f} minutes on {done.device}",
        markup=False,
    )
    if done.skipped:
        most = Counter(done.skipped).most_common(5)
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in most)
        more = ", and others" if len(done.skipped) > len(most) else ""
        notes.print(f"{sum(done.skipped.values()):,} skipped: {reasons}{more}", markup=False)
    if done.unlabelled:
        have = "photo has" if done.unlabelled == 1 else "photos have"
        notes.print(f"{done.unlabelled:,} {have} no label and took no part")
    show_left_out(done.not_looked_at)
    show_labels(done.unused_labels, done.loose_labels, done.missing_labels)


def _show_what_it_gained(done: "Trained") -> None:
    held = done.held_out
    if held is None:
        answers.print("nothing was measured: no photos were held out")
        return
    figures = (f"{name} {held.before[name]:.3f} -> {held.after[name]:.3f}" for name in held.before)
    which = "labels held out" if held.whole else "labels, these photos held out,"
    answers.print(
        f"{', '.join(figures)}: before -> after, {held.photos:,} photos of {held.classes:,} "
        f"{which} searched among each other"
    )
    if held.photos < _FEW:
        notes.print("of so few photos these figures are rough: another --seed holds out others")
    if held.whole and held.classes < _FEW_LABELS:
        notes.print("of so few labels these figures flatter: more are harder to tell apart")
    if held.after["R@1"] < held.before["R@1"]:
        notes.print(
            f"it got worse: stay with --weights {done.weights}, or try more photos of each label, "
            "or fewer --epochs",
            markup=False,
        )
