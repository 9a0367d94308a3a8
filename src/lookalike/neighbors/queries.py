"""The queries of a run on Spark: rows of segments, or of a DataFrame, counted in blocks."""

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lookalike.embedding import Vectors
from lookalike.errors import LookalikeError
from lookalike.search import Numbers

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

BLOCK = 8192  # queries that travel together: 16 MB of vectors


class Source(Protocol):
    """Queries that every task can map: a segment, or a file that `store` wrote."""

    @property
    def ids(self) -> Numbers:
        """Their ids, int64 (n,)."""

    @property
    def vectors(self) -> Vectors:
        """Their vectors, float32 (n, width)."""


class Block(NamedTuple):
    """Some queries of one source."""

    source: int
    start: int
    stop: int


@dataclass(frozen=True)
class Queries:
    """All queries of a run; a block is known by its number."""

    sources: Sequence[Source]
    blocks: Sequence[Block]

    @classmethod
    def of(cls, sources: Sequence[Source]) -> Self:
        """Cut sources into blocks."""
        return cls(
            sources,
            [
                Block(number, start, min(start + BLOCK, len(source.ids)))
                for number, source in enumerate(sources)
                for start in range(0, len(source.ids), BLOCK)
            ],
        )

    def ids(self, number: int) -> Numbers:
        """Return the ids of a block, int64 (n,)."""
        block = self.blocks[number]
        return self.sources[block.source].ids[block.start : block.stop]

    def vectors(self, number: int) -> Vectors:
        """Return the vectors of a block, float32 (n, width), mapped."""
        block = self.blocks[number]
        return self.sources[block.source].vectors[block.start : block.stop]


@dataclass(frozen=True)
class Stored:
    """Queries that came as a DataFrame, in a folder that all workers see."""

    file: Path

    def __reduce__(self) -> tuple[type[Self], tuple[Path]]:
        """Travel without what is mapped."""
        return type(self), (self.file,)

    @cached_property
    def ids(self) -> Numbers:
        """Their ids, int64 (n,)."""
        ids: Numbers = np.load(self.file.with_suffix(".ids.npy"))
        return ids

    @cached_property
    def vectors(self) -> Vectors:
        """Their vectors, float32 (n, width), mapped."""
        vectors: Vectors = np.load(self.file, mmap_mode="r")
        return vectors


def store(frame: "DataFrame", folder: Path, width: int) -> list[Stored]:
    """Write a DataFrame `id bigint, embedding array<float>` to files that tasks can map.

    Rows without a vector are left out. Raises where one has another width or numbers that are not
    finite.
    """

    def task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            batch = batch.filter(batch["embedding"].is_valid())
            values = batch["embedding"].flatten().to_numpy(zero_copy_only=False)
            if pc.any(pc.not_equal(pc.list_value_length(batch["embedding"]), width)).as_py():
                raise LookalikeError(f"the queries have vectors of another width than {width}")
            if not np.isfinite(values).all():
                raise LookalikeError("the queries have vectors with numbers that are not finite")
            file = folder / f"{uuid.uuid4().hex}.npy"
            np.save(file.with_suffix(".ids.npy"), batch["id"].to_numpy())
            np.save(file, np.ascontiguousarray(values, np.float32).reshape(-1, width))
            yield pa.RecordBatch.from_pydict({"file": [str(file)]})

    # What a task wrote that failed and ran again is not named here, and goes with the folder.
    return [Stored(Path(row["file"])) for row in frame.mapInArrow(task, "file string").collect()]
