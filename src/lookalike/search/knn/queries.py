"""The queries of a search on Spark: rows of segments or of a DataFrame, in blocks."""

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lookalike.errors import LookalikeError
from lookalike.models.embedder import have_direction, unit_rows
from lookalike.search.rows import as_given
from lookalike.storage.own_vectors import Metric
from lookalike.system.arrays import Numbers, Vectors

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


BLOCK_QUERIES = 8192  # 16 MB of vectors


class QuerySource(Protocol):
    """Queries that every task can memory-map: a segment, or a file of `write_queries`."""

    @property
    def ids(self) -> Numbers:
        """The ids of the queries, int64 (n,)."""

    @property
    def vectors(self) -> Vectors:
        """The vectors of the queries, float32 (n, width)."""


class Block(NamedTuple):
    """Consecutive queries of one source."""

    source: int
    start: int
    stop: int


@dataclass(frozen=True)
class Queries:
    """All queries of a search, in numbered blocks."""

    sources: Sequence[QuerySource]
    blocks: Sequence[Block]

    @classmethod
    def split(cls, sources: Sequence[QuerySource]) -> Self:
        """Split sources into blocks of at most `BLOCK_QUERIES` queries."""
        blocks = [
            Block(number, start, min(start + BLOCK_QUERIES, len(source.ids)))
            for number, source in enumerate(sources)
            for start in range(0, len(source.ids), BLOCK_QUERIES)
        ]
        return cls(sources, blocks)

    def ids(self, number: int) -> Numbers:
        """Return the ids of a block, int64 (n,)."""
        block = self.blocks[number]
        return self.sources[block.source].ids[block.start : block.stop]

    def vectors(self, number: int) -> Vectors:
        """Return the vectors of a block, float32 (n, width), memory-mapped."""
        block = self.blocks[number]
        return self.sources[block.source].vectors[block.start : block.stop]


@dataclass(frozen=True)
class QueryFile:
    """Queries of a DataFrame, in a file that every worker can read."""

    file: Path

    def __reduce__(self) -> tuple[type[Self], tuple[Path]]:
        """Pickle without the mapped arrays."""
        return type(self), (self.file,)

    @cached_property
    def ids(self) -> Numbers:
        """The ids of the queries, int64 (n,)."""
        ids: Numbers = np.load(self.file.with_suffix(".ids.npy"))
        return ids

    @cached_property
    def vectors(self) -> Vectors:
        """The vectors of the queries, float32 (n, width), memory-mapped."""
        vectors: Vectors = np.load(self.file, mmap_mode="r")
        return vectors


def write_queries(
    frame: "DataFrame", folder: Path, width: int, metric: Metric = "cosine"
) -> list[QueryFile]:
    """Write a DataFrame of queries to files that tasks can memory-map.

    Parameters
    ----------
    frame : DataFrame
        With `id bigint, embedding array`. Rows without a vector are left out; vectors are scaled to
        length 1, unless the metric is `l2`.
    folder : Path
        A folder that every worker can write to.
    width : int
        The length of the vectors.
    metric : {"cosine", "l2"}
        That of the index.

    Returns
    -------
    list of QueryFile

    Raises
    ------
    LookalikeError
        For a vector of another width, with numbers that are not finite or without a direction, or
        for a row without an id.
    """

    def task(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            batch = batch.filter(batch["embedding"].is_valid())
            vectors, problem = _usable_vectors(batch, width, metric)
            file = folder / f"{uuid.uuid4().hex}.npy"
            if problem is None:
                np.save(file.with_suffix(".ids.npy"), batch["id"].to_numpy())
                np.save(file, vectors)
            yield pa.RecordBatch.from_pydict(
                {"file": [str(file)], "problem": pa.array([problem], pa.string())}
            )

    # Files of a failed attempt of a task are not returned; they are deleted with the folder.
    rows = frame.mapInArrow(task, "file string, problem string").collect()
    if problems := sorted(row["problem"] for row in rows if row["problem"]):
        raise LookalikeError(
            problems[0]
        )  # raised in a task it would be wrapped in Java's traceback
    return [QueryFile(Path(row["file"])) for row in rows]


def _usable_vectors(
    batch: pa.RecordBatch, width: int, metric: Metric
) -> tuple[Vectors, str | None]:
    """Return the vectors of a batch, float32 (n, width), and the first problem, if any."""
    none = np.empty((0, width), np.float32)
    widths = pc.list_value_length(batch["embedding"])
    others = widths.filter(pc.not_equal(widths, width))
    if len(others):
        return none, (
            f"the queries have vectors of another width than {width} ({others[0]} numbers): embed "
            "them with the model of the index (index.embedder)"
        )
    if batch["id"].null_count:
        return none, "the queries have rows without an id: give each one"
    values = batch["embedding"].flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    if not np.isfinite(values).all():
        return none, "the queries have numbers that are not finite: embed them again"
    if metric == "l2":
        try:
            return np.ascontiguousarray(as_given(values)), None
        except LookalikeError as error:
            return none, f"the queries: {error}"
    vectors = unit_rows(values)
    if not have_direction(vectors).all():
        return none, "the queries have vectors of zeros, which have no direction: leave them out"
    return np.ascontiguousarray(vectors), None
