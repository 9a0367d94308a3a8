"""What all neighbours cost as a collection grows, and what that means for sizes beyond.

    python benchmarks/scale.py --around crops.npy --rows 100000 1000000 4000000 --work DIR --json
    python benchmarks/scale.py --around crops.npy --rows 4000000 --kind harder --work DIR --json

For each size an index of drawn vectors is written (`benchmarks/vectors.py`), a process of its own
finds the ten neighbours of every row, and all is deleted; `--keep` keeps the indexes. Nothing is
prepared: cells, counts and effort are part of what is measured. Another process asks
`lookalike plan` what it will cost. The figures of a size go to stderr as soon as they are there.

    stages        Spark's stages: CPU seconds of the driver, the JVM and the workers, and bytes
    parts         CPU microseconds a row: read, survey, route, shuffle, search, merge, driver
    copies_a_row  how many rows of halves the shuffle carried for each row: its home and its visits
    memory_mb     the most of the driver, of the JVM, of one worker, and of all processes together
                  (a proportional set; without mapped files), looked at several times a second
    disk_mb       the most that the run took beside the index; of that, what it wrote in the end
    planned       the recall, regions and visits a row that lookalike expected
    said          what `lookalike plan` said of all that, and how many CPU seconds it took to say it
    recall_10     of 400 drawn rows, against exact search; of skewed ones, of rows in no crowd

The model is a power of the number of rows for each part, fitted to the sizes from a million on,
where there are two. Beyond the largest size it tells both what a row costs if it grows like that,
and what it costs if it grows no more.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from lookalike import open_index
from lookalike.spark import session
from measure import bytes_in, machine
from neighbors import Cost
from stages import Processes, Stage, event_log_settings, parts_of, stages_in
from stored import Passing
from vectors import KINDS, Anchors, draw_index, spread_of

K = 10
BEYOND = (100_000_000, 1_000_000_000)
FITTED_FROM = 1_000_000  # rows; below it what is done once outweighs
PARTS = ("read", "survey", "route", "shuffle", "search", "merge", "driver")
SLOPES = (-1.0, 1.0)  # between a cost that is the same for any size and one that is its square
LAST_CHARS = 2000  # of what a failed run wrote
PUBLISHED = (
    {
        "what": "autofaiss builds an index of 5.55 billion of 768 numbers, finds no neighbours",
        "rows": 5_550_336_490,
        "core_hours": 960,  # 10 machines of 16 cores, 6 hours
        "source": "https://github.com/criteo/autofaiss, docs/distributed/distributed_autofaiss.md",
    },
    {
        "what": "autofaiss builds an index of 1.3 billion of 512 numbers, finds no neighbours",
        "rows": 1_300_000_000,
        "core_hours": 200,  # 100 executors, 2 hours; of one core each at least
        "source": "https://github.com/criteo/autofaiss/pull/45",
    },
    {
        "what": "fastdup reads 11.58 million images, embeds them, finds pairs",
        "rows": 11_582_724,
        "core_hours": 103,  # 32 cores, 11,561 s
        "source": "https://github.com/visual-layer/fastdup",
    },
)


def main() -> None:
    """Run the benchmark, or the search that it measures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--around", type=Path, help="real vectors to draw others around, .npy")
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--kind", choices=KINDS, default="around")
    parser.add_argument("--recall", type=float, help="by default that of lookalike")
    parser.add_argument("--work", type=Path, help="a disk with room for the largest index twice")
    parser.add_argument("--keep", action="store_true", help="keep each index: WORK/ROWS.index")
    parser.add_argument("--find", type=Path, nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--foresee", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="the only form there is")
    given = parser.parse_args()
    if given.find:
        index, out = given.find
        find(index, out, given.recall)
        return
    if given.foresee:
        foresee(given.foresee, given.recall)
        return
    if given.around is None:
        parser.error("give --around")
    sizes: dict[int, dict[str, Any]] = {}
    anchors = Anchors.of(np.load(given.around, mmap_mode="r"))
    for rows in sorted(given.rows):
        sizes[rows] = measure(rows, anchors, given)
        print(json.dumps({rows: sizes[rows]}), file=sys.stderr, flush=True)  # noqa: T201
    done = {rows: one for rows, one in sizes.items() if "parts" in one}
    told = {"machine": machine(), "k": K, "kind": given.kind, "rows": sizes}
    print(json.dumps({**told, "model": model(done), "published": PUBLISHED}))  # noqa: T201


def find(index: Path, out: Path, recall: float | None) -> None:
    """Write the neighbours of all rows, and beside them what was planned."""
    options: dict[str, Any] = {} if recall is None else {"recall": recall}
    found: Any = open_index(index).kneighbors(k=K, **options)
    found.write(out)
    plan = getattr(found, "plan", None)
    told = {name: getattr(plan, name, None) for name in ("recall", "regions", "visits")}
    (out.parent / "planned.json").write_text(json.dumps(told))


def foresee(index: Path, recall: float | None) -> None:
    """Print what `lookalike plan` says, and the CPU seconds that it takes once Spark is there."""
    options: dict[str, Any] = {} if recall is None else {"recall": recall}
    session()
    with Cost() as cost:
        said = open_index(index).kneighbors(k=K, **options).explain().to_dict()
    names = ("engine", "regions", "visits", "cells", "shuffled_bytes", "task_bytes", "stages")
    told = {name: said[name] for name in names}
    told["cpu_seconds"] = round(said["core_hours"] * 3600, 1)
    print(json.dumps({**told, "saying": cost.told()}))  # noqa: T201


def measure(rows: int, anchors: Anchors, given: argparse.Namespace) -> dict[str, Any]:
    """Make an index, find all neighbours, say what that took; leave nothing behind."""
    with tempfile.TemporaryDirectory(dir=given.work, prefix=f"scale-{rows}-") as folder:
        work = Path(folder)
        started = time.perf_counter()
        index = given.work / f"{rows}.index" if given.keep else work / "index"
        made, true = draw_index(anchors, rows, index, given.kind)
        about = {
            "index_mb": round(made.size() / 2**20),
            "making_s": round(time.perf_counter() - started, 1),
            "spread": spread_of(rows, true.squared, true.queries, true.queries),
            "reading_us_a_row": reading(made.files()[0]),
        }
        done = search(rows, anchors.real.shape[1], index, work / "run", true, about, given)
        command = [sys.executable, __file__, "--foresee", str(index), *recall_of(given)]
        said = subprocess.run(command, capture_output=True, check=True, text=True).stdout
        return {**about, **done, "said": json.loads(said.splitlines()[-1])}


def recall_of(given: argparse.Namespace) -> list[str]:
    """Return the option that hands the recall on."""
    return [] if given.recall is None else ["--recall", str(given.recall)]


def search(
    rows: int,
    width: int,
    index: Path,
    run: Path,
    true: Passing,
    about: dict[str, Any],
    given: argparse.Namespace,
) -> dict[str, Any]:
    """Find all neighbours in a process of its own, and measure it."""
    environment = event_log_settings(run / "log") | {
        "LOOKALIKE_CACHE": str(run / "cache"),
        "SPARK_LOCAL_DIRS": str(run / "spark"),
    }
    command = [sys.executable, __file__, "--find", str(index), str(run / "out")]
    command += recall_of(given)
    with tempfile.TemporaryFile() as said:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=said, stderr=said, env={**os.environ, **environment}
        )
        seen = Processes(process.pid, run)
        seen.start()
        code = process.wait()
        seconds = time.perf_counter() - started
        seen.ended.set()
        seen.join()
        if code:
            said.seek(max(0, said.seek(0, os.SEEK_END) - LAST_CHARS))
            return {"failed": f"exit code {code}: {said.read().decode(errors='replace')}"}
    stages = stages_in(run / "log", seen)
    shutil.rmtree(run / "log")
    cpu = seen.cpu()
    parts = parts_of(stages)
    routed = sum(stage.written for stage in parts["route"])
    kept = {name: round(bytes_in(run / name) / 2**20, 1) for name in ("out", "cache")}
    return {
        "seconds": round(seconds, 1),
        "cpu_seconds": {role: round(one, 1) for role, one in cpu.items()},
        "cpu_us_a_row": round(sum(cpu.values()) / rows * 1e6, 1),
        "parts": costs(rows, parts, cpu, about["reading_us_a_row"]),
        "shuffled_mb": round(sum(stage.written for stage in stages) / 2**20, 1),
        "planned": json.loads((run / "planned.json").read_text()),
        "copies_a_row": round(routed / rows / (2 * width), 2),
        "memory_mb": {
            name: round(one / 2**20) for name, one in seen.peaks.items() if name != "disk"
        },
        "disk_mb": {"peak": round(seen.peaks["disk"] / 2**20), **kept},
        "stages": [
            {"part": name, **stage.told(rows)} for name, some in parts.items() for stage in some
        ],
        **answers(run / "out", rows, true),
    }


