"""Search over regions: in little memory, warm and cold, from a disk and from an S3 server.

    python benchmarks/regions.py --vectors drawn.npy --rows 1000000 --work /tmp/regions --json
    python benchmarks/regions.py --index 4000000.index --around crops.npy --work /tmp/regions --json

The last `--queries` rows are in no index; their true neighbours are found by comparing all. Those
of an index that `scale.py --keep` has made are drawn as its rows were. Each
row of the answer is a process of its own, which may take `--memory` gigabytes (RLIMIT_DATA: memory
of its own, touched or not; `peak_mb` is what was resident, files that it maps included) and keep
4 GB of a store on the disk. Cold
means that before each query the system forgets the files of the regions (posix_fadvise), or that
the process begins with an empty cache. Without `--vectors` they are drawn in heaps. What is in
`--work` already is used again. `--s3` copies the index into a server in this process, in memory;
`--endpoint URL` into a server that is there, with a bucket `regions` and keys from the environment.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

import lookalike
from lookalike.storage import EmbeddingTable
from lookalike.storage.region_folders import REGIONS
from measure import machine
from vectors import BLOCK as DRAWN
from vectors import Anchors, Crowd

K = 10
BLOCK = 65_536
CACHE = "4 GB"
BUCKET = "regions"
SETTINGS = {
    "AWS_ACCESS_KEY_ID": "tester",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_REGION": "us-east-1",
    "AWS_ALLOW_HTTP": "true",
}
ENDPOINT_SETTINGS = {name: SETTINGS[name] for name in ("AWS_REGION", "AWS_ALLOW_HTTP")}
Vectors = npt.NDArray[np.float32]


def main() -> None:
    """Make the index and its regions, then ask."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vectors", type=Path, help="a .npy of vectors of length 1")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument(
        "--memory", type=float, default=2.0, help="gigabytes that a process may take"
    )
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--index", type=Path, help="an index of drawn rows that is there already")
    parser.add_argument("--around", type=Path, help="what the rows of `--index` were drawn around")
    parser.add_argument("--s3", action="store_true")
    parser.add_argument("--endpoint", help="address of an S3 server")
    parser.add_argument(
        "--no-spark", action="store_true", help="all rows in memory: up to a million"
    )
    parser.add_argument("--recall", type=float, default=0.98)
    parser.add_argument("--ask", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true", help="the only form there is")
    given = parser.parse_args()
    if given.ask:
        index, queries, how = given.ask
        print(json.dumps(ask(index, queries, how, given.recall)))  # noqa: T201
        return
    given.work.mkdir(parents=True, exist_ok=True)
    print(json.dumps(run(given)))  # noqa: T201


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Measure all."""
    work: Path = given.work
    environment = {"LOOKALIKE_CACHE": str(work / "cache"), "LOOKALIKE_CACHE_SIZE": CACHE}
    told: dict[str, Any] = {"machine": machine(), "memory_gb": given.memory}
    out = given.index or work / "own.index"
    if given.index:
        rows = len(lookalike.open_index(out))
        queries = strangers(given.around, rows, given.queries)
    else:
        vectors = given.vectors or drawn(work / "drawn.npy", given.rows + given.queries)
        whole = np.load(vectors, mmap_mode="r")
        rows = min(given.rows, len(whole) - given.queries)
        queries = whole[rows : rows + given.queries]
        if not out.exists():
            np.save(work / "rows.npy", whole[:rows])
            command = ["index", str(work / "rows.npy"), "-o", str(out)]
            told["index_seconds"] = lookalike_command(command, environment)[0]
            (work / "rows.npy").unlink()
    np.save(work / "queries.npy", queries)
    told["rows"] = rows
    if not (out / REGIONS).exists():
        command = ["regions", str(out), "--json", *(["--no-spark"] if given.no_spark else [])]
        seconds, built = lookalike_command(command, environment)
        told |= {"regions_seconds": seconds, "regions": json.loads(built)}
    told["regions_bytes"] = sum(f.stat().st_size for f in (out / REGIONS).rglob("*.*"))
    true = true_neighbors(out, np.load(work / "queries.npy"), work / f"true-{rows}.npy")
    asked = (work, given.memory, given.recall, true)
    told["disk"] = {how: answers(str(out), how, *asked, environment) for how in ("warm", "cold")}
    if given.s3 or given.endpoint:
        running = nullcontext(given.endpoint) if given.endpoint else server()
        keys = ENDPOINT_SETTINGS if given.endpoint else SETTINGS
        with running as address, tempfile.TemporaryDirectory(dir=work) as cache:
            environment |= {**keys, "AWS_ENDPOINT_URL": address, "LOOKALIKE_CACHE": cache}
            os.environ.update({**keys, "AWS_ENDPOINT_URL": address})
            upload(out)
            uri = f"s3://{BUCKET}/own.index"
            ways = ("first", "warm")  # what the first left on the disk is there for the second
            told["s3"] = {how: answers(uri, how, *asked, environment) for how in ways}
    return told


def drawn(file: Path, count: int, width: int = 512) -> Path:
    """Draw unit vectors in heaps of 24 dimensions each, as many as 2,000 rows need."""
    if not file.exists():
        rng = np.random.default_rng(0)
        heaps = max(count // 2_000, 40)
        centres = rng.normal(size=(heaps, width)).astype(np.float32)
        spread = rng.normal(size=(64, 24, width)).astype(np.float32) * 0.25
        out = np.lib.format.open_memmap(file, "w+", np.float32, (count, width))
        for start in range(0, count, BLOCK):
            heap = rng.integers(heaps, size=min(BLOCK, count - start))
            inner = rng.normal(size=(len(heap), 24)).astype(np.float32)
            block = centres[heap] + 0.05 * rng.normal(size=(len(heap), width)).astype(np.float32)
            for kind in range(len(spread)):
                here = heap % len(spread) == kind
                block[here] += inner[here] @ spread[kind]
            faiss.normalize_L2(block)
            out[start : start + len(heap)] = block
        out.flush()
    return file


def strangers(around: Path, rows: int, count: int) -> Vectors:
    """Draw vectors as the rows of an index were drawn, none of them one of its rows."""
    crowd = Crowd(Anchors.of(np.load(around, mmap_mode="r")), (rows // DRAWN + 1) * DRAWN + count)
    return crowd.block(crowd.blocks - 1)


def true_neighbors(index: Path, queries: Vectors, file: Path) -> npt.NDArray[np.int64]:
    """Compare all rows of an index with all queries, a batch at a time."""
    if not file.exists():
        heap = faiss.ResultHeap(len(queries), K)
        for part in EmbeddingTable.open(index).files():
            for batch in pq.ParquetFile(part).iter_batches(BLOCK, columns=["id", "embedding"]):
                block = batch["embedding"].flatten().to_numpy().reshape(len(batch), -1)
                squared, near = faiss.knn(queries, block, min(K, len(block)))
                heap.add_result(squared, batch["id"].to_numpy()[near])
        heap.finalize()
        np.save(file, heap.I)
    found: npt.NDArray[np.int64] = np.load(file)
    return found


def lookalike_command(command: list[str], environment: dict[str, str]) -> tuple[float, str]:
    """Run a command; return seconds and what it said."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "lookalike", *command],
        env=os.environ | environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return round(time.perf_counter() - started, 1), done.stdout


def answers(
    index: str,
    how: str,
    work: Path,
    memory: float,
    recall: float,
    true: npt.NDArray[np.int64],
    environment: dict[str, str],
) -> dict[str, Any]:
    """Let a process with little memory ask; compare its answers with the true neighbours."""
    limit = int(memory * 2**30)
    command = [sys.executable, __file__, "--work", str(work), "--recall", str(recall)]
    done = subprocess.run(
        [*command, "--ask", index, str(work / "queries.npy"), how],
        env=os.environ | environment | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)),
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    told: dict[str, Any] = json.loads(done.stdout)
    found = told.pop("ids")
    same = [len(set(own) & set(near)) for own, near in zip(found, true.tolist(), strict=True)]
    return {"recall": round(sum(same) / (K * len(found)), 4), **told}


