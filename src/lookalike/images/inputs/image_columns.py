"""Columns of images in DataFrames: their kinds, and their images as the bytes of files.

A column has paths, bytes, rows of `binaryFile` or of a Hugging Face data set, or Spark's images.
"""

import io
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from lookalike.errors import ImageError, LookalikeError, one_line
from lookalike.images.decoding.raster import read_file
from lookalike.images.inputs.file_opening import read_whole
from lookalike.images.inputs.parquet_shard import is_binary, is_text, plain_type, stored_values
from lookalike.spark.columns import column_of

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame


Kind: TypeAlias = Literal["path", "bytes", "file", "pixels"]
"""Paths; bytes of files; structs of bytes and path; structs of raw pixels."""

GROUP_ROWS = 16
"""Images of a batch: what a network takes at a time."""
GROUP_BYTES = 64 * 2**20
"""Bytes of files in a batch, after which it is complete."""
_REMOTE_READS = 8  # files of a store that a task reads at a time
_NULL = "no image: null"
_URI = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)
_CONTENTS = ("content", "bytes")
PIXEL_FIELDS = ("height", "width", "nChannels", "mode", "data")
"""The fields of Spark's images that a task needs, in this order."""
# The modes of OpenCV: how Spark stores pixels, and Pillow's names for that.
_MODES = {0: ("L", "L", 1), 16: ("RGB", "BGR", 3), 24: ("RGBA", "BGRA", 4)}


def kind_of_spark(type_: Any) -> Kind | None:
    """Return the kind of a column of this type of Spark, None if it holds no images."""
    from pyspark.sql.types import BinaryType, StringType, StructType

    if isinstance(type_, StringType):
        return "path"
    if isinstance(type_, BinaryType):
        return "bytes"
    if not isinstance(type_, StructType):
        return None
    fields = {field.name: field.dataType for field in type_}
    is_content = {name: isinstance(fields.get(name), BinaryType) for name in _CONTENTS}
    return _kind_of_struct(fields, is_content, isinstance(fields.get("path"), StringType))


def kind_of_arrow(type_: pa.DataType) -> Kind | None:
    """Return the kind of a column of this type of Arrow, None if it holds no images."""
    type_ = plain_type(type_)
    if is_text(type_):
        return "path"
    if is_binary(type_):
        return "bytes"
    if not pa.types.is_struct(type_):
        return None
    fields = {field.name: plain_type(field.type) for field in type_}
    is_content = {name: name in fields and is_binary(fields[name]) for name in _CONTENTS}
    return _kind_of_struct(fields, is_content, "path" in fields and is_text(fields["path"]))


def _kind_of_struct(
    fields: Iterable[str], is_content: dict[str, bool], has_path: bool
) -> Kind | None:
    names = set(fields)
    if names >= set(PIXEL_FIELDS):
        return "pixels"
    if any(is_content.values()):
        return "file"
    return "path" if has_path and names.isdisjoint(_CONTENTS) else None


def input_column(frame: "DataFrame", name: str) -> "tuple[Kind, Column]":
    """Return the kind of a column of images, and what a task needs of it.

    Raises
    ------
    LookalikeError
        If there is no such column, or it holds no images.

    """
    from pyspark.sql import functions as F
    from pyspark.sql.types import StructType

    if name not in frame.columns:
        raise LookalikeError(f"unknown column {name!r}: choose {', '.join(frame.columns)}")
    type_, column = frame.schema[name].dataType, column_of(frame, name)
    kind = kind_of_spark(type_)
    if kind is None:
        raise no_images_error(name, type_.simpleString())
    if not isinstance(type_, StructType):
        return kind, column
    if kind == "pixels":
        return kind, F.struct(*(column.getField(one) for one in PIXEL_FIELDS))
    if kind == "path":
        return kind, column.getField("path")
    content = next(one for one in _CONTENTS if one in type_.names)
    has_path = "path" in type_.names and kind_of_spark(type_["path"].dataType) == "path"
    path = column.getField("path") if has_path else F.lit(None).cast("string")
    return kind, F.struct(column.getField(content).alias("content"), path.alias("path"))


def no_images_error(name: str, kind: str) -> LookalikeError:
    """Return the error for a column without images."""
    return LookalikeError(
        f"column {name!r} holds {kind[:100]}, no images: give paths, bytes, rows of "
        "`binaryFile`, or Spark's images"
    )


def arrow_column(column: pa.Array, kind: Kind) -> pa.Array:
    """Return what a task needs of a column of Arrow, as `input_column` does for Spark."""
    column = stored_values(column)
    if not pa.types.is_struct(column.type):
        return column.cast(pa.string() if kind == "path" else pa.binary())
    valid = column.is_valid()
    fields = {
        field.name: stored_values(values)
        for field, values in zip(column.type, column.flatten(), strict=True)
    }
    if kind == "path":
        return fields["path"].cast(pa.string())
    if kind == "pixels":
        arrays = {name: fields[name] for name in PIXEL_FIELDS}
    else:
        content = next(one for one in _CONTENTS if one in fields)
        path = fields.get("path")
        if path is None or not is_text(path.type):
            path = pa.nulls(len(column), pa.string())
        arrays = {"content": fields[content].cast(pa.binary()), "path": path.cast(pa.string())}
    mask = pc.invert(valid)
    return pa.StructArray.from_arrays(list(arrays.values()), names=list(arrays), mask=mask)


