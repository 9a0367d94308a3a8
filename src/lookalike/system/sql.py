"""Queries of many rows with DuckDB, in bounded memory: the rest spills to disk.

Rules for SQL in this project: keywords in lower case; values bound as `$name`, except in views,
which cannot have values; files read with `create_view` and written with `write_parquet`. F-strings
compose SQL only, never values or names of files.

https://duckdb.org/docs/stable/guides/performance/how_to_tune_workloads
"""

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


@contextmanager
def connect(folder: Path) -> Iterator["DuckDBPyConnection"]:
    """Yield a connection to an empty database in memory, which spills into `folder`.

    Errors of DuckDB in the block become a `LookalikeError` of one line.
    """
    import duckdb

    settings: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": MEMORY_LIMIT,
        "temp_directory": str(folder.absolute()),
        "threads": cores(),
        "autoinstall_known_extensions": False,  # never download anything
        "enable_external_file_cache": False,
    }
    try:
        with duckdb.connect(config=settings) as connection:
            with suppress(duckdb.Error):  # in a notebook without ipywidgets
                connection.execute("set enable_progress_bar = false")  # it would print to stdout
            yield connection
    except duckdb.Error as error:
        raise LookalikeError(one_line(error)) from None


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
