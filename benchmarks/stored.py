"""What benchmarks of search share: vectors stored as an index, and who is truly nearest."""

import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa

from lookalike.images import Source
from lookalike.models import Model
from lookalike.storage import EmbeddingTable, write_segment
from lookalike.storage.schema import ROW
from lookalike.system.arrays import Numbers, Vectors
from lookalike.system.resources import cores

SEGMENT_ROWS = 16_384


def exact_ids(vectors: Vectors, queries: Vectors, k: int) -> list[list[int]]:
    """Return the k nearest rows of each query, exactly."""
    heap = faiss.ResultHeap(len(queries), k)
    for start in range(0, len(vectors), SEGMENT_ROWS):
        squared, near = faiss.knn(queries, vectors[start : start + SEGMENT_ROWS], k)
        heap.add_result(squared, near + start)
    heap.finalize()
    found: list[list[int]] = heap.I.tolist()
    return found


class Passing:
    """The true neighbours of some rows, found while all rows pass by, in any order and thread.

    Attributes
    ----------
    ids : int64 (q,)
        Of the queries, left out of their neighbours.
    queries : float32 (q, width)
    near, squared : int64 and float32 (q, k)
        Their neighbours so far, the nearest first, and the squared distances.

    """

    def __init__(self, ids: Numbers, queries: Vectors, k: int) -> None:
        self.ids, self.queries, self.k = ids, queries, k
        self.near = np.full((len(ids), k), -1)
        self.squared = np.full((len(ids), k), np.inf, np.float32)
        self._lock = threading.Lock()

    def look(self, first: int, vectors: Vectors) -> None:
        """Compare the queries with some rows, whose ids begin at `first`."""
        k = min(self.k + 1, len(vectors))
        squared, near = faiss.knn(self.queries, vectors, k)
        near += first
        squared[near == self.ids[:, None]] = np.inf
        with self._lock:
            squared = np.hstack([self.squared, squared])
            order = np.argsort(squared, axis=1, kind="stable")[:, : self.k]
            self.near = np.take_along_axis(np.hstack([self.near, near]), order, axis=1)
            self.squared = np.take_along_axis(squared, order, axis=1)


def collection_of(vectors: Vectors, path: Path) -> EmbeddingTable:
    """Write vectors as an index, row numbers for ids; no image stands behind them."""

    def block_of(number: int) -> tuple[int, Vectors]:
        start = number * SEGMENT_ROWS
        return start, vectors[start : start + SEGMENT_ROWS]

    blocks = -(-len(vectors) // SEGMENT_ROWS)
    return collection_of_blocks(block_of, blocks, vectors.shape[1], path)


def collection_of_blocks(
    block_of: Callable[[int], tuple[int, Vectors]], blocks: int, width: int, path: Path
) -> EmbeddingTable:
    """Write numbered blocks of vectors as an index, a data file each.

    `block_of` gives the id of the first row of a block, and its vectors (n, width). It runs in a
    thread for each core, so that no more than that many blocks are in memory.
    """
    folder = path / "data" / uuid.uuid4().hex
    folder.mkdir(parents=True)

    def write(number: int) -> list[dict[str, Any]]:
        faiss.omp_set_num_threads(1)  # in this thread
        first, vectors = block_of(number)
        written = write_segment(_batches(vectors, first), folder)
        return [row for batch in written for row in batch.to_pylist()]

    with ThreadPoolExecutor(cores()) as pool:
        segments = [row for rows in pool.map(write, range(blocks)) for row in rows]
    model = Model("none", "none", "f32", width, "none", "0" * 16, graph=b"", weights_data=b"")
    return EmbeddingTable.create(path, Source("files", "/nowhere"), model, segments)


def _batches(vectors: Vectors, first: int) -> Iterator[pa.RecordBatch]:
    for at in range(0, len(vectors), 1024):
        part = vectors[at : at + 1024]
        ids = range(first + at, first + at + len(part))
        paths = pa.array([f"{number}.jpg" for number in ids])
        offsets = np.arange(0, part.size + 1, part.shape[1], dtype=np.int32)
        columns: dict[str, Any] = {
            "id": pa.array(ids),
            "path": paths,
            "label": pa.nulls(len(part), pa.string()),
            "width": pa.nulls(len(part), pa.int32()),
            "height": pa.nulls(len(part), pa.int32()),
            "size": pa.nulls(len(part), pa.int64()),
            "modified": pa.nulls(len(part), pa.int64()),
            "content_hash": paths,
            "status": pa.array(["ok"] * len(part)),
            "reason": pa.nulls(len(part), pa.string()),
            "embedding": pa.ListArray.from_arrays(offsets, np.ascontiguousarray(part).ravel()),
        }
        yield pa.RecordBatch.from_arrays([columns[name] for name in ROW.names], schema=ROW)
