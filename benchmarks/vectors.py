"""Embeddings to measure search with: of crops of real photos, and any number drawn around them.

    python benchmarks/vectors.py --images cars_train more_cars --crops 100000 --out crops.npy
    python benchmarks/vectors.py --index cars.index --out photos.npy
    python benchmarks/vectors.py --around crops.npy --count 1000000 --out drawn.npy
    python benchmarks/vectors.py --around crops.npy --count 10000000 --kind harder --out drawn.index

The vectors of an index are taken as they are, in no order.

Crops are real embeddings: a random part of a photo (30 to 100 % of its area, sides 3:4 to 4:3),
mirrored half of the time, brighter or darker by up to a fifth. 100,000 of them take some ten
minutes. All are float32 arrays (n, 512) of length 1 and the same for the same seed.

Drawn vectors: take a real vector and one of its 16 nearest neighbours among the real ones, go a
random share of the way from one to the other, and add noise that has the covariance of such steps.
So they fill the space between real neighbours along the directions in which real ones differ, and
the crowd grows denser as it does when a collection grows. Those of `--kind harder` have more noise,
and in more directions. Each is one of a kind. Of those of `--kind skewed` three tenths are equal,
and three tenths lie in a ball whose radius is a hundredth of their length. A name that ends in
`.index` makes an index of them, a block in memory at a time, however many there are. How alike all
are is printed: intrinsic dimension (the estimator of Levina and Bickel, 2004, from 20 neighbours),
and contrast, the mean distance of any two vectors over that to the tenth neighbour.
"""

import argparse
import itertools
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance

from lookalike import images, models
from lookalike.models.embedder import normalize
from lookalike.search.rows import Rows
from lookalike.storage import EmbeddingTable
from lookalike.system.arrays import Pixels, Vectors
from lookalike.system.resources import cores
from stored import SEGMENT_ROWS, Passing, collection_of_blocks

NEIGHBORS = 16  # of a real vector, towards one of which a drawn one moves
ANCHORS = 65_536  # real vectors, each with its neighbours, that others are drawn around
BLOCK = SEGMENT_ROWS  # rows drawn at a time
NOISES = 32_768  # rows of noise, of which any two make that of a row
QUERIES = 400  # rows whose true neighbours are found while an index is written
QUERY_BLOCKS = 20  # that these rows lie in
SPREAD_NEIGHBORS = 20  # for the intrinsic dimension


