"""Where each image goes: t-SNE, by openTSNE, from the nearest neighbours of each.

Figures are of 4,053 photos of 98 kinds of car and of 50,000 crops of such (these with the first
weights, cars-1), on 2 cores; the docs have the commands. Of the 10 nearest neighbours of an image
65 and 70 % are among the 10 nearest on the map, 89 and 83 % among the 30 nearest; on the two
leading directions alone 6 and 1 %.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import faiss
import numpy as np
import numpy.typing as npt

from lookalike.embedding import Vectors
from lookalike.extras import require
from lookalike.hashing.cells import ROTATION_SAMPLE_ROWS, Rotation
from lookalike.search import Numbers, Rows, draw
from lookalike.spark import cores

Points: TypeAlias = npt.NDArray[np.float32]
Move: TypeAlias = Callable[[float, str], None]
"""Hears how far it is, from 0 to 1, and with what."""

MOST = 50_000
"""Images at most; of more, so many are drawn."""
DIRECTIONS = 128
"""Neighbours are looked for along the leading ones: that takes a third of the time of all 512, and
as many true neighbours are near on the map (within 1 %)."""
NEIGHBORS = 15
PERPLEXITY = 10
"""Less keeps fewer neighbours (5: 62 %). 90 neighbours and 30 keep as many, 90 % among the 30
nearest."""
FEW = 50
"""Different images up to which the two leading directions do."""
_STEPS = ((125, 12.0), (250, 1.0))
"""Iterations, and how much harder alike ones pull meanwhile. Twice as many change nothing; with 1.5
at the end clusters are tighter, and of the 10 nearest 64 % are kept."""
_BOX = 2
"""Side of the boxes that repulsion is taken from. With 1, openTSNE's own, the last iterations take
five times as long, and 66 % are kept; 3 is no quicker."""
_BOXES_FROM = 3000  # images: with fewer, Barnes and Hut's tree is quicker than boxes
_BLOCK = 2048  # rows at a time
_INSIDE = 0.95  # of the way to the border lie all but the outermost
_OUTERMOST = 0.005  # of them on each side
_CHANGED = 0.1  # of a layout at most was placed later
_AROUND = 5  # neighbours that an image is placed between later


@dataclass(frozen=True)
class Layout:
    """Images on a map: `ids` int64 (n,), in the order of the rows; `points` float32 (n, 2).

    Both coordinates are within -1 and 1 and of one scale. `later` of the images came or went after
    the others had been laid out.
    """

    ids: Numbers
    points: Points
    later: int = 0


def drawn(ids: Numbers) -> Numbers:
    """Return the rows that are laid out, of those with these ids: int64 (at most `MOST`,), rising.

    Each id has its place in a random order, whichever others there are: a collection that grows by
    a tenth keeps nine tenths of what was drawn, which `search.draw` does not.
    """
    if len(ids) <= MOST:
        return np.arange(len(ids))
    # splitmix64: https://prng.di.unimi.it/splitmix64.c
    mixed = ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    return np.sort(np.argpartition(mixed, MOST)[:MOST])


def lay_out(rows: Rows, move: Move) -> Layout:
    """Lay out the rows of a collection, or `MOST` of them.

    The same rows are laid out the same, on one machine. Copies lie around each other in a spiral.
    50,000 images take 20 seconds on 2 cores that do nothing else, and 500 MB, which
    includes the vectors that are mapped.
    """
    some = drawn(rows.ids)
    ids = rows.ids[some]
    if not len(some):
        return Layout(ids, np.empty((0, 2), np.float32))
    turned, kind = _turned(rows, some)
    first = np.unique(kind, return_index=True)[1]
    spread = _flat(turned[first])
    if len(first) > FEW:
        spread = _placed(turned[first], spread, move)
    return Layout(ids, _within_bounds(spread[kind] + _spirals(kind, spread)))


def with_changes(rows: Rows, before: Layout) -> Layout | None:
    """Lay out rows of which nearly all are in an older layout: those stay where they are.

    Each other goes into the midst of those that are most like it. None if a tenth came or went
    since all were laid out.
    """
    some = drawn(rows.ids)
    ids = rows.ids[some]
    stays, at = np.intersect1d(ids, before.ids, return_indices=True)[1:]
    later = before.later + len(ids) + len(before.ids) - 2 * len(stays)
    if later > _CHANGED * len(ids):
        return None
    points = np.empty((len(ids), 2), np.float32)
    points[stays] = before.points[at]
    comes = np.setdiff1d(np.arange(len(ids)), stays)
    if len(comes):
        heap = faiss.ResultHeap(len(comes), min(_AROUND, len(stays)))
        queries = rows.vectors(some[comes])
        old = np.sort(stays)
        for start in range(0, len(old), _BLOCK):
            block = old[start : start + _BLOCK]
            squared, near = faiss.knn(queries, rows.vectors(some[block]), min(heap.k, len(block)))
            heap.add_result(squared, block[near])
        heap.finalize()
        # The middle one of each coordinate: the mean of two clusters would be far from both.
        points[comes] = np.median(points[heap.I], axis=1)
    return Layout(ids, points, later)


def _turned(rows: Rows, some: Numbers) -> tuple[Vectors, Numbers]:
    """Return the leading directions of some rows, (n, `DIRECTIONS`), and the kind of each, (n,).

    Copies are of one kind; kinds are counted from 0 as they come.
    """
    fit = some[draw(len(some), ROTATION_SAMPLE_ROWS)]
    rotation = Rotation.fit(rows.vectors(fit), DIRECTIONS)
    turned, seen = [], dict[bytes, int]()
    kind: list[int] = []
    for start in range(0, len(some), _BLOCK):
        vectors = np.ascontiguousarray(rows.vectors(some[start : start + _BLOCK]))
        turned.append(rotation(vectors))
        for vector in vectors:
            digest = hashlib.blake2b(vector.data, digest_size=16).digest()
            kind.append(seen.setdefault(digest, len(seen)))
    return np.concatenate(turned), np.array(kind)


def _flat(turned: Vectors) -> npt.NDArray[np.float64]:
    """Return the two leading directions of vectors (n, width), float64 (n, 2)."""
    centred = (turned - turned.mean(axis=0)).astype(np.float64)
    directions = np.linalg.eigh(centred.T @ centred)[1][:, :-3:-1]
    flat = np.zeros((len(turned), 2))
    flat[:, : directions.shape[1]] = centred @ directions
    return flat


def _placed(turned: Vectors, start: npt.NDArray[np.float64], move: Move) -> npt.NDArray[np.float64]:
    """Return points (n, 2) by t-SNE, from vectors (n, width) that all differ."""
    require("the map", "openTSNE")
    from openTSNE import TSNEEmbedding
    from openTSNE.affinity import PerplexityBasedNN
    from openTSNE.nearest_neighbors import PrecomputedNeighbors

    count = len(turned)
    comparing = count / (count + 2 * MOST)  # the share of the time that it takes
    near, distances = _neighbors(turned, lambda done: move(comparing * done, "comparing images"))
    affinities = PerplexityBasedNN(
        perplexity=PERPLEXITY, knn_index=PrecomputedNeighbors(near, distances), n_jobs=cores()
    )
    # Two that start at one point would stay there.
    start = start / max(float(start[:, 0].std()), 1e-12)
    start = (start + np.random.default_rng(0).normal(0, 0.01, start.shape)) * 1e-4
    total = sum(iterations for iterations, _ in _STEPS)
    done = 0
    embedding = TSNEEmbedding(
        start,
        affinities,
        negative_gradient_method="fft" if count >= _BOXES_FROM else "bh",
        ints_in_interval=_BOX,
        n_jobs=cores(),
        random_state=0,
        callbacks=lambda at, *_: move(
            comparing + (1 - comparing) * (done + at) / total, "placing images"
        ),
        callbacks_every_iters=10,
    )
    for iterations, exaggeration in _STEPS:
        embedding.optimize(iterations, exaggeration=exaggeration, momentum=0.8, inplace=True)
        done += iterations
    return np.asarray(embedding)


def _neighbors(turned: Vectors, move: Callable[[float], None]) -> tuple[Numbers, Vectors]:
    """Return the nearest other rows of each, (n, `NEIGHBORS`), and their distances."""
    near = np.empty((len(turned), NEIGHBORS), np.int64)
    distances = np.empty(near.shape, np.float32)
    for start in range(0, len(turned), _BLOCK):
        block = turned[start : start + _BLOCK]
        here = slice(start, start + len(block))
        squared, found = faiss.knn(block, turned, NEIGHBORS + 1)
        own = found == np.arange(start, start + len(block))[:, None]
        own[~own.any(axis=1), -1] = True  # where others are as near, any of them goes
        near[here] = found[~own].reshape(-1, NEIGHBORS)
        distances[here] = np.sqrt(squared[~own].clip(0)).reshape(-1, NEIGHBORS)
        move(here.stop / len(turned))
    return near, distances


def _spirals(kind: Numbers, spread: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return how far from its kind's place each copy lies, (n, 2): seeds of a sunflower.

    The first of a kind lies at its place. However many copies there are, their disc takes up no
    more than its share of the map.
    """
    order = np.argsort(kind, kind="stable")
    counts = np.bincount(kind)
    number = np.empty(len(kind))
    number[order] = np.arange(len(kind)) - np.repeat(np.cumsum(counts) - counts, counts)
    step = (float(np.ptp(spread, axis=0).max()) or 1) / 4 / len(kind) ** 0.5
    angle = number * np.pi * (3 - 5**0.5)
    away = step * np.sqrt(number)[:, None]
    return np.asarray(away * np.stack([np.cos(angle), np.sin(angle)], axis=1))


def _within_bounds(spread: npt.NDArray[np.float64]) -> Points:
    """Bring points to within -1 and 1, of which the outermost do not decide the scale."""
    low, high = np.quantile(spread, (_OUTERMOST, 1 - _OUTERMOST), axis=0)
    half = float((high - low).max()) / 2 or 1.0
    points = (spread - (low + high) / 2) / half * _INSIDE
    # Those beyond the border are drawn in to it, and keep their direction.
    points /= np.abs(points).max(axis=1, keepdims=True).clip(1)
    return np.asarray(points, np.float32)
