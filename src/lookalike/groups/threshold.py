"""A distance within which copies of an image lie, suggested from the collection itself.

Some of its images are changed as copies on their way through the world are, and embedded again: how
far they move says how far apart copies are. How far other images are says what that distance costs.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lookalike import images, search
from lookalike.embedding import ImageEmbedder, Vectors
from lookalike.errors import ImageError, LookalikeError
from lookalike.groups.variants import CHANGES, variant
from lookalike.progress import progress_line
from lookalike.search import Rows
from lookalike.storage import EmbeddingTable

DRAWN = 32  # images that are changed
_LOOKED_AT = 4 * DRAWN  # of which some may be gone
_ASKED = 256  # images whose neighbours are looked at
_FEW = 8  # images that have to be readable
_FOUND = 0.99  # of the copies, where pixels decide afterwards
_CROWD = 32  # neighbours an image that are then compared by their pixels, at most


@dataclass(frozen=True)
class Suggested:
    """A distance, with the shares of copies, and of images that have another one, within it."""

    within: float
    copies: float
    strangers: float

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {"copies_within": self.copies, "images_with_another_within": self.strangers}


def suggest(collection: EmbeddingTable, verified: bool, seed: int = 0) -> Suggested:
    """Suggest a distance for near-duplicates.

    Where pixels decide afterwards (`verified`), one that holds nearly all copies, while images have
    few others within it; else the one that separates copies from other images best. Raises
    `LookalikeError` where the photos cannot be read.
    """
    rows = Rows(collection.segments)
    if not len(rows):
        return Suggested(0.0, 1.0, 0.0)
    copies = _moved(collection, rows, seed)
    drawn = search.draw(len(rows), _ASKED, seed)
    squared, _ = search.exact_many(rows, rows.vectors(drawn), _CROWD + 2)
    others = np.sqrt(np.where(squared < search.COPY, np.inf, squared))
    nearest = np.sort(others, axis=1)
    if verified:
        crowd = nearest[:, min(_CROWD, nearest.shape[1] - 1)]
        within = min(float(np.quantile(copies, _FOUND)), float(np.median(crowd)))
    else:
        within = _separating(copies, nearest[:, 0])
    within = round(within, 3)
    return Suggested(
        within,
        round(float(np.mean(copies <= within)), 3),
        round(float(np.mean(nearest[:, 0] <= within)), 3),
    )


def _separating(copies: Vectors, others: Vectors) -> float:
    """Return the distance with most copies and fewest others within it (Youden's J)."""
    distances = np.sort(copies)
    within = np.arange(1, len(distances) + 1) / len(distances)
    return float(distances[np.argmax(within - np.mean(others[:, None] <= distances, axis=0))])


def _moved(collection: EmbeddingTable, rows: Rows, seed: int) -> Vectors:
    """Return how far changed images are from what they were, float32 (images x changes,)."""
    embed = ImageEmbedder(model=collection.model)
    distances: list[npt.NDArray[np.float32]] = []
    drawn = search.draw(len(rows), _LOOKED_AT, seed)
    paths = rows.paths.take(drawn).to_pylist()
    with progress_line("trying what copies look like", "images") as move:
        for number, at in enumerate(np.random.default_rng(seed).permutation(len(drawn))):
            if len(distances) == DRAWN:
                break
            move(len(distances), DRAWN)
            try:
                picture = images.decode(
                    images.read(collection.source, paths[at]), collection.source.truncated
                )
            except ImageError:
                continue
            changed = embed([variant(picture, change, number) for change in CHANGES])
            own = rows.vectors(drawn[at : at + 1])
            distances.append(np.linalg.norm(changed - own, axis=1))
    if len(distances) < min(_FEW, len(rows)) or not distances:
        raise LookalikeError(
            f"the photos below {collection.source.root} cannot be read: set `within`, or tell "
            "where they are now with `lookalike root`"
        )
    return np.concatenate(distances)


Around = list[tuple[str, str, float]]


def around(collection: EmbeddingTable, within: float, count: int) -> tuple[Around, Around]:
    """Return pairs of images as far apart as a distance: paths and distances of `count` or fewer.

    Those just within it and those just beyond, of drawn images with their nearest neighbours.
    """
    rows = Rows(collection.segments)
    if not len(rows):
        return [], []
    drawn = search.draw(len(rows), _ASKED)
    squared, found = search.exact_many(rows, rows.vectors(drawn), _CROWD + 2)
    distances = np.sqrt(np.maximum(squared, 0))
    who, place = np.nonzero((squared > search.COPY) & (found >= 0) & (drawn[:, None] < found))
    pairs = distances[who, place]
    order = np.argsort(np.abs(pairs - within))

    def some(chosen: npt.NDArray[np.bool_]) -> Around:
        at = order[chosen[order]][:count]
        ends = (drawn[who[at]], found[who[at], place[at]])
        paths = (rows.paths.take(end).to_pylist() for end in ends)
        return list(zip(*paths, map(float, pairs[at]), strict=True))

    return some(pairs <= within), some(pairs > within)
