"""Make rows of an index from rows of a user's table."""

import hashlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lookalike import images
from lookalike.images.inputs.kept_columns import converted
from lookalike.ingest.vectors import values
from lookalike.ingest.vectors.inputs import VectorInput
from lookalike.ingest.vectors.tables import Batch
from lookalike.storage.own_vectors import OwnVectors
from lookalike.storage.schema import KEY, ROW
from lookalike.system.arrays import Vectors

_SLICE_ROWS = 16
"""Rows of a batch for `write_segment`, which has some of them in memory."""


def listed_columns(own: OwnVectors) -> list[str]:
    """Return the columns that show whether a row has changed, beside its key."""
    return ["path", "label", "reason", "content_hash", *(name for name, _ in own.kept)]


def named_rows(opened: VectorInput, batch: Batch) -> dict[str, pa.Array]:
    """Return the `path` of each row, and its `key` if the table has keys."""
    own, count = opened.own, batch.rows.num_rows
    named: dict[str, pa.Array] = {}
    shown = pa.nulls(count, pa.string())
    if own.key is not None and own.id_column is not None:
        named[KEY] = values.keys(batch.rows[own.id_column], own.key, own.id_column)
        shown = values.encoded(named[KEY].cast(pa.string()), may_be=False)
    elif own.path_column is None:
        numbers = pa.array(np.arange(batch.first, batch.first + count)).cast(pa.string())
        file = images.encode_path(batch.file)
        shown = pc.binary_join_element_wise(file, numbers, "#")
    if own.path_column is not None:
        column = values.texts(batch.rows[own.path_column], own.path_column)
        paths = _below(values.encoded(column, may_be=True), images.encode_path(opened.root))
        shown = pc.coalesce(paths, shown)
    return {"path": shown, **named}


def _below(paths: pa.Array, root: str) -> pa.Array:
    """Return paths relative to a root, where they lie below it."""
    folder = f"{root.rstrip('/')}/"
    inside = pc.fill_null(pc.starts_with(paths, folder), False)
    if not pc.any(inside).as_py():
        return paths
    shorter = pc.utf8_replace_slice(paths, 0, len(folder), "")
    return pc.if_else(inside, shorter, paths)


def rows_of(opened: VectorInput, batch: Batch, ids: npt.NDArray[np.int64]) -> pa.RecordBatch:
    """Return rows of an index with these ids, each with a vector or a reason."""
    own, count = opened.own, batch.rows.num_rows
    found = values.parse(batch.rows[own.embedding_column], opened.width, own.metric)
    present = np.zeros(count, bool)
    present[found.rows] = True
    columns = {name: pa.nulls(count, ROW.field(name).type) for name in ROW.names}
    columns |= named_rows(opened, batch)
    if own.label_column is not None:
        columns["label"] = values.texts(batch.rows[own.label_column], own.label_column)
    hashes = np.full(count, None, object)
    hashes[found.rows] = [_hash(vector) for vector in found.vectors]
    columns["id"] = pa.array(ids, pa.int64())
    columns["content_hash"] = pa.array(hashes, pa.string())
    columns["status"] = pc.if_else(pa.array(present), "ok", "skipped")
    columns["reason"] = pa.array(found.reasons, pa.string())
    columns["embedding"] = _lists(found.vectors, present)
    for name, kind in own.kept:
        columns[name] = converted(batch.rows[name], name, kind)
    schema = own.schema
    arrays = [columns[name] for name in schema.names]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _hash(vector: Vectors) -> str:
    return hashlib.blake2b(vector.data, digest_size=16).hexdigest()


def _lists(vectors: Vectors, present: npt.NDArray[np.bool_]) -> pa.ListArray:
    """Return vectors (m, width) as lists of the rows that are present, null for the others."""
    offsets = np.concatenate([[0], np.cumsum(present * vectors.shape[1])]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(vectors.ravel()), mask=pa.array(~present))


def small_batches(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Cut batches to the size that `write_segment` takes."""
    for batch in batches:
        for start in range(0, batch.num_rows, _SLICE_ROWS):
            yield batch.slice(start, _SLICE_ROWS)
