"""Make the bundled weights: a teacher learns what tells cars apart, and ResNet-18 learns from it.

    python recipes/recipe.py --photos cars_train --labels cardatasettrain.csv --others others

`README.md` beside this says what happens, what it takes and what came of it.
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from judge import check, in_a_line, judge
from lookalike import LookalikeError
from lookalike.models import find_device
from lookalike.models.model import fingerprint
from lookalike.models.networks import FromPixels, backbone, save
from lookalike.models.resolution import identity
from lookalike.models.training.augmentation import Variety
from lookalike.models.training.dataset import Pixels, decode_photos
from lookalike.models.training.losses import LossWeights
from lookalike.models.training.trainer import Plan
from lookalike.models.training.validation import embed, retrieval
from lookalike.models.training.workspace import DECODED, check_out, lock_folder
from steps import SIDE, Recipe, Run, imagenet

ABOUT = {
    "version": "cars-3",
    "arch": "torchvision.models.resnet18 without fc",
    "dim": "512",
    "preprocessing": "RGB squashed to 224 x 224, bilinear, antialiased; ImageNet mean, deviation",
}


RECIPE = Recipe(
    views=32,
    variety=Variety(exchanged=0.5),
    teacher=Plan(
        [(224, 50_000)],
        batch=128,
        rate=3e-4,
        new_rate=3e-3,
        decay=1e-4,
        average=0.1,
        still=True,
        variety=Variety(colour=0.15),
    ),
    teacher_loss=LossWeights(imitation=0, relations=0),
    student=Plan(
        [(96, 500_000), (160, 600_000), (224, 350_000)],
        rate=4e-3,
        new_rate=4e-3,
        variety=Variety(colour=0.15),
    ),
    student_loss=LossWeights(),
    true_draws=2,
    true_parts=2,
    true_colours=2,
    true_variety=Variety(least=0.4, whole=0.3, turned=0.7),
    colours=Plan(
        [(128, 100_000), (160, 100_000), (224, 50_000)],
        batch=144,
        rate=8e-4,
        new_rate=3e-3,
        average=0.1,
        still=True,
        variety=Variety(colour=0.05, grey=0),
    ),
    colours_loss=LossWeights(labels=0, imitation=1, relations=4, shares=(0.45, 0.55), within=4),
    colours_share=2 / 3,
)


@in_a_line()
def main() -> None:
    """Run the recipe."""
    given = arguments()
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - started:6.0f} s  {text}", file=sys.stderr, flush=True)  # noqa: T201

    device = torch.device(find_device(given.device))
    learned = FromPixels(backbone("resnet18", given.student)) if given.student else None
    others = [(given.others, None)] if given.others else []
    with lock_folder(given.work):
        photos = decode_photos([(given.photos, given.labels), *others], given.work / DECODED)
        pixels = Pixels(photos, device)  # mapped: they stay when a run of other photos comes
    torch.backends.cudnn.benchmark = True  # each shape comes thousands of times
    torch.backends.cudnn.benchmark_limit = 4  # of what the heuristics find best
    say(f"{len(photos):,} photos of {len(photos.classes)} classes, on {device}")

    known = torch.from_numpy(photos.labels)
    if not 0 <= given.held_out < len(photos.classes):
        raise LookalikeError(f"--held-out is {given.held_out} of {len(photos.classes)} classes")
    order = sorted(range(len(photos.classes)), key=lambda of: natural(photos.classes[of]))
    is_kept = torch.isin(known, torch.tensor(order[len(order) - given.held_out :]))
    taught = torch.nonzero(~is_kept)[:, 0]
    recipe = right_coloured(RECIPE) if given.right_colours else RECIPE
    recipe = scaled(replace(recipe, seed=given.seed), given.scale)
    asked = [photos.identity, str(given.held_out), repr(recipe)]
    if given.student:
        asked.append(identity("resnet18", given.student))
    folder = given.work / fingerprint(asked)
    out = given.out or folder / "student.safetensors"
    found: dict[str, object] = {"weights": str(out), "device": str(device)}
    with lock_folder(folder):
        run = Run(recipe, known, pixels, folder, say)
        networks = {}
        if learned is None:
            networks["teacher"], learned = run.teach(taught)
            about = {**ABOUT, "version": "before cars-3"}
            save(learned, folder / "before-colours.safetensors", about)
        networks["student"] = student = run.colour(learned, taught)
        save(student, out, ABOUT)
        if given.held_out:
            which = torch.nonzero(is_kept)[:, 0]
            for name, network in {"imagenet": imagenet(), **networks}.items():
                found[name] = retrieval(embed(network, which, pixels, SIDE), known[which])
    found["seconds"] = round(time.monotonic() - started)
    try:
        if given.judge:
            found["judged"] = judge(given.judge, given.judge_labels, str(out))
    finally:  # whatever becomes of the last word
        print(json.dumps(found, indent=1))  # noqa: T201


def arguments() -> argparse.Namespace:
    """Return what is asked for; raise `LookalikeError` now for what would fail in the end."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True, help="a folder of labelled photos")
    parser.add_argument("--labels", type=Path, required=True, help="a CSV file: image, Class")
    parser.add_argument(
        "--right-colours",
        action="store_true",
        help="the labelled photos have their own colours; those the recipe was made for have red "
        "and blue exchanged",
    )
    parser.add_argument("--others", type=Path, help="a folder of photos of other things")
    parser.add_argument("--work", type=Path, default=Path("recipes/work"))
    parser.add_argument("--out", type=Path, help="[default: a file in --work]")
    parser.add_argument(
        "--held-out", type=int, default=0, help="the last so many classes, to judge"
    )
    parser.add_argument("--judge", type=Path, help="a folder of labelled photos for the last word")
    parser.add_argument("--judge-labels", type=Path)
    parser.add_argument(
        "--student", help="weights that have learned all but colours, of the same photos"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--scale", type=float, default=1, help="of the views drawn and looked at, for a try"
    )
    given = parser.parse_args()
    if (given.judge is None) != (given.judge_labels is None):
        parser.error("--judge and --judge-labels go together")
    if given.judge:
        check(given.judge, given.judge_labels)
    if given.out:
        check_out(given.out)
    return given


def natural(name: str) -> tuple[int, str]:
    """Return what puts class 9 before class 10."""
    return len(name), name


def scaled(recipe: Recipe, scale: float) -> Recipe:
    """Return the recipe with fewer views drawn of each photo, and fewer looked at."""

    def less(plan: Plan) -> Plan:
        stages = [(side, max(int(views * scale), plan.batch)) for side, views in plan.stages]
        return replace(plan, stages=stages, seed=recipe.seed)

    return replace(
        recipe,
        views=max(int(recipe.views * scale), 1),
        true_draws=max(int(recipe.true_draws * scale), 1),
        teacher=less(recipe.teacher),
        student=less(recipe.student),
        colours=less(recipe.colours),
    )


def right_coloured(recipe: Recipe) -> Recipe:
    """Return the recipe for labelled photos that have their own colours: none is exchanged."""
    return replace(recipe, exchanged=False, variety=replace(recipe.variety, exchanged=0.0))


if __name__ == "__main__":
    main()
