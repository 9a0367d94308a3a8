"""Queries of many rows with DuckDB, in bounded memory: the rest spills to disk.

Rules for SQL in this project: keywords in lower case; values bound as `$name`, except in views,
which cannot have values; files read with `create_view` and written with `write_parquet`. F-strings
compose SQL only, never values or names of files.

https://duckdb.org/docs/stable/guides/performance/how_to_tune_workloads
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lookalike.errors import LookalikeError, one_line
from lookalike.system.resources import cores

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


MEMORY_LIMIT = "1GB"  # beyond it joins and sorts spill to disk

Values = Mapping[str, Any]
"""Values of a query, by name."""


_IDLE_MEMORY = "5MB"  # without a limit an idle database keeps what it once had
_MAX_IDLE = 2
_idle: "list[DuckDBPyConnection]" = []
"""Databases that wait to be used again: to make one takes 17 ms, to clean one takes 1 ms."""


@contextmanager
def connect(folder: Path) -> Iterator["DuckDBPyConnection"]:
    """Yield a connection to an empty database in memory, which spills into `folder`.

    Errors of DuckDB in the block become a `LookalikeError` of one line.
    """
    import duckdb

    try:
        database = _taken()
        try:
            with database.cursor() as connection:
                _begin(connection, folder)
                yield connection
        except BaseException:
            database.close()
            raise
        if len(_idle) < _MAX_IDLE and _is_clean(database):
            _idle.append(database)
            if len(_idle) > _MAX_IDLE:  # another thread was as quick
                _close_one()
        else:
            database.close()
    except duckdb.Error as error:
        raise LookalikeError(one_line(error)) from None


def _taken() -> "DuckDBPyConnection":
    import duckdb

    with suppress(IndexError):  # one step, so that threads need no lock
        return _idle.pop()
    # Never download anything. Files that were read may have been replaced.
    return duckdb.connect(
        config={"autoinstall_known_extensions": False, "enable_external_file_cache": False}
    )


def _begin(connection: "DuckDBPyConnection", folder: Path) -> None:
    """Attach an empty database, and undo what an earlier user has set."""
    import duckdb

    with suppress(duckdb.Error):  # in a notebook without ipywidgets
        connection.execute("set enable_progress_bar = false")  # it would print to stdout
    place = str(folder.absolute()).replace("'", "''")
    connection.execute(
        f"set memory_limit = '{MEMORY_LIMIT}'; set threads = {cores()}; "
        f"set temp_directory = '{place}'; attach ':memory:' as own; use own"
    )


def _is_clean(database: "DuckDBPyConnection") -> bool:
    """Drop all that was made, and give back memory and folder; tell whether that went well."""
    import duckdb

    try:
        database.execute(
            f"detach own; set temp_directory = ''; set memory_limit = '{_IDLE_MEMORY}'"
        )
    except duckdb.Error:  # it has spilled into the folder
        return False
    return True


def _close_one() -> None:
    with suppress(IndexError):
        _idle.pop().close()


def _close_idle() -> None:
    while _idle:
        _close_one()


os.register_at_fork(before=_close_idle)  # a fork would have them without their threads


def create_view(
    sql: "DuckDBPyConnection", name: str, *places: Path, numbered: bool = False
) -> None:
    """Create a view of the rows of Parquet files, or of all Parquet files in folders.

    A view of the same name is replaced. `numbered` adds `filename` and `file_row_number`.
    """
    files = [
        file
        for place in places
        for file in (sorted(place.glob("*.parquet")) if place.is_dir() else [place])
    ]
    rows = sql.read_parquet(
        [_escape_glob(file) for file in files],
        hive_partitioning=False,
        filename=numbered,
        file_row_number=numbered,
    )
    rows.create_view(name, replace=True)


def _escape_glob(file: Path) -> str:
    """Escape the name of a file: DuckDB would read it as a glob."""
    special = str.maketrans({sign: f"[{sign}]" for sign in "*?["})
    return str(file.absolute()).translate(special)


def write_parquet(
    sql: "DuckDBPyConnection",
    query: str,
    file: Path,
    values: Values | None = None,
    *,
    row_group_size: int = 122_880,
) -> None:
    """Write the rows of a query to a Parquet file, in groups of `row_group_size` rows."""
    sql.execute(
        f"copy ({query}) to $file (format parquet, row_group_size {row_group_size})",
        {"file": str(file), **(values or {})},
    )


def fetch_row(
    sql: "DuckDBPyConnection", query: str, values: Values | None = None
) -> tuple[Any, ...]:
    """Return the only row of a query."""
    (row,) = sql.execute(query, values).fetchall()
    return tuple(row)
