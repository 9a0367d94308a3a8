"""One query and many: lookalike's engines beside FAISS's and Spark's own LSH. One line of JSON.

    python benchmarks/vectors.py --images cars_train more --crops 100000 --out crops.npy
    python benchmarks/search.py --vectors crops.npy --json

Every contestant lives in a process of its own, builds what it searches with, and then takes turns
with the others, so that a busy minute of the machine hits all. The queries are rows that nobody
was given. Of each contestant: seconds to build, bytes beside the vectors, milliseconds of one query
(50th and 99th percentile), queries a second where many are asked at once, recall@10, memory. Those
that can look harder are asked at several settings, which make their `curve`; the figures beside it
are those of the middle one.

    exact        lookalike, every row compared
    approximate  lookalike, signatures and then exact distances; the recall asked for
    flat         FAISS IndexFlatL2
    rabitq       FAISS PCAR128,RaBitQ without anything exact behind it
    ivf          FAISS IVF, four times the square root of the rows as lists; how many are looked at
    hnsw         FAISS HNSW32; efSearch
    spark-lsh    stock approxNearestNeighbors with lookalike's parameters (slow: few queries)
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from lookalike.lsh import Hasher, fit, with_vectors
from lookalike.lsh.search import hashed
from lookalike.rendering import plots
from lookalike.search.exact import exact_many
from lookalike.search.searcher import Searcher
from lookalike.spark import session
from lookalike.storage import EmbeddingTable
from lookalike.system.arrays import Vectors
from lookalike.system.resources import cores
from measure import Contestant, answer, machine, peak_of_tree
from stored import collection_of, exact_ids

K = 10
HELD_OUT = 1000  # rows that are queries and nothing else
ONE_BY_ONE = 100  # of them, one after another in every turn
FEW = 5  # of them in a turn of Spark
CONTESTANTS = ("exact", "approximate", "flat", "rabitq", "ivf", "hnsw", "spark-lsh")

SETTINGS: dict[str, tuple[float, ...]] = {
    "approximate": (0.9, 0.95, 0.98, 0.99, 0.995, 0.999),
    "ivf": (4, 8, 16, 32, 64),
    "hnsw": (16, 32, 64, 128, 256),
}
"""What those can be asked with that can look harder; others with 0."""
USUAL = {"approximate": 0.98, "ivf": 32.0, "hnsw": 64.0}

Found = list[list[int]]
Search = Callable[[Vectors, float], Found]
"""From queries (q, width) and a setting to the numbers of the K nearest rows of each."""


def main() -> None:
    """Run the benchmark, or one of its contestants."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vectors", type=Path, required=True, help="float32 (n, width), .npy")
    parser.add_argument("--rows", type=int, help="take only so many")
    parser.add_argument("--repeat", type=int, default=5, help="turns")
    parser.add_argument("--only", nargs="*", default=CONTESTANTS[:-1], choices=CONTESTANTS)
    parser.add_argument("--work", type=Path, help="where lookalike's index is written")
    parser.add_argument("--contestant", choices=CONTESTANTS, help=argparse.SUPPRESS)
    parser.add_argument("--plot", type=Path, help="draw recall against speed, .png or .svg")
    parser.add_argument("--json", action="store_true", help="the only form there is")
    given = parser.parse_args()
    if given.plot:
        plots.check(given.plot)
    vectors, queries = split(given.vectors, given.rows)
    if given.contestant:
        take_turns(given.contestant, vectors, queries, given.work)
        return
    with tempfile.TemporaryDirectory(dir=given.work) as folder:
        os.environ["LOOKALIKE_CACHE"] = str(Path(folder, "cache"))
        arguments = ["--vectors", str(given.vectors), "--work", folder]
        if given.rows:
            arguments += ["--rows", str(given.rows)]
        command = [sys.executable, __file__, *arguments, "--contestant"]
        np.save(Path(folder, "true.npy"), exact_ids(vectors, queries, K))
        started = time.perf_counter()
        if {"exact", "approximate", "spark-lsh"} & set(given.only):
            written_to = collection_of(vectors, Path(folder, "index"))
            _ = [segment.vectors for segment in written_to.segments]  # what a first search caches
        written = round(time.perf_counter() - started, 1)
        figures = compare({name: [*command, name] for name in given.only}, given.repeat)
    if given.plot:
        title = f"{len(vectors):,} vectors, one query at a time, {K} nearest"
        plots.draw(series(figures), title, given.plot)
    told = {"machine": machine(), "rows": len(vectors), "index_written_s": written}
    print(json.dumps({**told, **figures, "ratios": ratios(figures)}))  # noqa: T201


def split(file: Path, rows: int | None) -> tuple[Vectors, Vectors]:
    """Return the rows to search, mapped, and the rows to ask with, which come last in the file."""
    whole = np.load(file, mmap_mode="r")[: rows and rows + HELD_OUT]
    return whole[:-HELD_OUT], np.array(whole[-HELD_OUT:])


def compare(commands: dict[str, list[str]], repeat: int) -> dict[str, dict[str, Any]]:
    """Let all contestants take turns; return their figures."""
    running = {name: Contestant(command) for name, command in commands.items()}
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in commands}
    for _ in range(repeat):
        for name, contestant in running.items():
            for setting in SETTINGS.get(name, (0,)):
                turns[name].append(json.loads(contestant.tell(str(setting))))
    figures = {}
    for name, contestant in running.items():
        curve = [summary(turns[name], setting) for setting in SETTINGS.get(name, (0,))]
        usual = next(one for one in curve if one["setting"] == USUAL.get(name, 0))
        figures[name] = {
            **json.loads(contestant.ready),
            **usual,
            "peak_mb": round(peak_of_tree(contestant.pid) / 2**20),
            "curve": curve,
        }
        contestant.dismiss()
    if "approximate" in commands:  # once more: what was made is there, as for the next process
        again = Contestant(commands["approximate"])
        figures["approximate"]["first_search_s"] = json.loads(again.ready)["build_s"]
        again.dismiss()
    return figures


