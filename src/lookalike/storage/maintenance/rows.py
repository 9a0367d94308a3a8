"""Checks of single rows."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lookalike.storage.maintenance import findings
from lookalike.storage.own_vectors import Described
from lookalike.storage.schema import KEY
from lookalike.system.arrays import Mask

MAX_LENGTH_ERROR = 1e-3
"""The largest difference between 1 and the length of a vector."""


@dataclass(frozen=True)
class Form:
    """What the rows of a table have to be: their columns, and the width of their vectors.

    `has_units` says that vectors have length 1, `of_images` that each embedded row is an image.
    """

    schema: pa.Schema
    width: int
    has_units: bool = True
    of_images: bool = True

    @classmethod
    def of(cls, table: Described) -> Self:
        """Return the form of the rows of a table."""
        width = int(table.about_model["width"])
        return cls(table.schema, width, table.metric == "cosine", table.own is None)


def as_rows(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Cast a batch of another program to a schema. Raises `pa.ArrowException` or `KeyError`."""
    if batch.schema.equals(schema):
        return batch
    columns = [batch[name].cast(schema.field(name).type) for name in schema.names]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def problems(batch: pa.RecordBatch, form: Form) -> Iterator[tuple[str, str, Mask]]:
    """Yield each check of rows: kind, detail, and a mask of the bad rows, bool (n,)."""
    width = form.width
    ok, skipped = (_mask(pc.equal(batch["status"], one)) for one in ("ok", "skipped"))
    null = {
        name: batch[name].is_null().to_numpy(zero_copy_only=False) for name in form.schema.names
    }
    yield findings.ROW, "has no path", null["path"]
    yield findings.ROW, "has a status that is neither ok nor skipped", ~(ok | skipped)
    if KEY in null:
        yield findings.ROW, "has no key", null[KEY]
    for name in ("content_hash", "embedding", *(("width", "height") if form.of_images else ())):
        yield findings.ROW, f"is ok and has no {name}", ok & null[name]
    yield findings.ROW, "is skipped and has no reason", skipped & null["reason"]
    yield findings.ROW, "is skipped and has an embedding", skipped & ~null["embedding"]
    numbers = pc.fill_null(pc.list_value_length(batch["embedding"]), width).to_numpy()
    yield findings.VECTOR, f"has a vector of another width than {width}", numbers != width
    fit = np.flatnonzero(~null["embedding"] & (numbers == width))
    values = pc.list_flatten(batch["embedding"].take(pa.array(fit))).to_numpy(zero_copy_only=False)
    vectors = values.reshape(len(fit), width)
    finite, zero = np.isfinite(vectors).all(axis=1), ~vectors.any(axis=1)
    with np.errstate(over="ignore", invalid="ignore"):
        near = np.abs(np.linalg.norm(vectors, axis=1) - 1) <= MAX_LENGTH_ERROR
    yield findings.VECTOR, "has a vector with numbers that are not finite", _of(fit, ~finite, batch)
    if not form.has_units:
        return
    yield findings.VECTOR, "has a vector of zeros", _of(fit, zero, batch)
    far = finite & ~zero & ~near
    yield findings.VECTOR, "has a vector whose length is not 1", _of(fit, far, batch)


def good(batch: pa.RecordBatch, form: Form) -> pa.RecordBatch:
    """Return the rows without problems."""
    bad = np.logical_or.reduce([mask for _, _, mask in problems(batch, form)])
    return batch.filter(pa.array(~bad))


def _mask(values: pa.BooleanArray) -> Mask:
    mask: Mask = pc.fill_null(values, False).to_numpy(zero_copy_only=False)
    return mask


def _of(places: npt.NDArray[np.int64], chosen: Mask, batch: pa.RecordBatch) -> Mask:
    mask = np.zeros(batch.num_rows, bool)
    mask[places[chosen]] = True
    return mask
