"""Check a table of vectors: its columns, its keys, the width of its vectors."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lookalike import images
from lookalike.errors import LookalikeError, either
from lookalike.images.inputs import kept_columns
from lookalike.images.inputs.source import is_uri
from lookalike.ingest.vectors import columns, frames, values
from lookalike.ingest.vectors.given import SAMPLE_ROWS, VectorOptions, table_of
from lookalike.ingest.vectors.in_memory import ArrayTable, spooled
from lookalike.ingest.vectors.tables import OwnTable, ParquetTable, missing_column
from lookalike.models import CallableModel, Model
from lookalike.models.model import fingerprint
from lookalike.models.weights import AUTO
from lookalike.spark import is_frame
from lookalike.storage import EmbeddingTable
from lookalike.storage.own_vectors import MAX_WIDTH, METRICS, NO_NETWORK, OwnVectors
from lookalike.storage.schema import KeyType

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


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
        return self.own.columns

    def kept(self, folder: Path) -> "VectorInput":
        """Return the same vectors in a form that can be read twice; `folder` may hold them."""
        if self.reader is None:
            return self
        return replace(
            self, table=spooled(self.reader, self.columns, folder, self.root), reader=None
        )

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
        columns.check_names(options.keep_columns),
    )


def _open_table(given: Any, own: OwnVectors) -> VectorInput:
    table, reader, first = table_of(given, own.embedding_column)
    place = table.place or "the table"
    if isinstance(table, ArrayTable):
        if own.id_column or own.path_column or own.label_column or own.kept:
            raise LookalikeError(
                "an array has no columns: give a table of Arrow for ids, paths and labels"
            )
        own = replace(own, embedding_column="")
    elif not own.embedding_column:
        raise LookalikeError(
            f"name the column of vectors in {place}: set `embedding_column` to one of "
            f"{', '.join(table.schema.names[:12])}"
        )
    key = None
    for file, schema in _schemas(table):
        key = _check_columns(file, schema, own, key)
        own = replace(own, kept=kept_columns.with_types(own.kept, schema, file))
    if own.id_column is not None and key is None:  # all columns of keys are null
        key = values.key_type(table.schema.field(own.id_column).type, own.id_column)
    sample = first if reader is not None else _sample(table, own.embedding_column)
    width = _width_of(sample, own.embedding_column, place)
    if own.path_column is not None and is_uri(table.root):
        raise LookalikeError(
            f"pictures of {place} cannot be read from a store: leave `path_column` out"
        )
    own = replace(own, place=table.place, key=key, kept=kept_columns.known_types(own.kept))
    if reader is not None:
        return VectorInput(own, width, table.root, reader=reader)
    return VectorInput(own, width, table.root, table)


def _schemas(table: OwnTable) -> Iterator[tuple[str, pa.Schema]]:
    """Yield the columns of a table with its name; of Parquet those of each file."""
    if not isinstance(table, ParquetTable):
        yield table.place or "the table", table.schema
        return
    for file in table.files:
        yield file, table.file_schema(file)


def _check_columns(
    place: str, schema: pa.Schema, own: OwnVectors, key: KeyType | None
) -> KeyType | None:
    """Return the type of the keys so far. Raises `LookalikeError` for columns of another type."""
    for column in own.columns:
        if (count := schema.names.count(column)) != 1:
            if count:
                raise LookalikeError(f"{place} has {count} columns {column!r}: rename the others")
            raise missing_column(place, column, schema.names)
    kind = schema.field(own.embedding_column).type
    if not values.is_vector_type(kind):
        raise LookalikeError(
            f"column {own.embedding_column!r} of {place} holds {kind}, no vectors: "
            "give lists of numbers"
        )
    if own.id_column is None or pa.types.is_null(kind := schema.field(own.id_column).type):
        return key
    found = values.key_type(kind, own.id_column)
    if key not in (None, found):
        raise LookalikeError(
            f"column {own.id_column!r} holds {kind} in {place}, and keys of another type in other "
            "files: give keys of one type"
        )
    return found


def _sample(table: OwnTable, column: str) -> list[pa.Array]:
    found, rows = [], 0
    for batch in table.batches([column]):
        found.append(batch.rows[column])
        rows += batch.rows.num_rows - batch.rows[column].null_count
        if rows >= SAMPLE_ROWS:
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
    for column in own.columns:
        if column not in frame.columns:
            raise missing_column(place, column, frame.columns)
    if own.id_column is None:
        raise LookalikeError(f"the rows of {place} have no names: set `id_column`")
    key = frames.key_type_of(frame, own.id_column)
    own = replace(own, kept=frames.kept_types(frame, own.kept))
    width = width_of_counts(
        frames.count_widths(frame, own.embedding_column, SAMPLE_ROWS), own.embedding_column, place
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
