"""Checks all that must be true of a collection, file by file and then as a whole."""

import contextlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lookalike.cache import left_folders
from lookalike.errors import LookalikeError, Unreadable
from lookalike.progress import progress_line
from lookalike.spark import cores
from lookalike.sql import connect, create_view, fetch_row
from lookalike.storage import EmbeddingTable, Segment, is_busy
from lookalike.storage.maintenance.data_files import Look, look_at
from lookalike.storage.maintenance.findings import (
    ID,
    LEFT,
    MODEL,
    ORDER,
    PATH,
    SIGNATURES,
    Checked,
    Findings,
)

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

CheckSignatures = Callable[[EmbeddingTable], Iterable[tuple[Path, str]]]
"""Gives each file about signatures that cannot be used, and why."""


@dataclass(frozen=True)
class Inspection:
    """What a check found, with all that a repair has to know of it.

    `derived` are files and folders that are made again where they are missing; `strays` belong to
    nothing.
    """

    checked: Checked
    looks: Sequence[Look]
    paths_twice: bool
    derived: Sequence[Path]
    strays: Sequence[Path]


def check(collection: EmbeddingTable, check_signatures: CheckSignatures) -> Checked:
    """Check all that must be true of a collection, at the version that is open.

    Every byte of its data files is read, a group of rows of each at a time; nothing is changed.
    Of older versions it is seen whether their files are there. Raises `OSError` for a file that
    may not be read, and `LookalikeError` where the log cannot.
    """
    return inspect(collection, check_signatures).checked


def inspect(
    collection: EmbeddingTable, check_signatures: CheckSignatures, *, alone: bool = False
) -> Inspection:
    """Check a collection; `alone` says that nobody else can be writing into it."""
    findings = Findings()
    looks = _look_at_files(collection)
    for look in looks:
        findings.extend(look.findings)
    _compare_ids(collection, looks, findings)
    paths_twice = _compare_paths(looks, findings)
    _look_at_model(collection, findings)
    derived = []
    for file, problem in check_signatures(collection):
        findings.add(SIGNATURES, str(file.relative_to(collection.path)), problem)
        derived.append(file)
    derived += [Segment(look.file.absolute()).cache for look in looks if not look.cached]
    strays, older, openable = _look_around(collection, alone)
    for path in strays:
        name = str(path.relative_to(collection.path))
        findings.add(LEFT, name, "belongs to no version and to nobody")
    checked = Checked(
        collection.version,
        len(looks),
        sum(look.rows for look in looks),
        older,
        openable,
        {kind: count for kind, count in sorted(findings.counts.items()) if count},
        tuple(findings.examples),
    )
    return Inspection(checked, looks, paths_twice, derived, strays)


def _look_at_files(collection: EmbeddingTable) -> list[Look]:
    """Look at each data file, in the order of the ids that the log says."""
    width = collection.about_model["width"]
    written = collection.written()
    total = sum(said["rows"] or 0 for said in written)
    done = 0
    with progress_line("checking", "rows") as move, ThreadPoolExecutor(cores()) as pool:
        try:
            waiting = [pool.submit(look_at, said, collection.path, width) for said in written]
            for finished in as_completed(waiting):
                done += finished.result().said["rows"] or 0
                move(done, total)
            return [one.result() for one in waiting]
        finally:
            pool.shutdown(cancel_futures=True)


def _compare_ids(collection: EmbeddingTable, looks: Sequence[Look], findings: Findings) -> None:
    """Find ids that are there twice, and files whose ids lie among another's."""
    doubtful = {look.file: look for look in looks if look.usable and not look.rising}
    highest: Look | None = None
    ranges = sorted((look.ids, at) for at, look in enumerate(looks) if look.usable and look.ids)
    for (first, last), at in ranges:
        look = looks[at]
        if highest is not None and highest.ids and first <= highest.ids[1]:
            look.apart = False
            doubtful |= {look.file: look, highest.file: highest}
        if highest is None or not highest.ids or last > highest.ids[1]:
            highest = look
    if not doubtful:
        return
    with _connected(list(doubtful.values())) as sql:
        again = "select id, count() - 1 as more from stored where id is not null group by id"
        _count(sql, f"{again} having more > 0", ID, "is the number of another image too", findings)
    for look in doubtful.values():
        if look.rising and not look.apart:
            name = str(look.file.relative_to(collection.path))
            findings.add(ORDER, name, "its ids lie among those of another file")


def _compare_paths(looks: Sequence[Look], findings: Findings) -> bool:
    """Find paths that are there twice; say whether any is."""
    with progress_line("comparing paths"), _connected(looks) as sql:
        again = f"select path, count() - 1 as more from ({ALIKE}) group by path having more > 0"
        return _count(sql, again, PATH, "is in the index more than once", findings)


# Numbers take a fraction of the room that paths do, where there are more than fit in memory.
ALIKE = (
    "select path, id from stored where path is not null and hash(path) in "
    "(select hash(path) from stored group by hash(path) having count() > 1)"
)
"""SQL for the rows, among a few others, whose path another row of `stored` has."""


@contextlib.contextmanager
def _connected(looks: Sequence[Look]) -> "Iterator[DuckDBPyConnection]":
    """Give a connection that sees the rows of the usable files as `stored`."""
    files = [look.file for look in looks if look.usable]
    with scratch() as folder, connect(folder) as sql:
        if files:
            create_view(sql, "stored", *files)
        else:
            sql.execute("create view stored as select null as path, 0 as id where false")
        yield sql


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """Give a folder for what does not fit in memory; not in the collection, which may be shut."""
    with tempfile.TemporaryDirectory(prefix="lookalike-") as folder:
        yield Path(folder)


def _count(
    sql: "DuckDBPyConnection", query: str, kind: str, words: str, findings: Findings
) -> bool:
    """Add what a query gives, as a name and how many rows too many have it; say whether it does."""
    sql.execute(f"create temp table found as {query}")
    (total,) = fetch_row(sql, "select coalesce(sum(more), 0)::bigint from found")
    wanted = {"wanted": findings.wanted(kind)}
    for name, _ in sql.execute("from found order by all limit $wanted", wanted).fetchall():
        findings.add(kind, str(name), words, 0)
    findings.counts[kind] += total
    return bool(total)


def _look_at_model(collection: EmbeddingTable, findings: Findings) -> None:
    try:
        model = collection.model
    except Unreadable:
        raise
    except LookalikeError as error:
        findings.add(MODEL, "model", str(error))
        return
    if model.about() != collection.about_model:
        findings.add(MODEL, "model", "is not the one that the vectors were made with: index again")


def _look_around(collection: EmbeddingTable, alone: bool) -> tuple[list[Path], int, int]:
    """Return what belongs to nothing; how many older versions there are, and can be opened."""
    # What is being written is in the log by the time that it is read, or its writer is still there.
    before = set(collection.log().strangers())
    quiet = alone or (bool(before) and not is_busy(collection.path))
    log = collection.log()
    strays = sorted(before.intersection(log.strangers())) if quiet else []
    strays += left_folders(collection.path / "work")
    strays += log.leftovers()
    strays += log.hash_folders(version.number for version in log.versions)
    older = {version.number for version in log.versions[:-1]}
    return strays, len(older), len(older & log.openable())
