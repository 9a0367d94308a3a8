"""Photos held out: which they are, and what a network is worth on them."""

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from lookalike.files import new_file
from lookalike.images import SIDE
from lookalike.models.networks import FromPixels
from lookalike.progress import progress_line
from lookalike.training.photos import UNLABELLED, Photos, Pixels
from lookalike.untrusted import read_json

MOST = 10_000
"""Photos that are measured with, of all that are held out: each is compared with all others."""

_SEVERAL = 10  # photos of a class, where it has them, of which each should find the others
_WHOLE = 10  # classes from which on whole ones are held out
_BLOCK = 512


@dataclass(frozen=True)
class HeldOut:
    """What weights are worth on photos that they did not learn from.

    Each of these `photos`, `MOST` at most, of so many `classes`, is searched among the others: R@1
    and P@5 `before` and `after`. Where the classes are `whole`, none of their photos was learned
    from.
    """

    photos: int
    classes: int
    whole: bool
    before: dict[str, float]
    after: dict[str, float]


def hold_out(
    labels: npt.NDArray[np.int64], share: float, seed: int
) -> tuple[npt.NDArray[np.int64], bool]:
    """Draw the photos not to learn from, by labels (n,); say whether they are whole classes.

    They are int64 (k,), rising. Two photos each of two classes or more are left to learn from, and
    as many are held out: else none are.
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
        return np.flatnonzero(np.isin(labels, numbers[drawn])), True
    some = []
    for number, count in zip(numbers, counts, strict=True):
        if count >= 4:
            wanted = min(max(2, round(share * count)), count - 2, MOST // len(several))
            some.append(rng.choice(np.flatnonzero(labels == number), wanted, replace=False))
    return (np.sort(np.concatenate(some)), False) if len(some) >= 2 else (none, False)


def sampled(
    labels: npt.NDArray[np.int64], kept: npt.NDArray[np.int64], seed: int
) -> npt.NDArray[np.int64]:
    """Return at most `MOST` of the photos held out, `kept`, by the labels of all photos (n,).

    Both are int64 (k,), rising. Those of a class come several together, so that they can find each
    other; large classes do not crowd out small ones. From `seed` follows what is drawn.
    """
    if len(kept) <= MOST:
        return kept
    rng = np.random.default_rng(seed)
    drawn = rng.permutation(kept)
    drawn = drawn[np.argsort(labels[drawn], kind="stable")]
    _, starts, counts = np.unique(labels[drawn], return_index=True, return_counts=True)
    taken = np.minimum(counts, max(MOST // len(counts), _SEVERAL))  # of each class
    order = rng.permutation(len(counts))
    taken[order[np.cumsum(taken[order]) > MOST]] = 0
    places = np.arange(len(drawn)) - np.repeat(starts, counts)  # of photos in their class
    return np.sort(drawn[places < np.repeat(taken, counts)])


def once(file: Path, measure: Callable[[], dict[str, float] | None]) -> dict[str, float] | None:
    """Measure R@1 and P@5, and keep them in `file`; return what is kept there already.

    Raises `OSError` where they cannot be kept.
    """
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):  # none there, or damaged
        kept = read_json(file)
        return {name: float(kept[name]) for name in ("R@1", "P@5")}
    if found := measure():
        with new_file(file) as part:
            part.write_text(json.dumps(found))
    return found


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
