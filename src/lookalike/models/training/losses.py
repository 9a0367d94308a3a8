"""Losses: classification of labels, imitation of teachers, relations between features."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from lookalike.models.training.dataset import UNLABELLED


@dataclass(frozen=True)
class LossWeights:
    """Weights and temperatures of the terms of `Objective`.

    Attributes
    ----------
    labels, imitation, relations, within
        Weights of the terms. `within` is for relations among the views of a group.
    shares
        Weight of each teacher's cosines in the relations, with the sum 1.
    together
        Views of a group.
    temperature, relation_temperature, within_temperature
        Of the labels, the relations in a batch, and the relations in a group.
    smoothing
        Label smoothing.
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
    """Normalised softmax: a learned direction for each class, compared with features by cosine.

    Zhai, Wu, "Classification is a strong baseline for deep metric learning" (2019).
    """

    def __init__(self, classes: int, width: int, temperature: float, smoothing: float) -> None:
        super().__init__()
        self.directions = nn.Parameter(torch.randn(classes, width) * 0.05)
        self._temperature, self._smoothing = temperature, smoothing

    def forward(self, unit: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the loss of features (n, width) of length 1 with labels (n,)."""
        cosines = unit @ functional.normalize(self.directions, dim=1).T
        return functional.cross_entropy(
            cosines / self._temperature,
            labels,
            ignore_index=UNLABELLED,
            label_smoothing=self._smoothing,
            reduction="sum",
        ) / (labels != UNLABELLED).sum().clamp(min=1)


class Imitation(nn.Module):
    """Distillation: a linear map of a feature should have the direction of the teacher's feature.

    Hinton, Vinyals, Dean, "Distilling the knowledge in a neural network" (2015); of features, as in
    Romero et al., "FitNets" (2015).
    """

    def __init__(self, width: int, taught: int) -> None:
        super().__init__()
        self.map = nn.Sequential(nn.BatchNorm1d(width), nn.Linear(width, taught))

    def forward(self, features: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the loss of features (n, width) against centred teacher features (n, taught)."""
        return (1 - functional.cosine_similarity(self.map(features), targets, dim=1)).mean()


def relations(unit: torch.Tensor, targets: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return the divergence between neighbourhoods of features and of a teacher's features.

    It is the Kullback-Leibler divergence between softmaxes of cosines to the other features:
    Abbasi Koohpayegani et al., "CompRess" (2020); Park et al., "Relational knowledge distillation"
    (2019). Both arrays are (..., n, width), of length 1.
    """
    diagonal = torch.eye(unit.shape[-2], dtype=torch.bool, device=unit.device)

    def neighbourhood(vectors: torch.Tensor) -> torch.Tensor:
        logits = (vectors @ vectors.mT / temperature).masked_fill(diagonal, -1e4)
        return functional.log_softmax(logits, dim=-1)

    own, taught = neighbourhood(unit), neighbourhood(targets)
    divergence = functional.kl_div(own, taught, log_target=True, reduction="none")
    return divergence.sum(-1).mean()


class Objective(nn.Module):
    """The sum of all losses.

    Parameters
    ----------
    width
        Numbers in a feature.
    labels
        The label of each view, int64 (views,).
    targets
        Each teacher's features of all views, (views, taught). The first teachers, one for each of
        `loss.shares`, define relations; all are imitated.
    loss
        Weights of the terms.
    seed
        Random seed of the initialisation.
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
        with torch.random.fork_rng(devices=[]):  # keeps the caller's random state
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
    """A teacher's features of all views, float16 (views, taught), and their mean."""

    features: torch.Tensor
    mean: torch.Tensor

    @classmethod
    def of(cls, features: torch.Tensor) -> "Targets":
        """Normalise features to length 1."""
        unit = functional.normalize(features.float(), dim=1)
        return cls(unit.half(), unit.mean(0))

    def unit(self, views: torch.Tensor) -> torch.Tensor:
        """Return the features of some views, of length 1."""
        return functional.normalize(self.features[views].float(), dim=1)

    def centred(self, views: torch.Tensor) -> torch.Tensor:
        """Return the features minus their mean, which carries no information, of length 1."""
        return functional.normalize(self.features[views].float() - self.mean, dim=1)
