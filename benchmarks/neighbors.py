"""The ten neighbours of every row, through Spark and otherwise. One line of JSON.

    python benchmarks/vectors.py --images cars_train more --crops 101000 --out crops.npy
    python benchmarks/neighbors.py --vectors crops.npy --rows 100000 --json
    python benchmarks/neighbors.py --vectors drawn.npy --rows 250000 --only approximate --json

Every contestant lives in a process of its own and takes turns with the others. Spark is warm: a
small collection goes first. What making cells costs is told beside, for it is done once a
collection.

    approximate  lookalike through Spark, at its default recall
    exact        lookalike through Spark, every row compared with every row
    flat         FAISS IndexFlatL2, all rows asked at once, on all cores
    stock        Spark ML's approxNearestNeighbors, 20 queries, and what all of them would take
"""

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow.parquet as pq

from lookalike import Index
from lookalike.lsh import fit, with_vectors
from lookalike.lsh.search import hashed
from lookalike.search.searcher import Searcher
from lookalike.spark import session
from lookalike.storage import EmbeddingTable
from lookalike.system.arrays import Vectors
from lookalike.system.resources import cores
from measure import Contestant, answer, machine, peak_of_tree
from stored import collection_of, exact_ids

K = 10
SAMPLED = 1000  # rows whose neighbours are checked
ASKED = 20  # of stock Spark
CONTESTANTS = ("approximate", "exact", "flat", "stock")
Answer = Callable[[], dict[str, Any]]


def main() -> None:
    """Run the benchmark, or one of its contestants."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vectors", type=Path, required=True, help="float32 (n, width), .npy")
    parser.add_argument("--rows", type=int, nargs="+", help="how many of them, each for itself")
    parser.add_argument("--repeat", type=int, default=3, help="turns")
    parser.add_argument("--only", nargs="*", default=CONTESTANTS, choices=CONTESTANTS)
    parser.add_argument("--work", type=Path, help="where the index is written")
    parser.add_argument("--contestant", choices=CONTESTANTS, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="the only form there is")
    given = parser.parse_args()
    if given.contestant:
        act = MAKERS[given.contestant](given.work)
        answer("ready")
        for _ in sys.stdin:
            answer(json.dumps(act()))
        return
    told = {"machine": machine(), "repeat": given.repeat, "k": K}
    sizes = given.rows or [len(np.load(given.vectors, mmap_mode="r"))]
    figures = {str(size): measure(given.vectors, size, given) for size in sizes}
    print(json.dumps({**told, "rows": figures, "growth": growth(figures)}))  # noqa: T201


def measure(file: Path, size: int, given: argparse.Namespace) -> dict[str, Any]:
    """Let all contestants take turns on the first `size` vectors of a file."""
    with tempfile.TemporaryDirectory(dir=given.work) as folder:
        work = Path(folder)
        os.environ["LOOKALIKE_CACHE"] = str(work / "cache")
        os.environ["SPARK_LOCAL_DIRS"] = str(work / "spark")
        vectors = np.load(file, mmap_mode="r")[:size]
        made = collection_of(vectors, work / "index")
        collection_of(vectors[:4000], work / "small")
        np.save(work / "true.npy", true_neighbors(vectors))
        _ = [segment.vectors for segment in made.segments]
        started = time.perf_counter()
        Searcher(made).get_ready()
        ready = round(time.perf_counter() - started, 1)
        command = [sys.executable, __file__, "--vectors", str(file), "--work", folder]
        turns: dict[str, list[dict[str, Any]]] = {}
        # Spark keeps what it has shuffled until its process ends, so that each turn gets a new one.
        for _ in range(given.repeat):
            for name in given.only:
                turns.setdefault(name, []).append(one_turn([*command, "--contestant", name], work))
        figures = {name: medians(some) for name, some in turns.items()}
        told = {"index_bytes": made.size(), "cells_and_measuring_s": ready, **figures}
    return {**told, "ratios": ratios(figures, size)}


def one_turn(command: list[str], work: Path) -> dict[str, Any]:
    """Run a contestant once; add its memory and the disk it took."""
    contestant = Contestant(command)
    with Disk(work / "spark") as disk:
        told: dict[str, Any] = json.loads(contestant.tell("go"))
    told["peak_mb"] = round(peak_of_tree(contestant.pid) / 2**20)
    told["disk_mb"] = round(disk.peak / 2**20)
    contestant.dismiss()
    return told


class Disk(threading.Thread):
    """Watches how much a folder holds at most."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self.folder = folder
        self.peak = 0
        self._ended = threading.Event()

    def run(self) -> None:
        """Look twice a second."""
        while not self._ended.wait(0.5):
            held = 0
            for file in self.folder.rglob("*"):
                try:
                    held += file.stat().st_size
                except OSError:
                    continue  # gone meanwhile
            self.peak = max(self.peak, held)

    def __enter__(self) -> "Disk":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()


