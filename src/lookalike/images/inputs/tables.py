"""Inspect and read the Parquet files of a table of images, in Spark tasks."""

import glob
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from lookalike.errors import ImageError, LookalikeError
from lookalike.images.inputs.delta import delta_files, delta_names, is_delta
from lookalike.images.inputs.file_opening import open_file, size_and_time
from lookalike.images.inputs.kept_columns import KEPT_TYPES, UNKNOWN, Kept, converted, type_of
from lookalike.images.inputs.listing import IMAGE
from lookalike.images.inputs.location import matches
from lookalike.images.inputs.parquet_shard import (
    Cells,
    Shard,
    begins_as_parquet,
    is_parquet,
    over_limit,
    partitions,
)
from lookalike.images.inputs.reader import read_beside
from lookalike.images.inputs.scan import ScannedFile, found_file, walk
from lookalike.images.inputs.source import Source, decode_path, encode_path, full_path, is_uri
from lookalike.images.inputs.store_listing import list_shards
from lookalike.system.uris import split_uri

PART = pa.schema(
    {
        "path": pa.string(),
        "size": pa.int64(),
        "modified": pa.int64(),
        "reason": pa.string(),
        "lacks": pa.string(),
        "row_group": pa.int32(),
        "first_row": pa.int64(),
        "rows": pa.int64(),
        "kept": pa.string(),
        "problem": pa.string(),
    }
)
"""One row for each row group of a file, or, with a `reason`, for a file without images.

`path` is encoded and relative to the root. `lacks` tells why the file has no labels although a
column of labels is given. `kept` has the types of the columns to keep, as text with commas between
them; of one without values "". `problem` tells why a column cannot be kept.
"""

ROWS = pa.schema([field for field in IMAGE if field.name != "id"])
"""Rows of tasks, which Spark numbers afterwards."""


def shards(source: Source) -> Iterator[ScannedFile]:
    """Yield the Parquet files of a table as `files_of` does; by first bytes without an ending."""
    yield from files_of(source, _is_shard)


def files_of(source: Source, accepts: Callable[[str], bool]) -> Iterator[ScannedFile]:
    """Yield the files of a table, or the archives, in the order of their paths.

    Files in `source.names` count, whatever their names; in folders those whose name is accepted.
    Names that Spark hides are left out: those that begin with a dot, or with `_` unless they are
    partitions. A Delta table has the files of its newest version.
    """
    if is_uri(source.root):
        named = delta_names(source.root) if source.kind == "table" else None
        scheme, _, path = split_uri(source.root)
        root = f"file:{path}" if scheme == "file" else source.root  # as it is listed
        for shard in list_shards(source.root, accepts):
            inner = shard.path.removeprefix(encode_path(root).rstrip("/"))
            if named is not None and decode_path(inner).strip("/") not in named:
                continue
            if not any(map(_is_hidden, inner.split("/")[:-1])):
                yield shard
        return
    for name in source.names:
        top = os.path.join(source.root, name) if name else source.root
        if os.path.lexists(top) or not glob.has_magic(name):
            tops = [name]
        else:
            pattern = os.path.join(glob.escape(source.root), name)
            found = sorted(set(matches(pattern, accepts)))
            tops = [os.path.relpath(path, source.root) for path in found]
        for one in tops:
            place = os.path.join(source.root, one) if one else source.root
            if source.kind == "table" and is_delta(place):
                for file in delta_files(os.path.normpath(place)):
                    yield found_file(file, source.root)
                continue
            for shard in walk(replace(source, kind="files", names=(one,)), accepts):
                if not any(map(_is_hidden, shard.path.split("/")[:-1])):
                    yield shard


def _is_shard(name: str) -> bool:
    base = os.path.basename(name)
    return is_parquet(base) or ("." not in base and not base.startswith("_"))


def _is_hidden(folder: str) -> bool:
    return folder.startswith("_") and "=" not in folder


def rows_schema(kept: Kept) -> pa.Schema:
    """Return the columns of rows of tasks: `ROWS`, and kept columns."""
    return pa.schema([*ROWS, *(pa.field(name, KEPT_TYPES[kind]) for name, kind in kept)])


def inspect_files(
    source: Source, listed: Iterable[dict[str, Any]], kept: Kept = ()
) -> Iterator[pa.RecordBatch]:
    """Read the footers of files of a table, in a Spark task; yield batches of `PART`.

    A file that is damaged or has no images becomes a row with a reason.
    """
    for shard in listed:
        about = {name: shard[name] for name in ("path", "size", "modified", "reason")}
        about |= {"lacks": None, "kept": None, "problem": None}
        parts = [about]
        if shard["reason"] is None:
            parts = _parts(source, about, full_path(source, shard["path"]), kept)
        if parts:
            yield pa.RecordBatch.from_pylist(parts, PART)


def _parts(source: Source, about: dict[str, Any], place: str, kept: Kept) -> list[dict[str, Any]]:
    try:
        about["size"], about["modified"] = size_and_time(place)
        with open_file(place) as file:
            named = is_parquet(place) or _is_named(source, place)
            if not named and not begins_as_parquet(file):
                return []
            shard = _open_shard(source, about["path"], file, kept)
            rows = shard.groups
    except ImageError as error:
        return [about | {"reason": str(error), "rows": 0}]
    except Exception as error:  # whatever a remote file system says
        return [about | {"reason": _unreadable(error), "rows": 0}]
    starts = itertools.accumulate(rows, initial=0)
    about["lacks"] = shard.lacks
    try:
        about["kept"] = ",".join(_kept_type(name, shard.kept[name], place) for name, _ in kept)
    except LookalikeError as error:
        about["problem"] = str(error)
    return [
        about | {"row_group": group, "first_row": first, "rows": count}
        for group, (first, count) in enumerate(zip(starts, rows, strict=False))
    ]


