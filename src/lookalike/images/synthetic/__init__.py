"""Photo-like drawings of cars, in the layout of the Stanford Cars data set.

The demo and the tests use them, because photographs of others may not be distributed.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

from lookalike.images.synthetic.designs import CLASSES
from lookalike.images.synthetic.photo import Box, snapshot

_DUPLICATE_SHARE = 0.05  # of photos are altered copies of the previous one of their class


@dataclass(frozen=True)
class DrawnCollection:
    """The files that `draw_collection` wrote."""

    photos: Path
    """The folder of labelled photos."""
    labels: Path
    """The CSV file of their labels, with the columns of Stanford Cars."""
    new: Path
    """The folder of photos without labels, to search with."""


def draw_collection(
    out: Path, *, images: int = 640, held_out: int = 16, seed: int = 0
) -> DrawnCollection:
    """Draw cars in the layout of the Stanford Cars data set.

    The classes take turns. Every photo has its own random numbers, so that it does not depend on
    the number of photos.

    Parameters
    ----------
    out
        The folder to write into.
    images
        Number of labelled photos.
    held_out
        Number of further photos, without labels, to search with.
    seed
        Random seed. The same seed draws the same photos.

    Returns
    -------
    DrawnCollection
        Where the photos and the labels are.

    Examples
    --------
    >>> drawn = draw_collection(Path("cars"), images=3, held_out=1)  # doctest: +SKIP
    >>> sorted(photo.name for photo in drawn.photos.iterdir())  # doctest: +SKIP
    ['00001.jpg', '00002.jpg', '00003.jpg']

    """
    drawn = DrawnCollection(out / "cars_train", out / "cardatasettrain.csv", out / "new")
    drawn.photos.mkdir(parents=True, exist_ok=True)
    drawn.new.mkdir(exist_ok=True)
    with drawn.labels.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("", "x1", "y1", "x2", "y2", "Class", "image"))
        for index in range(images):
            photo, box = _picture(seed, index, new=False)
            name = f"{index + 1:05}.jpg"
            photo.save(drawn.photos / name, quality=75 + 5 * index % 17)
            rows.writerow((index, *box, CLASSES[index % len(CLASSES)], name))
    for index in range(held_out):
        photo, _ = _picture(seed, index, new=True)
        label = CLASSES[index % len(CLASSES)].replace(" ", "-")
        photo.save(drawn.new / f"{label}-{index + 1:02}.jpg", quality=90)
    return drawn


def _picture(seed: int, index: int, new: bool) -> tuple[Image.Image, Box]:
    """Draw a labelled photo or a new one; return it with the box around its car."""
    rng = np.random.default_rng((seed, int(new), index))
    if new or index < len(CLASSES) or rng.random() >= _DUPLICATE_SHARE:
        return snapshot(CLASSES[index % len(CLASSES)], rng)
    photo, (x1, y1, x2, y2) = _picture(seed, index - len(CLASSES), new)
    left, top = (int(side * rng.uniform(0, 0.05)) for side in photo.size)
    right, bottom = (int(side * rng.uniform(0.95, 1)) for side in photo.size)
    cropped = ImageEnhance.Brightness(photo.crop((left, top, right, bottom)))
    box = max(x1 - left, 0), max(y1 - top, 0), min(x2, right) - left, min(y2, bottom) - top
    return cropped.enhance(rng.uniform(0.85, 1.2)), box
