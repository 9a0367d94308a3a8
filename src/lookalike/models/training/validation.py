"""Hold photos out of training, and measure retrieval on them."""

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from lookalike.images import SIDE
from lookalike.models.networks import FromPixels
from lookalike.models.training.dataset import UNLABELLED, Photos, Pixels
from lookalike.system.files import new_file
from lookalike.system.progress import progress_line
from lookalike.system.untrusted import read_json

MAX_MEASURED_PHOTOS = 10_000
"""Photos measured of those held out: each is compared with all others."""

_MIN_CLASS_PHOTOS = 10  # measured of a class, if it has them, so that they find each other
_MIN_CLASSES_TO_HOLD_OUT = 10  # with fewer classes, photos of each class are held out
_BLOCK_PHOTOS = 512


@dataclass(frozen=True)
class HeldOut:
    """Retrieval on photos held out of training: each is searched among the others.

    Attributes
    ----------
    photos, classes
        How many were measured, `MAX_MEASURED_PHOTOS` at most.
    whole
        Whether whole classes were held out.
    before, after
        R@1 and P@5 before and after training.
    """

    photos: int
    classes: int
    whole: bool
    before: dict[str, float]
    after: dict[str, float]


def hold_out(
    labels: npt.NDArray[np.int64], share: float, seed: int
) -> tuple[npt.NDArray[np.int64], bool]:
    """Draw the photos to hold out.

    At least two photos each of two classes are held out, and as many remain for training;
    otherwise none are held out.

    Parameters
    ----------
    labels
        (n,), `UNLABELLED` for none.
    share
        Of the classes, or of the photos of each class if there are few classes.
    seed
        Random seed.

    Returns
    -------
    kept
        int64 (k,), in rising order.
    whole
        Whether they are whole classes.
    """
    numbers, counts = np.unique(labels[labels != UNLABELLED], return_counts=True)
    rng = np.random.default_rng(seed)
    none = np.zeros(0, np.int64)
    if not share:
        return none, False
    pairs = np.flatnonzero(counts >= 2)
    if len(pairs) >= _MIN_CLASSES_TO_HOLD_OUT:
        wanted = min(max(2, round(share * len(pairs))), len(pairs) - 2)
        drawn = rng.permutation(pairs)[:wanted]
        return np.flatnonzero(np.isin(labels, numbers[drawn])), True
    some = []
    for number, count in zip(numbers, counts, strict=True):
        if count >= 4:
            wanted = min(max(2, round(share * count)), count - 2, MAX_MEASURED_PHOTOS // len(pairs))
            some.append(rng.choice(np.flatnonzero(labels == number), wanted, replace=False))
    return (np.sort(np.concatenate(some)), False) if len(some) >= 2 else (none, False)


def sample_measured(
    labels: npt.NDArray[np.int64], kept: npt.NDArray[np.int64], seed: int
) -> npt.NDArray[np.int64]:
    """Draw at most `MAX_MEASURED_PHOTOS` of the photos held out.

    Several photos of a class are drawn together, so that they can find each other. Large classes
    do not crowd out small ones.

    Parameters
    ----------
    labels
        Of all photos, (n,).
    kept
        The photos held out, int64 (k,), in rising order.
    seed
        Random seed.

    Returns
    -------
    int64 (m,), in rising order.
    """
    if len(kept) <= MAX_MEASURED_PHOTOS:
        return kept
    rng = np.random.default_rng(seed)
    drawn = rng.permutation(kept)
    drawn = drawn[np.argsort(labels[drawn], kind="stable")]
    _, starts, counts = np.unique(labels[drawn], return_index=True, return_counts=True)
    taken = np.minimum(counts, max(MAX_MEASURED_PHOTOS // len(counts), _MIN_CLASS_PHOTOS))
    order = rng.permutation(len(counts))
    taken[order[np.cumsum(taken[order]) > MAX_MEASURED_PHOTOS]] = 0
    places = np.arange(len(drawn)) - np.repeat(starts, counts)  # within their class
    return np.sort(drawn[places < np.repeat(taken, counts)])


def measure_once(
    file: Path, measure: Callable[[], dict[str, float] | None]
) -> dict[str, float] | None:
    """Return R@1 and P@5 from `file`, or measure them and write them there.

    Raises `OSError` if the file cannot be written.
    """
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):  # missing or damaged
        kept = read_json(file)
        return {name: float(kept[name]) for name in ("R@1", "P@5")}
    if found := measure():
        with new_file(file) as part:
            part.write_text(json.dumps(found))
    return found


def measure(
    network: FromPixels, photos: Photos, kept: npt.NDArray[np.int64], pixels: Pixels, batch: int
) -> dict[str, float] | None:
    """Return R@1 and P@5 of the photos held out among each other; None if there are none."""
    if not len(kept):
        return None
    which = torch.from_numpy(kept)
    blocks = []
    with progress_line("measuring", "photos") as move:
        for start in range(0, len(which), _BLOCK_PHOTOS):
            block = which[start : start + _BLOCK_PHOTOS]
            blocks.append(embed(network, block, pixels, SIDE, min(batch, 128)))
            move(min(start + _BLOCK_PHOTOS, len(which)), len(which))
    figures = retrieval(torch.cat(blocks), torch.from_numpy(photos.labels[kept]))
    return {name: round(figure, 4) for name, figure in figures.items()}


@torch.no_grad()
def embed(
    network: FromPixels, photos: torch.Tensor, pixels: Pixels, side: int = SIDE, batch: int = 128
) -> torch.Tensor:
    """Return the embeddings of whole photos, float32 (n, width), of length 1."""
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
    """Return R@1 and P@5 among embeddings (n, width) of length 1, as `evaluation.by_label` does."""
    right = torch.zeros(2, dtype=torch.float64)
    for start in range(0, len(embeddings), 1024):
        near = embeddings[start : start + 1024] @ embeddings.T
        rows = torch.arange(len(near))
        near[rows, rows + start] = -2
        nearest = near.topk(min(5, len(embeddings) - 1)).indices.cpu()
        same = labels[nearest] == labels[start : start + 1024, None]
        right += torch.stack([same[:, 0].sum(), same.double().mean(1).sum()])
    return dict(zip(("R@1", "P@5"), (right / len(embeddings)).tolist(), strict=True))
