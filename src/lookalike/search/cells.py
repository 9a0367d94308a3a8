"""Cells, and the signatures of vectors in them: an IVF-RaBitQ index.

`Rotation` projects a vector to its leading directions and rotates it there at random. `Cells` are
k-means centres of rotated vectors: inverted lists (Sivic and Zisserman, "Video Google", 2003).
Near rows are in the same cell or in neighbouring ones, so a query scans few cells. A signature
holds the signs of a rotated vector, counted from the centre of its cell, and two numbers that make
the distance estimate unbiased: the code of RaBitQ (Gao and Long, 2024,
https://arxiv.org/abs/2405.12497), as FAISS implements it. The query is not reduced to signs; that
is worth more than twice as many bits.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import faiss
import numpy as np
import numpy.typing as npt

from lookalike.errors import LookalikeError, Unreadable, says_nothing
from lookalike.system.arrays import Numbers, Vectors
from lookalike.system.files import new_file
from lookalike.system.untrusted import read_arrays

SIGNATURE_BITS = 128
"""Leading directions in a signature of 24 bytes: nine tenths of the variance of 512 numbers."""
MEAN_CELL_ROWS = 128
MAX_CELLS = 65_536
SAMPLE_ROWS_PER_CELL = 32
ROTATION_SAMPLE_ROWS = 16_384
MAX_PCA_WIDTH = 1_536
"""Width up to which all principal directions take seconds."""
_MORE_DIRECTIONS, _POWER_ITERATIONS = 32, 3  # of random projections
_MIN_SAMPLE_ROWS = 4_096
_KMEANS_ITERATIONS = 8
_MAX_LENGTH_RATIO = 100  # to the median length; longer vectors are outliers
_NOISE_TO_SPREAD = 1e-6  # of the length of differences from the mean

Codes = npt.NDArray[np.uint8]
Assignments = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Rotation:
    """A projection of vectors to their leading directions, followed by a random rotation.

    `directions` is float32 (bits, width) with orthonormal rows, `offset` is float32 (bits,).
    """

    directions: Vectors
    offset: npt.NDArray[np.float32]

    @classmethod
    def fit(cls, sample: Vectors, bits: int = SIGNATURE_BITS) -> Self:
        """Fit the principal directions of a sample, float32 (n, width); deterministic."""
        bits = min(bits, sample.shape[1])
        sample = _without_outliers(sample)
        width = sample.shape[1]
        # Noise far below any distance gives directions even to a sample of low rank.
        least = 2 * width if width <= MAX_PCA_WIDTH else 4 * (bits + _MORE_DIRECTIONS)
        sample = np.resize(sample, (max(len(sample), least), width))
        spread = float(np.sqrt(sample.var(axis=0, dtype=np.float64).sum())) or 1.0
        noise = np.random.default_rng(0).standard_normal(sample.shape, np.float32)
        noise *= np.float32(_NOISE_TO_SPREAD * spread)
        noise += sample
        if width > MAX_PCA_WIDTH:
            return cls(*_leading_directions(noise, bits))
        pca = faiss.PCAMatrix(width, bits, 0, True)
        pca.train(np.ascontiguousarray(noise))
        directions = faiss.vector_to_array(pca.A).reshape(bits, width)
        return cls(directions, faiss.vector_to_array(pca.b))

    def __call__(self, vectors: Vectors) -> Vectors:
        """Rotate float32 vectors: (n, width) to (n, bits)."""
        rotated: Vectors = vectors @ self.directions.T + self.offset
        return rotated


@dataclass(frozen=True)
class Cells:
    """A rotation and the centres of cells, float32 (cells, bits); near cells have near numbers.

    `rows` is the size of the index at the time of the fit; its ids were below `stop`.
    """

    rotation: Rotation
    centres: Vectors
    rows: int
    stop: int = 0

    @classmethod
    def fit(cls, rotation: Rotation, sample: Vectors, rows: int, stop: int = 0) -> Self:
        """Fit cells for `rows` rows to a rotated sample of them, float32 (n, bits).

        Two levels of k-means, each of the square root of the number of cells, take a hundredth of
        the time of one level. Dense parts get more cells. Copies count once: no cell divides them.
        """
        whole = len(sample)
        sample = _without_outliers(sample)
        sample = sample[np.sort(np.unique(as_bytes(sample), return_index=True)[1])]
        count = cell_count(round(rows * len(sample) / whole))
        parts = fit_centres(sample, round(count**0.5))
        part_of = faiss.knn(sample, parts, 1)[1][:, 0]
        centres = []
        for part in range(len(parts)):
            inside = sample[part_of == part]
            centres.append(fit_centres(inside, round(count * len(inside) / len(sample))))
        return cls(rotation, np.concatenate(centres), rows, stop)

    def __len__(self) -> int:
        return len(self.centres)

    def __reduce__(self) -> tuple[type[Self], tuple[Rotation, Vectors, int, int]]:
        """Pickle without the FAISS quantizer."""
        return type(self), (self.rotation, self.centres, self.rows, self.stop)

    def nearest(self, rotated: Vectors, count: int) -> Numbers:
        """Return the `count` cells nearest to each rotated vector (n, bits): (n, count)."""
        return self.nearest_with_distances(np.ascontiguousarray(rotated), count)[1]

    def nearest_with_distances(self, rotated: Vectors, count: int) -> tuple[Vectors, Numbers]:
        """Return squared distances to the nearest centres, and their cells, both (n, count)."""
        found: tuple[Vectors, Numbers] = self._quantizer.search(rotated, min(count, len(self)))
        return found

    def assign(self, vectors: Vectors) -> Assignments:
        """Return the cell of each vector (n, width): int32 (n,)."""
        return self.nearest(self.rotation(vectors), 1)[:, 0].astype(np.int32)

    def encode(self, vectors: Vectors, assignments: Assignments) -> Codes:
        """Return the signatures of vectors (n, width) in their cells (n,): uint8 (n, bytes)."""
        rotated = np.ascontiguousarray(self.rotation(vectors))
        index = self.empty_index()
        codes = np.empty((len(vectors), index.code_size), np.uint8)
        arrays: tuple[Any, ...] = (rotated, assignments.astype(np.int64), codes)
        index.encode_vectors(len(codes), *map(faiss.swig_ptr, arrays), False)
        return codes

    def empty_index(self) -> Any:
        """Return a FAISS index of these cells without rows; it takes rotated vectors."""
        index = faiss.IndexIVFRaBitQ(self._quantizer, self.centres.shape[1], len(self))
        index.is_trained = True
        return index

    @cached_property
    def _quantizer(self) -> Any:
        index = faiss.IndexFlatL2(self.centres.shape[1])
        index.add(self.centres)
        return index

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that identify the cells and the version of FAISS."""
        parts = (self.rotation.directions, self.rotation.offset, self.centres)
        content = b"".join(part.tobytes() for part in parts) + faiss.__version__.encode()
        return hashlib.blake2b(content, digest_size=8).hexdigest()

    def save(self, file: Path) -> None:
        """Write the cells to an `.npz` file, atomically."""
        with new_file(file) as part, part.open("wb") as opened:
            np.savez(
                opened,
                directions=self.rotation.directions,
                offset=self.rotation.offset,
                centres=self.centres,
                rows=self.rows,
                stop=self.stop,
            )

    @classmethod
    def load(cls, file: Path) -> Self:
        """Read cells back. Raises `LookalikeError` for a missing or damaged file."""
        try:
            stored = read_arrays(file)
            numbers = [stored[name] for name in ("directions", "offset", "centres")]
            rows, stop = int(stored["rows"]), int(stored.get("stop", 0))
            if not all(one.dtype == np.float32 and np.isfinite(one).all() for one in numbers):
                raise ValueError("not finite float32 numbers")
            directions, offset, centres = map(np.ascontiguousarray, numbers)
            # FAISS gets addresses and checks no shapes.
            shapes = directions.shape[:-1], centres.shape[1:]
            if shapes != (offset.shape, offset.shape) or centres.size == 0 or rows < 1:
                raise ValueError("shapes do not match")
            return cls(Rotation(directions, offset), centres, rows, stop)
        except (OSError, ValueError, KeyError, TypeError) as error:
            if says_nothing(error):
                raise Unreadable(file, error) from None
            raise LookalikeError(f"no cells in {file} ({error})") from None


