"""How listing, difference and commit grow with the number of inputs of an index.

    python benchmarks/inputs.py --inputs 1000000 10000000 --changes 1000 --work DIR
    python benchmarks/inputs.py --vectors 1000000 --work DIR
    python benchmarks/inputs.py --files 1000000 --work DIR

The server of listing.py gives the names of a store. The index has a row of `WIDTH` numbers for each
name, except `--changes` names that are new; it has as many that are gone, spread over all its data
files. A process lists the names, works out the difference, embeds the new ones with a function that
costs nothing, commits them, and removes those that are gone. With `--vectors` the names are keys of
a table of vectors, which is indexed, and then compared with its index after `--changes` of its
vectors have changed. With `--files` a folder of this disk is listed. Prints JSON: seconds of each
step and the peak memory in MB while it ran (on Linux), both of that process alone; the bytes of the
data files and of the log; the number of commits. DIR needs 500 bytes an input, and is deleted.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from listing import PAGE, picture, serve
from measure import machine, peak_of_tree

WIDTH = 8
MODIFIED_NS = 1_714_979_289_000_000_000  # of each object of the server
SEGMENT_ROWS = 16_384
TABLE_ROWS = 131_072  # of a row group
ROOT = "s3://b/photos"


@contextmanager
def step(name: str, figures: dict[str, Any]) -> Iterator[None]:
    """Record the seconds and the peak memory of a step."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    started = time.perf_counter()
    yield
    seconds = round(time.perf_counter() - started, 2)
    figures[name] = {"seconds": seconds, "peak_mb": peak_of_tree(os.getpid()) // 2**20}


def is_changed(numbers: Any, names: int, changes: int) -> Any:
    """Tell which of the numbered names have changed: `changes` of all `names`, spread evenly."""
    return numbers % (names // changes) == 0


def stored_rows(inputs: int, changes: int, folders: int) -> Iterator[pa.RecordBatch]:
    """Give a row for each name of the server but new ones, and for names that are gone."""
    from lookalike.storage.schema import ROW

    size = len(picture())
    first = 0
    for start in range(0, inputs, SEGMENT_ROWS):
        numbers = np.arange(start, min(start + SEGMENT_ROWS, inputs))
        gone = is_changed(numbers, inputs, changes)
        paths = [
            f"{ROOT}/{at % folders:02}/{at:09}{'-gone' * one}.png"
            for at, one in zip(numbers.tolist(), gone.tolist(), strict=True)
        ]
        count = len(paths)
        offsets = np.arange(0, count * WIDTH + 1, WIDTH, dtype=np.int32)
        vectors = np.random.default_rng(start).normal(size=count * WIDTH).astype(np.float32)
        hashes = [f"{at:032x}" for at in numbers.tolist()]
        columns = {
            "id": pa.array(np.arange(first, first + count)),
            "path": pa.array(paths),
            "width": pa.array(np.full(count, 16, np.int32)),
            "height": pa.array(np.full(count, 16, np.int32)),
            "size": pa.array(np.full(count, size)),
            "modified": pa.array(np.full(count, MODIFIED_NS)),
            "content_hash": pa.array(hashes),
            "status": pa.array(["ok"] * count),
            "embedding": pa.ListArray.from_arrays(offsets, vectors),
        }
        nulls = pa.nulls(count, pa.string())
        arrays = [columns.get(field.name, nulls) for field in ROW]
        yield pa.RecordBatch.from_arrays(arrays, schema=ROW)
        first += count


def numbers_of(images: Any) -> Any:
    """Return a vector (n, WIDTH) of each image (n, height, width, 3)."""
    return images.mean((2, 3), dtype=np.float32)[:, :WIDTH]


def measure(inputs: int, changes: int, folders: int, work: Path, result: Connection) -> None:
    """Make an index of drawn names; sync it with the server; send the figures of each step."""
    from lookalike import CallableModel
    from lookalike.images import Source
    from lookalike.images.inputs.store_listing import list_store
    from lookalike.ingest.discovery import discover_changes
    from lookalike.ingest.options import Options, prepare
    from lookalike.ingest.paths import PathRewriter
    from lookalike.ingest.waves import embed_and_commit
    from lookalike.models import resolve
    from lookalike.storage import EmbeddingTable, commits, write_segment

    figures: dict[str, Any] = {"inputs": inputs, "changes": changes}
    model = resolve(CallableModel(numbers_of, name="rows", version="1", size=16))
    path = work / "x.index"
    data = path / "data" / "drawn"
    data.mkdir(parents=True)
    with step("make an index of it", figures):
        rows = stored_rows(inputs, changes, folders)
        segments = [
            one for row in rows for batch in write_segment([row], data) for one in batch.to_pylist()
        ]
        stored = EmbeddingTable.create(path, Source("uri", ROOT, ()), model, segments)
    with step("list", figures):
        count = list_store(stored.source, work / "listing.parquet")
    assert count == inputs
    with step("open", figures):
        stored = EmbeddingTable.open(path)
        stored.attach(model)
    job = prepare([ROOT], Options(spark=False), stored)
    with step("list and compare", figures):
        found = discover_changes(job, stored, work, PathRewriter())
    assert found.plan is not None
    assert (found.plan.new, len(found.plan.gone)) == (changes, changes)
    with step("embed and commit the new", figures):
        stored, _ = embed_and_commit(job, found, path, stored, work, "sync")
    gone = found.plan.gone
    with step("remove the gone", figures):
        stored = commits.remove(stored, lambda _: gone, "sync")
    assert sum(stored.counts()) == inputs
    with step("merge small files", figures):
        stored = commits.compact(stored)
    figures["data_files"] = len(stored.files())
    figures["data_mb"] = stored.size() // 2**20
    figures["log_mb"] = round(_bytes(path / "_delta_log") / 2**20, 2)
    figures["commits"] = stored.version + 1
    result.send(figures)


def write_table(rows: int, changes: int, version: int, file: Path) -> None:
    """Write a table of keys and vectors; `changes` vectors differ between versions."""
    schema = pa.schema({"sku": pa.string(), "v": pa.list_(pa.float32(), WIDTH)})
    with pq.ParquetWriter(file, schema) as writer:
        for start in range(0, rows, TABLE_ROWS):
            numbers = np.arange(start, min(start + TABLE_ROWS, rows))
            vectors = np.random.default_rng(start).normal(size=(len(numbers), WIDTH))
            vectors[is_changed(numbers, rows, changes), 0] += version
            values = pa.array(vectors.astype(np.float32).ravel())
            skus = pa.array([f"sku-{at:012}" for at in numbers.tolist()])
            columns = [skus, pa.FixedSizeListArray.from_arrays(values, WIDTH)]
            writer.write_table(pa.table(columns, schema=schema))


def measure_vectors(rows: int, changes: int, work: Path, result: Connection) -> None:
    """Index a table of vectors; compare it after a change; send the figures of each step."""
    from lookalike.ingest.discovery import discover_changes
    from lookalike.ingest.options import Options, prepare
    from lookalike.ingest.waves import embed_and_commit

    figures: dict[str, Any] = {"vectors": rows, "changes": changes}
    table, path = work / "items.parquet", work / "x.index"
    options = Options(embedding_column="v", id_column="sku", spark=False)
    write_table(rows, changes, 0, table)
    path.mkdir()
    job = prepare(table, options)
    with step("list", figures):
        found = discover_changes(job, None, work)
    with step("index and commit", figures):
        stored, _ = embed_and_commit(job, found, path, None, work, "index")
    figures["commits"], figures["data_files"] = stored.version + 1, len(stored.files())
    write_table(rows, changes, 1, table)
    job = prepare(table, options, stored)
    with step("list and compare", figures):
        found = discover_changes(job, stored, work)
    assert found.plan is not None
    assert (found.plan.changed, found.plan.new) == (changes, 0)
    with step("index and commit the changed", figures):
        stored, _ = embed_and_commit(job, found, path, stored, work, "sync")
    assert sum(stored.counts()) == rows
    result.send(figures)


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def measure_files(files: int, folders: int, work: Path, result: Connection) -> None:
    """Make files in `folders` folders; list them; send the figures of each step."""
    from lookalike.images.inputs.listing import list_images
    from lookalike.images.inputs.location import locate

    figures: dict[str, Any] = {"files": files, "folders": folders}
    root = work / "photos"
    for folder in range(folders):
        (root / f"{folder:02}").mkdir(parents=True)
    for at in range(files):
        os.close(os.open(root / f"{at % folders:02}" / f"{at:09}.png", os.O_CREAT | os.O_WRONLY))
    with step("locate", figures):
        source = locate(root)
    with step("list", figures):
        count = list_images(source, work / "listing.parquet")
    assert count == files
    result.send(figures)


def main() -> None:
    """List each number of inputs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, nargs="*", default=[])
    parser.add_argument("--vectors", type=int, nargs="*", default=[])
    parser.add_argument("--files", type=int, nargs="*", default=[])
    parser.add_argument("--changes", type=int, default=PAGE)
    parser.add_argument("--folders", type=int, default=20)
    parser.add_argument("--work", type=Path, required=True, help="a folder to make")
    given = parser.parse_args()
    processes = multiprocessing.get_context("spawn")

    def run(function: Any, *values: Any) -> dict[str, Any]:
        here, there = processes.Pipe()
        given.work.mkdir(parents=True)
        try:
            measured = processes.Process(target=function, args=(*values, given.work, there))
            measured.start()
            there.close()
            figures: dict[str, Any] = here.recv()
            measured.join()
            return figures
        finally:
            shutil.rmtree(given.work)

    runs = [run(measure_files, files, given.folders) for files in given.files]
    runs += [run(measure_vectors, rows, given.changes) for rows in given.vectors]
    for inputs in given.inputs:
        here, there = processes.Pipe()
        served = (inputs, given.folders, 0.0, there)
        server = processes.Process(target=serve, args=served, daemon=True)
        server.start()
        os.environ |= {
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b",
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{here.recv()}",
        }
        runs.append(run(measure, inputs, given.changes, given.folders))
        server.terminate()
        server.join()
    print(json.dumps({"machine": machine(), "runs": runs}))  # noqa: T201


if __name__ == "__main__":
    main()
