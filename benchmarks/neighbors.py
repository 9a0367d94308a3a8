"""The ten neighbours of every row, through Spark and otherwise. One line of JSON.

    python benchmarks/vectors.py --images cars_train more --crops 101000 --out crops.npy
    python benchmarks/neighbors.py --vectors crops.npy --rows 100000 --json
    python benchmarks/neighbors.py --vectors drawn.npy --rows 250000 --only approximate --json
    python benchmarks/neighbors.py --vectors crops.npy --only approximate --baseline older --json

Every contestant lives in a process of its own and takes turns with the others. Spark is warm: a
small collection goes first. What is done once a collection (cells, measuring, caches of vectors) is
done before, and told beside; with `--cold` it is part of each turn, and each turn has a new copy.
CPU seconds are those of all processes: Python, the JVM, and Spark's workers.

    approximate  lookalike through Spark, at its default recall
    baseline     the same, by the lookalike of another checkout (`--baseline DIR`)
    exact        lookalike through Spark, every row compared with every row
    flat         FAISS IndexFlatL2, all rows asked at once, on all cores
    stock        Spark ML's approxNearestNeighbors, 20 queries, and what all of them would take
"""

import argparse
import itertools
import json
import os
import shutil
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
from lookalike.search.searcher import Searcher
from lookalike.spark import session
from lookalike.storage import EmbeddingTable
from lookalike.system.arrays import Vectors
from lookalike.system.resources import cores
from measure import (
    Contestant,
    answer,
    bytes_in,
    machine,
    memory_of_tree,
    peak_of_tree,
    spent_by_tree,
)
from stored import collection_of, exact_ids

K = 10
SAMPLED = 1000  # rows whose neighbours are checked
ASKED = 20  # of stock Spark
CONTESTANTS = ("approximate", "baseline", "exact", "flat", "stock")
Answer = Callable[[], dict[str, Any]]


