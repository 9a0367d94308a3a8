"""What a vector is hashed with: a rotation, and the cells that rotated vectors fall into.

A signature holds the signs of a vector along randomly rotated directions, counted from the centre
of its cell, and two numbers that make the estimate of a distance unbiased: RaBitQ, by Gao and Long
(2024), as FAISS implements it, https://arxiv.org/abs/2405.12497. Signs of random projections are
the oldest locality-sensitive hash for angles (Charikar, 2002); here the query is not reduced to
signs, which is worth more than twice as many bits. The cell is the bucket of this hash: rows near
to each other are in one cell or in neighbouring ones, so that a query looks into few of them
(inverted lists: Sivic and Zisserman, "Video Google", 2003).
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import faiss
import numpy as np
import numpy.typing as npt

from lookalike.embedding import Vectors
from lookalike.errors import LookalikeError, Unreadable, says_nothing
from lookalike.files import new_file
from lookalike.untrusted import read_arrays

BITS = 128  # directions: 24 bytes a vector, and nine tenths of the variance of 512 numbers
CELL_ROWS = 128
"""Rows a cell on average: a query has to find the cells, and then to look through some of them."""
CELLS = 65_536  # at most, whatever the size of the collection
POINTS = 32  # of a sample for each cell
ROTATION_SAMPLE = 16_384
_ROUNDS = 8  # of k-means
_LONG = 100  # times the median length: no vector of the same kind

Codes = npt.NDArray[np.uint8]
Homes = npt.NDArray[np.int32]
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Rotation:
    """From a vector to its leading directions, randomly rotated among themselves.

    `directions` is float32 (bits, width) with orthonormal rows, `offset` float32 (bits,).
    """

    directions: Vectors
    offset: npt.NDArray[np.float32]

    @classmethod
    def fit(cls, sample: Vectors, bits: int = BITS) -> Self:
        """Take the principal directions of a sample (n, width), the same for the same sample."""
        bits = min(bits, sample.shape[1])
        sample = _without_outliers(sample)
        found = faiss.PCAMatrix(sample.shape[1], bits, 0, True)
        # A sample of less rank has no such directions; noise far below any distance has.
        sample = np.resize(sample, (max(len(sample), 2 * sample.shape[1]), sample.shape[1]))
        noise = np.random.default_rng(0).standard_normal(sample.shape, np.float32) * 1e-6
        found.train(np.ascontiguousarray(sample + noise))
        directions = faiss.vector_to_array(found.A).reshape(bits, sample.shape[1])
        return cls(directions, faiss.vector_to_array(found.b))

    def __call__(self, vectors: Vectors) -> Vectors:
        """Rotate vectors: (n, width) to (n, bits)."""
        rotated: Vectors = vectors @ self.directions.T + self.offset
        return rotated


@dataclass(frozen=True)
class Cells:
    """A rotation and the centres of cells, float32 (cells, bits), near ones close together.

    `rows` is the size of the collection that they were fitted to, of rows with ids below `stop`.
    """

    rotation: Rotation
    centres: Vectors
    rows: int
    stop: int = 0

    @classmethod
    def fit(cls, rotation: Rotation, sample: Vectors, rows: int, stop: int = 0) -> Self:
        """Find cells for `rows` rows from a sample of them, rotated, (n, bits).

        In two levels of k-means, the square root of all cells each: a hundredth of the time of
        one. A part of the sample gets cells by its size, so that a crowd is divided further; copies
        count once, for nothing divides them.
        """
        whole = len(sample)
        sample = _without_outliers(sample)
        sample = sample[np.sort(np.unique(as_bytes(sample), return_index=True)[1])]
        count = cell_count(round(rows * len(sample) / whole))
        parts = _means(sample, round(count**0.5))
        part_of = faiss.knn(sample, parts, 1)[1][:, 0]
        centres = []
        for part in range(len(parts)):
            inside = sample[part_of == part]
            centres.append(_means(inside, round(count * len(inside) / len(sample))))
        return cls(rotation, np.concatenate(centres), rows, stop)

    def __len__(self) -> int:
        return len(self.centres)

    def __reduce__(self) -> tuple[type[Self], tuple[Rotation, Vectors, int, int]]:
        """Travel without what is made of them."""
        return type(self), (self.rotation, self.centres, self.rows, self.stop)

    def nearest(self, rotated: Vectors, count: int) -> Numbers:
        """Return the `count` cells nearest to each rotated vector (n, bits): (n, count)."""
        return self.look(np.ascontiguousarray(rotated), count)[1]

    def look(self, rotated: Vectors, count: int) -> tuple[Vectors, Numbers]:
        """Do as `nearest`, and return the squared distances of their centres first."""
        found: tuple[Vectors, Numbers] = self._quantizer.search(rotated, min(count, len(self)))
        return found

    def home(self, vectors: Vectors) -> Homes:
        """Return the cell of each vector (n, width): int32 (n,)."""
        return self.nearest(self.rotation(vectors), 1)[:, 0].astype(np.int32)

    def sign(self, vectors: Vectors, homes: Homes) -> Codes:
        """Return the signatures of vectors (n, width) in their cells: uint8 (n, bytes)."""
        rotated = np.ascontiguousarray(self.rotation(vectors))
        index = self.empty()
        codes = np.empty((len(vectors), index.code_size), np.uint8)
        arrays: tuple[Any, ...] = (rotated, homes.astype(np.int64), codes)
        index.encode_vectors(len(codes), *map(faiss.swig_ptr, arrays), False)
        return codes

    def empty(self) -> Any:
        """A FAISS index of these cells without rows, for vectors that are rotated already."""
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
        """16 hexadecimal digits that tell one set of cells, and what signs with it, from others."""
        parts = (self.rotation.directions, self.rotation.offset, self.centres)
        content = b"".join(part.tobytes() for part in parts) + faiss.__version__.encode()
        return hashlib.blake2b(content, digest_size=8).hexdigest()

    def save(self, file: Path) -> None:
        """Write them into a file that appears whole or not at all."""
        with new_file(file) as part, part.open("wb") as whole:
            np.savez(
                whole,
                directions=self.rotation.directions,
                offset=self.rotation.offset,
                centres=self.centres,
                rows=self.rows,
                stop=self.stop,
            )

    @classmethod
    def load(cls, file: Path) -> Self:
        """Read them back; `LookalikeError` where there are none."""
        try:
            stored = read_arrays(file)
            numbers = [stored[name] for name in ("directions", "offset", "centres")]
            rows, stop = int(stored["rows"]), int(stored.get("stop", 0))
            if not all(one.dtype == np.float32 and np.isfinite(one).all() for one in numbers):
                raise ValueError("no numbers")
            directions, offset, centres = map(np.ascontiguousarray, numbers)
            # FAISS gets them as addresses, and asks no more.
            shapes = directions.shape[:-1], centres.shape[1:]
            if shapes != (offset.shape, offset.shape) or centres.size == 0 or rows < 1:
                raise ValueError("of shapes that do not go together")
            return cls(Rotation(directions, offset), centres, rows, stop)
        except (OSError, ValueError, KeyError, TypeError) as error:
            if says_nothing(error):
                raise Unreadable(file, error) from None
            raise LookalikeError(f"no cells in {file} ({error})") from None


def cell_count(rows: int) -> int:
    """Return how many cells a collection of so many rows has."""
    return min(max(rows // CELL_ROWS, 1), CELLS)


def as_bytes(vectors: Vectors) -> npt.NDArray[np.void]:
    """See each vector (n, width) as one value that can be compared, (n,)."""
    return np.ascontiguousarray(vectors).view(f"V{vectors.shape[1] * vectors.itemsize}")[:, 0]


def _without_outliers(sample: Vectors) -> Vectors:
    """Leave out the few rows (n, width) that are so long that they would bend everything."""
    lengths = np.linalg.norm(sample, axis=1)
    kept: Vectors = sample[lengths <= _LONG * np.median(lengths)]
    return kept


def _means(points: Vectors, count: int) -> Vectors:
    """Return centres of points (n, bits) by k-means, (count or fewer, bits)."""
    count = min(count, len(points))
    if count < 1:
        return points[:0]
    found = faiss.Kmeans(
        points.shape[1],
        count,
        niter=_ROUNDS,
        seed=0,
        min_points_per_centroid=1,
        max_points_per_centroid=len(points),
    )
    found.train(np.ascontiguousarray(points))
    assert found.centroids is not None
    return found.centroids
