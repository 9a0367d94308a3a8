"""Place images on a map by t-SNE (openTSNE) of their nearest neighbours.

The figures are of 4,053 photos of 98 kinds of car and of 50,000 crops of such photos (these with
the first weights, cars-1), on 2 cores; the docs have the commands. Of the 10 nearest neighbours of
an image, 65 and 70 % are among the 10 nearest on the map, 89 and 83 % among the 30 nearest; on the
two leading directions alone 6 and 1 %.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import faiss
import numpy as np
import numpy.typing as npt

from lookalike.analysis.background import Move
from lookalike.search.cells import ROTATION_SAMPLE_ROWS, Rotation
from lookalike.search.rows import Rows, draw
from lookalike.system.arrays import Numbers, Vectors
from lookalike.system.extras import require
from lookalike.system.resources import cores

Points: TypeAlias = npt.NDArray[np.float32]
MAX_IMAGES = 100_000
"""Of a larger index this many images are drawn."""
DIRECTIONS = 128
"""Leading directions for the search for neighbours. This takes a third of the time of all 512, and
keeps as many true neighbours on the map (within 1 %)."""
TSNE_NEIGHBORS = 15
PERPLEXITY = 10
"""5 keeps fewer neighbours (62 %). 90 neighbours with perplexity 30 keep as many, 90 % among the 30
nearest."""
MAX_FLAT_IMAGES = 50
"""Up to this many different images the two leading directions replace t-SNE."""
_STEPS = ((125, 12.0), (250, 1.0))
"""Iterations and exaggeration. Twice as many iterations change nothing; a final exaggeration of 1.5
makes tighter clusters and keeps 64 % of the 10 nearest."""
_BOX_SIDE = 2
"""Side of the interpolation boxes of the repulsion. With 1, the default of openTSNE, the last
iterations take five times as long and 66 % are kept; 3 is no quicker."""
_PLACING_COST = 100_000  # comparing as many images takes as long as placing them
_MIN_BOX_IMAGES = 3000  # for fewer the tree of Barnes and Hut is quicker than boxes
_BLOCK_ROWS = 2048
_INNER_SHARE = 0.95  # of the way to the border, for all images but the outermost
_OUTERMOST_SHARE = 0.005  # of the images, on each side
_MAX_LATER_SHARE = 0.1  # of the images, placed after the others
_PLACING_NEIGHBORS = 5  # for an image that is placed later


@dataclass(frozen=True)
class Layout:
    """Points of images on a map.

    Attributes
    ----------
    ids : int64 (n,)
        In the order of the rows.
    points : float32 (n, 2)
        Both coordinates from -1 to 1, on one scale.
    later : int
        Number of images that were added or removed after the others were placed.
    """

    ids: Numbers
    points: Points
    later: int = 0


def draw_images(ids: Numbers) -> Numbers:
    """Draw the rows to lay out: int64 (at most `MAX_IMAGES`,), rising.

    Each id has a fixed place in a random order: an index that grows by a tenth keeps nine
    tenths of the drawn images, unlike with `search.draw`.
    """
    if len(ids) <= MAX_IMAGES:
        return np.arange(len(ids))
    # splitmix64: https://prng.di.unimi.it/splitmix64.c
    mixed = ids.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    return np.sort(np.argpartition(mixed, MAX_IMAGES)[:MAX_IMAGES])


def lay_out(rows: Rows, move: Move) -> Layout:
    """Lay out the rows of an index, at most `MAX_IMAGES`.

    Deterministic on one machine with one number of OpenMP threads. Copies lie in a spiral around
    each other. 50,000 images take 20 seconds on 2 idle cores, and 500 MB with the mapped vectors.

    Parameters
    ----------
    rows : Rows
    move : callable
        Gets the progress, from 0 to 1, and the current step.
    """
    some = draw_images(rows.ids)
    ids = rows.ids[some]
    if not len(some):
        return Layout(ids, np.empty((0, 2), np.float32))
    if len(some) > MAX_FLAT_IMAGES:
        require("the map", "openTSNE")
    turned, kind = _project_rows(rows, some)
    first = np.unique(kind, return_index=True)[1]
    spread = _leading_plane(turned[first])
    if len(first) > MAX_FLAT_IMAGES:
        spread = _tsne(turned[first], spread, move)
    return Layout(ids, _fit_to_map(spread[kind] + _copy_offsets(kind, spread)))


def with_changes(rows: Rows, before: Layout) -> Layout | None:
    """Extend an older layout to the current rows; its images keep their places.

    A new image is placed between its nearest neighbours. Returns None once a tenth of the images
    were added or removed since the full layout.
    """
    some = draw_images(rows.ids)
    ids = rows.ids[some]
    stays, at = np.intersect1d(ids, before.ids, return_indices=True)[1:]
    later = before.later + len(ids) + len(before.ids) - 2 * len(stays)
    if later > _MAX_LATER_SHARE * len(ids):
        return None
    points = np.empty((len(ids), 2), np.float32)
    points[stays] = before.points[at]
    comes = np.setdiff1d(np.arange(len(ids)), stays)
    if len(comes):
        heap = faiss.ResultHeap(len(comes), min(_PLACING_NEIGHBORS, len(stays)))
        queries = rows.vectors(some[comes])
        old = np.sort(stays)
        for start in range(0, len(old), _BLOCK_ROWS):
            block = old[start : start + _BLOCK_ROWS]
            squared, near = faiss.knn(queries, rows.vectors(some[block]), min(heap.k, len(block)))
            heap.add_result(squared, block[near])
        heap.finalize()
        # The median of each coordinate: the mean of two clusters is far from both.
        points[comes] = np.median(points[heap.I], axis=1)
    return Layout(ids, points, later)


def _project_rows(rows: Rows, some: Numbers) -> tuple[Vectors, Numbers]:
    """Return the projection of some rows, (n, `DIRECTIONS`), and the kind of each, (n,).

    Copies have one kind; kinds are numbered from 0 by first appearance.
    """
    fit = some[draw(len(some), ROTATION_SAMPLE_ROWS)]
    rotation = Rotation.fit(rows.vectors(fit), DIRECTIONS)
    turned, seen = [], dict[bytes, int]()
    kind: list[int] = []
    for start in range(0, len(some), _BLOCK_ROWS):
        vectors = np.ascontiguousarray(rows.vectors(some[start : start + _BLOCK_ROWS]))
        turned.append(rotation(vectors))
        for vector in vectors:
            digest = hashlib.blake2b(vector.data, digest_size=16).digest()
            kind.append(seen.setdefault(digest, len(seen)))
    return np.concatenate(turned), np.array(kind)


def _leading_plane(turned: Vectors) -> npt.NDArray[np.float64]:
    """Project vectors (n, width) to their two leading directions: float64 (n, 2)."""
    centred = (turned - turned.mean(axis=0)).astype(np.float64)
    directions = np.linalg.eigh(centred.T @ centred)[1][:, :-3:-1]
    flat = np.zeros((len(turned), 2))
    flat[:, : directions.shape[1]] = centred @ directions
    return flat


def _tsne(turned: Vectors, start: npt.NDArray[np.float64], move: Move) -> npt.NDArray[np.float64]:
    """Place distinct vectors (n, width) by t-SNE: float64 (n, 2)."""
    from openTSNE import TSNEEmbedding
    from openTSNE.affinity import PerplexityBasedNN
    from openTSNE.nearest_neighbors import PrecomputedNeighbors

    count = len(turned)
    comparing = count / (count + _PLACING_COST)  # share of the time
    near, distances = _find_neighbors(
        turned, lambda done: move(comparing * done, "comparing images")
    )
    affinities = PerplexityBasedNN(
        perplexity=PERPLEXITY, knn_index=PrecomputedNeighbors(near, distances), n_jobs=cores()
    )
    # Two images that start at one point would stay together.
    start = start / max(float(start[:, 0].std()), 1e-12)
    start = (start + np.random.default_rng(0).normal(0, 0.01, start.shape)) * 1e-4
    total = sum(iterations for iterations, _ in _STEPS)
    done = 0
    embedding = TSNEEmbedding(
        start,
        affinities,
        negative_gradient_method="fft" if count >= _MIN_BOX_IMAGES else "bh",
        ints_in_interval=_BOX_SIDE,
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


def _find_neighbors(turned: Vectors, move: Callable[[float], None]) -> tuple[Numbers, Vectors]:
    """Return the nearest other rows of each, (n, `TSNE_NEIGHBORS`), and their distances."""
    near = np.empty((len(turned), TSNE_NEIGHBORS), np.int64)
    distances = np.empty(near.shape, np.float32)
    for start in range(0, len(turned), _BLOCK_ROWS):
        block = turned[start : start + _BLOCK_ROWS]
        here = slice(start, start + len(block))
        squared, found = faiss.knn(block, turned, TSNE_NEIGHBORS + 1)
        own = found == np.arange(start, start + len(block))[:, None]
        own[~own.any(axis=1), -1] = True  # among copies drop any one
        near[here] = found[~own].reshape(-1, TSNE_NEIGHBORS)
        distances[here] = np.sqrt(squared[~own].clip(0)).reshape(-1, TSNE_NEIGHBORS)
        move(here.stop / len(turned))
    return near, distances


def _copy_offsets(kind: Numbers, spread: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the offset of each copy from the place of its kind, (n, 2), on a sunflower spiral.

    The first of a kind has offset 0. The disc of copies takes its share of the map at most.
    """
    order = np.argsort(kind, kind="stable")
    counts = np.bincount(kind)
    number = np.empty(len(kind))
    number[order] = np.arange(len(kind)) - np.repeat(np.cumsum(counts) - counts, counts)
    step = (float(np.ptp(spread, axis=0).max()) or 1) / 4 / len(kind) ** 0.5
    angle = number * np.pi * (3 - 5**0.5)
    away = step * np.sqrt(number)[:, None]
    return np.asarray(away * np.stack([np.cos(angle), np.sin(angle)], axis=1))


def _fit_to_map(spread: npt.NDArray[np.float64]) -> Points:
    """Scale points to -1..1; the outermost do not decide the scale."""
    low, high = np.quantile(spread, (_OUTERMOST_SHARE, 1 - _OUTERMOST_SHARE), axis=0)
    half = float((high - low).max()) / 2 or 1.0
    points = (spread - (low + high) / 2) / half * _INNER_SHARE
    # Move points beyond the border onto it, in their direction.
    points /= np.abs(points).max(axis=1, keepdims=True).clip(1)
    return np.asarray(points, np.float32)