def costs(
    rows: int, parts: dict[str, list[Stage]], cpu: dict[str, float], reading: float
) -> dict[str, float]:
    """Divide all CPU time among `PARTS`, in microseconds a row.

    The shuffle is what the JVM does in the stages from routing on. Reading is measured apart, and
    taken from the stage that routes.
    """

    def seconds(name: str, *roles: str) -> float:
        return sum(stage.cpu[role] for stage in parts[name] for role in roles)

    shuffle = sum(seconds(name, "jvm") for name in ("route", "search", "merge"))
    found = {
        "survey": seconds("survey", "jvm", "workers"),
        "route": seconds("route", "workers"),
        "shuffle": shuffle,
        "search": seconds("search", "workers"),
        "merge": seconds("merge", "workers"),
    }
    found["driver"] = sum(cpu.values()) - sum(found.values())
    each = {name: one / rows * 1e6 for name, one in found.items()}
    each["read"] = min(reading, each["route"])
    each["route"] -= each["read"]
    return {name: round(each[name], 2) for name in PARTS}


def reading(file: Path) -> float:
    """Measure how many CPU microseconds it takes to read a row of a data file as an array."""
    started = time.process_time()
    rows = 0
    for batch in pq.ParquetFile(file).iter_batches(1024, columns=["id", "embedding"]):
        rows += len(batch["embedding"].flatten().to_numpy().reshape(batch.num_rows, -1))
    return round((time.process_time() - started) / rows * 1e6, 2)


