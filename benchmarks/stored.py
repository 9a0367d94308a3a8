"""What benchmarks of search share: vectors stored as an index, and who is truly nearest."""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa

from lookalike.images import Source
from lookalike.models import Model
from lookalike.storage import EmbeddingTable, write_segment
from lookalike.storage.schema import ROW
from lookalike.system.arrays import Vectors

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


def collection_of(vectors: Vectors, path: Path) -> EmbeddingTable:
    """Write vectors as an index, row numbers for ids; no image stands behind them."""
    folder = path / "data" / uuid.uuid4().hex
    folder.mkdir(parents=True)
    segments = []
    for start in range(0, len(vectors), SEGMENT_ROWS):
        part = vectors[start : start + SEGMENT_ROWS]
        written = write_segment(_batches(part, start), folder)
        segments += [row for batch in written for row in batch.to_pylist()]
    model = Model(
        "none", "none", "f32", vectors.shape[1], "none", "0" * 16, graph=b"", weights_data=b""
    )
    return EmbeddingTable.create(path, Source("files", "/nowhere"), model, segments)


def _batches(vectors: Vectors, first: int) -> Iterator[pa.RecordBatch]:
    for at in range(0, len(vectors), 1024):
        part = vectors[at : at + 1024]
        ids = np.arange(first + at, first + at + len(part))
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
            "embedding": pa.ListArray.from_arrays(offsets, np.array(part).ravel()),
        }
        yield pa.RecordBatch.from_arrays([columns[name] for name in ROW.names], schema=ROW)
