"""The nearest rows of one DataFrame for each of another: lookalike beside Spark. One line of JSON.

    python benchmarks/nearest.py --vectors drawn.npy --rows 1000 2000 4000 --large 400000 --json

In one Spark session take turns:

    nearest  lookalike.nearest(queries, items, k=10)
    spark    Spark 4.3: SELECT ... FROM q JOIN t APPROX NEAREST 10 BY DISTANCE vector_l2_distance

Both read the same Parquet files, and write what they find. Queries and items are equally many, and
no query is an item. Spark compares every query with every item, so that its time is a square:
measured at all sizes and fitted as a + b n^2; beside are the error of that fit, and the exponent
between the last two sizes. For
`--large` lookalike alone runs, and Spark's time is the square's.
"""

import argparse
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lookalike.spark import session
from lookalike.system.arrays import Vectors
from measure import machine, spent_by_tree

K = 10
CHECKED = 500  # queries whose answers are compared with the truth
BLOCK = 65_536  # rows written and compared at a time
FILES = 4  # of a DataFrame at least, for tasks to share
SQL = (
    "SELECT q.id AS query_id, t.id AS neighbor_id, "
    "vector_l2_distance(q.embedding, t.embedding) AS distance "
    f"FROM q JOIN t APPROX NEAREST {K} BY DISTANCE vector_l2_distance(q.embedding, t.embedding)"
)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vectors", type=Path, required=True, help="float32 (n, width), .npy")
    parser.add_argument("--rows", type=int, nargs="+", default=[2000, 4000])
    parser.add_argument("--large", type=int, nargs="*", default=[], help="for lookalike alone")
    parser.add_argument("--repeat", type=int, default=1, help="turns")
    parser.add_argument("--work", type=Path, help="where DataFrames are written")
    parser.add_argument("--json", action="store_true", help="the only form there is")
    given = parser.parse_args()
    vectors = np.load(given.vectors, mmap_mode="r")
    if len(vectors) < 2 * max([*given.rows, *given.large]):
        parser.error(f"{given.vectors} has {len(vectors):,} vectors: twice the rows are needed")
    with tempfile.TemporaryDirectory(dir=given.work) as folder:
        os.environ["SPARK_LOCAL_DIRS"] = f"{folder}/spark"
        os.environ["LOOKALIKE_CACHE"] = f"{folder}/cache"
        print(json.dumps(run(vectors, given, Path(folder))))  # noqa: T201