def summary(turns: list[dict[str, Any]], setting: float) -> dict[str, Any]:
    """Return what all turns at a setting come to."""
    some = [turn for turn in turns if turn["setting"] == setting]
    every = [ms for turn in some for ms in turn["ms"]]
    return {
        "setting": setting,
        "p50_ms": round(statistics.median(every), 3),
        "p99_ms": round(float(np.percentile(every, 99)), 3),
        "batch_per_s": round(statistics.median(turn["batch_per_s"] for turn in some), 1),
        "recall_10": some[0]["recall"],
    }


def series(figures: dict[str, dict[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    """Return queries a second and recall at each setting of each contestant."""
    return {
        name: [(1000 / point["p50_ms"], point["recall_10"]) for point in one["curve"]]
        for name, one in figures.items()
    }


def ratios(figures: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Return how many times as long as a query of `approximate` one of each other contestant takes.

    That says which is quicker only together with `recall_10` of both.
    """
    if "approximate" not in figures:
        return {}
    own = figures["approximate"]["p50_ms"]
    return {
        f"{name}_vs_approximate": round(other["p50_ms"] / own, 2)
        for name, other in figures.items()
        if name != "approximate"
    }


def take_turns(name: str, vectors: Vectors, queries: Vectors, work: Path) -> None:
    """Be a contestant: build, then answer queries for every line read."""
    started = time.perf_counter()
    search, extra = MAKERS[name](vectors, work)
    search(queries[:1], USUAL.get(name, 0))
    answer(json.dumps({"build_s": round(time.perf_counter() - started, 2), "extra_bytes": extra}))
    many = FEW if name == "spark-lsh" else len(queries)
    alone = queries[: min(many, ONE_BY_ONE)]
    true = np.load(work / "true.npy")[:many].tolist()
    for line in sys.stdin:
        setting = float(line)
        times = []
        for query in alone:
            started = time.perf_counter()
            search(query[None], setting)
            times.append((time.perf_counter() - started) * 1000)
        started = time.perf_counter()
        found = search(queries[:many], setting)
        rate = many / (time.perf_counter() - started)
        right = [len(set(some) & set(wanted)) / K for some, wanted in zip(found, true, strict=True)]
        share = round(float(np.mean(right)), 4)
        turn = {"setting": setting, "ms": times, "batch_per_s": rate, "recall": share}
        answer(json.dumps(turn))


def lookalike(engine: Any) -> Callable[[Vectors, Path], tuple[Search, int]]:
    """Return the maker of one of lookalike's engines."""

    def make(_: Vectors, work: Path) -> tuple[Search, int]:
        searcher = Searcher(EmbeddingTable.open(work / "index"))
        if engine == "approximate":
            searcher.get_ready()

        def search(queries: Vectors, recall: float) -> Found:
            if engine == "exact" and len(queries) > 1:
                rows = exact_many(searcher.rows, queries, K)[1]
                return [searcher.rows.ids[some].tolist() for some in rows]
            answers = [
                searcher.nearest(query, K, engine=engine, recall=recall or 1)[0]
                for query in queries
            ]
            return [[neighbor.number for neighbor in some] for some in answers]

        # A signature and the number of its cell.
        extra = 0
        if engine == "approximate":
            extra = len(searcher.rows) * (searcher.signatures.width + 4)
        return search, extra

    return make


def by_faiss(described: str, knob: str = "") -> Callable[[Vectors, Path], tuple[Search, int]]:
    """Return the maker of a FAISS index from its description; `{lists}` by the number of rows.

    `knob` names the parameter that a setting is of.
    """

    def make(vectors: Vectors, _: Path) -> tuple[Search, int]:
        lists = int(4 * len(vectors) ** 0.5)
        index = faiss.index_factory(vectors.shape[1], described.format(lists=lists))
        index.train(np.array(vectors[: 64 * lists]))
        for start in range(0, len(vectors), 65_536):
            index.add(np.array(vectors[start : start + 65_536]))

        def search(queries: Vectors, setting: float) -> Found:
            if knob:
                faiss.ParameterSpace().set_index_parameter(index, knob, setting)
            found: Found = index.search(queries, K)[1].tolist()
            return found

        raw = vectors.nbytes if described.endswith("Flat") or "HNSW" in described else 0
        return search, len(faiss.serialize_index(index)) - raw

    return make


def stock(_: Vectors, work: Path) -> tuple[Search, int]:
    """Return Spark ML's own LSH, with the parameters that lookalike chooses."""
    spark = session(f"local[{cores()},4]")
    table = with_vectors(EmbeddingTable.open(work / "index").dataframe(spark)).persist()
    hasher: Hasher = fit(table)

    def search(queries: Vectors, _: float) -> Found:
        answers = [hashed(table, hasher, query, K) for query in queries]
        return [[neighbor.number for neighbor in some] for some in answers]

    return search, 0


MAKERS: dict[str, Callable[[Vectors, Path], tuple[Search, int]]] = {
    "exact": lookalike("exact"),
    "approximate": lookalike("approximate"),
    "flat": by_faiss("Flat"),
    "rabitq": by_faiss("PCAR128,RaBitQ"),
    "ivf": by_faiss("IVF{lists},Flat", "nprobe"),
    "hnsw": by_faiss("HNSW32,Flat", "efSearch"),
    "spark-lsh": stock,
}


if __name__ == "__main__":
    main()
