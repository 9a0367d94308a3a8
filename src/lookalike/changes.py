"""What of a listing a collection lacks, and the commits that bring it in, whoever else writes.

An image is the same while path, size and time of change are; one that is not gets a new row with a
new id in place of its old one. So does, once, what an older preprocessing could not read. Every
commit follows from the newest version: where another writer was quicker, it is worked out again
from theirs, so that no path is ever there twice.
"""

import glob
import os
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lookalike.collection import (
    Collection,
    Conflict,
    Segment,
    Written,
    discard,
    rewrite_segment,
)
from lookalike.embedding import Reused
from lookalike.errors import LookalikeError
from lookalike.images.listing import write_listing
from lookalike.images.sources import glob_pattern
from lookalike.sql import parquet, quoted

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

Ids = npt.NDArray[np.int64]

SMALL = 4096
"""Rows under which a segment is small: many such are made one."""
FULL = 16_384
"""Rows up to which segments are made one."""
FEW = 8
"""Small segments in a row that nobody minds."""
_FEW_NAMES = 32  # that each row is compared with
_ATTEMPTS = 30
_EXAMPLES = 5
_NONE: Ids = np.empty(0, np.int64)


# Reading them may go well another time, though nothing about the file shows it.
def _passing(row: str) -> str:
    reason = f"coalesce({row}.reason, '')"
    return f"({reason} like 'unreadable%' or {reason} = 'no such file')"