def run(vectors: Vectors, given: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Measure all sizes; say how Spark's time grows, and what it would take."""
    session()
    turn(WAYS["spark"], *written(vectors, 200, work / "warm"), work)  # neither one pays the start
    turn(WAYS["nearest"], *written(vectors, 200, work / "warm"), work)
    rows: dict[str, Any] = {}
    for size in sorted({*given.rows, *given.large}):
        queries, items = written(vectors, size, work / str(size))
        names = list(WAYS) if size in given.rows else ["nearest"]
        turns: dict[str, list[dict[str, Any]]] = {}
        for _, name in itertools.product(range(given.repeat), names):
            told = turn(WAYS[name], queries, items, work)
            told["recall_10"] = recall(vectors, size, work / "out")
            turns.setdefault(name, []).append(told)
        rows[str(size)] = {name: medians(some) for name, some in turns.items()}
    squares = square(
        {size: rows[str(size)]["spark"]["seconds"] for size in sorted(set(given.rows))}
    )
    for size, one in rows.items():
        taken = one["nearest"]["seconds"]
        expected = squares["start_s"] + squares["s_per_million_pairs"] * int(size) ** 2 / 1e6
        seconds = one["spark"]["seconds"] if "spark" in one else expected
        one["ratio"] = round(seconds / taken, 1)
        one["spark_s"] = round(seconds, 1)
        one["spark_is_measured"] = "spark" in one
    return {
        "machine": machine(),
        "k": K,
        "width": vectors.shape[1],
        "sql": SQL,
        "rows": rows,
        "square": squares,
    }


def written(vectors: Vectors, size: int, folder: Path) -> tuple[str, str]:
    """Write the first vectors as queries and the next ones as items; return both folders."""
    for part, name in enumerate(("queries", "items")):
        (folder / name).mkdir(parents=True, exist_ok=True)
        step = min(BLOCK, -(-size // FILES))
        for start in range(0, size, step):
            stop = min(start + step, size)
            some = np.ascontiguousarray(vectors[part * size + start : part * size + stop])
            offsets = pa.array(np.arange(0, some.size + 1, some.shape[1], dtype=np.int32))
            lists = pa.ListArray.from_arrays(offsets, pa.array(some.ravel()))
            table = pa.table({"id": pa.array(np.arange(start, stop)), "embedding": lists})
            pq.write_table(table, folder / name / f"{start}.parquet", use_dictionary=False)
    return str(folder / "queries"), str(folder / "items")


def by_lookalike(queries: Any, items: Any) -> tuple[Any, float | None]:
    """Return the pairs that lookalike finds, and the recall it promises."""
    from lookalike import nearest

    found = nearest(queries, items, k=K)
    return found.to_spark(), found.recall


def by_spark(queries: Any, items: Any) -> tuple[Any, float | None]:
    """Return the pairs that Spark finds, which promises no recall."""
    queries.createOrReplaceTempView("q")
    items.createOrReplaceTempView("t")
    return session().sql(SQL), None


Way = Callable[[Any, Any], tuple[Any, float | None]]
WAYS: dict[str, Way] = {"nearest": by_lookalike, "spark": by_spark}


def turn(way: Way, queries: str, items: str, work: Path) -> dict[str, Any]:
    """Find all neighbours once and write them; return what it took."""
    spark = session()
    frames = [spark.read.parquet(f"file://{Path(one).absolute()}") for one in (queries, items)]
    cpu, started = spent_by_tree(os.getpid()), time.perf_counter()
    found, promised = way(*frames)
    pairs = found.select("query_id", "neighbor_id")
    pairs.write.mode("overwrite").parquet(f"file://{(work / 'out').absolute()}")
    return {
        "seconds": round(time.perf_counter() - started, 2),
        "cpu_seconds": round(spent_by_tree(os.getpid()) - cpu, 2),
        "promised_recall": promised,
    }


def recall(vectors: Vectors, size: int, out: Path) -> float:
    """Return the mean share of true neighbours among those written, of drawn queries."""
    drawn = np.sort(np.random.default_rng(3).choice(size, min(CHECKED, size), replace=False))
    queries = np.ascontiguousarray(vectors[drawn])
    heap = faiss.ResultHeap(len(queries), K)
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        block = np.ascontiguousarray(vectors[size + start : size + stop])
        heap.add_result(*_shifted(*faiss.knn(queries, block, K), start))
    heap.finalize()
    table = pq.read_table(out, columns=["query_id", "neighbor_id"])
    asked = np.isin(table["query_id"].to_numpy(), drawn)
    found: dict[int, set[int]] = {number: set() for number in drawn.tolist()}
    ids, near = (table[name].to_numpy()[asked].tolist() for name in table.column_names)
    for query, neighbor in zip(ids, near, strict=True):
        found[query].add(neighbor)
    shares = [
        len(found[query] & set(true)) / K
        for query, true in zip(drawn.tolist(), heap.I.tolist(), strict=True)
    ]
    return round(float(np.mean(shares)), 4)


def _shifted(squared: Any, near: Any, start: int) -> tuple[Any, Any]:
    """Return distances and numbers counted from the first row of all; -1 stays."""
    return squared, np.where(near < 0, near, near + start)


def medians(turns: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the median of each figure."""
    found: dict[str, Any] = {}
    for name in turns[0]:
        values = [turn[name] for turn in turns if turn[name] is not None]
        found[name] = statistics.median(values) if values else None
    return found


def square(seconds: dict[int, float]) -> dict[str, float]:
    """Fit a + b n^2 to seconds by number of rows; tell also with which power they grew last."""
    sizes = np.array(list(seconds), float)
    taken = np.array(list(seconds.values()))
    if len(sizes) == 1:
        return {"start_s": 0.0, "s_per_million_pairs": float(taken[0] / (sizes[0] ** 2 / 1e6))}
    millions = sizes**2 / 1e6
    slope, start = np.polyfit(millions, taken, 1)
    growth = np.log(taken[-1] / taken[-2]) / np.log(sizes[-1] / sizes[-2])
    off = np.abs(start + slope * millions - taken) / taken
    return {
        "start_s": round(float(start), 2),
        "s_per_million_pairs": round(float(slope), 4),
        "exponent": round(float(growth), 2),
        "largest_error_of_fit": round(float(off.max()), 3),
    }


if __name__ == "__main__":
    main()
