"""Check what is given as vectors: the table, its columns, the width of its vectors."""

import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, Union

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lookalike import images
from lookalike.errors import LookalikeError, either
from lookalike.ingest.vectors import frames, values
from lookalike.ingest.vectors.in_memory import ArrayTable, ArrowTable, open_array, spooled
from lookalike.ingest.vectors.opening import open_files
from lookalike.ingest.vectors.tables import OwnTable, ParquetTable, missing_column
from lookalike.models import CallableModel, Model
from lookalike.models.model import fingerprint
from lookalike.models.weights import AUTO
from lookalike.storage import EmbeddingTable
from lookalike.storage.own_vectors import MAX_WIDTH, METRICS, NO_NETWORK, Metric, OwnVectors
from lookalike.storage.schema import KeyType
from lookalike.system.paths import Name

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


TableLike: TypeAlias = Union[npt.NDArray[Any], pa.Table, pa.RecordBatchReader, "DataFrame"]
"""Vectors of this process: an array (n, width), a table or reader of Arrow, a DataFrame of Spark,
or what Arrow can read as a stream: DataFrames of pandas and Polars."""


class VectorOptions(Protocol):
    """The options that say how to read a table of vectors (`lookalike.ingest.Options`)."""

    @property
    def embedding_column(self) -> str | None: ...  # noqa: D102 - described there
    @property
    def id_column(self) -> str | None: ...  # noqa: D102
    @property
    def path_column(self) -> str | None: ...  # noqa: D102
    @property
    def label_column(self) -> str | None: ...  # noqa: D102
    @property
    def image_column(self) -> str | None: ...  # noqa: D102
    @property
    def labels(self) -> Name | None: ...  # noqa: D102
    @property
    def metric(self) -> Metric: ...  # noqa: D102
    @property
    def model(self) -> str | CallableModel: ...  # noqa: D102
    @property
    def weights(self) -> str: ...  # noqa: D102
    @property
    def precision(self) -> str: ...  # noqa: D102
    @property
    def like(self) -> Name | None: ...  # noqa: D102


_SAMPLE_ROWS = 1_000
"""Rows whose most frequent width is that of the index."""
_FRAME_PLACE = "the DataFrame"


@dataclass(frozen=True)
class VectorInput:
    """Vectors to index, checked: their description, their width, and where they are read.

    Attributes
    ----------
    own
        What the index records.
    width
        Numbers in a vector.
    table
        The table, if this process reads it.
    frame
        The DataFrame, if Spark reads it.
    reader
        A reader whose batches come once.

    """

    own: OwnVectors
    width: int
    root: str
    table: OwnTable | None = None
    frame: "DataFrame | None" = None
    reader: pa.RecordBatchReader | None = None

    @property
    def columns(self) -> list[str]:
        """The columns to read."""
        own = self.own
        named = (own.id_column, own.path_column, own.label_column, own.embedding_column)
        return list(dict.fromkeys(name for name in named if name is not None))

    def kept(self, folder: Path) -> "VectorInput":
        """Return the same vectors in a form that can be read twice; `folder` may hold them."""
        if self.reader is None:
            return self
        return replace(self, table=spooled(self.reader, folder, self.root), reader=None)

    def source(self) -> images.Source:
        """Return the place of the pictures, as an index records it."""
        own = self.own
        return images.Source("vectors", self.root, (), own.path_column, own.label_column)

    def check_named(self) -> None:
        """Raise `LookalikeError` for rows that cannot be told from those of another table."""
        if self.own.place is None and self.own.id_column is None and self.own.path_column is None:
            raise LookalikeError(
                "rows of a process have no names: give a table with keys (`id_column`), or a file"
            )

    def check_spark(self) -> None:
        """Raise `LookalikeError` for a table that Spark tasks cannot read."""
        if self.frame is None and not isinstance(self.table, ParquetTable):
            raise LookalikeError(
                "only Parquet, Delta and DataFrames are read on Spark: leave `spark=True` out"
            )

    @property
    def name(self) -> str:
        """The table, for messages."""
        return self.own.place or (_FRAME_PLACE if self.frame is not None else "the table")


def are_vectors(given: Any, options: VectorOptions) -> bool:
    """Tell whether vectors are given, rather than images."""
    if options.embedding_column is not None or is_table(given):
        return True
    names = [given] if isinstance(given, str | os.PathLike) else given
    if not isinstance(names, list | tuple):
        return False
    return len(names) == 1 and str(names[0]).lower().endswith(".npy")


def is_table(given: Any) -> bool:
    """Tell whether an array, a table of Arrow or a DataFrame of Spark is given."""
    if isinstance(given, np.ndarray | pa.RecordBatch) or hasattr(given, "__arrow_c_stream__"):
        return True
    return is_frame(given) or _is_dataset(given)