def rows_of_arrow(column: pa.Array) -> Iterator[Any]:
    """Yield the rows of a column of `input_column` for `contents`: structs as tuples, or None."""
    if not pa.types.is_struct(column.type):
        yield from (one.as_py() for one in column)
        return
    fields = [column.field(at) for at in range(column.type.num_fields)]
    for at, is_valid in enumerate(column.is_valid().to_pylist()):
        yield tuple(field[at].as_py() if is_valid else None for field in fields)


Contents: TypeAlias = "Callable[[Iterable[Any]], Iterator[bytes | str]]"
"""Maps the rows of a column to the bytes of each image, or the reason why it has none."""


@contextmanager
def open_contents(kind: Kind) -> Iterator[Contents]:
    """Yield the function that reads the images of rows of a kind: structs are tuples."""
    with ThreadPoolExecutor(_REMOTE_READS) as pool:

        def contents(rows: Iterable[Any]) -> Iterator[bytes | str]:
            if kind == "bytes":
                yield from (_NULL if _is_null(one) else bytes(one) for one in rows)
            elif kind == "pixels":
                yield from (_try(_file_of_pixels, one) for one in rows)
            elif kind == "path":
                yield from _read_all(((None, one) for one in rows), pool)
            else:
                yield from _read_all(rows, pool)

        yield contents


def group(contents: Iterable[bytes | str], rows: int = GROUP_ROWS) -> Iterator[list[bytes | str]]:
    """Group images: `rows` at most, and `GROUP_BYTES` before the last one of a group."""
    held: list[bytes | str] = []
    size = 0
    for one in contents:
        held.append(one)
        size += len(one)
        if len(held) == rows or size >= GROUP_BYTES:
            yield held
            held, size = [], 0
    if held:
        yield held


def _read_all(rows: Iterable[Any], pool: ThreadPoolExecutor) -> Iterator[bytes | str]:
    """Yield the content of each row, or that of its path: from a store, several at a time."""
    remaining = iter(rows)
    while some := list(itertools.islice(remaining, GROUP_ROWS)):
        are_remote = any(_is_null(one) and _is_remote(path) for one, path in some)
        yield from (pool.map if are_remote else map)(_content_of, some)


def _content_of(row: tuple[Any, Any]) -> bytes | str:
    content, path = row
    if not _is_null(content):
        return bytes(content)
    return _NULL if _is_null(path) else _try(read_place, path)


def _is_null(value: Any) -> bool:
    # pandas has a null of its own, and writes others as NaN.
    is_missing = type(value).__name__ == "NAType" or (isinstance(value, float) and value != value)
    return value is None or is_missing


def _is_remote(path: Any) -> bool:
    return isinstance(path, str) and bool(_URI.match(path)) and not is_file_uri(path)


def is_file_uri(path: str) -> bool:
    """Tell whether a text is a URI of a local file."""
    return path[:6].lower() == "file:/"


def local_place(uri: str) -> str:
    """Return the local path of a `file:` URI, percent-encoded or, as Spark writes it, not."""
    local = "/" + uri[5:].lstrip("/")
    if not os.path.lexists(local) and os.path.lexists(unquote(local)):
        return unquote(local)
    return local


def _try(read: Callable[[Any], bytes], one: Any) -> bytes | str:
    try:
        return read(one)
    except ImageError as error:
        return str(error)


def read_place(place: str) -> bytes:
    """Return the content of a file: of a local path, a `file:` URI, or a URI of a store.

    `file:` URIs may be percent-encoded or, as Spark writes them, not.

    Raises
    ------
    ImageError
        If it cannot be read.

    """
    if "\0" in place:
        raise ImageError("the path has a null character")
    if is_file_uri(place):
        return read_file(local_place(place))
    if not _URI.match(place):
        return read_file(place)
    try:
        return read_whole(place)
    except ImageError:
        raise
    except Exception as error:  # remote file systems raise anything
        raise ImageError(f"unreadable: {one_line(error)[:200]}") from None


def _file_of_pixels(row: tuple[Any, ...]) -> bytes:
    """Return pixels as a file, uncompressed, which is decoded as all other files are."""
    height, width, _, opencv_mode, pixels = row
    if _is_null(pixels):
        raise ImageError(_NULL)
    try:
        high, wide, number = int(height), int(width), int(opencv_mode)
    except (TypeError, ValueError):  # null, or NaN for null
        raise ImageError("pixels without a height, a width or a mode") from None
    if number not in _MODES:
        raise ImageError(f"pixels of the mode {number}: give 8 bits in 1, 3 or 4 channels")
    (mode, stored, channels), data = _MODES[number], bytes(pixels)
    if high < 1 or wide < 1 or len(data) != high * wide * channels:
        raise ImageError(f"{len(data):,} bytes of pixels, not {high} x {wide} x {channels}")
    file = io.BytesIO()
    image = Image.frombytes(mode, (wide, high), data, "raw", stored)
    image.save(file, "PNG", compress_level=0)
    return file.getvalue()
