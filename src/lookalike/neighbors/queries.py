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

from lookalike.embedding import Vectors, have_direction, unit_rows
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
    """Write a DataFrame `id bigint, embedding array` to files that tasks can map.

    The vectors are brought to length 1. Rows without a vector are left out. Raises
    `LookalikeError` where one has another width, has no direction, or has no id.
    """

    def task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            batch = batch.filter(batch["embedding"].is_valid())
            vectors, problem = _vectors(batch, width)
            file = folder / f"{uuid.uuid4().hex}.npy"
            if problem is None:
                np.save(file.with_suffix(".ids.npy"), batch["id"].to_numpy())
                np.save(file, vectors)
            yield pa.RecordBatch.from_pydict(
                {"file": [str(file)], "problem": pa.array([problem], pa.string())}
            )

    # What a task wrote that failed and ran again is not named here, and goes with the folder.
    rows = frame.mapInArrow(task, "file string, problem string").collect()
    if problems := sorted(row["problem"] for row in rows if row["problem"]):
        raise LookalikeError(problems[0])  # an exception of a task is told with pages of Java's
    return [Stored(Path(row["file"])) for row in rows]


def _vectors(batch: pa.RecordBatch, width: int) -> tuple[Vectors, str | None]:
    """Return the vectors of a batch, float32 (n, width), or what is wrong with one of them."""
    none = np.empty((0, width), np.float32)
    lengths = pc.list_value_length(batch["embedding"])
    others = lengths.filter(pc.not_equal(lengths, width))
    if len(others):
        return none, (
            f"the queries have vectors of another width than {width} ({others[0]} numbers): embed "
            "them with the index's own model (index.embedder)"
        )
    if batch["id"].null_count:
        return none, "the queries have rows without an id: give each one"
    values = batch["embedding"].flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    if not np.isfinite(values).all():
        return none, "the queries have vectors with numbers that are not finite: embed them again"
    vectors = unit_rows(values)
    if not have_direction(vectors).all():
        return none, "the queries have vectors of zeros, which have no direction: leave them out"
    return np.ascontiguousarray(vectors), None
