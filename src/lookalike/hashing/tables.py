"""Hash tables of several projections each: AND-amplification, which Spark ML's hashing lacks.

Two vectors share a bucket of a table where all its projections agree, and are candidates where they
do so in any table (Datar et al., 2004; Gionis, Indyk, Motwani, "Similarity search in high
dimensions via hashing", 1999). With p for one projection that is 1 - (1 - p^m)^L.
"""

import io
from dataclasses import asdict, dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from lookalike.embedding import Vectors
from lookalike.errors import LookalikeError
from lookalike.hashing.cells import Rotation
from lookalike.hashing.parameters import Floats, Parameters
from lookalike.untrusted import read_arrays

Buckets = npt.NDArray[np.int64]

_OUTLIER = 10  # times the usual length: what is longer counts as that long for the directions


@dataclass(frozen=True)
class Tables:
    """L hash tables of m projections each, of vectors or of their leading directions.

    A projection falls into the bucket floor(x.a + b), a normal with deviation 1 / bucket length, b
    uniform in [0, 1): with shifts of its own a table needs no centre. `axes` is float64 (w, width)
    with orthonormal rows, (0, width) for the vectors as they are; `projections` float64 (L * m, w
    or width), `shifts` float64 (L * m,). The buckets of a table become one 64-bit number, their
    sum with random `factors`, int64 (L, m), and a `start` of each table's own, int64 (L,).
    """

    axes: Floats
    projections: Floats
    shifts: Floats
    factors: Buckets
    start: Buckets

    @classmethod
    def draw(cls, parameters: Parameters, axes: Floats, seed: int) -> Self:
        """Draw the tables of given parameters; the same for the same seed."""
        rng = np.random.default_rng(seed)
        shape = parameters.tables, parameters.hashes
        inside = len(axes) or axes.shape[1]
        projections = rng.standard_normal((shape[0] * shape[1], inside)) / parameters.bucket_length
        numbers = np.iinfo(np.int64)
        factors = rng.integers(numbers.min, numbers.max, shape, endpoint=True) | 1
        start = rng.integers(numbers.min, numbers.max, shape[0], endpoint=True)
        return cls(axes, projections, rng.random(len(projections)), factors, start)

    @property
    def width(self) -> int:
        """How many numbers a vector has."""
        return int(self.axes.shape[1])

    def __call__(self, vectors: npt.ArrayLike) -> Buckets:
        """Hash vectors: (..., width) to int64 (..., L)."""
        rows = np.asarray(vectors, np.float64)
        inside = rows @ self.axes.T if len(self.axes) else rows
        numbers = np.floor(inside @ self.projections.T + self.shifts)
        # Out of all bounds, or no number at all: a bucket like any other.
        whole = np.clip(np.nan_to_num(numbers, nan=2.0**62), -(2.0**62), 2.0**62).astype(np.int64)
        parts = whole.reshape(*whole.shape[:-1], *self.factors.shape) * self.factors  # wraps
        combined: Buckets = parts.sum(axis=-1) + self.start
        return combined

    def to_bytes(self) -> bytes:
        """All of it in NumPy's format."""
        file = io.BytesIO()
        np.savez(file, **asdict(self))
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read back what `to_bytes` wrote; `LookalikeError` where it is something else."""
        try:
            return cls(**read_arrays(io.BytesIO(data)))
        except (OSError, ValueError, TypeError) as error:
            raise LookalikeError(f"no hash tables ({error}): save the model again") from None


def leading_axes(rows: Vectors, count: int) -> Floats:
    """The principal directions of drawn rows (n, width), float64 (count, width); (0, width) for 0.

    A few rows of enormous length must not take the directions for themselves: they are shortened.
    """
    width = rows.shape[1]
    if not 0 <= count <= width:
        raise LookalikeError(f"no {count} directions of {width}: give from 1 to {width}, or 0")
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1)
    if count == 0 or not lengths.any():
        return np.eye(count, width)
    usual = np.median(lengths[lengths > 0])
    held = np.minimum(lengths, _OUTLIER * usual) / np.maximum(lengths, np.finfo(float).tiny)
    scaled = (rows * (held / usual)[:, None]).astype(np.float32)
    return Rotation.fit(scaled, count).directions.astype(np.float64)