@dataclass(frozen=True)
class Plan:
    """What a collection lacks of a listing. `wanted` is a listing of what has to be read.

    Its ids are new ones; `first_id` is the least. Of the inputs `listed`, `new` and `changed` ones
    count by now, `same` ones are as they were. `gone` has the ids of rows in the collection that
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
    stored: Collection,
    listing: Sequence[Path],
    below: Sequence[str],
    folder: Path,
    say: Say | None = None,
    settled: Settled | None = None,
    keep_labels: bool = True,
) -> Plan:
    """Compare a listing, in one file or more, with a collection; files go to `folder`.

    `below` are the encoded paths of the files and folders that were listed, "" for the root. What
    is found is told to `say` as well, path by path. What is not `settled` is left for another time.
    Labels that the listing does not have stay, if `keep_labels`.
    """
    wanted = folder / "wanted.parquet"
    first_id = stored.next_id
    # A label that nobody takes back stays.
    label = "coalesce(listing.label, stored.label)" if keep_labels else "listing.label"
    with stored.asked(folder) as sql:
        sql.execute(f"create temp view listing as from {parquet(*listing)}")
        sql.execute(
            "create temp table todo as select path, "
            f"{label} as label, listing.reason, listing.size, "
            "listing.modified, stored.id as old "
            "from listing left join stored using (path) where stored.path is null "
            "or listing.size is distinct from stored.size "
            "or listing.modified is distinct from stored.modified "
            f"or {label} is distinct from stored.label "
            "or (listing.reason is not null and listing.reason is distinct from stored.reason) "
            f"or (listing.reason is null and ({_passing('stored')} "
            f"or (stored.status = 'skipped' and stored.id < {stored.tried_from})))"
        )
        _find_gone(sql, below)
        whole = _find_whole(sql) if stored.source.kind == "table" else _NONE
        (listed,) = _one(sql, "select count() from listing")
        (found,) = _one(sql, "select count() from todo")
        if settled is not None:
            _leave(sql, "todo", "if(old is null, '+', '~'), path, size, modified", settled)
            _leave(sql, "gone", "'-', path, null, null", settled)
        write_listing(
            f"select {first_id} + row_number() over (order by path) - 1 as id, "
            "path, label, reason, size, modified from todo order by id",
            wanted,
            sql,
        )
        new, changed = _one(sql, "select count() - count(old), count(old) from todo")
        gone = _ids(sql, "select id from gone")
        if say is not None:
            _tell(
                sql,
                "select if(old is null, '+', '~'), path from todo "
                "union all select '-', path from gone",
                say,
            )
        known = _known(stored, sql, folder) if new + changed else None
    return Plan(wanted, first_id, listed, new, changed, listed - found, gone, known, whole)


def _leave(sql: "DuckDBPyConnection", table: str, columns: str, settled: Settled) -> None:
    """Delete from a table of changes those that do not count yet."""
    early: list[str] = []
    result = sql.execute(f"select {columns} from {table}")
    while rows := result.fetchmany(FULL):
        early += (row[1] for row in rows if not settled(*row))
    sql.register("early", pa.table({"path": pa.array(early, pa.string())}))
    sql.execute(f"delete from {table} using early where {table}.path = early.path")


def _tell(sql: "DuckDBPyConnection", query: str, say: Say) -> None:
    result = sql.execute(f"from ({query}) order by all")
    while rows := result.fetchmany(FULL):
        for sign, path in rows:
            say(sign, path)


def _find_gone(sql: "DuckDBPyConnection", below: Sequence[str]) -> None:
    """Make the table of stored rows that lie in what was listed, and were not found there."""
    sql.execute(
        "create temp table gone as select id, path from stored anti join listing using (path) "
        f"where {_is_below(sql, below)}"
    )
    # What lies in a folder that cannot be read now is not gone.
    if _one(sql, "select count() from listing where reason is not null") != (0,):
        sql.execute(
            "delete from gone where id in "
            f"(select within.id from {_ABOVE.format(rows='gone')} as within "
            "join listing as shut on shut.path = above where shut.reason is not null)"
        )


def _find_whole(sql: "DuckDBPyConnection") -> Ids:
    """Take out of the rows that are gone what the files of a table are to blame for.

    Of a file that is not whole just now, no row is gone. What was said of one that is whole now is;
    these rows are returned.
    """
    file = "regexp_replace(path, '#[0-9]+$', '')"
    sql.execute(
        f"delete from gone where {file} in "
        "(select path from listing where reason like 'unreadable%')"
    )
    whole = _ids(sql, f"select id from gone where path in (select {file} from listing)")
    sql.execute(f"delete from gone where path in (select {file} from listing)")
    return whole


# Each row with its path, and with that of each folder above it.
_ABOVE = (
    "(select id, array_to_string(parts[1:depth], '/') as above from "
    "(select id, parts, unnest(range(1, len(parts) + 1)) as depth from "
    "(select id, string_split(path, '/') as parts from {rows})))"
)


def _is_below(sql: "DuckDBPyConnection", names: Sequence[str]) -> str:
    """Return the SQL that says whether the path of a stored row lies in what was listed."""
    parts = ["not starts_with(path, '/')"] if "" in names else []
    named = [name.rstrip("/") for name in names if name]
    if len(named) <= _FEW_NAMES:
        for name in named:
            parts.append(f"path = {quoted(name)} or starts_with(path, {quoted(name + '/')})")
        return " or ".join(parts) or "false"
    # Joined by equal paths: names are as many as files where a glob was listed.
    sql.register("named", pa.table({"above": pa.array(named, pa.string())}))
    lost = "(select id, path from stored anti join listing using (path))"
    within = f"select id from {_ABOVE.format(rows=lost)} semi join named using (above)"
    return " or ".join([*parts, f"id in ({within})"])


def _one(sql: "DuckDBPyConnection", query: str) -> tuple[int, ...]:
    return tuple(map(int, sql.execute(query).fetchall()[0]))


def _ids(sql: "DuckDBPyConnection", query: str) -> Ids:
    """Return the ids that a query gives, int64 (n,), rising."""
    return np.asarray(sql.execute(f"from ({query}) order by id").fetchnumpy()["id"], np.int64)


@dataclass(frozen=True)
class Known:
    """The embeddings of a collection, by the hash of the file they were made of.

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


