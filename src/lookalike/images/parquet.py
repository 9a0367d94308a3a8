"""One Parquet file of images: whether it is whole, which columns count, what a cell holds."""

import json
import os
import re
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.compute as pc

from lookalike.errors import ImageError
from lookalike.images.decoding import MAX_BYTES
from lookalike.untrusted import foreign_types

if TYPE_CHECKING:
    from pyarrow import fs

_NAME = re.compile(r"\.(parquet|parq|pq)(\.(gz|gzip|snappy|zst|zstd|br|brotli|lz4))?$", re.I)
_MAGIC = b"PAR1"
_SPARK_TYPES = b"org.apache.spark.sql.parquet.row.metadata"
_BUFFER = 2**20  # bytes of a column chunk that are read at a time
_BATCH = 16 * 2**20  # bytes of a batch of cells, unless one is larger
_LABELS = 16_384  # labels of a batch
_BATCH_ROWS = 64  # cells of a batch at most
_NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"


class Cells(NamedTuple):
    """Some rows of a table: bytes, the names of files instead of bytes, and labels; each nullable.

    Arrays of binary, string and string. `content` and `names` are None where nobody asked for them.
    """

    content: pa.Array | None
    names: pa.Array | None
    labels: pa.Array
    rows: int


def is_parquet(name: str) -> bool:
    """Tell by its name whether a file is taken for Parquet; what Spark hides is not."""
    base = os.path.basename(name)
    return not base.startswith(("_", ".")) and _NAME.search(base) is not None


def open_file(place: str) -> "pa.NativeFile":
    """Open a path, or a URI as Spark writes it: nothing in it is percent-encoded.

    Raises `ImageError` for what is no regular file, `OSError` and others where it cannot be opened.
    """
    from pyarrow import fs

    filesystem, path = _filesystem(place)
    # Asked before opening: to open a named pipe would wait for ever.
    local = isinstance(filesystem, fs.LocalFileSystem)
    if local and os.path.exists(path) and not os.path.isfile(path):
        raise ImageError("not a regular file")
    return filesystem.open_input_file(path)


def size_and_time(place: str) -> tuple[int | None, int | None]:
    """Return the bytes of a file and when it changed, in nanoseconds since 1970.

    To the millisecond, as Hadoop's file systems know it.
    """
    filesystem, path = _filesystem(place)
    about = filesystem.get_file_info(path)
    changed = about.mtime_ns
    return about.size, None if changed is None else changed // 1_000_000 * 1_000_000


def _filesystem(place: str) -> "tuple[fs.FileSystem, str]":
    from pyarrow import fs

    scheme, colon, path = place.partition(":/")
    if not colon or scheme == "file":
        return fs.LocalFileSystem(), f"/{path.lstrip('/')}" if colon else place
    uri = f"{re.sub('^s3[an]$', 's3', scheme)}:/{quote(path, safe='/:@')}"
    filesystem, name = fs.FileSystem.from_uri(uri)
    return filesystem, name


def begins_as_parquet(file: "pa.NativeFile") -> bool:
    """Tell by its first bytes whether an open file is Parquet."""
    begin = file.read(len(_MAGIC))
    file.seek(0)
    return bool(begin == _MAGIC)


def partitions(path: str) -> dict[str, str]:
    """Return the columns that folders on the way to a file name, as in `label=cat/x.parquet`.

    Values are percent-encoded as Hive does it.
    """
    pairs = (part.partition("=") for part in path.split("/")[:-1])
    found = {unquote(name): unquote(value) for name, equals, value in pairs if equals}
    return {name: value for name, value in found.items() if value != _NULL_PARTITION}


