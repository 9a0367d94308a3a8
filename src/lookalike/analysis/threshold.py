"""Suggest a distance for near-duplicates from the images of the collection.

Some images are changed as copies usually are, and embedded again: their distances to the originals
are those of copies. The distances of other images show what the threshold costs.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lookalike import images
from lookalike.errors import ImageError, LookalikeError
from lookalike.images.perturbations import CHANGES, variant
from lookalike.models.embedder import ImageEmbedder
from lookalike.search import exact
from lookalike.search.rows import Rows, copy_limits, draw
from lookalike.storage import EmbeddingTable
from lookalike.system.arrays import Vectors
from lookalike.system.progress import progress_line

CHANGED_IMAGES = 32
_MAX_TRIED_IMAGES = 4 * CHANGED_IMAGES  # some may be unreadable
_SAMPLE_QUERIES = 256
_MIN_READABLE_IMAGES = 8
_COPY_SHARE = 0.99  # of the copies lie within the distance, where pixels are verified
_MAX_CANDIDATES = 32  # neighbours per image whose pixels are then compared


@dataclass(frozen=True)
class Suggested:
    """A distance, the share of copies within it, and of images with another image within it."""

    within: float
    copies: float
    strangers: float

    def to_dict(self) -> dict[str, Any]:
        """Return the figures for JSON."""
        return {"copies_within": self.copies, "images_with_another_within": self.strangers}


def suggest(table: EmbeddingTable, verified: bool, seed: int = 0) -> Suggested:
    """Suggest a distance for near-duplicates.

    Where pixels are verified, the distance includes nearly all copies and few other images; else it
    separates copies from other images best.

    Parameters
    ----------
    table : EmbeddingTable
    verified : bool
    seed : int

    Raises
    ------
    LookalikeError
        Where the photos are unreadable.
    """
    if not table.has_network:
        raise LookalikeError(
            f"{table.path} has no network, which would say how near copies are: set `within`"
        )
    rows = Rows(table.segments)
    if not len(rows):
        return Suggested(0.0, 1.0, 0.0)
    copies = _copy_distances(table, rows, seed)
    drawn = draw(len(rows), _SAMPLE_QUERIES, seed)
    squared, _ = exact.exact_many(rows, rows.vectors(drawn), _MAX_CANDIDATES + 2)
    others = np.sqrt(np.where(squared < copy_limits(rows.vectors(drawn)), np.inf, squared))
    nearest = np.sort(others, axis=1)
    if verified:
        crowd = nearest[:, min(_MAX_CANDIDATES, nearest.shape[1] - 1)]
        within = min(float(np.quantile(copies, _COPY_SHARE)), float(np.median(crowd)))
    else:
        within = _best_threshold(copies, nearest[:, 0])
    within = round(within, 3)
    return Suggested(
        within,
        round(float(np.mean(copies <= within)), 3),
        round(float(np.mean(nearest[:, 0] <= within)), 3),
    )


def _best_threshold(copies: Vectors, others: Vectors) -> float:
    """Return the distance that separates copies from others best, by Youden's J."""
    distances = np.sort(copies)
    within = np.arange(1, len(distances) + 1) / len(distances)
    return float(distances[np.argmax(within - np.mean(others[:, None] <= distances, axis=0))])


def _copy_distances(table: EmbeddingTable, rows: Rows, seed: int) -> Vectors:
    """Return the distances of changed images to the originals: float32 (images * changes,)."""
    embed = ImageEmbedder(model=table.model)
    distances: list[npt.NDArray[np.float32]] = []
    drawn = draw(len(rows), _MAX_TRIED_IMAGES, seed)
    paths = rows.paths.take(drawn).to_pylist()
    with progress_line("measuring distances of copies", "images") as move:
        for number, at in enumerate(np.random.default_rng(seed).permutation(len(drawn))):
            if len(distances) == CHANGED_IMAGES:
                break
            move(len(distances), CHANGED_IMAGES)
            try:
                picture = images.decode(
                    images.read(table.source, paths[at]), table.source.truncated
                )
            except ImageError:
                continue
            changed = embed([variant(picture, change, number) for change in CHANGES])
            own = rows.vectors(drawn[at : at + 1])
            distances.append(np.linalg.norm(changed - own, axis=1))
    if len(distances) < min(_MIN_READABLE_IMAGES, len(rows)) or not distances:
        raise LookalikeError(
            f"the photos below {table.source.root} cannot be read: set `within`, or tell "
            "where they are now with `lookalike root`"
        )
    return np.concatenate(distances)


Pairs = list[tuple[str, str, float]]


def pairs_around(table: EmbeddingTable, within: float, count: int) -> tuple[Pairs, Pairs]:
    """Return `count` pairs of images just within a distance, and as many just beyond.

    The pairs, two paths and a distance, are of drawn images with their nearest neighbours.
    """
    rows = Rows(table.segments)
    if not len(rows):
        return [], []
    drawn = draw(len(rows), _SAMPLE_QUERIES)
    queries = rows.vectors(drawn)
    squared, found = exact.exact_many(rows, queries, _MAX_CANDIDATES + 2)
    distances = np.sqrt(np.maximum(squared, 0))
    who, place = np.nonzero(
        (squared > copy_limits(queries)) & (found >= 0) & (drawn[:, None] < found)
    )
    pairs = distances[who, place]
    order = np.argsort(np.abs(pairs - within))

    def some(chosen: npt.NDArray[np.bool_]) -> Pairs:
        at = order[chosen[order]][:count]
        ends = (drawn[who[at]], found[who[at], place[at]])
        paths = (rows.paths.take(end).to_pylist() for end in ends)
        return list(zip(*paths, map(float, pairs[at]), strict=True))

    return some(pairs <= within), some(pairs > within)
