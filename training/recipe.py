"""Make the bundled weights: a teacher learns what tells cars apart, and ResNet-18 learns from it.

    python training/recipe.py --photos cars_train --labels cardatasettrain.csv --others others

`README.md` beside this says what happens, what it takes and what came of it.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torchvision

from judge import check, in_a_line, judge
from lookalike import LookalikeError
from lookalike.models import find_device
from lookalike.models.model import fingerprint, identity
from lookalike.models.networks import FromPixels, backbone, save
from lookalike.training.held_out import embed, retrieval
from lookalike.training.loop import Plan, features, store, train
from lookalike.training.objective import LossWeights, Objective
from lookalike.training.photos import UNLABELLED, Pixels, gather
from lookalike.training.place import DECODED, alone, check_out
from lookalike.training.views import Variety, Views, draw, recoloured

TEACHER = "efficientnet-lite0"
SIDE = 224
BLOCK = 8192  # views that a killed run has to look at again, at most
Say = Callable[[str], None]
ABOUT = {
    "version": "cars-3",
    "arch": "torchvision.models.resnet18 without fc",
    "dim": "512",
    "preprocessing": "RGB squashed to 224 x 224, bilinear, antialiased; ImageNet mean, deviation",
}


@dataclass(frozen=True)
class Recipe:
    """All that is chosen.

    `views` are drawn of each photo, once. The teacher, which knows ImageNet, learns the labels
    alone. The student begins from nothing: it learns the labels, what the teacher makes of each
    view, now and as it was before, and which views the teacher has near each other.

    The labelled photos at hand have red and blue `exchanged`: half of those views have not, so that
    teacher and student hardly tell red from blue. So in the end the student looks at photos put
    right: `true_parts` of each, all in the same `true_colours` of `true_variety`, `true_draws`
    times. It imitates itself and the teacher, who knew colours before it learned, and learns to
    keep near each other what both have near. `colours_share` of what that changes is kept. Of
    photos that have their own colours nothing is exchanged, nor put right.
    """

    views: int
    variety: Variety
    teacher: Plan
    teacher_loss: LossWeights
    student: Plan
    student_loss: LossWeights
    true_draws: int
    true_parts: int
    true_colours: int
    true_variety: Variety
    colours: Plan
    colours_loss: LossWeights
    colours_share: float
    exchanged: bool = True
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


class Run:
    """A run of the recipe. What is done is kept in the folder `work`, from where it goes on."""

    def __init__(
        self, recipe: Recipe, labels: torch.Tensor, pixels: Pixels, work: Path, say: Say
    ) -> None:
        self.recipe, self.pixels, self.work, self.say = recipe, pixels, work, say
        self.labels = labels.to(pixels.device)

    def teach(self, taught: torch.Tensor) -> tuple[FromPixels, FromPixels]:
        """Return the teacher and its student, who have learned from photos of these numbers."""
        recipe = self.recipe
        generator = torch.Generator().manual_seed(recipe.seed)
        views = draw(taught.repeat_interleave(recipe.views), recipe.variety, generator)
        shown = self.labels[views.photos.to(self.labels.device)]

        teacher = imagenet()
        before = self._look(teacher, views, "before")
        self.say("the teacher has looked at every view")
        objective = Objective(before.shape[1], shown, [], recipe.teacher_loss, recipe.seed)
        teacher = self._train(teacher, objective, views, recipe.teacher, "teacher")
        now = self._look(teacher, views, "now")
        self.say("the teacher has learned")

        torch.manual_seed(recipe.seed)
        untrained = torchvision.models.resnet18(weights=None, zero_init_residual=True)
        untrained.fc = torch.nn.Identity()
        objective = Objective(512, shown, [now, before], recipe.student_loss, recipe.seed)
        student = self._train(FromPixels(untrained), objective, views, recipe.student, "student")
        self.say("the student has learned")
        return teacher, student

    def colour(self, student: FromPixels, taught: torch.Tensor) -> FromPixels:
        """Return the student, who has learned colours from photos of these numbers (n,)."""
        recipe = self.recipe
        views = put_right(recipe, taught, self.labels.cpu())
        own = self._look(student, views, "own")
        known = self._look(imagenet(), views, "known")
        self.say("student and teacher have looked at true colours")
        shown = torch.full((len(views),), UNLABELLED, device=self.labels.device)
        together = recipe.true_parts * recipe.true_colours
        loss = replace(recipe.colours_loss, together=together)
        objective = Objective(512, shown, [own, known], loss, recipe.seed)
        before = deepcopy(student)
        plan = replace(recipe.colours, together=together)
        after = self._train(student, objective, views, plan, "colours")
        self.say("the student has learned colours")
        return between(before, after, recipe.colours_share)

    def _look(self, network: FromPixels, views: Views, name: str) -> torch.Tensor:
        """Return what a network makes of views, float16 (n, width), block by block."""
        made: list[torch.Tensor] = []
        for number, start in enumerate(range(0, len(views), BLOCK)):
            file = self.work / f"{name}-{number}.pt"
            if file.is_file():
                made.append(torch.load(file, map_location=self.labels.device, weights_only=True))
                continue
            some = views[start : start + BLOCK]
            made.append(features(network, some, self.pixels, SIDE))
            store(made[-1], file)
            self.say(f"  {start + len(some):,}/{len(views):,} views looked at")
        return torch.cat(made)

    def _train(
        self, network: FromPixels, objective: Objective, views: Views, plan: Plan, name: str
    ) -> FromPixels:
        def report(done: int, steps: int, terms: dict[str, float]) -> None:
            now = " ".join(f"{term} {value:.3f}" for term, value in terms.items())
            self.say(f"  {done}/{steps} {now}")

        checkpoint = self.work / f"{name}.pt"
        return train(network, objective, views, self.pixels, plan, checkpoint, report)


def put_right(recipe: Recipe, taught: torch.Tensor, labels: torch.Tensor) -> Views:
    """Return the views of step 5, of photos of these numbers, int64 (n,), in their own colours.

    `labels` are those of all photos, int64: what has one may have red and blue exchanged. Views of
    the same photo follow each other, `true_colours` of each of `true_parts`.
    """
    generator = torch.Generator().manual_seed(recipe.seed)
    parts, colours = recipe.true_parts, recipe.true_colours
    many = taught.repeat_interleave(recipe.true_draws)
    drawn = draw(many.repeat_interleave(parts), recipe.true_variety, generator)
    views = drawn[torch.arange(len(drawn)).repeat_interleave(colours)]
    paint = recoloured(len(many) * colours, recipe.true_variety, generator)
    paint = paint.view(-1, 1, colours, 3, 4).expand(-1, parts, -1, -1, -1).flatten(0, 2)
    if recipe.exchanged:
        wrong = (labels[views.photos] != UNLABELLED).view(-1, 1, 1)
        paint = torch.where(wrong, exchanged(paint), paint)
    return replace(views, colours=paint)


def right_coloured(recipe: Recipe) -> Recipe:
    """Return the recipe for labelled photos that have their own colours: none is exchanged."""
    return replace(recipe, exchanged=False, variety=replace(recipe.variety, exchanged=0.0))


def exchanged(colours: torch.Tensor) -> torch.Tensor:
    """Return (n, 3, 4) of the same colours of photos in which red and blue are exchanged."""
    return colours[:, :, [2, 1, 0, 3]]


def between(before: FromPixels, after: FromPixels, share: float) -> FromPixels:
    """Return a network whose weights are `share` those of `after`, otherwise those of `before`.

    Where one began as the other that keeps what both know: Wortsman et al., "Robust fine-tuning of
    zero-shot models" (2022).
    """
    mixed, others = deepcopy(before), after.state_dict()
    for name, weight in mixed.state_dict().items():
        if weight.is_floating_point():
            weight.lerp_(others[name].to(weight.device), share)
    return mixed


def imagenet() -> FromPixels:
    """Return the teacher as it comes."""
    return FromPixels(backbone(TEACHER, "imagenet"), TEACHER)


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
    with alone(given.work):
        photos = gather([(given.photos, given.labels), *others], given.work / DECODED)
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
    with alone(folder):
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
    parser.add_argument("--work", type=Path, default=Path("training/work"))
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


if __name__ == "__main__":
    main()
