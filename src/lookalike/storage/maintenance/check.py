"""Checks a table, file by file and then as a whole."""

import contextlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lookalike.errors import LookalikeError, Unreadable
from lookalike.storage import EmbeddingTable, Segment, is_busy
from lookalike.storage.description import find_folder
from lookalike.storage.maintenance.data_files import CheckedFile, check_file
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
from lookalike.storage.maintenance.rows import Form
from lookalike.system.files import leftover_folders
from lookalike.system.progress import progress_line
from lookalike.system.resources import cores
from lookalike.system.sql import connect, create_view, fetch_row

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


CheckSignatures = Callable[[EmbeddingTable], Iterable[tuple[Path, str]]]
"""Yields each file about signatures that cannot be used, with the reason."""


@dataclass(frozen=True)
class Inspection:
    """The result of a check, with all that a repair needs.

    `derived` are damaged files and folders that are made again when needed. `strays` belong to no
    version.
    """

    checked: Checked
    files: Sequence[CheckedFile]
    has_repeated_paths: bool
    derived: Sequence[Path]
    strays: Sequence[Path]


def check(table: EmbeddingTable, check_signatures: CheckSignatures) -> Checked:
    """Check a table at the version that is open; change nothing.

    Every byte of its data files is read, a group of rows at a time. Of older versions only the
    presence of their files is checked. Raises `OSError` for a file that may not be read, and
    `LookalikeError` where the log cannot be read.
    """
    return inspect(table, check_signatures).checked


def inspect(
    table: EmbeddingTable, check_signatures: CheckSignatures, *, alone: bool = False
) -> Inspection:
    """Check a table; `alone` says that no other process can be writing into it."""
    findings = Findings()
    files = _check_files(table)
    for file in files:
        findings.extend(file.findings)
    _compare_ids(table, files, findings)
    has_repeated_paths = _compare_names(table.name_column, files, findings)
    _check_model(table, findings)
    derived = []
    for path, problem in check_signatures(table):
        findings.add(SIGNATURES, str(path.relative_to(table.path)), problem)
        derived.append(path)
    derived += [Segment(file.file.absolute()).cache for file in files if not file.cache_matches]
    strays, older, openable = _find_strays(table, alone)
    for path in strays:
        findings.add(LEFT, str(path.relative_to(table.path)), "belongs to no version and to nobody")
    checked = Checked(
        table.version,
        len(files),
        sum(file.rows for file in files),
        older,
        openable,
        {kind: count for kind, count in sorted(findings.counts.items()) if count},
        tuple(findings.examples),
    )
    return Inspection(checked, files, has_repeated_paths, derived, strays)


def _check_files(table: EmbeddingTable) -> list[CheckedFile]:
    """Check each data file, in the order of ids in the log."""
    form = Form.of(table)
    records = table.segment_records()
    total = sum(record["rows"] or 0 for record in records)
    done = 0
    with progress_line("checking", "rows") as move, ThreadPoolExecutor(cores()) as pool:
        try:
            waiting = [pool.submit(check_file, record, table.path, form) for record in records]
            for finished in as_completed(waiting):
                done += finished.result().record["rows"] or 0
                move(done, total)
            return [future.result() for future in waiting]
        finally:
            pool.shutdown(cancel_futures=True)


def _compare_ids(table: EmbeddingTable, files: Sequence[CheckedFile], findings: Findings) -> None:
    """Find repeated ids, and files whose ids lie among those of another."""
    doubtful = {file.file: file for file in files if file.usable and not file.sorted}
    highest: CheckedFile | None = None
    ranges = sorted((file.ids, at) for at, file in enumerate(files) if file.usable and file.ids)
    for (first, last), at in ranges:
        file = files[at]
        if highest is not None and highest.ids and first <= highest.ids[1]:
            file.disjoint = False
            doubtful |= {file.file: file, highest.file: highest}
        if highest is None or not highest.ids or last > highest.ids[1]:
            highest = file
    if not doubtful:
        return
    with _connected(list(doubtful.values())) as sql:
        repeated = "select id, count() - 1 as more from stored where id is not null group by id"
        detail = "is the number of another image too"
        _count(sql, f"{repeated} having more > 0", ID, detail, findings)
    for file in doubtful.values():
        if file.sorted and not file.disjoint:
            name = str(file.file.relative_to(table.path))
            findings.add(ORDER, name, "its ids lie among those of another file")


def _compare_names(name: str, files: Sequence[CheckedFile], findings: Findings) -> bool:
    """Find repeated paths or keys, whatever tells rows apart; say whether there are any."""
    with progress_line("comparing paths"), _connected(files) as sql:
        rows = similar_rows(name)
        repeated = (
            f"select {name}, count() - 1 as more from ({rows}) group by {name} having more > 0"
        )
        return _count(sql, repeated, PATH, "is in the index more than once", findings)


def similar_rows(name: str) -> str:
    """Return the SQL for the rows of `stored` whose path or key another row has.

    There are a few others with the same hash: hashes take a fraction of the room of paths, where
    there are more than fit in memory.
    """
    return (
        f"select {name}, id from stored where {name} is not null and hash({name}) in "
        f"(select hash({name}) from stored group by hash({name}) having count() > 1)"
    )


@contextlib.contextmanager
def _connected(files: Sequence[CheckedFile]) -> "Iterator[DuckDBPyConnection]":
    """Yield a connection that sees the rows of the usable files as `stored`."""
    usable = [file.file for file in files if file.usable]
    with temporary_folder() as folder, connect(folder) as sql:
        if usable:
            create_view(sql, "stored", *usable)
        else:
            sql.execute("create view stored as select null as path, null as key, 0 as id limit 0")
        yield sql


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield a folder for what does not fit in memory; not in the index, which may be read-only."""
    with tempfile.TemporaryDirectory(prefix="lookalike-") as folder:
        yield Path(folder)


def _count(
    sql: "DuckDBPyConnection", query: str, kind: str, detail: str, findings: Findings
) -> bool:
    """Add the rows of a query, a name and a count of surplus rows; say whether there are any."""
    sql.execute(f"create temp table found as {query}")
    (total,) = fetch_row(sql, "select coalesce(sum(more), 0)::bigint from found")
    wanted = {"wanted": findings.wanted(kind)}
    for name, _ in sql.execute("from found order by all limit $wanted", wanted).fetchall():
        findings.add(kind, str(name), detail, 0)
    findings.counts[kind] += total
    return bool(total)


def _check_model(table: EmbeddingTable, findings: Findings) -> None:
    name = find_folder(table.path, "model").name
    try:
        model = table.model
        if model.text is not None:
            model.text.read()
    except Unreadable:
        raise
    except LookalikeError as error:
        findings.add(MODEL, name, str(error))
        return
    if model.about() != table.about_model:
        findings.add(MODEL, name, "is not the one that the vectors were made with: index again")


def _find_strays(table: EmbeddingTable, alone: bool) -> tuple[list[Path], int, int]:
    """Return files and folders of no version, and the counts of older and of openable versions."""
    # A file that is being written is in the log when that is read again, or its writer still lives.
    before = set(table.log().strangers())
    quiet = alone or (bool(before) and not is_busy(table.path))
    log = table.log()
    strays = sorted(before.intersection(log.strangers())) if quiet else []
    strays += leftover_folders(table.path / "work")
    strays += log.leftovers()
    strays += log.hash_folders(version.number for version in log.versions)
    older = {version.number for version in log.versions[:-1]}
    return strays, len(older), len(older & log.openable())