class Shard:
    """An open Parquet file with a column of images. Its footer is all that is read to begin with.

    `images` and `label` name columns; with dots between, a field within a column. A column may hold
    bytes, or structs of `bytes`, a `path`, or both, as Hugging Face has them. Without a column of
    the name `label`, a folder may give the label: `partitions(path)`.

    Raises `ImageError` with the reason where it is no whole Parquet file, or not one of images.
    """

    def __init__(
        self,
        file: "pa.NativeFile",
        image: str,
        label: str | None = None,
        folders: dict[str, str] | None = None,
    ) -> None:
        import pyarrow.parquet as pq

        try:
            self._file = pq.ParquetFile(file, pre_buffer=False, buffer_size=_BUFFER)
            schema = self._file.schema_arrow
        except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
            raise ImageError(
                f"unreadable: not a complete Parquet file, half written or damaged ({_line(error)})"
            ) from None
        self._refuse_foreign()
        found = _find(schema, image)
        if found is None:
            raise ImageError(_missing(image, schema, "image_column"))
        self._image, kind = found
        self._fields = [field.name for field in kind] if pa.types.is_struct(kind) else []
        held = kind.field("bytes").type if "bytes" in self._fields else kind
        only_named = "path" in self._fields and "bytes" not in self._fields
        if not only_named and not _is_binary(_plain(held)):
            raise ImageError(
                f"column {image!r} holds {kind}, no image bytes: choose another `image_column`"
            )
        self._label: tuple[str, ...] | None = None
        self._given = (folders or {}).get(label or "")
        self.lacks: str | None = None
        """Why there are no labels, where that was not meant."""
        if label is not None:
            labelled = _find(schema, label)
            if labelled is None and label not in (folders or {}):
                self.lacks = _missing(label, schema, "label_column")
            if labelled is not None:
                self._label, kind = labelled
                try:
                    pa.array([], kind).cast(pa.string())
                except pa.ArrowException:
                    raise ImageError(
                        f"column {label!r} holds {kind}, no labels: choose another `label_column`"
                    ) from None

    def _refuse_foreign(self) -> None:
        described = (self._file.metadata.metadata or {}).get(_SPARK_TYPES)
        if described is None:
            return
        try:
            foreign = foreign_types(described.decode())
        except (ValueError, RecursionError, AttributeError, TypeError):
            raise ImageError("a description of its columns that cannot be read") from None
        if foreign:
            raise ImageError(
                f"it has a column of the type {foreign[0]}, which would run code of its own: "
                "leave that column out of the table"
            )

    @property
    def groups(self) -> list[int]:
        """The rows of each row group."""
        about = self._file.metadata
        return [about.row_group(group).num_rows for group in range(about.num_row_groups)]

    def cells(self, group: int, *, content: bool = True) -> Iterator[Cells]:
        """Give the rows of a row group, some at a time; without `content`, labels alone.

        Raises what Arrow does where the file is damaged.
        """
        wanted = [self._image] if content else []
        wanted += [self._label] if self._label is not None else []
        rows = self._file.metadata.row_group(group).num_rows
        if not wanted:
            for start in range(0, rows, _LABELS):
                some = min(rows - start, _LABELS)
                yield Cells(None, None, self._same(some), some)
            return
        columns = [".".join(column) for column in wanted]
        for batch in self._batches(group, columns, one_by_one=content):
            labels = self._same(batch.num_rows)
            if self._label is not None:
                labels = _texts(_within(batch, self._label), self._classes)
            if content:
                yield Cells(*self._contents(batch), labels, batch.num_rows)
            else:
                yield Cells(None, None, labels, batch.num_rows)

    def _batches(
        self, group: int, columns: list[str], *, one_by_one: bool
    ) -> Iterator[pa.RecordBatch]:
        """Give columns of a row group. Cells unpacked `one_by_one` are no more than `_BATCH` bytes.

        Pages of a few bytes can unpack to as many cells of any size as there are rows: values that
        repeat, or begin alike. What is said of their sizes in the file may be wrong.
        """
        rows = self._file.iter_batches(
            1 if one_by_one else _LABELS, row_groups=[group], columns=columns, use_threads=False
        )
        held: list[pa.RecordBatch] = []
        size = 0
        for row in rows:
            if held and (size + row.nbytes > _BATCH or len(held) == _BATCH_ROWS):
                yield _together(held)
                held, size = [], 0
            held.append(row)
            size += row.nbytes
        if held:
            yield _together(held)

    def cell(self, row: int) -> tuple[bytes | None, str | None]:
        """Return the bytes of one cell, its row counted from 0, or the name of a file instead.

        Raises `ImageError` where there is no such row.
        """
        for group, rows in enumerate(self.groups):
            if row >= rows:
                row -= rows
                continue
            for cells in self.cells(group):
                if row < cells.rows:
                    assert cells.content is not None
                    name = None if cells.names is None else cells.names[row].as_py()
                    return cells.content[row].as_py(), name
                row -= cells.rows
        raise ImageError("unreadable: fewer rows than when it was indexed")

    def _same(self, rows: int) -> pa.Array:
        """Return the label that the folder gives, for so many rows."""
        return pa.array([self._given] * rows, pa.string())

    def _contents(self, batch: pa.RecordBatch) -> tuple[pa.Array, pa.Array | None]:
        images = _within(batch, self._image)
        if not self._fields:
            return images.cast(pa.binary()), None
        content, names = pa.nulls(len(images), pa.binary()), None
        if "bytes" in self._fields:
            content = _stored(pc.struct_field(images, ["bytes"])).cast(pa.binary())
        if "path" in self._fields:
            names = _stored(pc.struct_field(images, ["path"]))
            names = names.cast(pa.string()) if _is_text(names.type) else None
        return content, names

    @cached_property
    def _classes(self) -> list[str] | None:
        """The names of classes that Hugging Face keeps beside a column of their numbers."""
        described = (self._file.metadata.metadata or {}).get(b"huggingface")
        try:
            about = json.loads(described or b"{}")["info"]["features"]
            for part in self._label or ():
                about = about[part]
            names = about["names"]
        except (ValueError, RecursionError, LookupError, TypeError):
            return None
        texts = isinstance(names, list) and all(isinstance(name, str) for name in names)
        return names if texts else None


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()).removesuffix(".")[:120]


