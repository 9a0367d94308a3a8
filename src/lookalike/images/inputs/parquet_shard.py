"""Read one Parquet file of images: validate it, find its columns, decode its cells."""

import json
import os
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc

from lookalike.errors import ImageError
from lookalike.images.decoding.raster import MAX_BYTES
from lookalike.images.inputs.file_opening import open_file
from lookalike.system.untrusted import SPARK_SCHEMA, foreign_types

_NAME = re.compile(r"\.(parquet|parq|pq)(\.(gz|gzip|snappy|zst|zstd|br|brotli|lz4))?$", re.I)
_MAGIC = b"PAR1"
_BUFFER_BYTES = 2**20  # of a column chunk, read at a time
_BATCH_BYTES = 16 * 2**20  # of a batch of cells, unless a single cell is larger
_BATCH_LABELS = 16_384
_BATCH_CELLS = 64
_NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"
_LISTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)


class Cells(NamedTuple):
    """Some rows of a table, each value nullable.

    Attributes
    ----------
    content
        Image bytes, binary; None if only labels are read.
    names
        Files to read instead of `content`, string; None if there are none.
    labels
        Labels, string.
    rows
        Number of rows.
    kept
        The columns to keep, in their order.
    """

    content: pa.Array | None
    names: pa.Array | None
    labels: pa.Array
    rows: int
    kept: tuple[pa.Array, ...] = ()


def is_parquet(name: str) -> bool:
    """Tell by its name whether a file is Parquet, and not hidden from Spark."""
    base = os.path.basename(name)
    return not base.startswith(("_", ".")) and _NAME.search(base) is not None


def begins_as_parquet(file: "pa.NativeFile") -> bool:
    """Tell by its first bytes whether an open file is Parquet."""
    begin = file.read(len(_MAGIC))
    file.seek(0)
    return bool(begin == _MAGIC)


def partitions(path: str) -> dict[str, str | None]:
    """Return the partition columns of a path, as in `label=cat/x.parquet`, percent-decoded."""
    pairs = (part.partition("=") for part in path.split("/")[:-1])
    return {
        unquote(name): None if value == _NULL_PARTITION else unquote(value)
        for name, equals, value in pairs
        if equals
    }


class Shard:
    """An open Parquet file with a column of images. The constructor reads only its footer.

    Parameters
    ----------
    file
        The open file.
    image
        The column of images: bytes, or structs of `bytes`, `path` or both, as Hugging Face writes
        them. Dots separate fields within a column.
    label
        The column of labels.
    folders
        Partition columns of the file, which may hold the label: `partitions(path)`.
    kept
        The names of columns to keep, of the file or of its partitions.

    Raises
    ------
    ImageError
        If it is no complete Parquet file, or contains no images.
    """

    def __init__(
        self,
        file: "pa.NativeFile",
        image: str,
        label: str | None = None,
        folders: dict[str, str | None] | None = None,
        kept: Sequence[str] = (),
    ) -> None:
        import pyarrow.parquet as pq

        try:
            self._file = pq.ParquetFile(file, pre_buffer=False, buffer_size=_BUFFER_BYTES)
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
        if not only_named and not is_binary(plain_type(held)):
            raise ImageError(
                f"column {image!r} holds {kind}, no image bytes: choose another `image_column`"
            )
        self._label: tuple[str, ...] | None = None
        self._folders = folders or {}
        self._given = self._folders.get(label or "")
        self._kept = [name for name in kept if name in schema.names]
        self.kept = {name: self._type_of(schema, name) for name in kept}
        """The types of the columns to keep, None for one that the file lacks."""
        self.lacks: str | None = None
        """Why the file has no labels although a column of labels is given."""
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

    def _type_of(self, schema: pa.Schema, name: str) -> pa.DataType | None:
        if name in self._kept:
            return plain_type(schema.field(name).type)
        return pa.string() if name in self._folders else None

    def _refuse_foreign(self) -> None:
        described = (self._file.metadata.metadata or {}).get(SPARK_SCHEMA)
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
        """The number of rows of each row group."""
        about = self._file.metadata
        return [about.row_group(group).num_rows for group in range(about.num_row_groups)]

    def cells(self, group: int, *, content: bool = True) -> Iterator[Cells]:
        """Yield the rows of a row group; without `content`, only labels.

        Raises Arrow's errors if the file is damaged.
        """
        wanted = [self._image] if content else []
        wanted += [self._label] if self._label is not None else []
        wanted += [(name,) for name in self._kept]
        rows = self._file.metadata.row_group(group).num_rows
        if not wanted:
            for start in range(0, rows, _BATCH_LABELS):
                some = min(rows - start, _BATCH_LABELS)
                kept = tuple(self._of_folder(name, some) for name in self.kept)
                yield Cells(None, None, self._folder_labels(some), some, kept)
            return
        columns = [".".join(column) for column in dict.fromkeys(wanted)]
        for batch in self._batches(group, columns, one_by_one=content):
            labels = self._folder_labels(batch.num_rows)
            if self._label is not None:
                labels = label_texts(_within(batch, self._label), self._classes)
            kept = tuple(self._kept_cells(batch, name) for name in self.kept)
            found, names = self._contents(batch) if content else (None, None)
            yield Cells(found, names, labels, batch.num_rows, kept)

    def _kept_cells(self, batch: pa.RecordBatch, name: str) -> pa.Array:
        if name in self._kept:
            return stored_values(batch.column(batch.schema.get_field_index(name)))
        return self._of_folder(name, batch.num_rows)

    def _of_folder(self, name: str, rows: int) -> pa.Array:
        """Return the value of a partition for a number of rows."""
        return pa.array([self._folders.get(name)] * rows, pa.string())

    def _batches(
        self, group: int, columns: list[str], *, one_by_one: bool
    ) -> Iterator[pa.RecordBatch]:
        """Yield columns of a row group, in batches of `_BATCH_BYTES` if read `one_by_one`.

        A page of a few bytes can unpack to any number of large cells that repeat or share a prefix,
        and the sizes in the file may be wrong. So cells are unpacked one by one.
        """
        rows = self._file.iter_batches(
            1 if one_by_one else _BATCH_LABELS,
            row_groups=[group],
            columns=columns,
            use_threads=False,
        )
        held: list[pa.RecordBatch] = []
        size = 0
        for row in rows:
            if held and (size + row.nbytes > _BATCH_BYTES or len(held) == _BATCH_CELLS):
                yield _together(held)
                held, size = [], 0
            held.append(row)
            size += row.nbytes
        if held:
            yield _together(held)

    def cell(self, row: int) -> tuple[bytes | None, str | None]:
        """Return the bytes of the cell in a row, from 0, or the name of the file to read instead.

        Raises `ImageError` if there is no such row.
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

    def _folder_labels(self, rows: int) -> pa.Array:
        """Return the label of the folder for a number of rows."""
        return pa.array([self._given] * rows, pa.string())

    def _contents(self, batch: pa.RecordBatch) -> tuple[pa.Array, pa.Array | None]:
        images = _within(batch, self._image)
        if not self._fields:
            return images.cast(pa.binary()), None
        content, names = pa.nulls(len(images), pa.binary()), None
        if "bytes" in self._fields:
            content = stored_values(pc.struct_field(images, ["bytes"])).cast(pa.binary())
        if "path" in self._fields:
            names = stored_values(pc.struct_field(images, ["path"]))
            names = names.cast(pa.string()) if is_text(names.type) else None
        return content, names

    @cached_property
    def _classes(self) -> list[str] | None:
        """The class names of a column of class numbers, as Hugging Face writes them."""
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
    has_lists = any(is_list(kind) for is_list in _LISTS for kind in schema.types)
    hint = ", or vectors with embedding_column" if has_lists and option == "image_column" else ""
    return f"no column {column!r}, it has {shown}: name the right one with {option}{hint}"


def _find(
    fields: "pa.Schema | pa.StructType", name: str
) -> tuple[tuple[str, ...], pa.DataType] | None:
    """Return the path to a column or a field within one, and its type."""
    kinds = {field.name: plain_type(field.type) for field in fields}
    for one in (name, name.strip("`")):  # Spark quotes names with dots
        if one in kinds:
            return (one,), kinds[one]
    for dot in re.finditer(r"\.", name):
        head, rest = name[: dot.start()].strip("`"), name[dot.end() :]
        kind = kinds.get(head)
        if kind is not None and pa.types.is_struct(kind) and (found := _find(kind, rest)):
            return (head, *found[0]), found[1]
    return None


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Return the type of the values without extension types and dictionaries."""
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def is_binary(kind: pa.DataType) -> bool:
    """Tell whether a type is one of bytes."""
    return bool(
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
        or pa.types.is_fixed_size_binary(kind)
    )


