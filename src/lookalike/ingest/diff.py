"""The differences between a listing of images and a table of embeddings.

An image is known by its path, or by its key where the table has keys. It is unchanged while its
path, size, modification time and the user's columns are. A changed image gets a new row
with a new id, which replaces its old row. An image that an older preprocessing could not read is
tried once more.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lookalike.images.inputs.listing import write_listing
from lookalike.ingest.batches import StoredEmbedding
from lookalike.storage import EmbeddingTable, Segment
from lookalike.storage.commits import NO_IDS, Ids, may_pass, passing_reasons, query_ids
from lookalike.storage.remote.shared_files import SharedFile, sharing
from lookalike.storage.schema import ROW
from lookalike.system.sql import Values, create_view, fetch_row

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


FETCHED_ROWS = 16_384
"""Rows to fetch from DuckDB at a time."""
_ROWS_OF_FILES = {"table": "#[0-9]+", "archive": "#[^#]*"}  # behind the path of the file
MAX_COMPARED_NAMES = 32
"""Names to compare each row with; more names are joined as a table."""


@dataclass(frozen=True)
class Plan:
    """The changes that make a table equal to a listing.

    Attributes
    ----------
    to_read
        A listing of the inputs to read, with new ids.
    first_id
        The smallest of these ids.
    listed
        The number of inputs in the compared listing.
    new, changed, same
        The numbers of inputs that are new, changed and unchanged.
    gone
        The ids, int64 (n,), of rows whose input is missing from the listed places.
    lookup
        Finds embeddings by content hash, None if no stored file has the size of one to read.
    resolved
        The ids, int64 (n,), of rows that recorded an unreadable Parquet file which is readable now.

    """

    to_read: Path
    first_id: int
    listed: int
    new: int
    changed: int
    same: int
    gone: Ids
    lookup: "HashLookup | None"
    resolved: Ids

    @property
    def count(self) -> int:
        """The number of inputs to read."""
        return self.new + self.changed


OnChange = Callable[[str, str], None]
"""Takes a sign, `+` for new, `~` for changed, `-` for removed, and an encoded path."""

IsStable = Callable[[str, str, int | None, int | None], bool]
"""Tells whether a change is stable, so that it may be applied.