def medians(turns: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the median of every figure, and the seconds of each turn."""
    names = turns[0].keys()
    middle = {name: statistics.median(turn[name] for turn in turns) for name in names}
    return {**middle, "each_s": [turn["seconds"] for turn in turns]}


def ratios(figures: dict[str, Any], size: int) -> dict[str, float]:
    """Say how many times as long as `approximate` the others take, and exact as FAISS."""
    seconds = {name: one["seconds"] for name, one in figures.items()}
    if "stock" in seconds:
        seconds["stock"] *= size / ASKED
    pairs = [(name, "approximate") for name in seconds if name != "approximate"] + [
        ("exact", "flat")
    ]
    return {
        f"{one}_vs_{other}": round(seconds[one] / seconds[other], 2)
        for one, other in pairs
        if {one, other} <= seconds.keys()
    }


def growth(figures: dict[str, Any]) -> dict[str, float]:
    """Say how many times as long each contestant takes from one size to the next."""
    sizes = list(figures)
    return {
        f"{name}_{small}_to_{large}": round(
            figures[large][name]["seconds"] / figures[small][name]["seconds"], 2
        )
        for small, large in itertools.pairwise(sizes)
        for name in CONTESTANTS
        if name in figures[small]
    }


def sampled(rows: int) -> Any:
    """Return the rows that are checked."""
    return np.sort(np.random.default_rng(2).choice(rows, min(SAMPLED, rows), replace=False))


def true_neighbors(vectors: Vectors) -> Any:
    """Return the true neighbours of the rows that are checked, (n, K)."""
    drawn = sampled(len(vectors))
    found = np.array(exact_ids(vectors, np.array(vectors[drawn]), K + 1))
    others = [row[row != own][:K] for own, row in zip(drawn, found, strict=True)]
    return np.array(others)


def recall(true: Any, found: Any) -> float:
    """Return the mean share of true neighbours that were found."""
    shares = [len(set(a) & set(b)) / K for a, b in zip(true.tolist(), found, strict=True)]
    return round(float(np.mean(shares)), 4)


def lookalike(engine: Any) -> Callable[[Path], Answer]:
    """Return the maker of one of lookalike's ways."""

    def make(work: Path) -> Answer:
        session()
        small = Index(EmbeddingTable.open(work / "small"))
        small.kneighbors(k=K, engine="approximate").write(work / "warm", overwrite=True)

        def act() -> dict[str, Any]:
            index = Index(EmbeddingTable.open(work / "index"))
            started = time.perf_counter()
            index.kneighbors(k=K, engine=engine).write(work / "out", overwrite=True)
            seconds = time.perf_counter() - started
            table = pq.read_table(work / "out", columns=["query_id", "neighbor_id"])
            # All that asked got K answers, and the rows of one query follow each other.
            order = np.argsort(table["query_id"].to_numpy(), kind="stable")
            found = table["neighbor_id"].to_numpy()[order].reshape(-1, K)
            drawn = found[sampled(len(found))].tolist()
            share = recall(np.load(work / "true.npy"), drawn)
            return {"seconds": round(seconds, 2), "recall_10": share}

        return act

    return make


def flat(work: Path) -> Answer:
    """Return FAISS's exact search."""
    segments = EmbeddingTable.open(work / "index").segments
    vectors = np.concatenate([segment.vectors for segment in segments])
    faiss.omp_set_num_threads(cores())

    def act() -> dict[str, Any]:
        started = time.perf_counter()
        index = faiss.IndexFlatL2(vectors.shape[1])
        index.add(vectors)
        found = index.search(vectors, K + 1)[1]
        seconds = time.perf_counter() - started
        share = recall(np.load(work / "true.npy"), found[sampled(len(found))].tolist())
        return {"seconds": round(seconds, 2), "recall_10": share}

    return act


def stock(work: Path) -> Answer:
    """Return Spark ML's own LSH, with the parameters that lookalike chooses."""
    collection = EmbeddingTable.open(work / "index")
    table = with_vectors(collection.dataframe(session())).persist()
    hasher = fit(table)
    rows = Searcher(collection).rows

    def act() -> dict[str, Any]:
        drawn = sampled(len(rows))[:ASKED]
        queries = rows.vectors(drawn)
        hashed(table, hasher, queries[0], K)
        started = time.perf_counter()
        found = [
            [one.id for one in hashed(table, hasher, query, K, int(own))]
            for own, query in zip(drawn, queries, strict=True)
        ]
        seconds = time.perf_counter() - started
        share = recall(np.load(work / "true.npy")[:ASKED], found)
        return {"seconds": round(seconds, 2), "recall_10": share}

    return act


MAKERS: dict[str, Callable[[Path], Answer]] = {
    "approximate": lookalike("approximate"),
    "exact": lookalike("exact"),
    "flat": flat,
    "stock": stock,
}


if __name__ == "__main__":
    main()
