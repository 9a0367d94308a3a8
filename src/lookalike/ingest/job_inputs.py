"""The inputs of a job: a listing of files, or a DataFrame that only Spark can read."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lookalike.ingest.diff import HashLookup
from lookalike.ingest.vectors.inputs import VectorInput
from lookalike.storage.remote.shared_files import SharedFile, sharing

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


Images: TypeAlias = Iterator[pa.RecordBatch]
Reader: TypeAlias = Callable[[Iterator[pa.RecordBatch]], Images]
"""Maps the batches of a task to batches of images."""


@dataclass(frozen=True)
class Inputs:
    """The inputs to embed: a `listing` of local files, or a DataFrame (`frame`) for Spark.

    Attributes
    ----------
    count
        The number of inputs, 0 if unknown.
    listing
        A Parquet file with the columns of `LISTING`.
    frame
        A DataFrame with the columns of `IMAGE`.
    lookup
        Finds stored embeddings by content hash.
    paths
        The rows of the frame to embed, None for all.
    read
        Maps the batches of the frame, and `paths`, to batches of images, where they are none.
    batches
        Gives the images, where this process has their contents.
    first_id
        The id of the first row of the frame.
    vectors
        Vectors to index, instead of images; `frame` has their rows if Spark reads them.
    wanted
        For vectors, the file of a plan with the rows to read; None for all.

    """

    count: int = 0
    listing: Path | None = None
    frame: "DataFrame | None" = None
    lookup: HashLookup | None = None
    paths: "PathSet | None" = None
    read: "Callable[[Iterator[pa.RecordBatch], PathSet | None], Images] | None" = None
    batches: Callable[[], Iterator[pa.RecordBatch]] | None = None
    first_id: int = 0
    vectors: VectorInput | None = None
    wanted: Path | None = None

    def reader(self, paths: "PathSet | None") -> Reader:
        """Return the reader of the frame for these rows of it."""
        if self.read is None:
            return paths or iter
        read = self.read
        return lambda batches: read(batches, paths)


@dataclass(frozen=True)
class PathSet:
    """A set of paths, stored as a file of sorted 64-bit hashes that each process maps."""

    file: SharedFile

    @classmethod
    def of(cls, listing: Path, file: Path, column: str = "path") -> "PathSet":
        """Write the hashes of the paths of a listing, or of its keys, to `file`."""
        with pq.ParquetFile(listing) as stored:
            batches = stored.iter_batches(columns=[column])
            hashes = [_hashes(batch[column].cast(pa.string()).to_pylist()) for batch in batches]
        np.save(file, np.sort(np.concatenate(hashes)) if hashes else np.empty(0, np.uint64))
        return cls(SharedFile(file))

    @cached_property
    def _sorted(self) -> npt.NDArray[np.uint64]:
        mapped: npt.NDArray[np.uint64] = np.load(self.file.local(), mmap_mode="r")
        return mapped

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Yield the rows of batches whose path is in the set."""
        for batch in batches:
            if len(self._sorted) == 0:
                return
            found = self.contains(batch["path"].to_pylist())
            if found.any():
                yield batch.filter(pa.array(found))

    def contains(self, paths: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Tell which paths are in the set."""
        hashes = _hashes(paths)
        if len(self._sorted) == 0:
            return np.zeros(len(hashes), bool)
        at = np.searchsorted(self._sorted, hashes)
        found: npt.NDArray[np.bool_] = self._sorted[np.minimum(at, len(self._sorted) - 1)] == hashes
        return found


@contextmanager
def sharing_paths(paths: PathSet | None) -> Iterator[PathSet | None]:
    """Yield a set of paths for tasks of Spark, if there is one."""
    if paths is None:
        yield None
        return
    with sharing(paths.file.file) as (shared,):
        yield PathSet(shared)


def _hashes(paths: Sequence[str]) -> npt.NDArray[np.uint64]:
    digests = (hashlib.blake2b(path.encode(), digest_size=8).digest() for path in paths)
    return np.frombuffer(b"".join(digests), np.uint64)