def _known(stored: Collection, sql: "DuckDBPyConnection", folder: Path) -> Known | None:
    """Note the rows that files of the same size as a wanted one were embedded into."""
    sql.execute(
        "create temp table known as select content_hash, id, width, height from stored "
        "semi join todo using (size) where status = 'ok'"
    )
    (count,) = _one(sql, "select count() from known")
    if not count:
        return None
    kind = np.dtype([("id", np.int64), ("width", np.int32), ("height", np.int32)])
    hashes = _new_array(folder / "hashes.npy", np.dtype("S32"), count)
    found = _new_array(folder / "found.npy", kind, count)
    start = 0
    result = sql.execute("from known order by content_hash, id")
    while batch := result.fetchmany(FULL):
        stop = start + len(batch)
        hashes[start:stop] = [row[0].encode() for row in batch]
        found[start:stop] = [row[1:] for row in batch]
        start = stop
    for array in (hashes, found):
        array.flush()
    ranges = stored.ranges()
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


@dataclass(frozen=True)
class Step:
    """What a commit changes: files that come, files that go, rows that came and went with them."""

    added: Sequence[Written] = ()
    removed: Sequence[Path] = ()
    rows_added: int = 0
    rows_removed: int = 0


def change(
    stored: Collection, what: str, work_out: Callable[[Collection, Path], Step]
) -> Collection:
    """Commit what `work_out` says of the newest version, again wherever another writer is quicker.

    It is given that version and a folder for new data files. Raises `LookalikeError` where others
    keep writing all the time; the collection is then as they left it.
    """
    for attempt in range(_ATTEMPTS):
        stored = stored.newest()
        folder = stored.new_folder()
        try:
            step = work_out(stored, folder)
            if not step.added and not step.removed:
                return stored
            return stored.commit(
                what,
                step.added,
                step.removed,
                rows_added=step.rows_added,
                rows_removed=step.rows_removed,
            )
        except Conflict:
            time.sleep(random.uniform(0, 0.02 * 2 ** min(attempt, 6)))
        finally:
            discard(stored.path, folder, stored.version)
    raise LookalikeError(f"others keep writing into {stored.path}: try again")


def without(stored: Collection, gone: Ids, folder: Path) -> tuple[list[Written], list[Path], int]:
    """Write the segments that hold rows with these ids, rising, again without them.

    Returns what was written, into `folder`, the files that it replaces, and how many rows went.
    """
    written: list[Written] = []
    replaced: list[Path] = []
    lost = 0
    for file, first, last, rows in stored.ranges():
        here = gone[np.searchsorted(gone, first) : np.searchsorted(gone, last, side="right")]
        if not len(here):
            continue
        fresh = rewrite_segment([file], folder, here)
        left = _rows(fresh)
        if left < rows:
            written += fresh
            replaced.append(file)
            lost += rows - left
        else:  # its range holds them, it does not
            Path(fresh[0]["path"]).unlink()
    return written, replaced, lost


def remove(stored: Collection, choose: Callable[[Collection], Ids], what: str) -> Collection:
    """Commit the removal of the rows that `choose` names by their ids, rising."""

    def work_out(newest: Collection, folder: Path) -> Step:
        written, replaced, lost = without(newest, choose(newest), folder)
        return Step(written, replaced, rows_removed=lost)

    return change(stored, what, work_out)


def grow(
    stored: Collection,
    written: Sequence[Written],
    first_id: int,
    folder: Path,
    what: str,
    *,
    beside: bool,
    replaces: bool,
) -> tuple[Collection, bool]:
    """Commit new segments, in place of the rows that their paths had when they were planned.

    Those have ids under `first_id`. A row with a later id is another writer's, who had the same
    path meanwhile: it stays, and ours is left out. `beside` says whether others have written
    between the plan and `stored`; whether they have by now is returned as well. Then ids may have
    been given to them, and ours become later ones. `replaces` says whether any row may be replaced;
    `folder` is for DuckDB.
    """
    least = min(row["first_id"] for row in written)
    before = stored.version
    others = beside

    def work_out(newest: Collection, place: Path) -> Step:
        nonlocal others
        ours = list(written)
        gone, lost, shift = _NONE, _NONE, 0
        others = beside or newest.version != before
        if others or replaces:
            gone, lost = _overlap(newest, ours, first_id, folder)
        if others:
            shift = max(newest.next_id - least, 0)
        if len(lost) or shift:
            ours = [
                fresh
                for row in ours
                for fresh in rewrite_segment([Path(row["path"])], place, lost, shift)
            ]
        rest, replaced, went = without(newest, gone, place)
        return Step([*ours, *rest], replaced, _rows(ours), went)

    return change(stored, what, work_out), others


