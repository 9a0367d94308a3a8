"""Tell which columns of a DataFrame have images, and how its rows are named."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

from lookalike.errors import LookalikeError
from lookalike.images.inputs import kept_columns
from lookalike.images.inputs.image_columns import (
    Kind,
    kind_of_arrow,
    kind_of_spark,
    no_images_error,
)
from lookalike.ingest.vectors import frames, values
from lookalike.ingest.vectors.columns import check_names
from lookalike.ingest.vectors.given import is_table, reader_of
from lookalike.ingest.vectors.tables import missing_column
from lookalike.spark import is_frame
from lookalike.storage.own_columns import OwnColumns
from lookalike.storage.own_vectors import Metric
from lookalike.system.paths import Name

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


PLACE = "the DataFrame"
"""How messages call the rows."""
_INDEX_OF_PANDAS = "__index_level_"
_BINARY_FILE = ("path", "modificationTime", "length", "content")


class RowOptions(Protocol):
    """The options that say how to read rows with images (`lookalike.ingest.Options`)."""

    @property
    def embedding_column(self) -> str | None: ...  # noqa: D102 - described there
    @property
    def image_column(self) -> str | None: ...  # noqa: D102
    @property
    def id_column(self) -> str | None: ...  # noqa: D102
    @property
    def path_column(self) -> str | None: ...  # noqa: D102
    @property
    def label_column(self) -> str | None: ...  # noqa: D102
    @property
    def keep_columns(self) -> Sequence[str]: ...  # noqa: D102
    @property
    def labels(self) -> Name | None: ...  # noqa: D102
    @property
    def metric(self) -> Metric: ...  # noqa: D102
    @property
    def spark(self) -> bool | None: ...  # noqa: D102


@dataclass(frozen=True)
class ImageRows:
    """Rows with images, checked: their columns, and where they are.

    Attributes
    ----------
    columns
        What the index records.
    kind
        What the column of images holds.
    name_field
        The field with names in the column of images, if the rows are named by it.
    is_binary_file
        The rows are those of Spark's format `binaryFile`, with sizes and times.
    frame
        The DataFrame of Spark.
    reader
        A reader of Arrow, whose batches come once.

    """

    columns: OwnColumns
    kind: Kind
    name_field: str | None = None
    is_binary_file: bool = False
    frame: "DataFrame | None" = None
    reader: pa.RecordBatchReader | None = None


def are_images(given: Any, options: RowOptions) -> bool:
    """Tell whether rows with images are given, rather than vectors, files or folders."""
    if options.embedding_column is not None or isinstance(given, np.ndarray):
        return False
    if not is_frame(given) and not is_table(given):
        return False
    if options.image_column is not None:
        return True
    kinds = _kinds(given)
    if any(kind in ("bytes", "file", "pixels") for kind in kinds.values()):
        return True
    return "path" in kinds.values() and not _has_vectors(given)


def _kinds(given: Any) -> dict[str, Kind | None]:
    """Return the columns of a frame, and the kind of images that each holds."""
    if is_frame(given):
        return {field.name: kind_of_spark(field.dataType) for field in given.schema}
    return {
        field.name: kind_of_arrow(field.type)
        for field in _schema(given)
        if not field.name.startswith(_INDEX_OF_PANDAS)
    }


def _schema(given: Any) -> pa.Schema:
    found = getattr(given, "schema", None)
    return found if isinstance(found, pa.Schema) else reader_of(given).schema


def _has_vectors(given: Any) -> bool:
    if not is_frame(given):
        kinds = (field.type for field in _schema(given))
        return any(values.is_vector_type(one) for one in kinds if not pa.types.is_null(one))
    from pyspark.ml.linalg import VectorUDT
    from pyspark.sql.types import ArrayType

    return any(isinstance(field.dataType, ArrayType | VectorUDT) for field in given.schema)


def open_rows(given: Any, options: RowOptions, stored: OwnColumns | None) -> ImageRows:
    """Check rows with images and the options that say how to read them. Reads no row.

    Parameters
    ----------
    given
        A DataFrame of Spark; or a table, reader or dataset of Arrow, or a DataFrame of pandas or
        Polars.
    options
        Its columns.
    stored
        The columns that the index records to which the rows are added.

    Raises
    ------
    LookalikeError
        If there is no such column, or the columns hold something else.

    """
    if options.labels is not None:
        raise LookalikeError("`labels` is for files: for a DataFrame set `label_column`")
    if options.metric != "cosine":
        raise LookalikeError("`metric` is for vectors: give `embedding_column` too")
    if options.spark and not is_frame(given):
        raise LookalikeError("only DataFrames of Spark are read on Spark: leave `spark=True` out")
    if options.spark is False and is_frame(given):
        raise LookalikeError("only Spark can read its DataFrames: leave `spark=False` out")
    if is_frame(given) and given.isStreaming:
        raise LookalikeError(
            f"{PLACE} is a stream, which has no end: `add` each batch, with `foreachBatch` of Spark"
        )
    given = given if is_frame(given) else reader_of(given)
    kinds = _kinds(given)
    columns = _wanted(options, stored)
    image = columns.image_column or _choose(kinds, columns)
    is_binary_file = image == "content" and kinds.keys() >= set(_BINARY_FILE)
    path = columns.path_column
    if path is None and is_binary_file:
        path = "path"
    columns = replace(columns, image_column=image, path_column=path)
    kind = _check_columns(given, kinds, columns)
    if kind == "path" and path is not None and path != image:
        raise LookalikeError(
            f"column {image!r} has the paths of the images: leave `path_column` out"
        )
    field = name_field(given, image) if path is None and kind != "path" else None
    if kind != "path" and (path, columns.id_column, field) == (None, None, None):
        raise LookalikeError(
            f"the rows of {PLACE} have no names: set `id_column`, or `path_column`"
        )
    rows = ImageRows(_typed(given, columns, stored), kind, field, is_binary_file)
    return replace(rows, frame=given) if is_frame(given) else replace(rows, reader=given)


def _wanted(options: RowOptions, stored: OwnColumns | None) -> OwnColumns:
    if stored is not None and stored.are_of_frame:
        image = options.image_column or stored.image_column
        return replace(stored, image_column=image)
    return OwnColumns(
        options.image_column,
        options.path_column,
        options.id_column,
        options.label_column,
        None,
        stored.kept if stored is not None else check_names(options.keep_columns),
    )


def _choose(kinds: Mapping[str, Kind | None], columns: OwnColumns) -> str:
    """Return the column of images by the types of columns."""
    if kinds.keys() >= set(_BINARY_FILE) and kinds["content"] == "bytes":
        return "content"
    others = {columns.id_column, columns.label_column, *(name for name, _ in columns.kept)}
    of_kinds: tuple[tuple[Kind, ...], ...] = (("file", "pixels"), ("bytes",), ("path",))
    for some in of_kinds:
        found = [name for name, kind in kinds.items() if kind in some and name not in others]
        if some == ("path",) and columns.path_column is not None:
            return columns.path_column
        if len(found) > 1 and "image" in found:
            return "image"
        if len(found) == 1:
            return found[0]
        if found:
            raise LookalikeError(
                f"several columns of {PLACE} may have images: set `image_column` to one of "
                f"{', '.join(found)}"
            )
    raise LookalikeError(
        f"{PLACE} has no column with images: set `image_column` to one of {', '.join(kinds)}"
    )


def _check_columns(given: Any, kinds: Mapping[str, Kind | None], columns: OwnColumns) -> Kind:
    """Return the kind of the column of images. Raises `LookalikeError` for columns amiss."""
    named = [columns.image_column, columns.path_column, columns.id_column, columns.label_column]
    for name in (*named, *(one for one, _ in columns.kept)):
        if name is not None and name not in kinds:
            raise missing_column(PLACE, name, list(kinds))
    there = given.columns if is_frame(given) else _schema(given).names
    for name in dict.fromkeys(there):
        if list(there).count(name) > 1:
            raise LookalikeError(f"{PLACE} has several columns {name!r}: rename the others")
    image = columns.image_column
    assert image is not None
    kind = kinds[image]
    if kind is None:
        shown = given.schema[image].dataType.simpleString() if is_frame(given) else None
        raise no_images_error(image, shown or str(_schema(given).field(image).type))
    if columns.path_column is not None and kinds[columns.path_column] != "path":
        raise LookalikeError(f"column {columns.path_column!r} holds no paths: choose strings")
    return kind


def name_field(given: Any, image: str) -> str | None:
    """Return the field with names of a column of structs, `path` or `origin`; None without one."""
    if is_frame(given):
        from pyspark.sql.types import StringType, StructType

        type_ = given.schema[image].dataType
        if not isinstance(type_, StructType):
            return None
        texts = [one.name for one in type_ if isinstance(one.dataType, StringType)]
    else:
        struct = _schema(given).field(image).type
        if not pa.types.is_struct(struct):
            return None
        texts = [one.name for one in struct if kind_of_arrow(one.type) == "path"]
    return next((one for one in ("path", "origin") if one in texts), None)


def _typed(given: Any, columns: OwnColumns, stored: OwnColumns | None) -> OwnColumns:
    """Return columns with the types of keys and of kept columns."""
    key = None
    if is_frame(given):
        if columns.id_column is not None:
            key = frames.key_type_of(given, columns.id_column)
        kept = frames.kept_types(given, columns.kept)
    else:
        if columns.id_column is not None:
            key = values.key_type(given.schema.field(columns.id_column).type, columns.id_column)
        kept = kept_columns.with_types(columns.kept, given.schema, PLACE)
    if stored is not None and key != stored.key:
        raise LookalikeError(
            f"{PLACE} has keys of the type {key}, but the index has {stored.key}: give keys of "
            "one type"
        )
    return replace(columns, key=key, kept=kept_columns.known_types(kept))
