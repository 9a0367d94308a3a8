"""The whole road on one folder of photos: index, search, hash. Prints one line of JSON.

    python benchmarks/road.py --images cars_train --labels cardatasettrain.csv

Measured are the commands as a person starts them, from process start to exit. The rival of hashed
search is exact search, over the same queries in the same run. Without --images, cars are drawn.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import lookalike
from lookalike.images.synthetic import draw_collection
from lookalike.lsh.search import load_hasher
from lookalike.search import evaluation
from lookalike.search.query import random_query
from measure import machine, timed

COMMAND = [sys.executable, "-m", "lookalike"]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path)
    parser.add_argument("--labels", type=Path)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="the only form there is")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        images, labels = given.images, given.labels
        if images is None:
            drawn = draw_collection(Path(folder, "drawn"))
            images, labels = drawn.photos, drawn.labels
        os.environ["LOOKALIKE_CACHE"] = str(Path(folder, "cache"))
        figures = run(images, labels, Path(folder), given.precision, given.seeds, given.repeat)
    print(json.dumps(figures))  # noqa: T201


def run(
    images: Path, labels: Path | None, work: Path, precision: str, seeds: int, repeat: int
) -> dict[str, Any]:
    """Measure everything once, searches `repeat` times."""
    out = work / "bench.index"
    build = [*COMMAND, "index", str(images), "--out", str(out), "--precision", precision]
    build += ["--model", "resnet18"]
    indexing = timed([*build, *(["--labels", str(labels)] if labels else [])])
    index = lookalike.open_index(out)
    first = str(next(images.glob("*.jpg")))
    cold = timed([*COMMAND, "search", str(out), first])
    searches = {
        name: statistics.median(
            timed([*COMMAND, "search", str(out), *arguments]).seconds for _ in range(repeat)
        )
        for name, arguments in (("indexed", [first]), ("random", ["--random", "--seed", "7"]))
    }
    return {
        "machine": machine(),
        "images": len(index),
        "precision": precision,
        "index_s": round(indexing.seconds, 1),
        "images_per_s_whole_run": round(len(index) / indexing.seconds, 1),
        "peak_memory_mb": round(indexing.peak_bytes / 2**20),
        "search_process_s": {
            "first_after_indexing": round(cold.seconds, 2),
            **{name: round(seconds, 2) for name, seconds in searches.items()},
        },
        **evaluation.by_label(index._searcher.rows),
        "hashing": against_exact(index, seeds),
    }


def against_exact(index: lookalike.Index, seeds: int, k: int = 5) -> dict[str, Any]:
    """Compare `--engine spark-lsh` with exact search over `--random --seed 0, 1, ...`."""
    overlaps, shares, spark_ms, exact_ms = [], [], [], []
    index.search(random_query(index._table, 0), k, engine="spark-lsh")  # fits and warms up
    for seed in range(seeds):
        query = random_query(index._table, seed)
        exact = index.search(query, k, engine="exact")
        spark = index.search(query, k, engine="spark-lsh", explain=True)
        overlaps.append(len({n.id for n in exact} & {n.id for n in spark}))
        shares.append((spark.candidates or 0) / len(index))
        spark_ms.append(spark.took_ms)
        exact_ms.append(exact.took_ms)
    return {
        "seeds": seeds,
        f"of_exact_{k}": statistics.mean(overlaps),
        "candidates": round(statistics.mean(shares), 4),
        "parameters": vars(load_hasher(index.path).parameters),
        "spark_ms": round(statistics.median(spark_ms), 1),
        "exact_ms": round(statistics.median(exact_ms), 2),
        "spark_over_exact": round(statistics.median(spark_ms) / statistics.median(exact_ms), 1),
    }


if __name__ == "__main__":
    main()
