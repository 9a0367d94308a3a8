"""The steps of a recipe: a teacher who learns, a student who learns from it, and then colours.

`recipe.py` has the numbers, and runs them.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torchvision

from lookalike.models.networks import FromPixels, backbone
from lookalike.models.training.augmentation import Variety, Views, draw, recoloured
from lookalike.models.training.dataset import UNLABELLED, Pixels
from lookalike.models.training.losses import LossWeights, Objective
from lookalike.models.training.trainer import Plan, features, store, train

TEACHER = "efficientnet-lite0"
SIDE = 224
BLOCK = 8192  # views that a killed run has to look at again, at most
Say = Callable[[str], None]


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