def _missing(column: str, schema: pa.Schema, option: str) -> str:
    names = ", ".join(schema.names)
    shown = names if len(names) <= 200 else f"{names[:200]}..."
    return f"no column {column!r}, it has {shown}: name the right one with {option}"


def _find(
    fields: "pa.Schema | pa.StructType", name: str
) -> tuple[tuple[str, ...], pa.DataType] | None:
    """Return the names that lead to a column, or to a field in one, and its type."""
    kinds = {field.name: _plain(field.type) for field in fields}
    for one in (name, name.strip("`")):  # as Spark quotes names with dots
        if one in kinds:
            return (one,), kinds[one]
    for dot in re.finditer(r"\.", name):
        head, rest = name[: dot.start()].strip("`"), name[dot.end() :]
        kind = kinds.get(head)
        if kind is not None and pa.types.is_struct(kind) and (found := _find(kind, rest)):
            return (head, *found[0]), found[1]
    return None


def _plain(kind: pa.DataType) -> pa.DataType:
    """Return the type of the values, however they are stored."""
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_binary(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
        or pa.types.is_fixed_size_binary(kind)
    )


def _is_text(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def _together(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    if len(batches) == 1:
        return batches[0]
    (whole,) = pa.Table.from_batches(batches).combine_chunks().to_batches()
    return whole


def _stored(array: pa.Array) -> pa.Array:
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _within(batch: pa.RecordBatch, names: tuple[str, ...]) -> pa.Array:
    array = _stored(batch.column(batch.schema.get_field_index(names[0])))
    for name in names[1:]:
        array = _stored(pc.struct_field(array, [name]))
    return array


def _texts(labels: pa.Array, classes: list[str] | None) -> pa.Array:
    """Return labels as text; numbers of `classes` as their names, under 0 as none."""
    if pa.types.is_integer(labels.type) and classes:
        numbers = labels.cast(pa.int64())
        known = pc.and_(pc.greater_equal(numbers, 0), pc.less(numbers, len(classes)))
        named = pa.array(classes, pa.string()).take(pc.if_else(known, numbers, None))
        others = pc.if_else(pc.less(numbers, 0), None, numbers.cast(pa.string()))
        return pc.coalesce(named, others)
    if pa.types.is_floating(labels.type):
        labels = labels.cast(pa.float64())
        labels = pc.if_else(pc.is_nan(labels), None, labels)
    if _is_binary(labels.type):  # as older writers store text
        cells = labels.to_pylist()
        labels = pa.array(
            [None if cell is None else cell.decode(errors="replace") for cell in cells], pa.string()
        )
    trimmed = pc.utf8_trim_whitespace(labels.cast(pa.string()))
    return pc.if_else(pc.equal(trimmed, ""), None, trimmed)


def over_limit(content: pa.Array) -> list[str | None]:
    """Return why a cell is too large to be taken, for each that is."""
    sizes = pc.fill_null(pc.binary_length(content), 0).to_pylist()
    return [
        f"cell of {size:,} bytes, over the limit of {MAX_BYTES:,}" if size > MAX_BYTES else None
        for size in sizes
    ]


def holds_images(path: str, column: str) -> bool:
    """Tell whether a local file is Parquet with a column of images of that name."""
    try:
        with open_file(path) as file:
            Shard(file, column)
    except (ImageError, OSError):
        return False
    return True