def is_frame(given: Any) -> bool:
    """Tell whether a DataFrame of Spark is given."""
    if "pyspark" not in sys.modules:
        return False
    from pyspark.sql import DataFrame

    return isinstance(given, DataFrame)


def _is_dataset(given: Any) -> bool:
    if "pyarrow.dataset" not in sys.modules:
        return False
    import pyarrow.dataset as pds

    return isinstance(given, pds.Dataset)


def check_columns(options: VectorOptions) -> None:
    """Raise `LookalikeError` for options of vectors where images are given."""
    for name in ("id_column", "path_column"):
        if getattr(options, name) is not None:
            raise LookalikeError(f"`{name}` is for vectors: give `embedding_column` too")
    if options.metric != "cosine":
        raise LookalikeError("`metric` is for vectors: give `embedding_column` too")


def open_vectors(
    given: Any, options: VectorOptions, stored: EmbeddingTable | None = None
) -> VectorInput:
    """Check a table of vectors and the options that say how to read it.

    Parameters
    ----------
    given
        A file, folder or glob; an array; a table, reader or dataset of Arrow; a DataFrame.
    options
        Its columns and the metric.
    stored
        The index to which the vectors are added: it knows the columns.

    Raises
    ------
    LookalikeError
        If there is no such table or column, or the columns hold something else.

    """
    own = _wanted(options, stored)
    opened = _open_frame(given, own) if is_frame(given) else _open_table(given, own)
    if stored is not None:
        _check_same(opened, stored)
    return opened


def _wanted(options: VectorOptions, stored: EmbeddingTable | None) -> OwnVectors:
    if options.metric not in METRICS:
        raise LookalikeError(f"unknown metric {options.metric!r}: choose {either(METRICS)}")
    for name in ("labels", "image_column"):
        if getattr(options, name) is not None:
            instead = {"labels": "label_column", "image_column": "path_column"}[name]
            raise LookalikeError(f"`{name}` is for images: for vectors set `{instead}`")
    if stored is not None and stored.own is not None:
        column = options.embedding_column or stored.own.embedding_column
        return replace(stored.own, place=None, embedding_column=column)
    return OwnVectors(
        None,
        options.embedding_column or "",
        options.id_column,
        options.path_column,
        options.label_column,
        None,
        options.metric,
    )


def _open_table(given: Any, own: OwnVectors) -> VectorInput:
    table, reader, first = _table_of(given, own)
    schema = table.schema if reader is None else reader.schema
    place = table.place or "the table"
    if not isinstance(table, ArrayTable):
        if not own.embedding_column:
            raise LookalikeError(
                f"name the column of vectors in {place}: set `embedding_column` to one of "
                f"{', '.join(schema.names[:12])}"
            )
        for column in (own.id_column, own.path_column, own.label_column, own.embedding_column):
            if column is not None and column not in schema.names:
                raise missing_column(place, column, schema.names)
    elif own.id_column or own.path_column or own.label_column:
        raise LookalikeError(
            "an array has no columns: give a table of Arrow for ids, paths and labels"
        )
    kind = schema.field(own.embedding_column if not isinstance(table, ArrayTable) else "").type
    if not values.is_vector_type(kind):
        raise LookalikeError(
            f"column {own.embedding_column!r} of {place} holds {kind}, no vectors: "
            "give lists of numbers"
        )
    if isinstance(table, ArrayTable):
        own = replace(own, embedding_column="")
    key = _key_of(table, own, schema)
    sample = first if reader is not None else _sample(table, own.embedding_column)
    width = _width_of(sample, own.embedding_column, place)
    own = replace(own, place=table.place, key=key)
    if reader is not None:
        return VectorInput(own, width, table.root, reader=reader)
    return VectorInput(own, width, table.root, table)


def _table_of(
    given: Any, own: OwnVectors
) -> tuple[OwnTable, pa.RecordBatchReader | None, list[pa.Array]]:
    """Return the table; of a reader also the reader, and its first vectors."""
    here = os.getcwd()
    if isinstance(given, np.ndarray):
        return open_array(given), None, []
    if isinstance(given, pa.RecordBatch):
        given = pa.Table.from_batches([given])
    elif not isinstance(given, pa.Table | pa.RecordBatchReader) and is_table(given):
        given = given if _is_dataset(given) else pa.RecordBatchReader.from_stream(given)
    if isinstance(given, pa.RecordBatchReader):
        batches = iter(given)
        begin = list(_first_rows(batches))
        first = [
            one[own.embedding_column] for one in begin if own.embedding_column in given.schema.names
        ]
        whole = pa.RecordBatchReader.from_batches(given.schema, chain(begin, batches))
        return ArrowTable(given.schema.empty_table(), None, here), whole, first
    if isinstance(given, pa.Table) or _is_dataset(given):
        return ArrowTable(given, None, here), None, []
    names = [given] if isinstance(given, str | os.PathLike) else list(given)
    if not names or not all(isinstance(name, str | os.PathLike) for name in names):
        raise LookalikeError("vectors are a table: name its file or folder, or give it as it is")
    return open_files([os.fspath(name) for name in names], own.embedding_column), None, []


