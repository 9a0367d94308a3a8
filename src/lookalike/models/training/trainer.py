"""The training loop: schedules of resolution and learning rate, weight averaging, checkpoints."""

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
from lookalike.models.networks import FromPixels
from lookalike.models.training.augmentation import Variety, Views, recoloured
from lookalike.models.training.dataset import Pixels
from lookalike.system.files import new_file

CHECKPOINT_SECONDS = 20.0
"""A killed run loses at most this much training."""

Report = Callable[[int, int, dict[str, float]], None]
"""Takes the finished steps, all steps, and the mean of each loss since the last call."""

_FULL_DISK_ERRORS = "unexpected pos|failed writing"  # PyTorch's
_DEFAULT_VARIETY = Variety()


@dataclass(frozen=True)
class Plan:
    """Hyperparameters of a training run.

    Attributes
    ----------
    stages
        Pairs of resolution, in pixels a side, and number of views.
    batch
        Views of a step, a multiple of `together`.
    rate
        Highest learning rate of the network.
    new_rate
        Highest learning rate of the losses' own parameters.
    decay
        Weight decay.
    average
        Time constant of the exponential moving average of weights, as a share of all steps.
    warm
        Warm-up, as a share of all steps.
    still
        Freeze the statistics of batch normalisation, for a network that is trained already.
    variety
        Range of the colours, which are drawn anew at each step.
    together
        Consecutive views that are drawn as a group.
    seed
        Random seed.
    """

    stages: Sequence[tuple[int, int]]
    batch: int = 256
    rate: float = 2e-3
    new_rate: float = 2e-3
    decay: float = 0.05
    average: float = 0.03
    warm: float = 0.05
    still: bool = False
    variety: Variety = _DEFAULT_VARIETY
    together: int = 1
    seed: int = 0

    @property
    def steps(self) -> int:
        """The number of steps."""
        return sum(views // self.batch for _, views in self.stages)

    def sides(self) -> Iterator[int]:
        """Yield the resolution of each step."""
        for side, views in self.stages:
            yield from [side] * (views // self.batch)

    def share(self, step: int) -> float:
        """Return the factor of the learning rate at a step: linear warm-up, linear decay."""
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
    """Train a network in place; return a copy with the exponential moving average of its weights.

    The views of a step depend on the plan's seed and the number of the step, so that a stopped run
    continues exactly from its checkpoint.

    Parameters
    ----------
    network
        The network, changed in place.
    objective
        Maps features and the numbers of their views to losses by name.
    views
        The views, drawn from again and again.
    pixels
        The photos.
    plan
        Hyperparameters.
    checkpoint
        A file to continue from, written at most `CHECKPOINT_SECONDS` apart. It stays.
    report
        Called every few seconds.

    Raises
    ------
    LookalikeError
        If the disk is full.
    """
    device = pixels.device
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    objective = objective.to(device)
    groups = _parameter_groups(network, objective, plan)
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
        which, colours = _draw_batch(step, len(views), plan)
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
        if now - saved > CHECKPOINT_SECONDS or step + 1 == plan.steps:
            _save(checkpoint, parts, asked, step + 1)
            saved = now
    return cast(FromPixels, averaged.module).eval()


@torch.no_grad()
def features(network: FromPixels, views: Views, pixels: Pixels, side: int) -> torch.Tensor:
    """Return the features of views at a resolution, float16 (n, width)."""
    device = pixels.device
    network = network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    views = views.to(device)
    blocks = []
    for start in range(0, len(views), 256):
        some = views[start : start + 256]
        images = some.render(pixels[some.photos], side).contiguous(
            memory_format=torch.channels_last
        )
        with _mixed(device):
            blocks.append(network.of_images(images).half())
    return torch.cat(blocks)


def _mixed(device: torch.device) -> torch.autocast:
    """Return a context that computes in bf16 on GPUs and on processors that support it."""
    return torch.autocast(device.type, torch.bfloat16, device.type != "cpu" or _has_bf16())


@cache
def _has_bf16() -> bool:
    import openvino  # PyTorch reports slow emulation as support

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _draw_batch(step: int, views: int, plan: Plan) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the numbers of the views of a step, and their colours."""
    generator = torch.Generator().manual_seed(plan.seed * 1_000_003 + step)
    groups = (plan.batch // plan.together,)
    first = plan.together * torch.randint(views // plan.together, groups, generator=generator)
    which = (first[:, None] + torch.arange(plan.together)).flatten()
    return which, recoloured(len(which), plan.variety, generator)


def _parameter_groups(network: nn.Module, objective: nn.Module, plan: Plan) -> list[dict[str, Any]]:
    """Group the parameters: biases and other 1-D parameters have no weight decay."""
    own = list(network.parameters())
    new = list(objective.parameters())
    return [
        {"params": [p for p in own if p.ndim > 1], "lr": plan.rate, "weight_decay": plan.decay},
        {"params": [p for p in own if p.ndim <= 1], "lr": plan.rate, "weight_decay": 0.0},
        {"params": new, "lr": plan.new_rate, "weight_decay": 0.01},
    ]


def _resume(checkpoint: Path, parts: dict[str, Any], asked: str, device: torch.device) -> int:
    """Load a checkpoint; return its number of finished steps, 0 if it belongs to another plan."""
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
    """Write tensors as `torch.save` does, completely or not at all.

    Raises `LookalikeError` if the disk is full, `OSError` if it cannot be written otherwise.
    """
    try:
        with new_file(file) as part:
            torch.save(tensors, part)
    except RuntimeError as error:
        if not re.search(_FULL_DISK_ERRORS, str(error)):
            raise
        raise full_disk(file) from None
