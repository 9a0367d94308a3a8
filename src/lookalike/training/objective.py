"""What a network is to learn: its labels apart, and near what a teacher has near."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from lookalike.training.photos import UNLABELLED


@dataclass(frozen=True)
class LossWeights:
    """What each term of the objective counts, and the temperatures they are taken at.

    `shares` are what the cosines of each teacher count in the relations; they add up to 1.
    `within` is what relations count among the views that are looked at `together`. `temperature` is
    that of the labels; those of both relations have names of their own.
    """

    labels: float = 1.0
    imitation: float = 4.0
    relations: float = 1.0
    shares: tuple[float, ...] = (1.0,)
    within: float = 0.0
    together: int = 1
    temperature: float = 0.06
    relation_temperature: float = 0.05
    within_temperature: float = 0.02
    smoothing: float = 0.1


class Proxies(nn.Module):
    """A direction for each class; a feature's cosine to its own should beat those to all others.

    Normalised softmax: Zhai, Wu, "Classification is a strong baseline for deep metric learning"
    (2019).
    """

    def __init__(self, classes: int, width: int, temperature: float, smoothing: float) -> None:
        super().__init__()
        self.directions = nn.Parameter(torch.randn(classes, width) * 0.05)
        self._temperature, self._smoothing = temperature, smoothing

    def forward(self, unit: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Take features of length 1, (n, width), and their labels, `UNLABELLED` for none."""
        cosines = unit @ functional.normalize(self.directions, dim=1).T
        return functional.cross_entropy(
            cosines / self._temperature,
            labels,
            ignore_index=UNLABELLED,
            label_smoothing=self._smoothing,
            reduction="sum",
        ) / (labels != UNLABELLED).sum().clamp(min=1)


class Imitation(nn.Module):
    """What a linear map makes of a feature should point where the teacher's does.

    Hinton, Vinyals, Dean, "Distilling the knowledge in a neural network" (2015); of features, as in
    Romero et al., "FitNets" (2015).
    """

    def __init__(self, width: int, taught: int) -> None:
        super().__init__()
        self.map = nn.Sequential(nn.BatchNorm1d(width), nn.Linear(width, taught))

    def forward(self, features: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Take features (n, width) and the teacher's, centred and of length 1, (n, taught)."""
        return (1 - functional.cosine_similarity(self.map(features), targets, dim=1)).mean()


def relations(unit: torch.Tensor, targets: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return how far the neighbours of each feature, among n, are from the teacher's.

    The Kullback-Leibler divergence between softmaxes of cosines to the others: Abbasi Koohpayegani
    et al., "CompRess" (2020); Park et al., "Relational knowledge distillation" (2019). Both are
    (..., n, width), of length 1.
    """
    itself = torch.eye(unit.shape[-2], dtype=torch.bool, device=unit.device)

    def others(of: torch.Tensor) -> torch.Tensor:
        return functional.log_softmax((of @ of.mT / temperature).masked_fill(itself, -1e4), dim=-1)

    divergence = functional.kl_div(others(unit), others(targets), log_target=True, reduction="none")
    return divergence.sum(-1).mean()


class Objective(nn.Module):
    """All of it: the label of each view, int64 (views,), and what teachers make of each.

    `targets` are (views, taught) each; relations are those of as many as
    `shares` are named for; the others are only imitated.
    """

    def __init__(
        self,
        width: int,
        labels: torch.Tensor,
        targets: list[torch.Tensor],
        loss: LossWeights,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self._labels = labels
        self._targets = [Targets.of(features) for features in targets]
        self._loss = loss
        classes = max(int(labels.max()) + 1, 1)
        with torch.random.fork_rng(devices=[]):  # the caller's own numbers stay as they are
            torch.default_generator.manual_seed(seed)
            self.proxies = Proxies(classes, width, loss.temperature, loss.smoothing)
            self.imitations = nn.ModuleList(Imitation(width, of.shape[1]) for of in targets)

    def forward(self, features: torch.Tensor, views: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return each term, weighted, for the features float32 (n, width) of these views (n,)."""
        unit, loss = functional.normalize(features, dim=1), self._loss
        terms = {"labels": loss.labels * self.proxies(unit, self._labels[views])}
        taught = zip(self.imitations, self._targets, strict=True)
        for number, (imitate, targets) in enumerate(taught):
            nearness = imitate(features, targets.centred(views))
            terms[f"imitation {number + 1}"] = loss.imitation * nearness
        if self._targets and (loss.relations or loss.within):
            shared = zip(loss.shares, self._targets, strict=False)
            joint = torch.cat([share**0.5 * of.unit(views) for share, of in shared], dim=1)
            if loss.relations:
                near = relations(unit, joint, loss.relation_temperature)
                terms["relations"] = loss.relations * near
            if loss.within:
                own, known = (of.view(-1, loss.together, of.shape[1]) for of in (unit, joint))
                terms["within"] = loss.within * relations(own, known, loss.within_temperature)
        return terms


@dataclass(frozen=True)
class Targets:
    """What a teacher makes of each view, float16 (views, taught), and the mean of it."""

    features: torch.Tensor
    mean: torch.Tensor

    @classmethod
    def of(cls, features: torch.Tensor) -> "Targets":
        """Keep the features at length 1."""
        unit = functional.normalize(features.float(), dim=1)
        return cls(unit.half(), unit.mean(0))

    def unit(self, views: torch.Tensor) -> torch.Tensor:
        """Return those of some views, of length 1."""
        return functional.normalize(self.features[views].float(), dim=1)

    def centred(self, views: torch.Tensor) -> torch.Tensor:
        """Return their differences from the mean: most of what is common to all says nothing."""
        return functional.normalize(self.features[views].float() - self.mean, dim=1)
