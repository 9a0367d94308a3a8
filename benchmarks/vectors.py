"""Embeddings to measure search with: of crops of real photos, and any number drawn around them.

    python benchmarks/vectors.py --images cars_train more_cars --crops 100000 --out crops.npy
    python benchmarks/vectors.py --index cars.index --out photos.npy
    python benchmarks/vectors.py --around crops.npy --count 1000000 --out drawn.npy

The vectors of an index are taken as they are, in no order.

Crops are real embeddings: a random part of a photo (30 to 100 % of its area, sides 3:4 to 4:3),
mirrored half of the time, brighter or darker by up to a fifth. 100,000 of them take some ten
minutes. All are float32 arrays (n, 512) of length 1 and the same for the same seed.

Drawn vectors: take a real vector and one of its 16 nearest neighbours among the real ones, go a
random share of the way from one to the other, and add noise that has the covariance of such steps.
So they fill the space between real neighbours along the directions in which real ones differ,
and the crowd grows denser as it does when a collection grows. How alike both are is printed:
intrinsic dimension (the estimator of Levina and Bickel, 2004, from 20 neighbours), and
contrast, the mean distance of any two vectors over that to the tenth neighbour.
"""

import argparse
import itertools
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
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

NEIGHBORS = 16  # of a real vector, towards one of which a drawn one moves
NOISE = 0.5  # of the covariance of the steps between neighbours
ANCHORS = 65_536  # real vectors, each with its neighbours, that others are drawn around
BLOCK = 16_384  # rows drawn at a time


def main() -> None:
    """Make vectors, say how they are spread."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, nargs="+", help="folders of photos to crop")
    parser.add_argument("--crops", type=int, default=100_000)
    parser.add_argument("--index", type=Path, help="an index of photos to take the vectors of")
    parser.add_argument("--around", type=Path, help="real vectors to draw others around")
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    if given.around:
        real = np.load(given.around, mmap_mode="r")
        draw(real, given.count, given.out, given.seed)
        told = {"real": spread(real), "drawn": spread(np.load(given.out, mmap_mode="r"))}
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


def draw(real: Vectors, count: int, out: Path, seed: int = 0) -> None:
    """Write `count` vectors drawn around real ones (n, width) to a file for `numpy.load`."""
    rng = np.random.default_rng(seed)
    anchors = np.sort(rng.choice(len(real), min(len(real), ANCHORS), replace=False))
    near = nearest(real, real[anchors], NEIGHBORS + 1)[1][:, 1:]
    some = rng.integers(len(anchors), size=BLOCK)
    steps = real[near[some, rng.integers(NEIGHBORS, size=BLOCK)]] - real[anchors[some]]
    scatter = np.linalg.cholesky(np.cov(steps.T) + 1e-9 * np.eye(real.shape[1])) * NOISE**0.5
    written = np.lib.format.open_memmap(out, "w+", np.float32, (count, real.shape[1]))
    for start in range(0, count, BLOCK):
        rows = min(BLOCK, count - start)
        at = rng.integers(len(anchors), size=rows)
        other = near[at, rng.integers(NEIGHBORS, size=rows)]
        way = rng.random((rows, 1), np.float32)
        noise = rng.standard_normal((rows, real.shape[1]), np.float32) @ scatter.T.astype("f4")
        mixed = real[anchors[at]] * (1 - way) + real[other] * way + noise
        written[start : start + rows] = normalize(mixed)
    written.flush()


def nearest(
    rows: Vectors, queries: Vectors, k: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return squared distances and numbers of the k nearest rows, both (queries, k), exactly."""
    found: Any = faiss.knn(np.ascontiguousarray(queries), np.asarray(rows), k)
    return found[0], found[1]


def spread(vectors: Vectors, queries: int = 200, k: int = 20) -> dict[str, float]:
    """Say how vectors lie: intrinsic dimension, distance to the tenth neighbour, contrast."""
    rng = np.random.default_rng(0)
    drawn = vectors[np.sort(rng.choice(len(vectors), queries, replace=False))]
    squared, _ = nearest(vectors, drawn, k + 1)
    radii = np.sqrt(np.maximum(squared[:, 1:], 1e-12))
    logs = np.log(radii[:, -1:] / radii[:, :-1])
    dimension = 1 / np.mean(logs.mean(axis=1))
    strangers = vectors[np.sort(rng.choice(len(vectors), queries, replace=False))]
    anyone = np.linalg.norm(drawn - rng.permutation(strangers), axis=1).mean()
    return {
        "vectors": len(vectors),
        "intrinsic_dimension": round(float(dimension), 1),
        "tenth_neighbor": round(float(radii[:, 9].mean()), 3),
        "contrast": round(float(anyone / radii[:, 9].mean()), 3),
    }


if __name__ == "__main__":
    main()
