"""Segments as search sees them, without files; and search with nothing clever, to compare with."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lookalike.images import Source
from lookalike.models import Model
from lookalike.storage import EmbeddingTable, Segment, write_segment
from lookalike.storage.schema import ROW

Floats = npt.NDArray[np.float32]


@dataclass
class Piece:
    """What search needs of a segment."""

    vectors: Floats
    ids: npt.NDArray[np.int64]
    file: Path = Path("data/0/none.parquet")  # of no store

    @cached_property
    def rows(self) -> pa.Table:
        paths = [f"{number}.jpg" for number in self.ids]
        labels = [f"make {number}" if number % 2 else None for number in self.ids]
        return pa.table({"id": self.ids, "path": paths, "label": pa.array(labels, pa.string())})


def in_pieces(vectors: npt.ArrayLike, sizes: Sequence[int], seed: int = 0) -> list[Segment]:
    """Cut rows into segments; their ids are shuffled."""
    rows = np.asarray(vectors, np.float32)
    ids = np.random.default_rng(seed).permutation(len(rows)) * 3
    pieces, start = [], 0
    for size in sizes:
        here = slice(start, start + size)
        pieces.append(Piece(np.ascontiguousarray(rows[here]), ids[here]))
        start += size
    assert start == len(rows)
    return cast("list[Segment]", pieces)


def reference(
    segments: Sequence[Segment], query: Floats, k: int, without: int | None = None
) -> list[tuple[int, float]]:
    """The same in numbers of twice the precision and with nothing clever."""
    found = []
    for segment in segments:
        for number, vector in zip(segment.ids, segment.vectors.astype(np.float64), strict=True):
            if number != without:
                found.append((float(((vector - query) ** 2).sum()) ** 0.5, int(number)))
    return [(number, distance) for distance, number in sorted(found)[:k]]


def unit(shape: tuple[int, int], seed: int) -> Floats:
    rows = np.random.default_rng(seed).normal(size=shape)
    scaled: Floats = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return scaled


def collection_of(vectors: Floats, path: Path, sizes: Sequence[int]) -> EmbeddingTable:
    """Make a collection of vectors: ids and paths by row, every other one with a label.

    A segment of size 0 holds one input that was skipped. So does a row of NaN, among others.
    """
    folder = path / "data" / uuid.uuid4().hex
    folder.mkdir(parents=True)
    segments: list[dict[str, object]] = []
    start = 0
    for size in sizes:
        part = vectors[start : start + size]
        segments += _written(part, start, folder, 10**6 + len(segments))
        start += size
    identity = ("resnet18", "cars", "f32", vectors.shape[1], "none", "0123456789abcdef")
    model = Model(*identity, graph=b"<net/>", weights_data=b"weights")
    return EmbeddingTable.create(path, Source("files", "/photos"), model, segments)


def grown(
    collection: EmbeddingTable, vectors: Floats, sizes: Sequence[int] | None = None
) -> EmbeddingTable:
    """Add vectors to a collection, a segment each of these sizes, or one of all."""
    folder = collection.new_folder()
    segments: list[dict[str, object]] = []
    start = 0
    for size in sizes or [len(vectors)]:
        part = vectors[start : start + size]
        segments += _written(part, collection.next_id + start, folder)
        start += size
    return collection.commit("add", segments, rows_added=len(vectors))


def _written(
    part: Floats, first: int, folder: Path, skipped: int | None = None
) -> list[dict[str, object]]:
    """Write a segment of vectors whose ids begin with `first`, or of one input that was skipped."""
    size, numbers = len(part), range(first, first + len(part))
    unread = np.isnan(part[:, 0])
    columns = {name: pa.nulls(size, ROW.field(name).type) for name in ROW.names}
    columns |= {
        "id": pa.array(numbers, pa.int64()),
        "path": pa.array([f"{number}.jpg" for number in numbers]),
        "label": pa.array([f"make {n % 10}" if n % 2 else None for n in numbers], pa.string()),
        "content_hash": pa.array([f"{number:032x}" for number in numbers]),
        "width": pa.array([64] * size, pa.int32()),
        "height": pa.array([48] * size, pa.int32()),
        "status": pa.array(np.where(unread, "skipped", "ok").tolist(), pa.string()),
        "reason": pa.array(["empty file" if one else None for one in unread.tolist()], pa.string()),
        "embedding": pa.FixedSizeListArray.from_arrays(
            part.ravel(), part.shape[1], mask=pa.array(unread)
        ).cast(ROW.field("embedding").type),
    }
    batch = pa.RecordBatch.from_arrays([columns[name] for name in ROW.names], schema=ROW)
    if not size:  # a segment in which nothing could be read
        reason = {"path": "x.jpg", "status": "skipped", "reason": "empty file"}
        batch = pa.RecordBatch.from_pylist([{"id": skipped, **reason}], schema=ROW)
    return [row for one in write_segment([batch], folder) for row in one.to_pylist()]
