"""The differences between a listing of images and a table of embeddings.

An image is the same while path, size and time of change are; one that is not gets a new row with a
new id in place of its old one. So does, once, what an older preprocessing could not read.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lookalike.images.inputs.listing import write_listing
from lookalike.ingest.batches import Reused
from lookalike.storage import EmbeddingTable, Segment
from lookalike.storage.commits import NO_IDS, Ids, may_pass, passing_reasons, query_ids
from lookalike.system.sql import Values, create_view, fetch_row

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


FETCHED_ROWS = 16_384
"""Rows that are fetched from DuckDB at a time."""
MAX_COMPARED_NAMES = 32
"""Names that each row is compared with; more are joined."""


@dataclass(frozen=True)
class Plan:
    """What a table lacks of a listing. `wanted` is a listing of what has to be read.

    Its ids are new ones; `first_id` is the least. Of the inputs `listed`, `new` and `changed` ones
    count by now, `same` ones are as they were. `gone` has the ids of rows in the table that
    the listing could have and has not; `whole` those of files of a table that could not be read and
    can be now, which their rows stand for.
    """

    wanted: Path
    first_id: int
    listed: int
    new: int
    changed: int
    same: int
    gone: Ids
    known: "Known | None"
    whole: Ids

    @property
    def count(self) -> int:
        """How many inputs have to be read."""
        return self.new + self.changed


Say = Callable[[str, str], None]
"""Takes a sign, `+` for new, `~` for changed, `-` for gone, and an encoded path."""

Settled = Callable[[str, str, int | None, int | None], bool]
"""Says of a sign, an encoded path, its size and its time whether this change counts by now."""


def plan(
    stored: EmbeddingTable,
    listing: Sequence[Path],
    below: Sequence[str],
    folder: Path,
    say: Say | None = None,
    settled: Settled | None = None,
    keep_labels: bool = True,
) -> Plan:
    """Compare a listing, in one file or more, with a table; files go to `folder`.

    `below` are the encoded paths of the files and folders that were listed, "" for the root. What
    is found is told to `say` as well, path by path. What is not `settled` is left for another time.
    Labels that the listing does not have stay, if `keep_labels`.
    """
    wanted = folder / "wanted.parquet"
    first_id = stored.next_id
    # A label that nobody takes back stays.
    label = "coalesce(listing.label, stored.label)" if keep_labels else "listing.label"
    with stored.connect(folder) as sql:
        create_view(sql, "listing", *listing)
        sql.execute(
            f"""create temp table todo as
            select path, {label} as label, listing.reason, listing.size, listing.modified,
                stored.id as old
            from listing left join stored using (path)
            where stored.path is null
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
        _find_gone(sql, below)
        whole = _find_whole(sql) if stored.source.kind == "table" else NO_IDS
        (listed,) = fetch_row(sql, "select count() from listing")
        (found,) = fetch_row(sql, "select count() from todo")
        if settled is not None:
            _leave(sql, "todo", "if(old is null, '+', '~'), path, size, modified", settled)
            _leave(sql, "gone", "'-', path, null, null", settled)
        query = """
            select $first_id + row_number() over (order by path) - 1 as id,
                path, label, reason, size, modified
            from todo order by id"""
        write_listing(sql, query, wanted, {"first_id": first_id})
        new, changed = fetch_row(sql, "select count() - count(old), count(old) from todo")
        gone = query_ids(sql, "select id from gone")
        if say is not None:
            query = """
                select if(old is null, '+', '~'), path from todo
                union all select '-', path from gone"""
            tell(sql, query, say)
        known = _known(stored, sql, folder) if new + changed else None
    return Plan(wanted, first_id, listed, new, changed, listed - found, gone, known, whole)


def _leave(sql: "DuckDBPyConnection", table: str, columns: str, settled: Settled) -> None:
    """Delete from a table of changes those that do not count yet."""
    early: list[str] = []
    result = sql.execute(f"select {columns} from {table}")
    while rows := result.fetchmany(FETCHED_ROWS):
        early += (row[1] for row in rows if not settled(*row))
    sql.register("early", pa.table({"path": pa.array(early, pa.string())}))
    sql.execute(f"delete from {table} using early where {table}.path = early.path")


def tell(sql: "DuckDBPyConnection", query: str, say: Say, values: Values | None = None) -> None:
    """Tell `say` the sign and path of each row that a query gives."""
    result = sql.execute(f"from ({query}) order by all", values)
    while rows := result.fetchmany(FETCHED_ROWS):
        for sign, path in rows:
            say(sign, path)