def _first_rows(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    rows = 0
    for batch in batches:
        yield batch
        rows += batch.num_rows
        if rows >= _SAMPLE_ROWS:
            return


def _key_of(table: OwnTable, own: OwnVectors, schema: pa.Schema) -> KeyType | None:
    """Return the type of the keys; every file of Parquet has to agree."""
    if own.id_column is None:
        return None
    key = values.key_type(schema.field(own.id_column).type, own.id_column)
    if isinstance(table, ParquetTable):
        for number, file in enumerate(table.files):
            other = table.file_schema(number)
            if own.id_column in other.names:
                kind = other.field(own.id_column).type
                if values.key_type(kind, own.id_column) != key:
                    raise LookalikeError(
                        f"column {own.id_column!r} holds {kind} in {file}, and keys of another "
                        f"type in {table.files[0]}: give keys of one type"
                    )
    return key


def _sample(table: OwnTable, column: str) -> list[pa.Array]:
    found, rows = [], 0
    for batch in table.batches([column]):
        found.append(batch.rows[column])
        rows += batch.rows.num_rows - batch.rows[column].null_count
        if rows >= _SAMPLE_ROWS:
            break
    return found


def _width_of(sample: Sequence[pa.Array], column: str, place: str) -> int:
    """Return the most frequent width of the vectors of a sample."""
    counts: Counter[int] = Counter()
    for one in sample:
        counts.update(values.widths(one).tolist())
    return width_of_counts(counts, column, place)


def width_of_counts(counts: "Counter[int]", column: str, place: str) -> int:
    """Return the most frequent width. Raises `LookalikeError` where there is no usable one."""
    counts.pop(0, None)
    if not counts:
        raise LookalikeError(f"{place} has no vector in the column {column!r}: choose another one")
    ((width, _),) = counts.most_common(1)
    if width > MAX_WIDTH:
        raise LookalikeError(
            f"{place} has vectors of {width:,} numbers: give {MAX_WIDTH:,} at most"
        )
    return width


def _open_frame(frame: "DataFrame", own: OwnVectors) -> VectorInput:
    place = _FRAME_PLACE
    if not own.embedding_column:
        raise LookalikeError(f"name the column of vectors in {place}: set `embedding_column`")
    for column in (own.id_column, own.path_column, own.label_column, own.embedding_column):
        if column is not None and column not in frame.columns:
            raise missing_column(place, column, frame.columns)
    if own.id_column is None:
        raise LookalikeError(f"the rows of {place} have no names: set `id_column`")
    key = frames.key_type_of(frame, own.id_column)
    width = width_of_counts(
        frames.count_widths(frame, own.embedding_column, _SAMPLE_ROWS), own.embedding_column, place
    )
    return VectorInput(replace(own, key=key), width, os.getcwd(), frame=frame)


def _check_same(opened: VectorInput, stored: EmbeddingTable) -> None:
    width = stored.about_model["width"]
    if opened.width != width:
        raise LookalikeError(
            f"{opened.name} has vectors of {opened.width:,} numbers, but {stored.path} has "
            f"{width:,}: make another index for it"
        )
    if stored.own is not None and opened.own.key != stored.own.key:
        raise LookalikeError(
            f"{opened.name} has keys of the type {opened.own.key}, but {stored.path} has "
            f"{stored.own.key}: give keys of one type"
        )


def model_of(opened: VectorInput, options: VectorOptions) -> Model:
    """Return the model of the vectors: that of an index (`like`), else a name without a network.

    Raises `LookalikeError` for a model that made other vectors, and for options of networks.
    """
    for name in ("weights", "precision"):
        if getattr(options, name) != "auto":
            raise LookalikeError(f"`{name}` is for images: vectors have no network")
    if options.like is not None:
        if options.model != AUTO:
            raise LookalikeError("`like` sets the whole model: leave `model` out")
        like = EmbeddingTable.open(options.like)
        if like.about_model["width"] != opened.width or like.metric != opened.own.metric:
            raise LookalikeError(
                f"{like.path} has vectors of {like.about_model['width']:,} numbers and the metric "
                f"{like.metric}, {opened.name} of {opened.width:,} and {opened.own.metric}: "
                "leave `like` out"
            )
        return like.model
    if isinstance(options.model, CallableModel):
        raise LookalikeError("`model` is a function, but vectors need none: give its name")
    name = "vectors" if options.model == AUTO else options.model
    made = fingerprint(["vectors", name, str(opened.width), opened.own.metric])
    return Model(name, "none", "f32", opened.width, NO_NETWORK, made)
