"""The tasks that make regions: functions from Arrow batches to Arrow batches.

Rows travel once, packed by the thousand: a record is the rows of a batch that belong to a region.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from operator import itemgetter
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lookalike.search.cells import Cells, Rotation
from lookalike.search.regions.assignment import NearestCells
from lookalike.search.regions.layout import Shape, rows_schema
from lookalike.search.regions.region_file import Home, Target, as_stored, blocks, write_region
from lookalike.search.rows import centre_of, nearest_by_products
from lookalike.search.stored_rows import opened
from lookalike.storage import Segment
from lookalike.storage.schema import KeyType
from lookalike.system.arrays import Numbers, Vectors

BATCH_BYTES = 2**25
"""Bytes of vectors that a task routes at a time, as float32."""
_GROUPS_OF_SAMPLE = 4  # times as many groups of rows are read as rows are wanted, by share

SAMPLE_SCHEMA = pa.schema({"ids": pa.binary(), "vectors": pa.binary()})
"""Drawn rows: ids (int64), and vectors or rotated vectors."""
ROUTED_SCHEMA = pa.schema({"region": pa.int32(), "rows": pa.binary()})
"""Rows of a region, as a stream of Arrow."""
WRITTEN_SCHEMA = pa.schema(
    {
        "name": pa.string(),
        "rows": pa.int64(),
        "bytes": pa.int64(),
        **dict.fromkeys(("cell", "count", "place", "size"), pa.binary()),
        **dict.fromkeys(("signature_check", "rows_check"), pa.binary()),
        **dict.fromkeys(("near_ids", "near_cells", "near_squared"), pa.binary()),
    }
)
"""What a task says of a file, and of the rows in it that are nearest to each drawn query."""
Batches = Iterator[pa.RecordBatch]
Task = Callable[[Batches], Batches]


@dataclass(frozen=True)
class Plan:
    """Which region a row goes to: that of its cell, and for a cell of several one by its id.

    Attributes
    ----------
    first, parts : int32 (cells,)
        The first region of each cell, and how many it is divided into.
    regions : int
    """

    first: npt.NDArray[np.int32]
    parts: npt.NDArray[np.int32]
    regions: int

    @classmethod
    def balanced(cls, counts: npt.NDArray[Any], most: int) -> "Plan":
        """Group cells that follow each other to regions of about `most` rows, by their counts."""
        first, parts = np.zeros(len(counts), np.int32), np.ones(len(counts), np.int32)
        region, rows = 0, 0.0
        for cell, count in enumerate(counts.tolist()):
            if rows and rows + count > most:
                region, rows = region + 1, 0
            first[cell] = region
            if count > most:
                parts[cell] = -(-count // most)
                region += int(parts[cell])
                continue
            rows += count
        return cls(first, parts, region + 1)

    def regions_of(self, cells: npt.NDArray[np.int32], ids: Numbers) -> npt.NDArray[np.int32]:
        """Return the region of each row (n,)."""
        parts = ids % self.parts[cells]
        found: npt.NDArray[np.int32] = (self.first[cells] + parts).astype(np.int32)
        return found


def _vectors(batch: pa.RecordBatch) -> Vectors:
    values = pc.list_flatten(batch["embedding"]).to_numpy(zero_copy_only=False)
    vectors: Vectors = values.reshape(batch.num_rows, -1)
    return vectors


def sample_task(
    segments: Sequence[Segment], share: float, rotation: Rotation | None, dtype: str
) -> Task:
    """Make the task that draws a share of the rows: from numbers of files to `SAMPLE_SCHEMA`.

    Of a file some groups of rows are read, four times as many as rows are wanted. Vectors are given
    as float32; with a `rotation` rotated, in a `dtype`.
    """

    def task(batches: Batches) -> Batches:
        for number in _column(batches, "id"):
            rng = np.random.default_rng([number, rotation is not None])
            with opened(segments[number].file) as stored:
                groups = np.arange(stored.num_row_groups)
                read = min(len(groups), int(np.ceil(len(groups) * share * _GROUPS_OF_SAMPLE)))
                inner = min(share * len(groups) / max(read, 1), 1)
                for group in np.sort(rng.choice(groups, read, replace=False)).tolist():
                    for batch in stored.iter_batches(
                        row_groups=[group], columns=["id", "embedding"]
                    ):
                        batch = batch.filter(pc.is_valid(batch["embedding"]))
                        drawn = np.flatnonzero(rng.random(batch.num_rows) < inner)
                        if len(drawn):
                            batch = batch.take(pa.array(drawn))
                            vectors = _vectors(batch)
                            if rotation is not None:
                                vectors = rotation(vectors).astype(dtype)
                            row = {"ids": batch["id"].to_numpy().tobytes()}
                            row["vectors"] = vectors.tobytes()
                            yield pa.RecordBatch.from_pylist([row], schema=SAMPLE_SCHEMA)

    return task


def route_task(
    segments: Sequence[Segment],
    cells: Cells,
    plan: Plan,
    shape: Shape,
    key: KeyType | None,
    since: int,
    threads: int,
) -> Task:
    """Make the task that sends rows to their regions: from numbers of files to `ROUTED_SCHEMA`.

    Rows with ids under `since` are left out.
    """
    schema = rows_schema(key)

    def task(batches: Batches) -> Batches:
        faiss.omp_set_num_threads(threads)
        nearest = NearestCells(cells)
        most = max(BATCH_BYTES // (4 * shape.width), 1)
        for number in _column(batches, "id"):
            with opened(segments[number].file) as stored:
                there = set(stored.schema_arrow.names)
                names = [name for name in schema.names if name in there]
                for batch in stored.iter_batches(most, columns=["id", *names, "embedding"]):
                    batch = batch.filter(pc.is_valid(batch["embedding"]))
                    if since:
                        batch = batch.filter(pc.greater_equal(batch["id"], since))
                    if batch.num_rows:
                        yield _routed(batch, nearest, plan, shape, schema)

    return task


def _routed(
    batch: pa.RecordBatch, nearest: NearestCells, plan: Plan, shape: Shape, schema: pa.Schema
) -> pa.RecordBatch:
    vectors = _vectors(batch)
    cell = nearest(vectors)
    region = plan.regions_of(cell, batch["id"].to_numpy())
    order = np.argsort(region, kind="stable")
    stored = pa.py_buffer(as_stored(vectors[order], shape))
    kind = pa.binary(shape.vector_bytes)
    columns = {
        "cell": pa.array(cell[order]),
        "id": batch["id"].take(pa.array(order)),
        "vector": pa.Array.from_buffers(kind, len(order), [None, stored]),
    }
    for field in schema:
        given = batch[field.name] if field.name in batch.schema.names else None
        column = pa.nulls(len(order), field.type) if given is None else given.take(pa.array(order))
        columns[field.name] = column.cast(field.type)
    whole = pa.record_batch(columns)
    numbers, starts = np.unique(region[order], return_index=True)
    packed = []
    for start, stop in zip(starts.tolist(), [*starts.tolist()[1:], len(order)], strict=True):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, whole.schema) as stream:
            stream.write_batch(whole.slice(start, stop - start))
        packed.append(sink.getvalue().to_pybytes())
    return pa.record_batch(
        [pa.array(numbers, pa.int32()), pa.array(packed, pa.binary())], schema=ROUTED_SCHEMA
    )


def region_task(
    cells: Cells, shape: Shape, target: Target, queries: Vectors, k: int, threads: int
) -> Task:
    """Make the task that writes regions: from rows sorted by region to `WRITTEN_SCHEMA`."""

    def task(batches: Batches) -> Batches:
        faiss.omp_set_num_threads(threads)
        for _, records in groupby(_rows(batches), itemgetter("region")):
            home = _home(records, shape)
            written = write_region(home, cells, shape, target)
            written |= _nearest(home, queries, k)
            yield pa.RecordBatch.from_pylist([written], schema=WRITTEN_SCHEMA)

    return task


def _home(records: Iterable[dict[str, Any]], shape: Shape) -> Home:
    tables, vectors = [], []
    for record in records:
        table = pa.ipc.open_stream(record["rows"]).read_all()
        for chunk in table["vector"].chunks:
            numbers = np.frombuffer(chunk.buffers()[1], shape.numbers)
            start = chunk.offset * shape.width
            vectors.append(numbers[start : start + len(chunk) * shape.width])
        tables.append(table.drop_columns(["vector"]))
    rows = pa.concat_tables(tables).combine_chunks()  # a copy: what they came in is let go
    tables.clear()
    whole = np.concatenate(vectors).reshape(len(rows), shape.width)
    vectors.clear()
    ids, cell = rows["id"].to_numpy(), rows["cell"].to_numpy()
    return Home(cell, ids, whole, rows.drop_columns(["id", "cell"]))


def _nearest(home: Home, queries: Vectors, k: int) -> dict[str, bytes]:
    """Find the rows of a region that are nearest to each query, by all their numbers."""
    count = min(k, len(home.ids))
    heap, centre = faiss.ResultHeap(len(queries), count), centre_of(queries)
    if len(queries):
        for block in blocks(len(home.ids), home.vectors.shape[1]):
            vectors = home.vectors[block].astype(np.float32)
            some = min(count, len(vectors))
            squared, near = nearest_by_products(queries, vectors, some, centre)
            heap.add_result(squared, near + block.start)
        heap.finalize()
    return {
        "near_ids": home.ids[heap.I].tobytes(),
        "near_cells": home.cells[heap.I].astype(np.int32).tobytes(),
        "near_squared": np.where(heap.I < 0, np.inf, heap.D).astype(np.float32).tobytes(),
    }


def _rows(batches: Batches) -> Iterator[dict[str, Any]]:
    names = ROUTED_SCHEMA.names
    for batch in batches:
        for row in range(batch.num_rows):
            yield {name: batch[name][row].as_py() for name in names}


def _column(batches: Batches, name: str) -> Iterator[Any]:
    return chain.from_iterable(batch[name].to_pylist() for batch in batches)


def spark_schema(schema: pa.Schema) -> str:
    """Return a schema in Spark's DDL."""
    names = {"int32": "int", "int64": "bigint"}
    return ", ".join(f"{field.name} {names.get(str(field.type), field.type)}" for field in schema)
