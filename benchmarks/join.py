"""The similarity join of a collection with itself, through Spark. Prints one line of JSON.

    python benchmarks/vectors.py --images cars_train more --crops 101000 --out crops.npy
    python benchmarks/join.py --vectors crops.npy --rows 100000 --within 0.45 --json

Contestants live in processes of their own and take turns; Spark is warm, a small collection goes
first. Each writes its pairs, once each, nearest first.

    approximate  lookalike through Spark: rows are compared where they share cells
    exact        lookalike through the same Spark, every row compared with every row
    equal        `approximate` on as many copies of one vector: what is cut, how much is written

Recall is against the pairs that `exact` wrote. What Spark ML's own join would shuffle is counted
(`stock_pairs`), not tried.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lookalike import Index
from lookalike.lsh import candidates, fit, with_vectors
from lookalike.search.searcher import Searcher
from lookalike.spark import session
from lookalike.storage import EmbeddingTable
from lookalike.system.sql import connect, create_view, fetch_row
from measure import answer, machine
from neighbors import medians, run_watched
from stored import collection_of

CONTESTANTS = ("approximate", "exact", "equal", "stock")
Answer = Callable[[], dict[str, Any]]


def main() -> None:
    """Run the benchmark, or one of its contestants."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vectors", type=Path, required=True, help="float32 (n, width), .npy")
    parser.add_argument("--rows", type=int, help="how many of them")
    parser.add_argument("--within", type=float, default=0.45, help="the distance")
    parser.add_argument("--cap", type=int, default=100, help="pairs that a row brings in at most")
    parser.add_argument("--recall", type=float, default=0.98, help="asked for")
    parser.add_argument("--repeat", type=int, default=3, help="turns")
    parser.add_argument("--only", nargs="*", default=CONTESTANTS, choices=CONTESTANTS)
    parser.add_argument("--work", type=Path, help="where the index is written")
    parser.add_argument("--contestant", choices=CONTESTANTS, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="the only form there is")
    given = parser.parse_args()
    if given.contestant:
        act = contestant(given)
        answer("ready")
        for _ in sys.stdin:
            answer(json.dumps(act()))
        return
    with tempfile.TemporaryDirectory(dir=given.work) as folder:
        print(json.dumps({"machine": machine(), **measure(given, Path(folder))}))  # noqa: T201


def measure(given: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Let all contestants take turns."""
    os.environ["LOOKALIKE_CACHE"] = str(work / "cache")
    os.environ["SPARK_LOCAL_DIRS"] = str(work / "spark")
    vectors = np.load(given.vectors, mmap_mode="r")[: given.rows]
    made = collection_of(vectors, work / "index")
    collection_of(vectors[:4000], work / "small")
    copies = collection_of(np.tile(vectors[:1], (len(vectors), 1)), work / "copies")
    for one in (made, copies):
        Searcher(one).get_ready()
    command = [sys.executable, *sys.argv, "--work", str(work)]
    turns: dict[str, list[dict[str, Any]]] = {}
    for _ in range(given.repeat):
        for name in given.only:
            turn = run_watched([*command, "--contestant", name], work / "spark")
            turns.setdefault(name, []).append(turn)
    told = {name: medians(some) for name, some in turns.items()}
    if {"approximate", "exact"} <= told.keys():
        told["approximate"]["recall"] = shared(work) / told["exact"]["pairs"]
        told["exact_vs_approximate"] = told["exact"]["seconds"] / told["approximate"]["seconds"]
    about = {"rows": len(vectors), "within": given.within, "cap": given.cap, "asked": given.recall}
    return {**about, "index_bytes": made.size(), **told}


def shared(work: Path) -> int:
    """Count the pairs that both found."""
    with connect(work) as sql:
        for name in ("approximate", "exact"):
            create_view(sql, name, work / name / "pairs")
        query = "select count(*) from approximate semi join exact using (a_id, b_id)"
        (count,) = fetch_row(sql, query)
    return int(count)


def contestant(given: argparse.Namespace) -> Answer:
    """Return what a contestant does in a turn."""
    work, name = given.work, given.contestant
    if name == "stock":
        table = with_vectors(EmbeddingTable.open(work / "index").dataframe(session()))
        hasher = fit(table)
        return lambda: {"seconds": 0, "pairs": candidates(hasher, table).pairs}
    options: dict[str, Any] = {
        "within": given.within,
        "cap": given.cap,
        "recall": given.recall,
        "engine": "exact" if name == "exact" else "approximate",
        "spark": True,
        "shown": 0,
        "overwrite": True,
    }
    Index(EmbeddingTable.open(work / "small")).pairs(work / "warm", **options)
    index = Index(EmbeddingTable.open(work / ("copies" if name == "equal" else "index")))

    def act() -> dict[str, Any]:
        started = time.perf_counter()
        found = index.pairs(work / name, **options)
        seconds = time.perf_counter() - started
        written = sum(file.stat().st_size for file in (work / name).rglob("*.parquet"))
        cut, pairs = found.figures["cut"], found.figures["pairs"]
        return {"seconds": seconds, "pairs": pairs, "cut": cut, "written_bytes": written}

    return act


if __name__ == "__main__":
    main()