def _find_gone(sql: "DuckDBPyConnection", below: Sequence[str]) -> None:
    """Make the table of stored rows that lie in what was listed, and were not found there."""
    condition, values = _is_below(sql, below)
    sql.execute(
        f"""create temp table gone as
        select id, path from stored anti join listing using (path) where {condition}""",
        values,
    )
    # What lies in a folder that cannot be read now is not gone.
    if fetch_row(sql, "select count() from listing where reason is not null") != (0,):
        sql.execute(
            f"""delete from gone where id in (
                select within.id from ({_FOLDERS_ABOVE.format(rows="gone")}) as within
                join listing as shut on shut.path = above where shut.reason is not null
            )"""
        )


def _find_whole(sql: "DuckDBPyConnection") -> Ids:
    """Take out of the rows that are gone what the files of a table are to blame for.

    Of a file that is not whole just now, no row is gone. What was said of one that is whole now is;
    these rows are returned.
    """
    file = "regexp_replace(path, '#[0-9]+$', '')"
    sql.execute(
        f"""delete from gone
        where {file} in (select path from listing where reason like 'unreadable%')"""
    )
    whole = query_ids(sql, f"select id from gone where path in (select {file} from listing)")
    sql.execute(f"delete from gone where path in (select {file} from listing)")
    return whole


# Each row with its path, and with that of each folder above it.
_FOLDERS_ABOVE = """
    select id, array_to_string(parts[1:depth], '/') as above
    from (
        select id, parts, unnest(range(1, len(parts) + 1)) as depth
        from (select id, string_split(path, '/') as parts from {rows})
    )"""


def _is_below(sql: "DuckDBPyConnection", names: Sequence[str]) -> tuple[str, Values]:
    """Return the SQL that says whether the path of a stored row lies in what was listed."""
    parts = ["not starts_with(path, '/')"] if "" in names else []
    named = [name.rstrip("/") for name in names if name]
    if len(named) <= MAX_COMPARED_NAMES:
        values = {f"name_{at}": name for at, name in enumerate(named)}
        parts += [f"path = ${name} or starts_with(path, ${name} || '/')" for name in values]
        return " or ".join(parts) or "false", values
    # Joined by equal paths: names are as many as files where a glob was listed.
    sql.register("named", pa.table({"above": pa.array(named, pa.string())}))
    lost = "(select id, path from stored anti join listing using (path))"
    within = f"select id from ({_FOLDERS_ABOVE.format(rows=lost)}) semi join named using (above)"
    return " or ".join([*parts, f"id in ({within})"]), {}


@dataclass(frozen=True)
class Known:
    """The embeddings of a table, by the hash of the file they were made of.

    A callable for `embedding.embed_batches`. `hashes` and `found` are files that each process maps.
    """

    hashes: Path
    found: Path
    segments: tuple[Segment, ...]
    first_ids: tuple[int, ...]

    def __call__(self, content_hash: str) -> Reused | None:
        """Return vector, width and height of an image with these bytes, if there is one."""
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
        mapped: npt.NDArray[np.bytes_] = np.load(self.hashes, mmap_mode="r")
        return mapped

    @cached_property
    def _found(self) -> npt.NDArray[np.void]:
        mapped: npt.NDArray[np.void] = np.load(self.found, mmap_mode="r")
        return mapped


def _known(stored: EmbeddingTable, sql: "DuckDBPyConnection", folder: Path) -> Known | None:
    """Note the rows that files of the same size as a wanted one were embedded into."""
    sql.execute(
        """create temp table known as
        select content_hash, id, width, height
        from stored semi join todo using (size) where status = 'ok'"""
    )
    (count,) = fetch_row(sql, "select count() from known")
    if not count:
        return None
    kind = np.dtype([("id", np.int64), ("width", np.int32), ("height", np.int32)])
    hashes = _new_array(folder / "hashes.npy", np.dtype("S32"), count)
    found = _new_array(folder / "found.npy", kind, count)
    start = 0
    result = sql.execute("from known order by content_hash, id")
    while batch := result.fetchmany(FETCHED_ROWS):
        stop = start + len(batch)
        hashes[start:stop] = [row[0].encode() for row in batch]
        found[start:stop] = [row[1:] for row in batch]
        start = stop
    for array in (hashes, found):
        array.flush()
    ranges = stored.id_ranges()
    return Known(
        folder / "hashes.npy",
        folder / "found.npy",
        tuple(Segment(file.absolute()) for file, *_ in ranges),
        tuple(first for _, first, *_ in ranges),
    )


def _new_array(file: Path, kind: "np.dtype[Any]", count: int) -> "np.memmap[Any, Any]":
    """Map a new array of `count` in a file. Raises `OSError` where the disk is full."""
    mapped = np.lib.format.open_memmap(file, "w+", kind, (count,))
    if hasattr(os, "posix_fallocate"):  # to write what has no room yet would end the process
        with file.open("r+b") as made:
            os.posix_fallocate(made.fileno(), 0, file.stat().st_size)
    return mapped