def answers(out: Path, rows: int, true: Passing) -> dict[str, Any]:
    """Compare what was written with the truth: how many pairs, and the recall of drawn rows."""
    pairs = ds.dataset(out, format="parquet")
    asked = pc.field("query_id").isin(pa.array(true.ids))
    table = pairs.to_table(columns=["query_id", "neighbor_id"], filter=asked)
    found: dict[int, set[int]] = {}
    for query, neighbor in zip(
        table["query_id"].to_pylist(), table["neighbor_id"].to_pylist(), strict=True
    ):
        found.setdefault(query, set()).add(neighbor)
    shares = [
        len(found.get(query, set()) & set(near)) / K
        for query, near in zip(true.ids.tolist(), true.near[:, :K].tolist(), strict=True)
    ]
    return {
        "pairs_a_row": round(pairs.count_rows() / rows, 4),
        "recall_10": round(float(np.mean(shares)), 4),
        "checked": len(shares),
    }


def model(sizes: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """Fit a power of the number of rows to each part; tell core-hours of sizes beyond."""
    if not sizes:
        return {}
    fitted = [rows for rows in sizes if rows >= FITTED_FROM]
    fitted = fitted if len(fitted) > 1 else list(sizes)
    largest = max(sizes)
    slopes = {
        name: slope([sizes[rows]["parts"][name] for rows in fitted], fitted) for name in PARTS
    }
    if len(fitted) == 1:
        slopes["driver"] = SLOPES[0]  # starting Spark is most of it
    last = sizes[largest]["parts"]
    beyond = {}
    for rows in BEYOND:
        grown = {name: last[name] * (rows / largest) ** slopes[name] for name in PARTS}
        flat = {name: last[name] * (rows / largest) ** min(slopes[name], 0) for name in PARTS}
        beyond[str(rows)] = {
            "us_a_row": {name: round(one, 1) for name, one in grown.items()},
            "core_hours": round(sum(grown.values()) * rows / 3.6e9, 1),
            "core_hours_if_a_row_costs_no_more": round(sum(flat.values()) * rows / 3.6e9, 1),
            "shuffled_gb": round(sizes[largest]["shuffled_mb"] / largest * rows / 1024),
        }
    smallest = min(fitted)
    growth = sizes[largest]["cpu_us_a_row"] / sizes[smallest]["cpu_us_a_row"]
    return {
        "fitted_to": fitted,
        "exponents": {name: round(one, 3) for name, one in slopes.items()},
        "cpu_a_row_growth": {f"{smallest}_to_{largest}": round(growth, 3)},
        "beyond": beyond,
    }


def slope(costs: list[float], rows: list[int]) -> float:
    """Return the exponent with which a cost a row grows with the rows; 0 for a single size."""
    if len(rows) < 2 or min(costs) <= 0:
        return 0.0
    fitted = np.polyfit(np.log(rows), np.log(costs), 1)[0]
    return float(np.clip(fitted, *SLOPES))


if __name__ == "__main__":
    main()
