"""Turn rows of a DataFrame, in a task or in this process, into listings and images of an index."""

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lookalike.images.inputs.image_columns import (
    Contents,
    Kind,
    group,
    local_place,
    open_contents,
    rows_of_arrow,
)
from lookalike.images.inputs.kept_columns import Kept, converted
from lookalike.images.inputs.listing import IMAGE, LISTING
from lookalike.images.inputs.parquet_shard import label_texts
from lookalike.images.inputs.reader import content_hash
from lookalike.images.inputs.source import decode_path
from lookalike.ingest.job_inputs import PathSet
from lookalike.ingest.vectors import values
from lookalike.storage.own_columns import OwnColumns
from lookalike.storage.schema import KEY, ROW

# The columns that a DataFrame is reduced to, beside the kept ones: their names cannot be these.
IMAGES, PATH, LABEL, SIZE, TIME, NAME = (
    "_image",
    "_path",
    "_label",
    "_size",
    "_time",
    "_key",
)
HASH = "content_hash"
PART = "_part"
_REMOTE = r"^[a-zA-Z][a-zA-Z0-9+.-]+:/"
_LOCAL_URI = r"^[fF][iI][lL][eE]:/"


@dataclass(frozen=True)
class RowReader:
    """Reads rows that were reduced to the columns above. It travels to tasks.

    Attributes
    ----------
    columns
        The columns of the index.
    kind
        What the column of images holds.
    folder
        The folder of the process, to which paths are relative.
    has_times
        Sizes and times come with the rows or from the disk, so that contents are not compared.
    root
        A prefix of paths, with a slash, that images leave out.

    """

    columns: OwnColumns
    kind: Kind
    folder: str
    has_times: bool = False
    root: str = ""

    @property
    def extra(self) -> list[pa.Field]:
        """The columns of the index beside those of `ROW`: the key and kept columns."""
        return [field for field in self.columns.schema if field.name not in ROW.names]

    @property
    def listing_schema(self) -> pa.Schema:
        """The columns of `list_rows`."""
        more = [pa.field(HASH, pa.string()), pa.field(PART, pa.int32())]
        return pa.schema([*(one for one in LISTING if one.name != "id"), *self.extra, *more])

    @property
    def image_schema(self) -> pa.Schema:
        """The columns of `read_images`."""
        return pa.schema([*IMAGE, *self.extra])

    def list_rows(
        self, batches: Iterable[pa.RecordBatch], part: int = 0
    ) -> Iterator[pa.RecordBatch]:
        """Yield a row of `listing_schema` for each row, which belongs to a part of the DataFrame.

        Local files have size and time from their disk. Where rows have the column of images, and no
        times, sizes and hashes are those of their contents.
        """
        with open_contents(self.kind) as contents:
            for batch in batches:
                columns = self._listed(batch)
                count = batch.num_rows
                columns[HASH] = pa.nulls(count, pa.string())
                columns[PART] = pa.array([part] * count, pa.int32())
                if IMAGES in batch.schema.names:
                    columns["size"], columns[HASH] = _hashed(batch[IMAGES], contents)
                elif self.has_times:
                    columns |= _states(columns)
                names = self.listing_schema.names
                arrays = [columns[name] for name in names]
                yield pa.RecordBatch.from_arrays(arrays, schema=self.listing_schema)

    def read_images(
        self, batches: Iterable[pa.RecordBatch], wanted: PathSet | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Yield the images of rows, or of the wanted ones, in small batches of `image_schema`."""
        name = "path" if self.columns.key is None else KEY
        with open_contents(self.kind) as contents:
            for batch in batches:
                columns = self._listed(batch)
                if self.has_times:
                    columns |= _states(columns)
                if self.root:
                    columns["path"] = _below(columns["path"], self.root)
                rows = pa.RecordBatch.from_pydict({"id": batch["id"], **columns})
                image = batch[IMAGES]
                if wanted is not None:
                    keep = pa.array(wanted.contains(rows[name].cast(pa.string()).to_pylist()))
                    rows, image = rows.filter(keep), image.filter(keep)
                start = 0
                for files in group(contents(rows_of_arrow(image))):
                    yield self._images(rows.slice(start, len(files)), files)
                    start += len(files)

    def _images(self, rows: pa.RecordBatch, files: list[bytes | str]) -> pa.RecordBatch:
        columns = {name: rows[name] for name in rows.schema.names}
        data = [one if isinstance(one, bytes) else None for one in files]
        columns["content"] = pa.array(data, pa.binary())
        reasons = [one if isinstance(one, str) else None for one in files]
        columns["reason"] = pa.array(reasons, pa.string())
        if not self.has_times:
            sizes = [None if one is None else len(one) for one in data]
            columns["size"] = pa.array(sizes, pa.int64())
        schema = self.image_schema
        return pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)

    def _listed(self, batch: pa.RecordBatch) -> dict[str, pa.Array]:
        """Return the columns of a listing without an id; paths are whole."""
        count, own = batch.num_rows, self.columns
        columns: dict[str, pa.Array] = {}
        path = self._paths(batch[PATH].cast(pa.string()))
        if own.key is not None and own.id_column is not None:
            columns[KEY] = values.keys(batch[NAME], own.key, own.id_column)
            path = pc.coalesce(path, values.encoded(columns[KEY].cast(pa.string()), may_be=False))
        columns["path"] = path
        columns["label"] = label_texts(batch[LABEL])
        columns["reason"] = pa.nulls(count, pa.string())
        columns["size"] = batch[SIZE].cast(pa.int64())
        columns["modified"] = batch[TIME].cast(pa.int64())
        kept: Kept = own.kept
        for name, kind in kept:
            columns[name] = converted(batch[name], name, kind)
        return columns

    def _paths(self, places: pa.Array) -> pa.Array:
        """Return paths as an index has them: absolute, or URIs of a store; encoded."""
        are_uris = pc.fill_null(pc.match_substring_regex(places, _LOCAL_URI), False)
        if pc.any(are_uris).as_py():
            local = [local_place(one) for one in places.filter(are_uris).to_pylist()]
            places = pc.replace_with_mask(places, are_uris, pa.array(local, pa.string()))
        if self.kind == "path":
            whole = pc.match_substring_regex(places, f"^/|{_REMOTE}")
            below = pc.binary_join_element_wise(self.folder, places, "/")
            places = pc.if_else(pc.or_kleene(whole, pc.is_null(places)), places, below)
        return values.encoded(places, may_be=False)


def _below(paths: pa.Array, root: str) -> pa.Array:
    """Return paths relative to a root, where they lie below it."""
    inside = pc.fill_null(pc.starts_with(paths, root), False)
    return pc.if_else(inside, pc.utf8_slice_codeunits(paths, len(root)), paths)


def _hashed(column: pa.Array, contents: Contents) -> tuple[pa.Array, pa.Array]:
    """Return sizes and hashes of images, null where there is none."""
    sizes: list[int | None] = []
    hashes: list[str | None] = []
    for one in contents(rows_of_arrow(column)):
        sizes.append(len(one) if isinstance(one, bytes) else None)
        hashes.append(content_hash(one) if isinstance(one, bytes) else None)
    return pa.array(sizes, pa.int64()), pa.array(hashes, pa.string())


def _states(columns: dict[str, pa.Array]) -> dict[str, pa.Array]:
    """Return the sizes and times of local files; those that are given for others."""
    found: dict[str, list[Any]] = {name: columns[name].to_pylist() for name in ("size", "modified")}
    for at, path in enumerate(columns["path"].to_pylist()):
        if path is None or not path.startswith("/"):
            continue
        try:
            state = os.stat(decode_path(path))
        except (OSError, ValueError):
            continue
        if stat.S_ISREG(state.st_mode):
            found["size"][at], found["modified"][at] = state.st_size, state.st_mtime_ns
    return {name: pa.array(cells, pa.int64()) for name, cells in found.items()}
