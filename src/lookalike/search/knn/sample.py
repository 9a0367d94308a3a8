"""Some rows of an index in the memory of this process, searched as Spark would search all."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Self, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lookalike.search.knn.sources import IndexRows, RowTask, VectorBatch
from lookalike.storage import Segment
from lookalike.storage.own_vectors import Metric
from lookalike.storage.segments import BATCH_ROWS
from lookalike.storage.streamed_rows import stream_rows
from lookalike.system.arrays import Vectors
from lookalike.system.resources import cores

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


_MAX_FILES = 128


@dataclass(frozen=True)
class SampledRows:
    """Rows in memory as a source (`RowSource`): `vectors` are float32 (n, width)."""

    vectors: Vectors
    metric: Metric
    key_type: str = "bigint"

    @property
    def width(self) -> int:
        """The numbers of a vector."""
        return int(self.vectors.shape[1])

    def count(self) -> int:
        """Return the number of rows."""
        return len(self.vectors)

    def batches(self) -> Iterator[VectorBatch]:
        """Yield the rows, numbered."""
        for start in range(0, len(self.vectors), BATCH_ROWS):
            some = self.vectors[start : start + BATCH_ROWS]
            yield VectorBatch(pa.array(np.arange(start, start + len(some))), some)

    def read(self, task: RowTask, schema: str) -> "DataFrame":
        """Return what a task makes of the rows, run in this process."""
        done = _Done(list(task(self.batches())))
        return cast("DataFrame", done)

    def some(self, most: int) -> Self:
        """Return all rows."""
        return self


@dataclass(frozen=True)
class _Done:
    """What a task has made, as much of a DataFrame as `survey` takes."""

    batches: list[pa.RecordBatch]

    def toArrow(self) -> pa.Table:  # noqa: N802 - as Spark names it
        """Return all batches."""
        return pa.Table.from_batches(self.batches)


def sample_rows(source: IndexRows, most: int) -> SampledRows:
    """Read about `most` rows, from the beginnings of files spread over them."""
    files = source.segments
    count = min(len(files), _MAX_FILES)
    drawn = [files[at * len(files) // count] for at in range(count)]
    few = -(-most // (BATCH_ROWS * max(count, 1)))

    def read(segment: Segment) -> list[Vectors]:
        found: list[Vectors] = []
        for batch in islice(stream_rows(segment.file, ("embedding",)), few):
            embedded = batch["embedding"].drop_null()
            numbers = pc.list_flatten(embedded).to_numpy(zero_copy_only=False)
            if len(embedded):
                found.append(numbers.reshape(len(embedded), -1))
        return found

    with ThreadPoolExecutor(min(cores(), 8)) as pool:
        parts = [part for some in pool.map(read, drawn) for part in some]
    vectors = np.concatenate([np.empty((0, source.width), np.float32), *parts])
    return SampledRows(np.random.default_rng(0).permutation(vectors)[:most], source.metric)
