"""The columns that `ImageEmbedding` reads, and their images as batches of files.

A column has paths, bytes, rows of `binaryFile` or of a Hugging Face data set, or Spark's images.
"""

import io
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from urllib.parse import unquote

import pandas as pd
import pyarrow as pa
from PIL import Image

from lookalike.errors import ImageError, LookalikeError, one_line
from lookalike.images.decoding.raster import read_file
from lookalike.images.inputs.file_opening import read_whole
from lookalike.images.inputs.listing import IMAGE
from lookalike.search.columns import column_of

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame


Kind: TypeAlias = Literal["path", "bytes", "file", "pixels"]
"""Paths; bytes of files; structs of bytes and path; structs of raw pixels."""
Chunk: TypeAlias = "pd.Series[Any] | pd.DataFrame"

GROUP_ROWS = {"cpu": 16, "cuda": 256}
"""Images of a batch: what a network takes at a time."""
_READ_ROWS = 16  # images that are read before the next are
GROUP_BYTES = 64 * 2**20
"""Bytes of files in a batch, after which it is complete."""
_REMOTE_READS = 8  # files of a store that a task reads at a time
_NULL = "no image: null"
_URI = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)
_PIXEL_FIELDS = ("height", "width", "nChannels", "mode", "data")
# The modes of OpenCV: how Spark stores pixels, and Pillow's names for that.
_MODES = {0: ("L", "L", 1), 16: ("RGB", "BGR", 3), 24: ("RGBA", "BGRA", 4)}


def input_column(frame: "DataFrame", name: str) -> "tuple[Kind, Column]":
    """Return the kind of a column of images, and what a task needs of it.

    Raises
    ------
    LookalikeError
        If there is no such column, or it holds no images.

    """
    from pyspark.sql import functions as F
    from pyspark.sql.types import BinaryType, StringType, StructType

    if name not in frame.columns:
        raise LookalikeError(f"unknown column {name!r}: choose {', '.join(frame.columns)}")
    kind, column = frame.schema[name].dataType, column_of(frame, name)
    if isinstance(kind, StringType):
        return "path", column
    if isinstance(kind, BinaryType):
        return "bytes", column
    if isinstance(kind, StructType):
        names = set(kind.names)
        if names >= set(_PIXEL_FIELDS):
            return "pixels", F.struct(*(column.getField(one) for one in _PIXEL_FIELDS))
        content = next((one for one in ("content", "bytes") if one in names), None)
        has_path = "path" in names and isinstance(kind["path"].dataType, StringType)
        if content is not None and isinstance(kind[content].dataType, BinaryType):
            path = column.getField("path") if has_path else F.lit(None).cast("string")
            return "file", F.struct(column.getField(content).alias("content"), path.alias("path"))
    raise LookalikeError(
        f"column {name!r} holds {kind.simpleString()[:100]}, no images: give paths, bytes, rows of "
        "`binaryFile`, or Spark's images"
    )


def image_batches(
    chunks: Iterable[Chunk], kind: Kind, rows: int = GROUP_ROWS["cpu"]
) -> Iterator[pa.RecordBatch]:
    """Yield the images of a task, with the columns of `listing.IMAGE`, in their order.

    A batch has this number of images at most, and `GROUP_BYTES` before its last one.
    """
    with ThreadPoolExecutor(_REMOTE_READS) as pool:
        for chunk in chunks:
            held: list[bytes | str] = []
            size = 0
            for one in _files(chunk, kind, pool):
                held.append(one)
                size += len(one)
                if len(held) == rows or size >= GROUP_BYTES:
                    yield _batch(held)
                    held, size = [], 0
            if held:
                yield _batch(held)


def _files(chunk: Chunk, kind: Kind, pool: ThreadPoolExecutor) -> Iterator[bytes | str]:
    """Yield the bytes of each image, or the reason why it has none."""
    rows: Iterator[Any] = (
        chunk.itertuples(index=False) if isinstance(chunk, pd.DataFrame) else iter(chunk)
    )
    if kind == "bytes":
        yield from (_NULL if _is_null(one) else bytes(one) for one in rows)
    elif kind == "pixels":
        yield from (_try(_file_of_pixels, one) for one in rows)
    elif kind == "path":
        yield from _read_all(((None, one) for one in rows), pool)
    else:
        yield from _read_all(((one.content, one.path) for one in rows), pool)


def _read_all(rows: Iterable[tuple[Any, Any]], pool: ThreadPoolExecutor) -> Iterator[bytes | str]:
    """Yield the content of each row, or that of its path: from a store, several at a time."""
    remaining = iter(rows)
    while some := list(itertools.islice(remaining, _READ_ROWS)):
        are_remote = any(_is_null(one) and _is_remote(path) for one, path in some)
        yield from (pool.map if are_remote else map)(_content_of, some)


def _content_of(row: tuple[Any, Any]) -> bytes | str:
    content, path = row
    if not _is_null(content):
        return bytes(content)
    return _NULL if _is_null(path) else _try(read_place, path)


def _is_null(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and value != value)


def _is_remote(path: Any) -> bool:
    return isinstance(path, str) and bool(_URI.match(path)) and not _is_file_uri(path)


def _is_file_uri(path: str) -> bool:
    return path[:6].lower() == "file:/"


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
    if _is_file_uri(place):
        local = "/" + place[5:].lstrip("/")
        if not os.path.lexists(local) and os.path.lexists(unquote(local)):
            local = unquote(local)
        return read_file(local)
    if not _URI.match(place):
        return read_file(place)
    try:
        return read_whole(place)
    except ImageError:
        raise
    except Exception as error:  # remote file systems raise anything
        raise ImageError(f"unreadable: {one_line(error)[:200]}") from None


def _file_of_pixels(row: Any) -> bytes:
    """Return pixels as a file, uncompressed, which is decoded as all other files are."""
    if _is_null(row.data):
        raise ImageError(_NULL)
    try:
        high, wide, number = int(row.height), int(row.width), int(row.mode)
    except (TypeError, ValueError):  # null, or NaN for null
        raise ImageError("pixels without a height, a width or a mode") from None
    if number not in _MODES:
        raise ImageError(f"pixels of the mode {number}: give 8 bits in 1, 3 or 4 channels")
    (mode, stored, channels), data = _MODES[number], bytes(row.data)
    if high < 1 or wide < 1 or len(data) != high * wide * channels:
        raise ImageError(f"{len(data):,} bytes of pixels, not {high} x {wide} x {channels}")
    file = io.BytesIO()
    image = Image.frombytes(mode, (wide, high), data, "raw", stored)
    image.save(file, "PNG", compress_level=0)
    return file.getvalue()


def _batch(files: list[bytes | str]) -> pa.RecordBatch:
    columns: dict[str, Any] = {name: [None] * len(files) for name in IMAGE.names}
    columns["content"] = [one if isinstance(one, bytes) else b"" for one in files]
    columns["reason"] = [one if isinstance(one, str) else None for one in files]
    return pa.RecordBatch.from_pydict(columns, schema=IMAGE)
