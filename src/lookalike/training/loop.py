"""The loop that trains: a schedule of sides and rates, an average of the weights, checkpoints."""

import pickle
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lookalike.errors import full_disk
from lookalike.files import new_file
from lookalike.models.networks import FromPixels
from lookalike.training.photos import Pixels
from lookalike.training.views import Variety, Views, recoloured

SAVED_EVERY = 20.0
"""Seconds of training that a killed run loses at most."""

Report = Callable[[int, int, dict[str, float]], None]
"""Takes the steps done, of how many, and the mean of each term since it was last called."""

_SHORT = "unexpected pos|failed writing"  # what PyTorch says of a full disk
_USUAL = Variety()


@dataclass(frozen=True)
class Plan:
    """How long, at what resolutions, how fast.

    `stages` are pairs of a side in pixels and how many views are looked at with it, `batch` at a
    time. `rate` is the learning rate at its highest, reached after the share `warm` of all steps;
    `new_rate` that of what is trained besides the network; `decay` the weight decay. The weights'
    exponential moving average has as its time constant the share `average` of all steps. `still`
    keeps the statistics of batch normalisation as they are, which suits a network that is trained
    already. Each look is in other colours, as `variety` says. Views are drawn in runs of `together`
    that follow each other; `batch` is a multiple of it. From `seed` follows what is drawn.
    """

    stages: Sequence[tuple[int, int]]
    batch: int = 256
    rate: float = 2e-3
    new_rate: float = 2e-3
    decay: float = 0.05
    average: float = 0.03
    warm: float = 0.05
    still: bool = False
    variety: Variety = _USUAL
    together: int = 1
    seed: int = 0

    @property
    def steps(self) -> int:
        """How many there are."""
        return sum(views // self.batch for _, views in self.stages)

    def sides(self) -> Iterator[int]:
        """Give the side of each step."""
        for side, views in self.stages:
            yield from [side] * (views // self.batch)

    def share(self, step: int) -> float:
        """Return the share of the learning rate at a step: up in a line, down in another."""
        done = (step + 0.5) / self.steps
        return min(done / self.warm, (1 - done) / (1 - self.warm))


def train(
    network: FromPixels,
    objective: nn.Module,
    views: Views,
    pixels: Pixels,
    plan: Plan,
    checkpoint: Path,
    report: Report = lambda done, steps, terms: None,
) -> FromPixels:
    """Train a network on views, drawn again and again; return the average of its weights.

    The network given is trained in place; the one returned is another, with the exponential moving
    average. What each step looks at follows from the plan's seed and the number of the step. A run
    that was stopped goes on from `checkpoint`, which stays for whoever asks again. Raises
    `LookalikeError` where the disk is full.
    """
    device = pixels.device
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    objective = objective.to(device)
    groups = _groups(network, objective, plan)
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99), fused=True)
    rates = [group["lr"] for group in optimizer.param_groups]
    keep = 1 - 1 / max(plan.average * plan.steps, 1)
    averaged = AveragedModel(
        network,
        multi_avg_fn=get_ema_multi_avg_fn(keep),  # type: ignore[no-untyped-call]
        use_buffers=True,
    )
    parts = {
        "network": network,
        "averaged": averaged,
        "optimizer": optimizer,
        "objective": objective,
    }
    asked = repr((plan, len(views)))
    done = _resume(checkpoint, parts, asked, device)
    views = views.to(device)
    network.train(not plan.still)
    sums: dict[str, torch.Tensor] = {}
    saved = reported = time.monotonic()
    since = 0
    for step, side in enumerate(plan.sides()):
        if step < done:
            continue
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * plan.share(step)
        which, colours = _drawn(step, len(views), plan)
        some = views[which.to(device)].in_colours(colours.to(device))
        images = some.render(pixels[some.photos], side)
        with _mixed(device):
            features = network.of_images(images.contiguous(memory_format=torch.channels_last))
        terms = objective(features.float(), which.to(device))
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        averaged.update_parameters(network)
        since += 1
        for name, term in terms.items():
            sums[name] = sums.get(name, 0) + term.detach()
        now = time.monotonic()
        if now - reported > 5 or step + 1 == plan.steps:
            report(step + 1, plan.steps, {name: float(of) / since for name, of in sums.items()})
            reported, sums, since = now, {}, 0
        if now - saved > SAVED_EVERY or step + 1 == plan.steps:
            _save(checkpoint, parts, asked, step + 1)
            saved = now
    return cast(FromPixels, averaged.module).eval()


@torch.no_grad()
def features(network: FromPixels, views: Views, pixels: Pixels, side: int) -> torch.Tensor:
    """Return what a network makes of views, float16 (n, width)."""
    device = pixels.device
    network = network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    views = views.to(device)
    made = []
    for start in range(0, len(views), 256):
        some = views[start : start + 256]
        images = some.render(pixels[some.photos], side).contiguous(
            memory_format=torch.channels_last
        )
        with _mixed(device):
            made.append(network.of_images(images).half())
    return torch.cat(made)


def _mixed(device: torch.device) -> torch.autocast:
    """Return what makes a network compute in bf16, on GPUs and on processors that have it."""
    return torch.autocast(device.type, torch.bfloat16, device.type != "cpu" or _has_bf16())


@cache
def _has_bf16() -> bool:
    import openvino  # PyTorch tells only of what it can emulate, slowly

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _drawn(step: int, views: int, plan: Plan) -> tuple[torch.Tensor, torch.Tensor]:
    """Return which views a step looks at, and in which colours."""
    generator = torch.Generator().manual_seed(plan.seed * 1_000_003 + step)
    groups = (plan.batch // plan.together,)
    first = plan.together * torch.randint(views // plan.together, groups, generator=generator)
    which = (first[:, None] + torch.arange(plan.together)).flatten()
    return which, recoloured(len(which), plan.variety, generator)


def _groups(network: nn.Module, objective: nn.Module, plan: Plan) -> list[dict[str, Any]]:
    """Share the parameters out: what is a bias or of one dimension has no weight decay."""
    own = list(network.parameters())
    new = list(objective.parameters())
    return [
        {"params": [p for p in own if p.ndim > 1], "lr": plan.rate, "weight_decay": plan.decay},
        {"params": [p for p in own if p.ndim <= 1], "lr": plan.rate, "weight_decay": 0.0},
        {"params": new, "lr": plan.new_rate, "weight_decay": 0.01},
    ]


def _resume(checkpoint: Path, parts: dict[str, Any], asked: str, device: torch.device) -> int:
    """Return how many steps are done; none where something else was asked for."""
    if not checkpoint.is_file():
        return 0
    try:
        kept = torch.load(checkpoint, map_location=device, weights_only=True)
        if kept["asked"] != asked:
            return 0
        done, states = int(kept["done"]), [kept[name] for name in parts]
    except (RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError):  # damaged
        return 0
    for part, state in zip(parts.values(), states, strict=True):
        part.load_state_dict(state)
    return done


def _save(checkpoint: Path, parts: dict[str, Any], asked: str, done: int) -> None:
    states = {name: part.state_dict() for name, part in parts.items()}
    store({**states, "asked": asked, "done": done}, checkpoint)


def store(tensors: object, file: Path) -> None:
    """Write tensors as `torch.save` does, whole or not at all; `LookalikeError` if a disk is full.

    `OSError` where the disk cannot be written otherwise.
    """
    try:
        with new_file(file) as part:
            torch.save(tensors, part)
    except RuntimeError as error:
        if not re.search(_SHORT, str(error)):
            raise
        raise full_disk(file) from None
