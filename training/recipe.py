"""Make the bundled weights: a teacher learns what tells cars apart, and ResNet-18 learns from it.

    python training/recipe.py --photos cars_train --labels cardatasettrain.csv --others others

`README.md` beside this says what happens, what it takes and what came of it.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
import torchvision

from judge import judge
from lookalike.cache import new_file
from lookalike.models import find_device
from lookalike.models.model import fingerprint
from lookalike.models.networks import FromPixels, backbone, save
from lookalike.training.held_out import embed, retrieval
from lookalike.training.loop import Plan, features, train
from lookalike.training.objective import Objective, Weights
from lookalike.training.photos import Photos, Pixels, gather
from lookalike.training.views import Variety, draw

TEACHER = "efficientnet-lite0"
SIDE = 224
ABOUT = {
    "version": "cars-2",
    "arch": "torchvision.models.resnet18 without fc",
    "dim": "512",
    "preprocessing": "RGB squashed to 224 x 224, bilinear, antialiased; ImageNet mean, deviation",
}


@dataclass(frozen=True)
class Recipe:
    """All that is chosen. The photos at hand have red and blue exchanged: half the views have not.

    `views` are drawn of each photo, once. The teacher, which knows ImageNet, learns the labels
    alone. The student begins from nothing: it learns the labels, what the teacher makes of each
    view, now and as it was before, and which views the teacher has near each other.
    """

    views: int
    variety: Variety
    teacher: Plan
    teacher_weights: Weights
    student: Plan
    student_weights: Weights
    seed: int = 0


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
    teacher_weights=Weights(imitation=0, relations=0),
    student=Plan(
        [(96, 500_000), (160, 600_000), (224, 350_000)],
        rate=4e-3,
        new_rate=4e-3,
        variety=Variety(colour=0.15),
    ),
    student_weights=Weights(),
)


def make(
    recipe: Recipe,
    photos: Photos,
    taught: torch.Tensor,
    work: Path,
    device: torch.device,
    say: Callable[[str], None],
) -> tuple[FromPixels, FromPixels]:
    """Return the teacher and its student, who have learned from photos of these numbers (n,).

    What is done is kept in the folder `work`, which is of this recipe and these photos alone, and
    from where it goes on.
    """
    pixels = Pixels(photos, device)
    labels = torch.from_numpy(photos.labels).to(device)
    generator = torch.Generator().manual_seed(recipe.seed)
    views = draw(taught.repeat_interleave(recipe.views), recipe.variety, generator)
    shown = labels[views.photos.to(device)]

    def report(done: int, steps: int, terms: dict[str, float]) -> None:
        say(f"  {done}/{steps} " + " ".join(f"{name} {term:.3f}" for name, term in terms.items()))

    def look(network: FromPixels, name: str) -> torch.Tensor:
        file = work / f"{name}.pt"
        if file.is_file():
            return cast(torch.Tensor, torch.load(file, map_location=device, weights_only=True))
        made = features(network, views, pixels, SIDE)
        with new_file(file) as part:
            torch.save(made, part)
        return made

    teacher = FromPixels(backbone(TEACHER, "imagenet"), TEACHER)
    before = look(teacher, "before")
    say("the teacher has looked at every view")
    objective = Objective(before.shape[1], shown, [], recipe.teacher_weights, recipe.seed)
    teacher = train(teacher, objective, views, pixels, recipe.teacher, work / "teacher.pt", report)
    now = look(teacher, "now")
    say("the teacher has learned")

    torch.manual_seed(recipe.seed)
    untrained = torchvision.models.resnet18(weights=None, zero_init_residual=True)
    untrained.fc = torch.nn.Identity()
    objective = Objective(512, shown, [now, before], recipe.student_weights, recipe.seed)
    student = FromPixels(untrained)
    student = train(student, objective, views, pixels, recipe.student, work / "student.pt", report)
    say("the student has learned")
    return teacher, student


def main() -> None:
    """Run the recipe."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, required=True, help="a folder of labelled photos")
    parser.add_argument("--labels", type=Path, required=True, help="a CSV file: image, Class")
    parser.add_argument("--others", type=Path, help="a folder of photos of other things")
    parser.add_argument("--work", type=Path, default=Path("training/work"))
    parser.add_argument("--out", type=Path, help="[default: a file in --work]")
    parser.add_argument(
        "--held-out", type=int, default=0, help="the last so many classes, to judge"
    )
    parser.add_argument("--judge", type=Path, help="a folder of labelled photos for the last word")
    parser.add_argument("--judge-labels", type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1, help="of the views looked at, for a try")
    given = parser.parse_args()
    if (given.judge is None) != (given.judge_labels is None):
        parser.error("--judge and --judge-labels go together")

    started = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - started:6.0f} s  {text}", file=sys.stderr, flush=True)  # noqa: T201

    others = [(given.others, None)] if given.others else []
    photos = gather([(given.photos, given.labels), *others], given.work / "decoded")
    device = torch.device(find_device(given.device))
    torch.backends.cudnn.benchmark = True  # each shape comes thousands of times
    torch.backends.cudnn.benchmark_limit = 4  # of what the heuristics find best
    say(f"{len(photos):,} photos of {len(photos.classes)} classes, on {device}")

    known = torch.from_numpy(photos.labels)
    if not 0 <= given.held_out < len(photos.classes):
        parser.error(f"--held-out is {given.held_out} of {len(photos.classes)} classes")
    order = sorted(range(len(photos.classes)), key=lambda of: natural(photos.classes[of]))
    is_kept = torch.isin(known, torch.tensor(order[len(order) - given.held_out :]))
    taught = torch.nonzero(~is_kept)[:, 0]
    recipe = scaled(replace(RECIPE, seed=given.seed), given.scale)
    run = given.work / fingerprint([photos.identity, str(given.held_out), repr(recipe)])
    run.mkdir(exist_ok=True)
    teacher, student = make(recipe, photos, taught, run, device, say)
    out = given.out or run / "student.safetensors"
    save(student, out, ABOUT)
    found: dict[str, object] = {"weights": str(out), "device": str(device)}
    if given.held_out:
        which = torch.nonzero(is_kept)[:, 0]
        pixels = Pixels(photos, device)
        imagenet = FromPixels(backbone(TEACHER, "imagenet"), TEACHER)
        networks = {"imagenet": imagenet, "teacher": teacher, "student": student}
        for name, network in networks.items():
            found[name] = retrieval(embed(network, which, pixels, SIDE), known[which])
    found["seconds"] = round(time.monotonic() - started)
    if given.judge:
        found["judged"] = judge(given.judge, given.judge_labels, str(out))
    print(json.dumps(found, indent=1))  # noqa: T201


def natural(name: str) -> tuple[int, str]:
    """Return what puts class 9 before class 10."""
    return len(name), name


def scaled(recipe: Recipe, scale: float) -> Recipe:
    """Return the recipe with fewer views looked at."""

    def less(plan: Plan) -> Plan:
        stages = [(side, max(int(views * scale), plan.batch)) for side, views in plan.stages]
        return replace(plan, stages=stages, seed=recipe.seed)

    return replace(recipe, teacher=less(recipe.teacher), student=less(recipe.student))


if __name__ == "__main__":
    main()
