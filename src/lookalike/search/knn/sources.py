"""Where rows come from: the data files of an index, or a DataFrame with a column of vectors."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lookalike.errors import LookalikeError
from lookalike.models.embedder import have_direction, unit_rows
from lookalike.search.columns import vector_column
from lookalike.search.rows import as_given, draw
from lookalike.spark import parallelism
from lookalike.spark.columns import column_of
from lookalike.storage import EmbeddingTable, Segment
from lookalike.storage.own_vectors import Metric
from lookalike.storage.streamed_rows import stream_rows
from lookalike.system.arrays import Vectors

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


_TASKS_PER_CORE = 4
_MAX_TASK_ROWS = 2**20

Batches = Iterator[pa.RecordBatch]


class VectorBatch(NamedTuple):
    """Some rows: `keys` (n,) of any type, and `vectors`, float32 (n, width)."""

    keys: pa.Array
    vectors: Vectors


RowTask = Callable[[Iterator[VectorBatch]], Batches]


class RowSource(Protocol):
    """Rows with a key and a vector each, which tasks of Spark read where they run."""

    @property
    def width(self) -> int:
        """The numbers of a vector."""

    @property
    def metric(self) -> Metric:
        """The metric of the vectors."""

    @property
    def key_type(self) -> str:
        """The type of the keys, as Spark writes it."""

    def count(self) -> int | None:
        """Return the number of rows where it is known without reading them."""

    def read(self, task: RowTask, schema: str) -> "DataFrame":
        """Return what a task makes of the rows: a DataFrame with a schema."""

    def some(self, most: int) -> Self:
        """Return rows to draw from: all, or those of `most` data files."""


@dataclass(frozen=True)
class IndexRows:
    """The rows of an index with a vector. Tasks read its data files, and cache nothing.

    `key` is the column of the keys.
    """

    spark: "SparkSession"
    table: EmbeddingTable
    key: str = "id"
    chosen: tuple[int, ...] | None = None

    @property
    def width(self) -> int:
        """The numbers of a vector."""
        return int(self.table.about_model["width"])

    @property
    def metric(self) -> Metric:
        """The metric of the vectors."""
        return self.table.metric

    @property
    def key_type(self) -> str:
        """The type of the keys, as Spark writes it."""
        kind = self.table.schema.field(self.key).type
        return "string" if pa.types.is_string(kind) else "bigint"

    @cached_property
    def segments(self) -> Sequence[Segment]:
        """The data files to read."""
        every = self.table.segments
        return every if self.chosen is None else [every[number] for number in self.chosen]

    def count(self) -> int | None:
        """Return the number of rows, which the log has."""
        return self.table.counts()[0] if self.chosen is None else None

    def read(self, task: RowTask, schema: str) -> "DataFrame":
        """Return what a task makes of the rows; it gets those of several files one by one."""
        segments, columns = self.segments, (self.key, "embedding")

        def run(batches: Batches) -> Batches:
            yield from task(
                rows
                for batch in batches
                for number in batch["id"].to_pylist()
                for rows in _vectors_of(segments[number], columns)
            )

        wanted = max(
            _TASKS_PER_CORE * parallelism(self.spark), self.table.counts()[0] // _MAX_TASK_ROWS
        )
        tasks = max(min(len(segments), wanted), 1)
        return self.spark.range(0, len(segments), 1, tasks).mapInArrow(run, schema)

    def some(self, most: int) -> "IndexRows":
        """Return the rows of `most` data files, drawn at random."""
        if len(self.segments) <= most:
            return self
        return replace(self, chosen=tuple(draw(len(self.segments), most).tolist()))


def _vectors_of(segment: Segment, columns: tuple[str, str]) -> Iterator[VectorBatch]:
    for batch in stream_rows(segment.file, columns):
        embedded = batch["embedding"]
        if embedded.null_count:
            batch = batch.filter(embedded.is_valid())
            embedded = batch["embedding"]
        if len(batch):
            numbers = pc.list_flatten(embedded).to_numpy(zero_copy_only=False)
            yield VectorBatch(batch[columns[0]], numbers.reshape(len(batch), -1))


@dataclass(frozen=True)
class FrameRows:
    """The rows of a DataFrame with a vector.

    `name` says in errors what the rows are. Vectors are scaled to length 1, unless the metric is
    `l2`.
    """

    frame: "DataFrame"
    width: int
    metric: Metric = "cosine"
    name: str = "queries"

    @classmethod
    def of(
        cls,
        frame: "DataFrame",
        id_column: str,
        column: str,
        width: int | None = None,
        metric: Metric = "cosine",
        name: str = "queries",
    ) -> Self:
        """Describe the rows of a DataFrame. Without a width it is that of the first vector.

        Raises `LookalikeError` for a missing column, and for one that has no vectors.
        """
        for one in (column, id_column):
            if one not in frame.columns:
                raise LookalikeError(
                    f"the {name} have no column {one!r}, but {', '.join(frame.columns)}: choose one"
                )
        vectors = vector_column(frame, column)
        rows = frame.select(column_of(frame, id_column).alias("id"), vectors.alias("embedding"))
        if width is None:
            first = rows.where("embedding IS NOT NULL").limit(1).toArrow()
            width = len(first["embedding"][0]) if len(first) else 0
        return cls(rows, width, metric, name)

    @property
    def key_type(self) -> str:
        """The type of the keys, as Spark writes it: whole numbers are `bigint`."""
        from pyspark.sql.types import IntegralType

        kind = self.frame.schema["id"].dataType
        return "bigint" if isinstance(kind, IntegralType) else kind.simpleString()

    def count(self) -> int | None:
        """Return None: the rows have to be counted."""
        return None

    def read(self, task: RowTask, schema: str) -> "DataFrame":
        """Return what a task makes of the rows."""
        width, metric, name = self.width, self.metric, self.name
        rows = self.frame
        if self.key_type == "bigint":
            rows = rows.selectExpr("CAST(id AS bigint) AS id", "embedding")

        def run(batches: Batches) -> Batches:
            yield from task(
                usable_rows(batch, width, metric, name) for batch in batches if batch.num_rows
            )

        return rows.mapInArrow(run, schema)

    def some(self, most: int) -> Self:
        """Return all rows: which are in which file is not known."""
        return self


def usable_rows(batch: pa.RecordBatch, width: int, metric: Metric, name: str) -> VectorBatch:
    """Return the keys and vectors of a batch with `id` and `embedding`, without null vectors.

    Raises `LookalikeError` for a vector that cannot be compared, and for a row without an id.
    """
    batch = batch.filter(batch["embedding"].is_valid())
    if batch["id"].null_count:
        raise LookalikeError(f"the {name} have rows without an id: give each one")
    widths = pc.list_value_length(batch["embedding"])
    others = widths.filter(pc.not_equal(widths, width))
    if len(others):
        raise LookalikeError(
            f"the {name} have vectors of another width than {width} ({others[0]} numbers): embed "
            "all with one model"
        )
    numbers = pc.list_flatten(batch["embedding"]).to_numpy(zero_copy_only=False)
    values = numbers.reshape(len(batch), width)
    if not np.isfinite(values).all():
        raise LookalikeError(f"the {name} have numbers that are not finite: embed them again")
    if metric == "l2":
        try:
            return VectorBatch(batch["id"], np.ascontiguousarray(as_given(values)))
        except LookalikeError as error:
            raise LookalikeError(f"the {name}: {error}") from None
    vectors = unit_rows(values)
    if not have_direction(vectors).all():
        raise LookalikeError(
            f"the {name} have vectors of zeros, which have no direction: leave them out"
        )
    return VectorBatch(batch["id"], np.ascontiguousarray(vectors))
