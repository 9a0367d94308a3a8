"""Photos held out: which they are, and what a network is worth on them."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from lookalike.images import SIDE
from lookalike.models.networks import FromPixels
from lookalike.progress import progress_line
from lookalike.training.photos import UNLABELLED, Photos, Pixels

MOST = 10_000
"""Photos that are held out: each is compared with all others."""

_WHOLE = 10  # classes from which on whole ones are held out
_BLOCK = 512


@dataclass(frozen=True)
class HeldOut:
    """What weights are worth on photos that they did not learn from.

    Each of these `photos`, of so many `classes`, is searched among the others: R@1 and P@5
    `before` and `after`. Where the classes are `whole`, no photo of theirs was learned from.
    """

    photos: int
    classes: int
    whole: bool
    before: dict[str, float]
    after: dict[str, float]


def hold_out(
    labels: npt.NDArray[np.int64], share: float, seed: int
) -> tuple[npt.NDArray[np.int64], bool]:
    """Draw the photos to measure with, by their labels (n,); say whether they are whole classes.

    Two photos each of two classes or more are left to learn from, and as many are held out: else
    none are.
    """
    numbers, counts = np.unique(labels[labels != UNLABELLED], return_counts=True)
    rng = np.random.default_rng(seed)
    none = np.zeros(0, np.int64)
    if not share:
        return none, False
    several = np.flatnonzero(counts >= 2)
    if len(several) >= _WHOLE:
        wanted = min(max(2, round(share * len(several))), len(several) - 2)
        drawn = rng.permutation(several)[:wanted]
        fits = np.cumsum(counts[drawn]) <= MOST
        fits[:2] = True
        return np.flatnonzero(np.isin(labels, numbers[drawn[fits]])), True
    some = []
    for number, count in zip(numbers, counts, strict=True):
        if count >= 4:
            wanted = min(max(2, round(share * count)), count - 2, MOST // len(numbers))
            some.append(rng.choice(np.flatnonzero(labels == number), wanted, replace=False))
    return (np.sort(np.concatenate(some)), False) if len(some) >= 2 else (none, False)


def measure(
    network: FromPixels, photos: Photos, kept: npt.NDArray[np.int64], pixels: Pixels, batch: int
) -> dict[str, float] | None:
    """Return R@1 and P@5 of the photos held out among each other, None where there are none."""
    if not len(kept):
        return None
    which = torch.from_numpy(kept)
    made = []
    with progress_line("measuring", "photos") as move:
        for start in range(0, len(which), _BLOCK):
            some = which[start : start + _BLOCK]
            made.append(embed(network, some, pixels, SIDE, min(batch, 128)))
            move(min(start + _BLOCK, len(which)), len(which))
    figures = retrieval(torch.cat(made), torch.from_numpy(photos.labels[kept]))
    return {name: round(figure, 4) for name, figure in figures.items()}


@torch.no_grad()
def embed(
    network: FromPixels, photos: torch.Tensor, pixels: Pixels, side: int = SIDE, batch: int = 128
) -> torch.Tensor:
    """Return the embeddings of photos as they are, float32 (n, width), of length 1."""
    network = network.to(pixels.device).eval()
    made = []
    for some in photos.split(batch):  # type: ignore[no-untyped-call]
        images = pixels[some].permute(0, 3, 1, 2)
        small = functional.interpolate(
            images.float(), (side, side), mode="bilinear", antialias=True, align_corners=False
        )
        made.append(functional.normalize(network.of_images(small.round()).float(), dim=1))
    return torch.cat(made)


def retrieval(embeddings: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """Return R@1 and P@5, as `evaluate.by_label`, of embeddings of length 1 among each other."""
    right = torch.zeros(2, dtype=torch.float64)
    for start in range(0, len(embeddings), 1024):
        near = embeddings[start : start + 1024] @ embeddings.T
        rows = torch.arange(len(near))
        near[rows, rows + start] = -2
        nearest = near.topk(min(5, len(embeddings) - 1)).indices.cpu()
        same = labels[nearest] == labels[start : start + 1024, None]
        right += torch.stack([same[:, 0].sum(), same.double().mean(1).sum()])
    return dict(zip(("R@1", "P@5"), (right / len(embeddings)).tolist(), strict=True))
