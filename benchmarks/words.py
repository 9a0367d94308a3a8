"""Recall of queries in words, which lie far from images, against exact search. One line of JSON.

    python benchmarks/words.py --rows 40000 --width 512 --json

Images are drawn in one cone, as networks such as CLIP place them: an axis that all share, what a
picture is about, and noise. Texts are drawn about the same subjects in a cone of another axis.
`images` has the same figures for queries that are drawn like the images.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import lookalike
from lookalike.search.evaluation import by_vectors
from lookalike.system.arrays import Vectors
from measure import machine

SUBJECTS, DIRECTIONS, AXIS = 2000, 40, 1.2


def main() -> None:
    """Draw, index, search."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=40_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("-k", type=int, default=10)
    parser.add_argument("--json", action="store_true", help="the only form there is")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps({"machine": machine(), **measure(given, Path(folder))}))  # noqa: T201


def measure(given: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Return the figures of both kinds of queries."""
    rng = np.random.default_rng(0)
    plane = rng.standard_normal((DIRECTIONS, given.width)) / given.width**0.5
    subjects = rng.standard_normal((SUBJECTS, DIRECTIONS)) @ plane / DIRECTIONS**0.5
    axes = rng.standard_normal((2, given.width))
    axes *= AXIS / np.linalg.norm(axes, axis=1, keepdims=True)

    def draw(count: int, axis: int, noise: float, seed: int) -> Vectors:
        own = np.random.default_rng(seed)
        about = subjects[own.integers(0, SUBJECTS, count)]
        vectors = axes[axis] + about + noise * own.standard_normal(about.shape) / given.width**0.5
        made: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("f4")
        return made

    images = draw(given.rows, 0, 0.5, 1)
    flat = pa.array(images.ravel())
    table = pa.table({"embedding": pa.FixedSizeListArray.from_arrays(flat, given.width)})
    pq.write_table(table, work / "images.parquet")
    started = time.perf_counter()
    index = lookalike.create_index(
        work / "images.parquet", work / "x.index", embedding_column="embedding", spark=False
    )
    seconds = time.perf_counter() - started
    kinds = {
        "text": draw(given.queries, 1, 0.6, 2),
        "images": draw(given.queries, 0, 0.5, 3),
    }
    figures = {name: by_vectors(index._searcher, some, given.k) for name, some in kinds.items()}
    return {"rows": given.rows, "width": given.width, "seconds": round(seconds, 1), **figures}


if __name__ == "__main__":
    main()