def main() -> None:
    """Run the benchmark, or one of its contestants."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vectors", type=Path, required=True, help="float32 (n, width), .npy")
    parser.add_argument("--rows", type=int, nargs="+", help="how many of them, each for itself")
    parser.add_argument("--repeat", type=int, default=3, help="turns")
    parser.add_argument("--only", nargs="*", default=CONTESTANTS, choices=CONTESTANTS)
    parser.add_argument("--baseline", type=Path, help="a checkout of lookalike to compare with")
    parser.add_argument("--cold", action="store_true", help="nothing is prepared before a turn")
    parser.add_argument("--work", type=Path, help="where the index is written")
    parser.add_argument("--contestant", choices=CONTESTANTS, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="the only form there is")
    given = parser.parse_args()
    if given.contestant:
        ready = 0.0 if given.cold else prepare(given.work)
        act = MAKERS[given.contestant](given.work)
        answer(ready)
        for _ in sys.stdin:
            answer(json.dumps(act()))
        return
    told = {"machine": machine(), "repeat": given.repeat, "k": K, "cold": given.cold}
    sizes = given.rows or [len(np.load(given.vectors, mmap_mode="r"))]
    figures = {str(size): measure(given.vectors, size, given) for size in sizes}
    print(json.dumps({**told, "rows": figures, "growth": growth(figures)}))  # noqa: T201


def measure(file: Path, size: int, given: argparse.Namespace) -> dict[str, Any]:
    """Let all contestants take turns on the first `size` vectors of a file."""
    names = [name for name in given.only if name != "baseline"]
    names += ["baseline"] if given.baseline else []
    with tempfile.TemporaryDirectory(dir=given.work) as folder:
        work = Path(folder)
        vectors = np.load(file, mmap_mode="r")[:size]
        made = collection_of(vectors, work / "index")
        collection_of(vectors[:4000], work / "small")
        np.save(work / "true.npy", true_neighbors(vectors))
        turns: dict[str, list[dict[str, Any]]] = {}
        # Spark keeps what it has shuffled until its process ends, so that each turn gets a new one.
        for _, name in itertools.product(range(given.repeat), names):
            source = given.baseline if name == "baseline" else None
            turns.setdefault(name, []).append(one_turn(name, work, file, source, given.cold))
        figures = {name: medians(some) for name, some in turns.items()}
        for one in figures.values():
            one["cpu_us_a_row"] = round(one["cpu_seconds"] / size * 1e6, 1)
        told = {"index_bytes": made.size(), **figures}
    return {**told, "ratios": ratios(figures, size)}


def one_turn(name: str, work: Path, file: Path, source: Path | None, cold: bool) -> dict[str, Any]:
    """Run a contestant once, on its own copy of the index; add its memory and the disk it took."""
    own = work / ("baseline" if source else "own")
    if cold and own.exists():
        shutil.rmtree(own)
    if not own.exists():
        for each in ("index", "small"):
            shutil.copytree(work / each, own / each, copy_function=os.link)
        os.link(work / "true.npy", own / "true.npy")
    environment = {
        "LOOKALIKE_CACHE": str(own / "cache"),
        "SPARK_LOCAL_DIRS": str(own / "spark"),
        **({"PYTHONPATH": str((source / "src").absolute())} if source else {}),
    }
    command = [sys.executable, __file__, "--vectors", str(file), "--work", str(own)]
    command += ["--contestant", name, *(["--cold"] if cold else [])]
    return run_watched(command, own, environment)


def run_watched(
    command: list[str], folder: Path, environment: dict[str, str] | None = None
) -> dict[str, Any]:
    """Run a contestant once; add its memory, and the disk that it took in a folder."""
    contestant = Contestant(command, environment)
    with Watch(folder, contestant.pid) as watch:
        told: dict[str, Any] = json.loads(contestant.tell("go"))
    told["ready_s"] = round(float(contestant.ready), 1)
    told["memory_mb"] = round(watch.memory / 2**20)
    told["peak_mb"] = round(peak_of_tree(contestant.pid) / 2**20)
    told["disk_mb"] = round(watch.disk / 2**20)
    contestant.dismiss()
    return told


def prepare(work: Path) -> float:
    """Do what is done once a collection; return how many seconds it takes."""
    started = time.perf_counter()
    searcher = Searcher(EmbeddingTable.open(work / "index"))
    _ = [segment.vectors for segment in searcher.rows.segments]
    searcher.get_ready()
    return time.perf_counter() - started


class Watch(threading.Thread):
    """Watches how much more a folder holds at most, and how much memory processes hold."""

    def __init__(self, folder: Path, pid: int) -> None:
        super().__init__(daemon=True)
        self.folder, self.pid = folder, pid
        self.disk = self.memory = 0
        self._ended = threading.Event()

    def run(self) -> None:
        """Look once a second."""
        before = bytes_in(self.folder)
        while not self._ended.wait(1):
            self.disk = max(self.disk, bytes_in(self.folder) - before)
            self.memory = max(self.memory, memory_of_tree(self.pid))

    def __enter__(self) -> "Watch":
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
    told = {
        f"{one}_vs_{other}": round(seconds[one] / seconds[other], 2)
        for one, other in pairs
        if {one, other} <= seconds.keys()
    }
    if {"approximate", "baseline"} <= figures.keys():
        new, old = figures["approximate"]["cpu_seconds"], figures["baseline"]["cpu_seconds"]
        told["cpu_approximate_vs_baseline"] = round(new / old, 3)
    return told


def growth(figures: dict[str, Any]) -> dict[str, float]:
    """Say how many times as long a row takes each contestant from one size to the next, in CPU."""
    sizes = list(figures)
    return {
        f"{name}_{small}_to_{large}": round(
            figures[large][name]["cpu_us_a_row"] / figures[small][name]["cpu_us_a_row"], 2
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


class Cost:
    """Measures a block: seconds, and CPU seconds of this process and all it started."""

    def __enter__(self) -> "Cost":
        self._cpu = spent_by_tree(os.getpid())
        self._started = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._started
        self.cpu_seconds = spent_by_tree(os.getpid()) - self._cpu

    def told(self) -> dict[str, float]:
        """Return both."""
        return {"seconds": round(self.seconds, 2), "cpu_seconds": round(self.cpu_seconds, 2)}


def lookalike(engine: Any) -> Callable[[Path], Answer]:
    """Return the maker of one of lookalike's ways."""

    def make(work: Path) -> Answer:
        session()
        small = Index(EmbeddingTable.open(work / "small"))
        small.kneighbors(k=K, engine="approximate").write(work / "warm", overwrite=True)

        def act() -> dict[str, Any]:
            index = Index(EmbeddingTable.open(work / "index"))
            with Cost() as cost:
                index.kneighbors(k=K, engine=engine).write(work / "out", overwrite=True)
            table = pq.read_table(work / "out", columns=["query_id", "neighbor_id"])
            # All that asked got K answers, and the rows of one query follow each other.
            order = np.argsort(table["query_id"].to_numpy(), kind="stable")
            found = table["neighbor_id"].to_numpy()[order].reshape(-1, K)
            drawn = found[sampled(len(found))].tolist()
            share = recall(np.load(work / "true.npy"), drawn)
            return {**cost.told(), "recall_10": share}

        return act

    return make


def flat(work: Path) -> Answer:
    """Return FAISS's exact search."""
    segments = EmbeddingTable.open(work / "index").segments
    vectors = np.concatenate([segment.vectors for segment in segments])
    faiss.omp_set_num_threads(cores())

    def act() -> dict[str, Any]:
        with Cost() as cost:
            index = faiss.IndexFlatL2(vectors.shape[1])
            index.add(vectors)
            found = index.search(vectors, K + 1)[1]
        share = recall(np.load(work / "true.npy"), found[sampled(len(found))].tolist())
        return {**cost.told(), "recall_10": share}

    return act


def stock(work: Path) -> Answer:
    """Return Spark ML's own LSH, with the parameters that lookalike chooses."""
    from lookalike.lsh import fit, with_vectors
    from lookalike.lsh.search import hashed

    collection = EmbeddingTable.open(work / "index")
    table = with_vectors(collection.dataframe(session())).persist()
    hasher = fit(table)
    rows = Searcher(collection).rows

    def act() -> dict[str, Any]:
        drawn = sampled(len(rows))[:ASKED]
        queries = rows.vectors(drawn)
        hashed(table, hasher, queries[0], K)
        with Cost() as cost:
            found = [
                [one.id for one in hashed(table, hasher, query, K, int(own))]
                for own, query in zip(drawn, queries, strict=True)
            ]
        share = recall(np.load(work / "true.npy")[:ASKED], found)
        return {**cost.told(), "recall_10": share}

    return act


MAKERS: dict[str, Callable[[Path], Answer]] = {
    "approximate": lookalike("approximate"),
    "baseline": lookalike("approximate"),
    "exact": lookalike("exact"),
    "flat": flat,
    "stock": stock,
}


if __name__ == "__main__":
    main()