def _leading_directions(rows: Vectors, count: int) -> tuple[Vectors, Vectors]:
    """Return about the leading directions of rows (n, width), and their offset.

    By random projections (Halko, Martinsson and Tropp, 2011, https://arxiv.org/abs/0909.4061): time
    grows with the width, where that of all principal directions grows with its cube.
    """
    middle = rows.mean(axis=0)
    rows -= middle
    drawn = np.random.default_rng(0).standard_normal(
        (rows.shape[1], count + _MORE_DIRECTIONS), np.float32
    )
    found = rows @ drawn
    for _ in range(_POWER_ITERATIONS):
        found = rows @ (rows.T @ np.linalg.qr(found)[0])
    basis = np.linalg.qr(found)[0]
    directions = np.linalg.svd(basis.T @ rows, full_matrices=False)[2][:count]
    directions = np.ascontiguousarray(directions, np.float32)
    return directions, -directions @ middle


def fitting_rows(rows: int, width: int) -> int:
    """Return how many rows of a width to have in memory where `rows` are of a usual width."""
    return max(rows * MAX_PCA_WIDTH // max(width, MAX_PCA_WIDTH), min(rows, _MIN_SAMPLE_ROWS))


def cell_count(rows: int) -> int:
    """Return the number of cells for an index of `rows` rows."""
    return min(max(rows // MEAN_CELL_ROWS, 1), MAX_CELLS)


def as_bytes(vectors: Vectors) -> npt.NDArray[np.void]:
    """View each vector (n, width) as one comparable value, (n,)."""
    return np.ascontiguousarray(vectors).view(f"V{vectors.shape[1] * vectors.itemsize}")[:, 0]


def _without_outliers(sample: Vectors) -> Vectors:
    """Drop the few rows (n, width) whose length would dominate the fit."""
    lengths = np.linalg.norm(sample, axis=1)
    some = lengths[lengths > 0]  # zeros may be most
    kept: Vectors = sample[lengths <= _MAX_LENGTH_RATIO * np.median(some if len(some) else lengths)]
    return kept


def fit_centres(points: Vectors, count: int) -> Vectors:
    """Return k-means centres of points (n, bits): float32 (count or fewer, bits)."""
    count = min(count, len(points))
    if count < 1:
        return points[:0]
    kmeans = faiss.Kmeans(
        points.shape[1],
        count,
        niter=_KMEANS_ITERATIONS,
        seed=0,
        min_points_per_centroid=1,
        max_points_per_centroid=len(points),
    )
    kmeans.train(np.ascontiguousarray(points))
    assert kmeans.centroids is not None
    return kmeans.centroids