def _kept_type(name: str, kind: pa.DataType | None, place: str) -> str:
    if kind is None:
        raise LookalikeError(
            f"{place} has no column {name!r}: leave it out of `keep_columns`, or add it to the file"
        )
    return UNKNOWN if pa.types.is_null(kind) else type_of(kind, name)


def _is_named(source: Source, place: str) -> bool:
    return any(os.path.join(source.root, name) == place for name in source.names)


def _open_shard(source: Source, path: str, file: "pa.NativeFile", kept: Kept) -> Shard:
    folders = partitions(full_path(source, path))
    names = [name for name, _ in kept]
    return Shard(file, source.image_column or "image", source.label_column, folders, names)


def _unreadable(error: BaseException) -> str:
    return f"unreadable: {' '.join(str(error).split())[:200]}"


def read_parts(
    source: Source, parts: Sequence[dict[str, Any]], *, content: bool, kept: Kept = ()
) -> Iterator[pa.RecordBatch]:
    """Read parts of a table, rows of `PART`, in a Spark task; yield batches of `rows_schema`.

    If a row group is damaged, its remaining rows get a reason. Without `content`, only labels and
    kept columns are read.
    """
    schema = rows_schema(kept)
    for path, several in itertools.groupby(parts, key=lambda part: str(part["path"])):
        of_file = list(several)
        if of_file[0]["reason"] is not None:
            about = {name: of_file[0][name] for name in ("path", "reason", "size", "modified")}
            yield pa.RecordBatch.from_pylist([about], schema)
            continue
        try:
            with open_file(full_path(source, path)) as file:
                shard = _open_shard(source, path, file, kept)
                for part in of_file:
                    yield from _read_part(source, shard, part, content, kept)
                    part["read"] = True
        except LookalikeError as error:
            if not isinstance(error, ImageError):
                raise
            yield from _lost_parts(of_file, str(error), schema)
        except Exception as error:  # it was whole when it was inspected
            yield from _lost_parts(of_file, _unreadable(error), schema)


def _lost_parts(
    parts: Iterable[dict[str, Any]], reason: str, schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    for part in parts:
        if "read" not in part:
            yield _lost(part, part["first_row"], reason, schema)


def _read_part(
    source: Source, shard: Shard, part: dict[str, Any], content: bool, kept: Kept
) -> Iterator[pa.RecordBatch]:
    row = part["first_row"]
    try:
        for cells in shard.cells(part["row_group"], content=content):
            yield _rows(source, part, row, cells, kept)
            row += cells.rows
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        yield _lost(part, row, _unreadable(error), rows_schema(kept))


def _rows(
    source: Source, part: dict[str, Any], first: int, cells: Cells, kept: Kept
) -> pa.RecordBatch:
    reasons: pa.Array = pa.nulls(cells.rows, pa.string())
    content = cells.content
    if content is None:
        content = pa.nulls(cells.rows, pa.binary())
    else:
        content, reasons = _whole(source, part["path"], content, cells.names)
    own = {
        name: converted(column, name, kind)
        for (name, kind), column in zip(kept, cells.kept, strict=True)
    }
    columns = {"label": cells.labels, "reason": reasons, "content": content, **own}
    return _batch(part, first, cells.rows, columns, rows_schema(kept))


def _whole(
    source: Source, path: str, content: pa.Array, names: pa.Array | None
) -> tuple[pa.Array, pa.Array]:
    """Return the bytes of cells and of files that cells name, and the reasons for others."""
    reasons = over_limit(content)
    if not content.null_count and not any(reasons):
        return content, pa.array(reasons, pa.string())
    cells = content.to_pylist()
    for at, cell in enumerate(cells):
        if reasons[at] is not None:
            cells[at] = None
        elif cell is None:
            name = None if names is None else names[at].as_py()
            try:
                if name is None:
                    raise ImageError("empty cell")
                cells[at] = read_beside(source, path, name)
            except ImageError as error:
                reasons[at] = str(error)
            except Exception as error:  # whatever a remote file system says
                reasons[at] = _unreadable(error)
    return pa.array(cells, pa.binary()), pa.array(reasons, pa.string())


def _lost(part: dict[str, Any], first: int, reason: str, schema: pa.Schema) -> pa.RecordBatch:
    """Return the rows of a part from `first` on, with a reason why they are unreadable."""
    rows = part["first_row"] + part["rows"] - first
    columns = {field.name: pa.nulls(rows, field.type) for field in schema}
    columns["reason"] = pa.array([reason] * rows, pa.string())
    return _batch(part, first, rows, columns, schema)


def _batch(
    part: dict[str, Any], first: int, rows: int, columns: dict[str, pa.Array], schema: pa.Schema
) -> pa.RecordBatch:
    """Return a batch of rows `FILE#ROW`, with size and time of their file."""
    columns = {
        **columns,
        "path": pa.array([f"{part['path']}#{row}" for row in range(first, first + rows)]),
        # Size and time of the file show whether a row may have changed.
        "size": pa.array([part["size"]] * rows, pa.int64()),
        "modified": pa.array([part["modified"]] * rows, pa.int64()),
    }
    return pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)