def main() -> None:
    """Make vectors, say how they are spread."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, nargs="+", help="folders of photos to crop")
    parser.add_argument("--crops", type=int, default=100_000)
    parser.add_argument("--index", type=Path, help="an index of photos to take the vectors of")
    parser.add_argument("--around", type=Path, help="real vectors to draw others around")
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--kind", choices=KINDS, default="around")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    if given.around:
        real = np.load(given.around, mmap_mode="r")
        anchors = Anchors.of(real, given.seed)
        if given.out.suffix == ".index":
            _, seen = draw_index(anchors, given.count, given.out, given.kind, given.seed)
            drawn = spread_of(given.count, seen.squared, seen.queries, seen.queries)
        else:
            draw(anchors, given.count, given.out, given.kind, given.seed)
            drawn = spread(np.load(given.out, mmap_mode="r"))
        told = {"real": spread(real), given.kind: drawn}
    elif given.index:
        rows = Rows(EmbeddingTable.open(given.index).segments)
        order = np.random.default_rng(given.seed).permutation(len(rows))
        np.save(given.out, rows.vectors(np.arange(len(rows)))[order])
        told = {"photos": spread(np.load(given.out, mmap_mode="r"))}
    elif given.images:
        photos = sorted(p for folder in given.images for p in folder.rglob("*.jpg"))
        np.save(given.out, crops(photos, given.crops, given.seed))
        told = {"crops": spread(np.load(given.out, mmap_mode="r"))}
    else:
        parser.error("give --images, --index or --around")
    print(json.dumps(told))  # noqa: T201


def crops(photos: list[Path], count: int, seed: int = 0) -> Vectors:
    """Embed `count` random crops of photos."""
    per_photo = np.bincount(np.arange(count) % len(photos), minlength=len(photos))
    tasks = zip(photos, per_photo, range(seed, seed + len(photos)), strict=True)
    with ThreadPoolExecutor(cores()) as pool:
        # A few photos at a time: the pool would cut them all before the first is embedded.
        few = iter(lambda: list(itertools.islice(tasks, 4 * cores())), [])
        cut = (
            crop
            for some in few
            for of_one in pool.map(lambda task: list(_crops_of(*task)), some)
            for crop in of_one
        )
        first = np.stack(list(itertools.islice(cut, models.SAMPLE_IMAGES)))
        run = models.engine(models.at_precision(models.resolve(), "auto", lambda: first), cores())
        found = [run(first)]
        while some := list(itertools.islice(cut, models.SAMPLE_IMAGES)):
            found.append(run(np.stack(some)))
    # In no order, so that any share of them is like the rest.
    order = np.random.default_rng(seed).permutation(count)
    return normalize(np.concatenate(found))[order]


def _crops_of(photo: Path, count: int, seed: int) -> Iterator[Pixels]:
    rng = np.random.default_rng(seed)
    whole = images.decode(photo.read_bytes())
    for _ in range(count):
        share, shape = rng.uniform(0.3, 1), np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        width = min(whole.width, max(8, round((share * whole.width * whole.height * shape) ** 0.5)))
        height = min(whole.height, max(8, round(width / shape)))
        left, top = rng.integers(whole.width - width + 1), rng.integers(whole.height - height + 1)
        part = whole.resize(
            (images.SIDE, images.SIDE),
            Image.Resampling.BILINEAR,
            box=(left, top, left + width, top + height),
        )
        if rng.random() < 0.5:
            part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        yield np.asarray(ImageEnhance.Brightness(part).enhance(rng.uniform(0.8, 1.2)))


@dataclass(frozen=True)
class Kind:
    """How noise is added to drawn vectors."""

    noise: float  # of the covariance of the steps between neighbours
    flatness: float  # 0 is noise along the directions of the steps, 1 the same in all directions
    crowd: float = 0.0  # share of the rows that are equal, and as many lie in a ball


KINDS = {
    "around": Kind(noise=0.5, flatness=0.0),
    "harder": Kind(noise=1.2, flatness=0.5),
    "skewed": Kind(noise=0.5, flatness=0.0, crowd=0.3),
}
RADIUS = 0.01  # of the ball


@dataclass(frozen=True)
class Anchors:
    """Real vectors (n, width): the rows that others are drawn around, and their neighbours."""

    real: Vectors
    rows: npt.NDArray[np.int64]
    near: npt.NDArray[np.int64]

    @classmethod
    def of(cls, real: Vectors, seed: int = 0) -> "Anchors":
        """Choose rows and find their neighbours, which takes some two CPU minutes."""
        rng = np.random.default_rng(seed)
        rows = np.sort(rng.choice(len(real), min(len(real), ANCHORS), replace=False))
        return cls(real, rows, nearest(real, real[rows], NEIGHBORS + 1)[1][:, 1:])


class Crowd:
    """Any number of vectors drawn around real ones, a block at a time, in any order.

    A block is the same whenever it is drawn, and may be drawn in any thread.
    """

    def __init__(self, anchors: Anchors, count: int, kind: str = "around", seed: int = 0) -> None:
        self.real, self.count, self.seed = anchors.real, count, seed
        self._anchors, self._near = anchors.rows, anchors.near
        real, rng = anchors.real, np.random.default_rng(seed)
        some = rng.integers(len(self._anchors), size=BLOCK)
        other = self._near[some, rng.integers(NEIGHBORS, size=BLOCK)]
        variances, directions = np.linalg.eigh(np.cov((real[other] - real[self._anchors[some]]).T))
        flat = np.maximum(variances, 0) ** (1 - KINDS[kind].flatness)
        flat *= KINDS[kind].noise * variances.sum() / flat.sum()
        # Noise is the sum of two of these: drawing so many numbers for each row takes longer.
        scatter = (directions * np.sqrt(flat / 2)).T.astype(np.float32)
        self._crowd = KINDS[kind].crowd
        self._noise = rng.standard_normal((NOISES, len(scatter)), np.float32) @ scatter

    @property
    def blocks(self) -> int:
        """Return how many blocks there are."""
        return -(-self.count // BLOCK)

    def usual(self, number: int) -> npt.NDArray[np.int64]:
        """Return which rows of a block are like no others: not equal, not in the ball."""
        rows = min(BLOCK, self.count - number * BLOCK)
        return np.arange(2 * int(self._crowd * rows), rows)

    def block(self, number: int) -> Vectors:
        """Draw a block: float32 (`BLOCK`, width) of length 1, fewer rows in the last one."""
        rng = np.random.default_rng([self.seed, number])
        rows = min(BLOCK, self.count - number * BLOCK)
        at = rng.integers(len(self._anchors), size=rows)
        other = self._near[at, rng.integers(NEIGHBORS, size=rows)]
        mixed = np.take(self.real, self._anchors[at], axis=0)
        step = np.take(self.real, other, axis=0)
        step -= mixed
        step *= rng.random((rows, 1), np.float32)
        mixed += step
        for noises in rng.integers(NOISES, size=(2, rows)):
            mixed += np.take(self._noise, noises, axis=0, out=step)
        equal = int(self._crowd * rows)
        mixed[:equal] = self.real[self._anchors[0]]
        ball = rng.standard_normal((equal, mixed.shape[1]), np.float32)
        ball *= RADIUS / mixed.shape[1] ** 0.5
        mixed[equal : 2 * equal] = self.real[self._anchors[-1]] + ball
        mixed /= np.sqrt(np.einsum("ij,ij->i", mixed, mixed))[:, None]
        return mixed


def draw(anchors: Anchors, count: int, out: Path, kind: str = "around", seed: int = 0) -> None:
    """Write `count` vectors drawn around real ones to a file for `numpy.load`."""
    crowd = Crowd(anchors, count, kind, seed)
    shape = (count, anchors.real.shape[1])
    written = np.lib.format.open_memmap(out, "w+", np.float32, shape)
    for number in range(crowd.blocks):
        written[number * BLOCK : (number + 1) * BLOCK] = crowd.block(number)
    written.flush()


def draw_index(
    anchors: Anchors, count: int, out: Path, kind: str = "around", seed: int = 0
) -> tuple[EmbeddingTable, Passing]:
    """Write an index of `count` drawn vectors, ids from 0; return also who is truly nearest.

    The true neighbours are those of `QUERIES` rows of a few blocks, found while blocks are written.
    """
    crowd = Crowd(anchors, count, kind, seed)
    rng = np.random.default_rng([seed, 1])
    few = rng.choice(crowd.blocks, min(QUERY_BLOCKS, crowd.blocks), replace=False)
    ids, queries = [], []
    for number in np.sort(few).tolist():
        block = crowd.block(number)
        usual = crowd.usual(number)
        rows = np.sort(rng.choice(usual, min(QUERIES // len(few), len(usual)), replace=False))
        ids.append(number * BLOCK + rows)
        queries.append(block[rows])
    passing = Passing(np.concatenate(ids), np.concatenate(queries), SPREAD_NEIGHBORS)

    def block_of(number: int) -> tuple[int, Vectors]:
        block = crowd.block(number)
        passing.look(number * BLOCK, block)
        return number * BLOCK, block

    made = collection_of_blocks(block_of, crowd.blocks, anchors.real.shape[1], out)
    return made, passing


def nearest(
    rows: Vectors, queries: Vectors, k: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return squared distances and numbers of the k nearest rows, both (queries, k), exactly."""
    found: Any = faiss.knn(np.ascontiguousarray(queries), np.asarray(rows), k)
    return found[0], found[1]


