"""Checks of single rows."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lookalike.storage.maintenance import findings
from lookalike.storage.schema import ROW
from lookalike.system.arrays import Mask

MAX_LENGTH_ERROR = 1e-3
"""The largest difference between 1 and the length of a vector."""


def as_rows(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Cast a batch of another program to `ROW`. Raises `pa.ArrowException` or `KeyError`."""
    if batch.schema.equals(ROW):
        return batch
    columns = [batch[name].cast(ROW.field(name).type) for name in ROW.names]
    return pa.RecordBatch.from_arrays(columns, schema=ROW)


def problems(batch: pa.RecordBatch, width: int) -> Iterator[tuple[str, str, Mask]]:
    """Yield each check of rows of `ROW`: kind, detail, and a mask of the bad rows, bool (n,)."""
    ok, skipped = (_mask(pc.equal(batch["status"], one)) for one in ("ok", "skipped"))
    null = {name: batch[name].is_null().to_numpy(zero_copy_only=False) for name in ROW.names}
    yield findings.ROW, "has no path", null["path"]
    yield findings.ROW, "has a status that is neither ok nor skipped", ~(ok | skipped)
    for name in ("content_hash", "width", "height", "embedding"):
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
    yield findings.VECTOR, "has a vector of zeros", _of(fit, zero, batch)
    far = finite & ~zero & ~near
    yield findings.VECTOR, "has a vector whose length is not 1", _of(fit, far, batch)


def good(batch: pa.RecordBatch, width: int) -> pa.RecordBatch:
    """Return the rows without problems."""
    bad = np.logical_or.reduce([mask for _, _, mask in problems(batch, width)])
    return batch.filter(pa.array(~bad))


def _mask(values: pa.BooleanArray) -> Mask:
    mask: Mask = pc.fill_null(values, False).to_numpy(zero_copy_only=False)
    return mask


def _of(places: npt.NDArray[np.int64], chosen: Mask, batch: pa.RecordBatch) -> Mask:
    mask = np.zeros(batch.num_rows, bool)
    mask[places[chosen]] = True
    return mask