def ask(index: str, queries: str, how: str, recall: float) -> dict[str, Any]:
    """Answer all queries in this process; warm ones come twice, and the second time counts."""
    started = time.perf_counter()
    opened = lookalike.open_index(index)
    given = np.load(queries)
    opened.search(given[0], k=K, recall=recall)
    ready = time.perf_counter() - started
    took: list[float] = []
    ids: list[list[int]] = []
    compared: list[int] = []
    if how == "warm":
        for query in given:
            opened.search(query, k=K, recall=recall)
    for query in given:
        if how == "cold":
            forget(Path(index) / REGIONS)
        before = time.perf_counter()
        found = opened.search(query, k=K, recall=recall)
        took.append((time.perf_counter() - before) * 1000)
        ids.append([one.number for one in found])
        compared.append(found.candidates or 0)
    lines = Path("/proc/self/status").read_text().splitlines()
    peaks = {line.split(":")[0]: int(line.split()[1]) // 1024 for line in lines if "kB" in line}
    percentiles = {f"p{p}_ms": round(float(np.percentile(took, p)), 2) for p in (50, 95, 99)}
    return {
        **percentiles,
        "first_answer_seconds": round(ready, 2),
        "compared": round(float(np.mean(compared))),
        "peak_mb": peaks["VmHWM"],
        "peak_address_mb": peaks["VmPeak"],
        "ids": ids,
    }


def forget(folder: Path) -> None:
    """Let the system forget what it has of some files."""
    for file in folder.rglob("*.region"):
        opened = os.open(file, os.O_RDONLY)
        os.posix_fadvise(opened, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(opened)


@contextmanager
def server() -> Iterator[str]:
    """Run an S3 server on loopback with an empty bucket."""
    import logging

    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    running.start()
    try:
        host, port = running.get_host_and_port()
        address = f"http://{host}:{port}"
        keys = {"aws_access_key_id": "tester", "aws_secret_access_key": "secret"}
        client = boto3.client("s3", endpoint_url=address, region_name="us-east-1", **keys)
        client.create_bucket(Bucket=BUCKET)
        yield address
    finally:
        running.stop()


def upload(folder: Path) -> None:
    """Put an index into the server, without its data files: none is read."""
    from lookalike.system.store import open_store

    store = open_store(f"s3://{BUCKET}/own.index")
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if file.is_file() and file.name != ".writers" and not name.startswith("data/"):
            store.put(name, file)


if __name__ == "__main__":
    main()