def spread(vectors: Vectors, queries: int = 200) -> dict[str, float]:
    """Say how vectors lie: intrinsic dimension, distance to the tenth neighbour, contrast."""
    rng = np.random.default_rng(0)
    drawn = vectors[np.sort(rng.choice(len(vectors), queries, replace=False))]
    squared, _ = nearest(vectors, drawn, SPREAD_NEIGHBORS + 1)
    strangers = vectors[np.sort(rng.choice(len(vectors), queries, replace=False))]
    return spread_of(len(vectors), squared[:, 1:], drawn, strangers)


def spread_of(
    count: int, squared: npt.NDArray[np.float32], queries: Vectors, strangers: Vectors
) -> dict[str, float]:
    """Say how vectors lie from the distances of some to their neighbours, (queries, k)."""
    radii = np.sqrt(np.maximum(squared, 1e-12))
    logs = np.log(radii[:, -1:] / radii[:, :-1])
    dimension = 1 / np.mean(logs.mean(axis=1))
    order = np.random.default_rng(0).permutation(len(strangers))
    anyone = np.linalg.norm(queries - strangers[order], axis=1).mean()
    return {
        "vectors": count,
        "intrinsic_dimension": round(float(dimension), 1),
        "tenth_neighbor": round(float(radii[:, 9].mean()), 3),
        "contrast": round(float(anyone / radii[:, 9].mean()), 3),
    }


if __name__ == "__main__":
    main()
