"""Queries of many rows by DuckDB: in bounded memory, with what does not fit on the disk.

The SQL of this project is written in one way. Keywords are in lower case. Values are bound as
`$name`, except in views, which cannot have any. Files are read through `create_view` and written
by `write_parquet`. An f-string puts together SQL alone, never a text or the name of a file.

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


MAX_MEMORY = "1GB"  # beyond which joins and sorts spill

Values = Mapping[str, Any]
"""Values of a query, by the names that it has for them."""


@contextmanager
def connect(folder: Path) -> Iterator["DuckDBPyConnection"]:
    """Give a connection to an empty database in memory, which spills into `folder`.

    An error of DuckDB in the block becomes a `LookalikeError` of one line.
    """
    import duckdb

    settings: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": MAX_MEMORY,
        "temp_directory": str(folder.absolute()),
        "threads": cores(),
        "autoinstall_known_extensions": False,  # nothing is ever downloaded
        "enable_external_file_cache": False,
    }
    try:
        with duckdb.connect(config=settings) as connection:
            with suppress(duckdb.Error):  # in a notebook without ipywidgets, where there is none
                connection.execute("set enable_progress_bar = false")  # it goes to stdout
            yield connection
    except duckdb.Error as error:
        raise LookalikeError(one_line(error)) from None


def create_view(sql: "DuckDBPyConnection", name: str, *places: Path) -> None:
    """Name the rows of Parquet files, or of all those in folders, so that queries can read them.

    A view of the same name is replaced.
    """
    files = [
        file
        for place in places
        for file in (sorted(place.glob("*.parquet")) if place.is_dir() else [place])
    ]
    rows = sql.read_parquet([_escape_glob(file) for file in files], hive_partitioning=False)
    rows.create_view(name, replace=True)


def _escape_glob(file: Path) -> str:
    """Name a file so that DuckDB, which takes names for globs, finds it alone."""
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
    """Return the row of a query that has one row."""
    (row,) = sql.execute(query, values).fetchall()
    return tuple(row)
