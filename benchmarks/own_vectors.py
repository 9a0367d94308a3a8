"""Index vectors of one's own from Parquet: time, memory, and recall of searches. One line of JSON.

    python benchmarks/own_vectors.py --rows 1000000 --work DIR --json

The vectors lie in crowds, along 24 of 96 directions each, with lengths that differ; each has a
string as its key. Memory is that of the indexing process: `anonymous_gb` is what it holds itself,
`rss_gb` also counts files that it maps, which the system may take back. Recall is measured against
exact search with rows drawn at random. DIR needs three times the room of the vectors.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import lookalike
from lookalike.search.rows import draw
from lookalike.search.searcher import Searcher
from lookalike.system.arrays import Vectors
from lookalike.system.defaults import TARGET_RECALL
from measure import machine

CROWD_ROWS, DIRECTIONS, SPACE = 250, 24, 96
BLOCK_ROWS = 65_536
FILE_ROWS = 262_144  # in one row group, as pandas writes them
QUERIES, K = 200, 10


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--metric", default="cosine", choices=("cosine", "l2"))
    parser.add_argument("--work", type=Path, required=True, help="an empty folder")
    parser.add_argument("--json", action="store_true", help="the only form there is")
    given = parser.parse_args()
    print(json.dumps(run(given.rows, given.width, given.metric, given.work)))  # noqa: T201


def run(rows: int, width: int, metric: str, work: Path) -> dict[str, Any]:
    """Draw the vectors, index them, search."""
    os.environ["LOOKALIKE_CACHE"] = str(work / "cache")
    table, out = work / "own", work / "own.index"
    if not table.is_dir():
        write_vectors(rows, width, table)
    command = [sys.executable, "-m", "lookalike", "index", str(table), "--out", str(out)]
    command += ["--embedding-column", "vector", "--id-column", "sku", "--metric", metric]
    figures = watched(command)
    return {
        "machine": machine(),
        "rows": rows,
        "width": width,
        "metric": metric,
        "parquet_gb": round(sum(one.stat().st_size for one in table.iterdir()) / 1e9, 2),
        **figures,
        **recall_of(out),
    }


def write_vectors(rows: int, width: int, folder: Path) -> None:
    """Draw vectors block by block and write them to files of one row group each."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    crowds = max(rows // CROWD_ROWS, 16)
    space = rng.normal(size=(SPACE, width)).astype(np.float32)
    centres = rng.normal(size=(crowds, SPACE)).astype(np.float32) @ space
    axes: Vectors = rng.normal(size=(64, DIRECTIONS, SPACE)).astype(np.float32) @ space
    axes /= np.float32(8)
    held: list[pa.Table] = []
    for start in range(0, rows, BLOCK_ROWS):
        count = min(BLOCK_ROWS, rows - start)
        vectors = draw_block(rng, count, centres, axes)
        lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), width)
        names = [f"sku-{number:09}" for number in range(start, start + count)]
        held.append(pa.table({"sku": names, "vector": lists.cast(pa.list_(pa.float32()))}))
        if sum(map(len, held)) >= FILE_ROWS or start + count == rows:
            whole = pa.concat_tables(held)
            pq.write_table(whole, folder / f"{start:09}.parquet", row_group_size=len(whole))
            held = []


def draw_block(rng: np.random.Generator, count: int, centres: Vectors, axes: Vectors) -> Vectors:
    """Draw some vectors around centres, (count, width)."""
    crowd = np.sort(rng.integers(0, len(centres), count))
    vectors = centres[crowd]
    for kind in range(len(axes)):
        here = np.flatnonzero(crowd % len(axes) == kind)
        inside = rng.normal(size=(len(here), axes.shape[1])).astype(np.float32)
        vectors[here] += inside @ axes[kind]
    vectors += rng.normal(size=vectors.shape).astype(np.float32) / 4
    lengths = rng.lognormal(0, 0.3, (count, 1)).astype(np.float32)
    mixed: Vectors = (vectors * lengths)[rng.permutation(count)]
    return mixed


def watched(command: list[str]) -> dict[str, Any]:
    """Run a command; return its seconds and the most memory that it had."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peaks = {"RssAnon": 0, "VmHWM": 0}
    while process.poll() is None:
        for name, held in memory_of(process.pid).items():
            peaks[name] = max(peaks[name], held)
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(process.returncode)
    return {
        "index_s": round(time.perf_counter() - started, 1),
        "anonymous_gb": round(peaks["RssAnon"] / 1e9, 2),
        "rss_gb": round(peaks["VmHWM"] / 1e9, 2),
    }


def memory_of(pid: int) -> dict[str, int]:
    """Return the memory of a process in bytes: its own, and the most that was resident."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    parts = (line.split() for line in lines if line.startswith(("RssAnon:", "VmHWM:")))
    return {name.rstrip(":"): int(kilobytes) * 1024 for name, kilobytes, _ in parts}


def recall_of(index: Path) -> dict[str, Any]:
    """Compare approximate with exact search, query by query."""
    opened = lookalike.open_index(index)
    searcher: Searcher = opened._searcher
    searcher.get_ready()
    right, times = 0, []
    drawn = draw(len(searcher.rows), QUERIES, seed=5)
    for number, vector in zip(searcher.rows.ids[drawn], searcher.rows.vectors(drawn), strict=True):
        started = time.perf_counter()
        found, used, _ = searcher.nearest(vector, K, without=int(number))
        times.append((time.perf_counter() - started) * 1000)
        true = searcher.nearest(vector, K, engine="exact", without=int(number))[0]
        right += len({one.id for one in found} & {one.id for one in true})
    return {
        "asked": TARGET_RECALL,
        "recall": round(right / (QUERIES * K), 4),
        "queries": QUERIES,
        "engine": used,
        "ms": round(float(np.median(times)), 3),
    }


if __name__ == "__main__":
    main()