Takes its sign, encoded path, size in bytes, and modification time in nanoseconds since 1970.
"""


def plan(
    stored: EmbeddingTable,
    listing: Sequence[Path],
    below: Sequence[str],
    folder: Path,
    on_change: OnChange | None = None,
    is_stable: IsStable | None = None,
    keep_labels: bool = True,
) -> Plan:
    """Compare a listing with a table.

    Parameters
    ----------
    stored
        The table.
    listing
        Parquet files with the columns of `LISTING`. They may also have columns of the user, and the
        `content_hash` of inputs without a time.
    below
        The encoded paths of the listed files and folders, "" for the root, "/" for all places
        outside it. Only rows below these can be gone.
    folder
        A folder for the files of the plan.
    on_change
        Called for each change.
    is_stable
        Tells which changes to apply; the others are left for a later comparison.
    keep_labels
        Keep stored labels of inputs without a label in the listing.

    """
    to_read = folder / "wanted.parquet"
    first_id = stored.next_id
    label = "coalesce(listing.label, stored.label)" if keep_labels else "listing.label"
    name = stored.name_column
    with stored.connect(folder) as sql:
        create_view(sql, "listing", *listing)
        there = sql.table("listing").columns
        own = {
            one: f'{"listing" if one in there else "stored"}."{one}"'
            for one in stored.schema.names
            if one not in ROW.names
        }
        columns = "".join(f', {of} as "{one}"' for one, of in own.items())
        compared = [one for one in (*own, "path", "content_hash") if one in there]
        differs = " or ".join(_differs(one) for one in compared)
        sql.execute(
            f"""create temp table todo as
            select listing.path, {label} as label, listing.reason, listing.size, listing.modified,
                stored.id as old {columns}
            from listing left join stored on listing.{name} = stored.{name}
            where stored.id is null
                or {differs}
                or listing.size is distinct from stored.size
                or listing.modified is distinct from stored.modified
                or {label} is distinct from stored.label
                or (listing.reason is not null and listing.reason is distinct from stored.reason)
                or (
                    listing.reason is null
                    and (
                        {may_pass("stored")}
                        or (stored.status = 'skipped' and stored.id < $tried_from)
                    )
                )""",
            {"tried_from": stored.tried_from_id, "passing": passing_reasons()},
        )
        _find_gone(sql, below, name)
        row = _ROWS_OF_FILES.get(stored.source.kind)
        resolved = NO_IDS if row is None else _find_resolved(sql, row)
        (listed,) = fetch_row(sql, "select count() from listing")
        (found,) = fetch_row(sql, "select count() from todo")
        if is_stable is not None:
            _delete_unstable(
                sql, "todo", "if(old is null, '+', '~'), path, size, modified", is_stable
            )
            _delete_unstable(sql, "gone", "'-', path, null, null", is_stable)
        query = f"""
            select $first_id + row_number() over (order by path, {name}) - 1 as id,
                path, label, reason, size, modified {"".join(f', "{one}"' for one in own)}
            from todo order by id"""
        write_listing(sql, query, to_read, {"first_id": first_id})
        new, changed = fetch_row(sql, "select count() - count(old), count(old) from todo")
        gone = query_ids(sql, "select id from gone")
        if on_change is not None:
            query = """
                select if(old is null, '+', '~'), path from todo
                union all select '-', path from gone"""
            report_changes(sql, query, on_change)
        lookup = _write_lookup(stored, sql, folder) if new + changed else None
    same = listed - found
    return Plan(to_read, first_id, listed, new, changed, same, gone, lookup, resolved)


def _delete_unstable(
    sql: "DuckDBPyConnection", table: str, columns: str, is_stable: IsStable
) -> None:
    """Delete the unstable changes from a table of changes."""
    unstable: list[str] = []
    result = sql.execute(f"select {columns} from {table}")
    while rows := result.fetchmany(FETCHED_ROWS):
        unstable += (row[1] for row in rows if not is_stable(*row))
    sql.register("unstable", pa.table({"path": pa.array(unstable, pa.string())}))
    sql.execute(f"delete from {table} using unstable where {table}.path = unstable.path")


def report_changes(
    sql: "DuckDBPyConnection", query: str, on_change: OnChange, values: Values | None = None
) -> None:
    """Call `on_change` with the sign and path of each row of a query."""
    result = sql.execute(f"from ({query}) order by all", values)
    while rows := result.fetchmany(FETCHED_ROWS):
        for sign, path in rows:
            on_change(sign, path)


def _differs(column: str) -> str:
    """Return the SQL that tells whether a listed column differs from the stored one."""
    differs = f'listing."{column}" is distinct from stored."{column}"'
    # What has a time has no hash in the listing.
    return f"(listing.{column} is not null and {differs})" if column == "content_hash" else differs


def _find_gone(sql: "DuckDBPyConnection", below: Sequence[str], name: str) -> None:
    """Create the table `gone`: stored rows below the listed places whose input is not listed."""
    condition, values = _below_condition(sql, below)
    sql.execute(
        f"""create temp table gone as
        select id, path from stored anti join listing using ({name}) where {condition}""",
        values,
    )
    # Images in a folder that is unreadable now are not gone.
    if fetch_row(sql, "select count() from listing where reason is not null") != (0,):
        sql.execute(
            f"""delete from gone where id in (
                select within.id from ({_FOLDERS_ABOVE.format(rows="gone")}) as within
                join listing as unreadable on unreadable.path = above
                where unreadable.reason is not null
            )"""
        )


def _find_resolved(sql: "DuckDBPyConnection", row: str) -> Ids:
    """Remove from `gone` the rows of Parquet files and archives that are, or were, unreadable.

    Rows of a file that is unreadable now are not gone. A row that recorded an unreadable file which
    is readable now is outdated: these ids are returned.
    """
    file = f"regexp_replace(path, '{row}$', '')"
    sql.execute(
        f"""delete from gone
        where {file} in (select path from listing where reason like 'unreadable%')"""
    )
    resolved = query_ids(sql, f"select id from gone where path in (select {file} from listing)")
    sql.execute(f"delete from gone where path in (select {file} from listing)")
    return resolved


# Each row once for its own path, and once for each folder above it.
_FOLDERS_ABOVE = """
    select id, array_to_string(parts[1:depth], '/') as above
    from (
        select id, parts, unnest(range(1, len(parts) + 1)) as depth
        from (select id, string_split(path, '/') as parts from {rows})
    )"""


def _below_condition(sql: "DuckDBPyConnection", names: Sequence[str]) -> tuple[str, Values]:
    """Return the SQL condition that the path of a stored row lies below one of the names."""
    parts = ["not starts_with(path, '/')"] if "" in names else []
    named = [name.rstrip("/") for name in names if name]
    if len(named) <= MAX_COMPARED_NAMES:
        values = {f"name_{at}": name for at, name in enumerate(named)}
        parts += [f"path = ${name} or starts_with(path, ${name} || '/')" for name in values]
        return " or ".join(parts) or "false", values
    # A glob has as many names as files: join them by equal paths.
    sql.register("named", pa.table({"above": pa.array(named, pa.string())}))
    lost = "(select id, path from stored anti join listing using (path))"
    within = f"select id from ({_FOLDERS_ABOVE.format(rows=lost)}) semi join named using (above)"
    return " or ".join([*parts, f"id in ({within})"]), {}


@dataclass(frozen=True)
class HashLookup:
    """Finds embeddings of a table by content hash, for `embed_batches`.

    `hashes` and `found` are files that each process maps.
    """

    hashes: SharedFile
    found: SharedFile
    segments: tuple[Segment, ...]
    first_ids: tuple[int, ...]

    def __call__(self, content_hash: str) -> StoredEmbedding | None:
        """Return the vector, width and height of an image with these bytes, None without one."""
        key = np.array(content_hash.encode(), "S32")
        at = int(np.searchsorted(self._hashes, key))
        if at == len(self._hashes) or self._hashes[at] != key:
            return None
        id_, width, height = self._found[at].tolist()
        segment = self.segments[np.searchsorted(self.first_ids, id_, side="right") - 1]
        row = np.searchsorted(segment.ids, id_)
        return np.array(segment.vectors[row]), (width, height)

    @cached_property
    def _hashes(self) -> npt.NDArray[np.bytes_]:
        mapped: npt.NDArray[np.bytes_] = np.load(self.hashes.local(), mmap_mode="r")
        return mapped

    @cached_property
    def _found(self) -> npt.NDArray[np.void]:
        mapped: npt.NDArray[np.void] = np.load(self.found.local(), mmap_mode="r")
        return mapped


@contextmanager
def sharing_lookup(lookup: HashLookup | None) -> Iterator[HashLookup | None]:
    """Yield a lookup for tasks of Spark, if there is one."""
    if lookup is None:
        yield None
        return
    with sharing(lookup.hashes.file, lookup.found.file) as (hashes, found):
        yield replace(lookup, hashes=hashes, found=found)


def _write_lookup(
    stored: EmbeddingTable, sql: "DuckDBPyConnection", folder: Path
) -> HashLookup | None:
    """Write the lookup of the embedded files that have the size of an input to read."""
    sql.execute(
        """create temp table known as
        select content_hash, id, width, height
        from stored semi join todo using (size) where status = 'ok'"""
    )
    (count,) = fetch_row(sql, "select count() from known")
    if not count:
        return None
    kind = np.dtype([("id", np.int64), ("width", np.int32), ("height", np.int32)])
    hashes = new_array(folder / "hashes.npy", np.dtype("S32"), count)
    found = new_array(folder / "found.npy", kind, count)
    start = 0
    ordered = sql.sql("from known order by content_hash, id")
    for batch in ordered.to_arrow_reader(FETCHED_ROWS):
        stop = start + batch.num_rows
        hashes[start:stop] = batch["content_hash"].to_numpy(zero_copy_only=False).astype("S32")
        for name in kind.names or ():
            found[name][start:stop] = batch[name].to_numpy()
        start = stop
    for array in (hashes, found):
        array.flush()
    ranges = stored.id_ranges()
    return HashLookup(
        SharedFile(folder / "hashes.npy"),
        SharedFile(folder / "found.npy"),
        tuple(Segment(file.absolute()) for file, *_ in ranges),
        tuple(first for _, first, *_ in ranges),
    )


def new_array(file: Path, kind: "np.dtype[Any]", count: int) -> "np.memmap[Any, Any]":
    """Create a file with an array of `count` items and map it. Raises `OSError` if it is full."""
    mapped = np.lib.format.open_memmap(file, "w+", kind, (count,))
    if hasattr(os, "posix_fallocate"):  # writing to a mapped file on a full disk kills the process
        with file.open("r+b") as made:
            os.posix_fallocate(made.fileno(), 0, file.stat().st_size)
    return mapped