def _rows(written: Iterable[Written]) -> int:
    return sum(row["rows"] for row in written)


def _overlap(
    stored: Collection, written: Sequence[Written], first_id: int, folder: Path
) -> tuple[Ids, Ids]:
    """Return the ids of stored rows that new ones replace, and of new ones that are left out."""
    with stored.asked(folder) as sql:
        ours = parquet(*(Path(row["path"]) for row in written))
        sql.execute(
            "create temp table shared as select ours.id as ours, stored.id as theirs, "
            f"stored.id >= {first_id} or (stored.status = 'skipped' and ours.status = 'skipped' "
            f"and stored.id >= {stored.tried_from} and stored.reason = ours.reason "
            "and stored.size is not distinct from ours.size "
            "and stored.modified is not distinct from ours.modified "
            "and stored.label is not distinct from ours.label) "
            # A disk that is away for a moment costs no embedding.
            f"or (stored.status = 'ok' and {_passing('ours')}) as stays "
            f"from {ours} as ours join stored using (path)"
        )
        gone = _ids(sql, "select theirs as id from shared where not stays")
        return gone, _ids(sql, "select ours as id from shared where stays")


def matching(
    stored: Collection, names: Mapping[str, str], folder: Path, say: Say | None = None
) -> Ids:
    """Return the ids of the rows that some names are of, rising.

    `names` has for each name as it was given an encoded path seen from the root: of a file, of a
    folder, or a glob, in which `*` matches slashes too. Raises `LookalikeError` where one is of
    no row.
    """
    found: list[Ids] = []
    unknown: list[str] = []
    with stored.asked(folder) as sql:
        sql.register("names", pa.table({"given": list(names), "path": list(names.values())}))
        sql.execute("create temp table exact as from names join stored using (path)")
        found.append(_ids(sql, "select id from exact"))
        if say is not None:
            _tell(sql, "select '-', path from exact", say)
        others = sql.execute("from names anti join exact using (path)").fetchall()
        for given, name in others:  # folders and globs
            ids = _ids(sql, f"select id from stored where {_named(name)}")
            found.append(ids)
            if not len(ids):
                unknown.append(given)
            elif say is not None:
                _tell(sql, f"select '-', path from stored where {_named(name)}", say)
    if unknown:
        more = ", ..." if len(unknown) > _EXAMPLES else ""
        raise LookalikeError(
            f"{stored.path} has no image {', '.join(unknown[:_EXAMPLES])}{more}; none was removed"
        )
    return np.unique(np.concatenate([_NONE, *found]))


def _named(name: str) -> str:
    if name == ".":
        return "true"
    if glob.has_magic(name):
        return f"regexp_full_match(path, {quoted(glob_pattern(name))}, 's')"
    return f"starts_with(path, {quoted(name.rstrip('/') + '/')})"


def compact(stored: Collection, few: int = FEW) -> Collection:
    """Make one segment of small ones that follow each other, where there are `few` or more."""

    def work_out(newest: Collection, folder: Path) -> Step:
        added: list[Written] = []
        removed: list[Path] = []
        for files in _runs(newest):
            if len(files) >= few:
                added += rewrite_segment(files, folder)
                removed += files
        return Step(added, removed)

    return change(stored, "compact", work_out)


def _runs(stored: Collection) -> list[list[Path]]:
    """Return runs of small segments that together are no more than a full one."""
    runs: list[list[Path]] = [[]]
    total = 0
    for file, _, _, rows in stored.ranges():
        if rows >= SMALL or total + rows > FULL:
            runs.append([])
            total = 0
        if rows < SMALL:
            runs[-1].append(file)
            total += rows
    return runs
