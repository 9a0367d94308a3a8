"""The neighbours of every row on one worker and on two, which share the index and nothing else.

    python benchmarks/workers.py --index 400000.index --work DIR --json

A standalone master of Spark and workers of one core each run on this machine. Each worker has a
cache and a disk of its own. A small collection goes first, so that all processes are there. The
same rows are searched in one process of Spark with two cores, and the pairs are compared.

    seconds       of the search, with planning
    left          bytes that lie in a worker's cache and on its disk once the driver has ended
    pairs_equal   the share of the pairs of query and neighbour that are those of one machine
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

import lookalike
from lookalike.spark import session
from measure import bytes_in, machine
from neighbors import Cost

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from helpers.spark_servers import cluster, environment

K = 10
WARM_ROWS = 4_000
WAYS = {"machine": 0, "one": 1, "two": 2}
"""How many workers there are."""


def main() -> None:
    """Run the benchmark, or the driver of one way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--index", type=Path, required=True)
    parser.add_argument("--repeat", type=int, default=1, help="turns")
    parser.add_argument("--work", type=Path, help="where the answers and the shuffle lie")
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="the only form there is")
    given = parser.parse_args()
    if given.out:
        print(json.dumps(find(given.index, given.out)))  # noqa: T201
        return
    turns: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory(dir=given.work, prefix="workers-") as folder:
        for turn, name in itertools.product(range(given.repeat), WAYS):
            one = run(given.index, Path(folder) / f"{name}-{turn}", WAYS[name])
            turns.setdefault(name, []).append(one)
            print(json.dumps({name: one}), file=sys.stderr, flush=True)  # noqa: T201
        equal = {
            name: pairs_equal(Path(folder) / "machine-0" / "out", Path(folder) / f"{name}-0/out")
            for name in ("one", "two")
        }
    seconds = {name: statistics.median(one["seconds"] for one in turns[name]) for name in turns}
    told = {
        "machine": machine(),
        "rows": len(lookalike.open_index(given.index)),
        "turns": turns,
        "pairs_equal": equal,
        "one_vs_two_workers": round(seconds["one"] / seconds["two"], 2),
    }
    print(json.dumps(told))  # noqa: T201


def run(index: Path, here: Path, workers: int) -> dict[str, Any]:
    """Find all neighbours on some workers, or in one process of Spark, into a folder."""
    here.mkdir()
    places = [here / f"worker-{number}" for number in range(workers)]
    own = [
        {"LOOKALIKE_CACHE": str(place / "cache"), "SPARK_LOCAL_DIRS": str(place / "disk")}
        for place in places
    ]
    driver = {"LOOKALIKE_CACHE": str(here / "cache"), "SPARK_LOCAL_DIRS": str(here / "disk")}
    command = [sys.executable, __file__, "--index", str(index.absolute()), "--out", str(here)]
    with ExitStack() as stack:
        if workers:
            driver["SPARK_MASTER"] = stack.enter_context(cluster(here, own))
        done = subprocess.run(
            command, check=True, capture_output=True, text=True, env=environment(**driver)
        )
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    told["left"] = [
        {kind: bytes_in(place / kind) for kind in ("cache", "disk")} for place in places
    ]
    return told


def find(index: Path, out: Path) -> dict[str, float]:
    """Write the neighbours of all rows."""
    session()
    rng = np.random.default_rng(0)
    small = rng.normal(size=(WARM_ROWS, 64)).astype(np.float32)
    warm = lookalike.create_index(small, out / "warm.index")
    warm.kneighbors(k=K, engine="approximate").write(out / "warm")
    with Cost() as cost:
        lookalike.open_index(index).kneighbors(k=K).write(out / "out")
    return {"seconds": cost.told()["seconds"]}


def pairs_equal(one: Path, other: Path) -> float:
    """Return the share of the pairs of one answer that another has, too."""
    found = duckdb.execute(
        f"""
        SELECT count(b.query_id) / count(*)
        FROM '{one}/*.parquet' a
        LEFT JOIN '{other}/*.parquet' b USING (query_id, neighbor_id)
        """
    ).fetchone()
    return round(float(found[0]), 6) if found else 0.0


if __name__ == "__main__":
    main()
