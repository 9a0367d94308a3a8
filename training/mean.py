"""Make `resnet18-cars-mean.npy`, by which photos of cars are known: the mean of their embeddings.

    python training/mean.py cars_train --others others --out src/lookalike/weights

writes it for the bundled weights and prints how near to it photos of both kinds lie, from which the
limit in `lookalike.weights` is taken.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from judge import in_a_line, readable
from lookalike import ImageEmbedder
from lookalike.embedding import Vectors
from lookalike.images import locate, walk

PHOTOS = 600


def embeddings(folder: Path, most: int) -> Vectors:
    """Embed some photos of a folder, drawn at random, in f32: (n, 512).

    What cannot be read is left out; `LookalikeError` where nothing can.
    """
    source = locate(folder)
    paths = [found.path for found in walk(source)]
    drawn = np.random.default_rng(0).choice(len(paths), min(most, len(paths)), replace=False)
    return ImageEmbedder(precision="f32")(readable(source, [paths[at] for at in sorted(drawn)]))


def nearness(vectors: Vectors, mean: Vectors) -> dict[str, float]:
    """Return quantiles of the cosine to the mean."""
    cosines = np.quantile(vectors @ mean, [0.05, 0.5, 0.95])
    return dict(zip(("5 %", "50 %", "95 %"), cosines.round(3).tolist(), strict=True))


@in_a_line()
def main() -> None:
    """Write the mean and print what lies how near to it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cars", type=Path)
    parser.add_argument("--others", type=Path)
    parser.add_argument("--out", type=Path, default=Path("training/work"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    cars = embeddings(given.cars, PHOTOS)
    mean = cars.mean(0) / np.linalg.norm(cars.mean(0))
    np.save(given.out / "resnet18-cars-mean.npy", mean)
    near: dict[str, Any] = {"cars": nearness(cars, mean)}
    if given.others:
        near["others"] = nearness(embeddings(given.others, PHOTOS), mean)
    print(json.dumps(near, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
