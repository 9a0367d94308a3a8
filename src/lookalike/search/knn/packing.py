"""Arrays as bytes: thousands of numbers in a row of Spark, which takes a microsecond a row."""

from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lookalike.storage.own_vectors import Metric
from lookalike.system.arrays import Numbers, Vectors

WHOLE_UP_TO_ROWS = 250_000
"""Rows up to which vectors travel in full precision."""


def packed_type(metric: Metric, rows: int) -> type[np.floating[Any]]:
    """Return the type in which vectors travel.

    Half precision keeps 0.99995 of the neighbours of vectors of length 1, and distances to 0.0001.
    For few rows it would save little; vectors of any length may not fit into it.
    """
    return np.float16 if metric == "cosine" and rows > WHOLE_UP_TO_ROWS else np.float32


def pack_keys(keys: pa.Array) -> pa.Buffer:
    """Pack keys of any type, (n,)."""
    batch = pa.record_batch([keys], names=["key"])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def unpack_keys(packed: pa.Buffer) -> pa.Array:
    """Unpack keys, (n,)."""
    batch = pa.ipc.open_stream(packed).read_next_batch()
    return batch.column(0)


def take(keys: pa.Array, rows: Numbers) -> pa.Array:
    """Return some of the keys (n,), by position: for whole numbers Arrow takes longer."""
    if pa.types.is_integer(keys.type):
        return pa.array(keys.to_numpy(zero_copy_only=False)[rows], keys.type)
    return keys.take(pa.array(rows))


def record(schema: pa.Schema, *values: Any) -> pa.RecordBatch:
    """Return a batch of one row with a schema; arrays become bytes, which are not copied."""
    columns = [
        _bytes(value) if pa.types.is_binary(field.type) else pa.array([value], field.type)
        for value, field in zip(values, schema, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _bytes(value: npt.NDArray[Any] | pa.Buffer) -> pa.Array:
    data = value if isinstance(value, pa.Buffer) else pa.py_buffer(np.ascontiguousarray(value))
    offsets = pa.py_buffer(np.array([0, data.size], np.int32))
    return pa.Array.from_buffers(pa.binary(), 1, [None, offsets, data])


def rows_of(batches: Iterator[pa.RecordBatch]) -> Iterator[dict[str, Any]]:
    """Yield the rows of batches; bytes are not copied."""
    return chain.from_iterable(map(_rows, batches))


def _rows(batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    names = batch.schema.names
    binary = [pa.types.is_binary(field.type) for field in batch.schema]
    for row in range(batch.num_rows):
        yield {
            name: column[row].as_buffer() if is_binary else column[row].as_py()
            for name, column, is_binary in zip(names, batch.columns, binary, strict=True)
        }


def order_of(keys: pa.Array) -> Numbers:
    """Return numbers, int64 (n,), in the order of keys (n,): whole numbers are their own."""
    if pa.types.is_integer(keys.type):
        numbers: Numbers = keys.to_numpy(zero_copy_only=False).astype(np.int64, copy=False)
        return numbers
    ranks = np.empty(len(keys), np.int64)
    ranks[pa.compute.array_sort_indices(keys).to_numpy()] = np.arange(len(keys))
    return ranks


def hash_rows(keys: pa.Array, vectors: Vectors) -> Numbers:
    """Return a number for each row, int64 (n,), that its key and its vector decide."""
    import pandas as pd

    words = np.ascontiguousarray(vectors).view(np.uint32).astype(np.uint64)
    weights = np.random.default_rng(0).integers(2**63, size=words.shape[1], dtype=np.uint64)
    with np.errstate(over="ignore"):
        mixed = words @ (2 * weights + 1)
        if pa.types.is_integer(keys.type):
            numbers = keys.to_numpy(zero_copy_only=False).astype(np.uint64)
        else:
            numbers = pd.util.hash_array(keys.to_numpy(zero_copy_only=False))
        mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed + numbers) * np.uint64(0xD6E8FEB86659FD93)
    hashed: Numbers = (mixed ^ (mixed >> np.uint64(32))).view(np.int64)
    return hashed
