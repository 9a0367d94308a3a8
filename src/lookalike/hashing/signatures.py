"""Signatures: a few bytes a vector, from which distances are estimated without the vector.

A signature holds the signs of a vector along randomly rotated directions, and two numbers that
make the estimate of a distance unbiased: RaBitQ, by Gao and Long (2024), as FAISS implements it,
https://arxiv.org/abs/2405.12497. Signs of random projections are the oldest locality-sensitive hash
for angles (Charikar, 2002); here the query is not reduced to signs, which is worth more than
twice as many bits. Nothing but the rotation is fitted, so that a new vector is one more row.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self
from zipfile import BadZipFile

import faiss
import numpy as np
import numpy.typing as npt

from lookalike.cache import new_file
from lookalike.embedding import Vectors
from lookalike.errors import LookalikeError

BITS = 128  # directions: 24 bytes a vector, and nine tenths of the variance of 512 numbers
SAMPLE = 16_384  # vectors from which the directions are taken

Codes = npt.NDArray[np.uint8]


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

    def sign(self, vectors: Vectors) -> Codes:
        """Return the signatures of vectors: uint8 (n, bytes)."""
        codes: Codes = _empty(len(self.offset)).sa_encode(np.ascontiguousarray(self(vectors)))
        return codes

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that tell one rotation from another."""
        content = self.directions.tobytes() + self.offset.tobytes()
        return hashlib.blake2b(content, digest_size=8).hexdigest()

    def save(self, file: Path) -> None:
        """Write the rotation into a file that appears whole or not at all."""
        with new_file(file) as part, part.open("wb") as whole:
            np.savez(whole, directions=self.directions, offset=self.offset)

    @classmethod
    def load(cls, file: Path) -> Self:
        """Read a rotation back; `LookalikeError` where there is none."""
        try:
            with np.load(file) as stored:
                return cls(stored["directions"], stored["offset"])
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise LookalikeError(f"no rotation in {file} ({error})") from None


class Signatures:
    """The signatures of many vectors, ready to be scanned. Rows are counted from 0 as given."""

    def __init__(self, rotation: Rotation, parts: Sequence[Codes]) -> None:
        self.rotation = rotation
        self._plain = _empty(len(rotation.offset))
        codes = np.concatenate(parts) if parts else np.empty((0, self._plain.code_size), np.uint8)
        faiss.copy_array_to_vector(codes.ravel(), self._plain.codes)
        self._plain.ntotal = len(codes)

    def __len__(self) -> int:
        return int(self._plain.ntotal)

    @property
    def width(self) -> int:
        """Bytes of a signature."""
        return int(self._plain.code_size)

    @cached_property
    def _packed(self) -> Any:
        # 32 rows side by side, so that one vector instruction looks up all of them.
        return faiss.IndexRaBitQFastScan(self._plain)

    def nearest(
        self, queries: Vectors, count: int, allowed: npt.NDArray[np.bool_] | None = None
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Return the `count` rows of least estimated distance to each query (q, width).

        Estimates (squared, along the directions alone) and rows, both (q, count); -1 where there
        are no more. `allowed`, bool (rows,), leaves rows out; it takes a slower scan.
        """
        rotated = np.ascontiguousarray(self.rotation(queries))
        count = min(count, len(self))
        if not count:
            return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
        if allowed is None:
            found = self._packed.search(rotated, count)
        else:
            packed = np.packbits(allowed, bitorder="little")
            chosen = faiss.IDSelectorBitmap(len(allowed), faiss.swig_ptr(packed))
            only: Any = faiss.RaBitQSearchParameters(sel=chosen)  # type: ignore[call-arg]
            found = self._plain.search(rotated, count, params=only)
        return found[0], found[1]


def _empty(bits: int) -> Any:
    """An index without rows for vectors that are rotated and centred already."""
    index = faiss.IndexRaBitQ(bits)
    faiss.copy_array_to_vector(np.zeros(bits, np.float32), index.center)
    index.is_trained = True
    return index
