"""Duplicates and clusters of many vectors, through Spark. Prints one line of JSON.

    python benchmarks/vectors.py --around crops.npy --count 1000000 --out drawn.npy
    python benchmarks/groups.py --vectors drawn.npy --within 0.4 --json

No images stand behind the vectors, so that distances alone decide. What making the index ready to
be searched costs is told beside, for it is done once a collection.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from lookalike import Index
from lookalike.storage import EmbeddingTable
from measure import answer, machine
from neighbors import run_watched
from stored import collection_of

CONTESTANTS = ("ready", "duplicates", "clusters")


def main() -> None:
    """Run the benchmark, or one of its parts in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vectors", type=Path, required=True, help="float32 (n, width), .npy")
    parser.add_argument("--rows", type=int, help="how many of them")
    parser.add_argument("--within", type=float, default=0.4, help="the distance of duplicates")
    parser.add_argument("--work", type=Path, help="where the index is written")
    parser.add_argument("--contestant", choices=CONTESTANTS, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="the only form there is")
    given = parser.parse_args()
    if given.contestant:
        answer("ready")
        for _ in sys.stdin:
            answer(json.dumps(act(given)))
        return
    with tempfile.TemporaryDirectory(dir=given.work) as folder:
        work = Path(folder)
        os.environ["LOOKALIKE_CACHE"] = str(work / "cache")
        os.environ["SPARK_LOCAL_DIRS"] = str(work / "spark")
        vectors = np.load(given.vectors, mmap_mode="r")[: given.rows]
        collection_of(vectors, work / "index")
        command = [sys.executable, *sys.argv, "--work", folder, "--contestant"]
        told = {name: run_watched([*command, name], work / "spark") for name in CONTESTANTS}
        print(json.dumps({"machine": machine(), "rows": len(vectors), **told}))  # noqa: T201


def act(given: argparse.Namespace) -> dict[str, Any]:
    """Do one part; return its seconds and figures."""
    index = Index(EmbeddingTable.open(given.work / "index"))
    out = given.work / given.contestant
    figures: dict[str, Any] = {}
    started = time.perf_counter()
    if given.contestant == "ready":
        index._searcher.get_ready()
    elif given.contestant == "duplicates":
        figures = index.duplicates(out, within=given.within, verify=False, shown=0).figures
    else:
        figures = index.clusters(out, shown=0).figures
    return {"seconds": round(time.perf_counter() - started, 1), **figures}


if __name__ == "__main__":
    main()