def is_text(kind: pa.DataType) -> bool:
    """Tell whether a type is one of strings."""
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def _together(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    if len(batches) == 1:
        return batches[0]
    (whole,) = pa.Table.from_batches(batches).combine_chunks().to_batches()
    return whole


def stored_values(array: pa.Array) -> pa.Array:
    """Return an array without its extension type and dictionary."""
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _within(batch: pa.RecordBatch, names: tuple[str, ...]) -> pa.Array:
    array = stored_values(batch.column(batch.schema.get_field_index(names[0])))
    for name in names[1:]:
        array = stored_values(pc.struct_field(array, [name]))
    return array


def label_texts(labels: pa.Array, classes: list[str] | None = None) -> pa.Array:
    """Return labels as text. Integers become names of `classes`, negative ones null."""
    if pa.types.is_integer(labels.type) and classes:
        numbers = labels.cast(pa.int64())
        known = pc.and_(pc.greater_equal(numbers, 0), pc.less(numbers, len(classes)))
        named = pa.array(classes, pa.string()).take(pc.if_else(known, numbers, None))
        others = pc.if_else(pc.less(numbers, 0), None, numbers.cast(pa.string()))
        return pc.coalesce(named, others)
    if pa.types.is_floating(labels.type):
        labels = labels.cast(pa.float64())
        labels = pc.if_else(pc.is_nan(labels), None, labels)
    if is_binary(labels.type):  # older writers store text so
        cells = labels.to_pylist()
        labels = pa.array(
            [None if cell is None else cell.decode(errors="replace") for cell in cells], pa.string()
        )
    trimmed = pc.utf8_trim_whitespace(labels.cast(pa.string()))
    return pc.if_else(pc.equal(trimmed, ""), None, trimmed)


def over_limit(content: pa.Array) -> list[str | None]:
    """Return a reason for each cell that is too large, None for others."""
    sizes = pc.fill_null(pc.binary_length(content), 0).to_pylist()
    return [
        f"cell of {size:,} bytes, over the limit of {MAX_BYTES:,}" if size > MAX_BYTES else None
        for size in sizes
    ]


def holds_images(path: str, column: str) -> bool:
    """Tell whether a local Parquet file has a column of images with that name."""
    try:
        with open_file(path) as file:
            Shard(file, column)
    except (ImageError, OSError):
        return False
    return True
