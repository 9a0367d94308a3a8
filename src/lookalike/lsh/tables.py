"""Hash tables of several projections each: AND-amplification, which Spark ML lacks.

Two vectors share a bucket of a table if all its projections agree; they are candidates if they
share a bucket in any table (Datar et al., 2004; Gionis, Indyk, Motwani, "Similarity search in high
dimensions via hashing", 1999). With the probability p of one projection that is 1 - (1 - p^m)^L.
"""

import io
from dataclasses import asdict, dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from lookalike.errors import LookalikeError
from lookalike.lsh.parameters import Parameters
from lookalike.search.cells import Rotation
from lookalike.system.arrays import Floats, Vectors
from lookalike.system.untrusted import read_arrays

Buckets = npt.NDArray[np.int64]

_MAX_NORM_RATIO = 10  # to the median norm; longer vectors are scaled down for the directions


@dataclass(frozen=True)
class Tables:
    """L hash tables of m projections each, of vectors or of their leading directions.

    A projection has the bucket floor(x.a + b), a normal with deviation 1 / bucket length, b uniform
    in [0, 1). The buckets of a table are combined to one 64-bit number.

    Attributes
    ----------
    axes : float64 (w, width)
        Orthonormal rows; (0, width) to hash the vectors as they are.
    projections : float64 (L * m, w) or (L * m, width)
    shifts : float64 (L * m,)
    factors : int64 (L, m)
        Random factors of the buckets in the combined number.
    start : int64 (L,)
        A random summand per table.
    """

    axes: Floats
    projections: Floats
    shifts: Floats
    factors: Buckets
    start: Buckets

    @classmethod
    def draw(cls, parameters: Parameters, axes: Floats, seed: int) -> Self:
        """Draw random tables with given parameters; deterministic for a seed."""
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
        """The length of a vector."""
        return int(self.axes.shape[1])

    def __call__(self, vectors: npt.ArrayLike) -> Buckets:
        """Hash vectors: (..., width) to int64 (..., L)."""
        rows = np.asarray(vectors, np.float64)
        inside = rows @ self.axes.T if len(self.axes) else rows
        numbers = np.floor(inside @ self.projections.T + self.shifts)
        # Values out of range and NaN have a bucket too.
        whole = np.clip(np.nan_to_num(numbers, nan=2.0**62), -(2.0**62), 2.0**62).astype(np.int64)
        parts = whole.reshape(*whole.shape[:-1], *self.factors.shape) * self.factors  # wraps
        combined: Buckets = parts.sum(axis=-1) + self.start
        return combined

    def to_bytes(self) -> bytes:
        """Return the arrays in the format of `np.savez`."""
        file = io.BytesIO()
        np.savez(file, **asdict(self))
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read tables of `to_bytes` back. Raises `LookalikeError` for anything else."""
        try:
            return cls(**read_arrays(io.BytesIO(data)))
        except (OSError, ValueError, TypeError) as error:
            raise LookalikeError(f"no hash tables ({error}): save the model again") from None


def leading_axes(rows: Vectors, count: int) -> Floats:
    """Return the principal directions of rows (n, width): float64 (count, width).

    Rows of enormous norm are scaled down, so that they do not dominate the directions.
    """
    width = rows.shape[1]
    if not 0 <= count <= width:
        raise LookalikeError(f"subspace is {count}: give 1 to {width} directions, or 0 for none")
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1)
    if count == 0 or not lengths.any():
        return np.eye(count, width)
    median = np.median(lengths[lengths > 0])
    norms = np.minimum(lengths, _MAX_NORM_RATIO * median) / np.maximum(
        lengths, np.finfo(float).tiny
    )
    scaled = (rows * (norms / median)[:, None]).astype(np.float32)
    return Rotation.fit(scaled, count).directions.astype(np.float64)
