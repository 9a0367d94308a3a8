"""Questions about many names, asked of DuckDB: joins in bounded memory, the rest on the disk.

https://duckdb.org/docs/stable/guides/performance/how_to_tune_workloads
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from lookalike.errors import LookalikeError
from lookalike.spark import cores

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

MEMORY = "1GB"  # beyond which joins and sorts spill


@contextmanager
def connect(folder: Path) -> Iterator["DuckDBPyConnection"]:
    """Give a connection that keeps nothing and spills into `folder`.

    What goes wrong in the block becomes a `LookalikeError` of one line.
    """
    import duckdb

    settings: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": MEMORY,
        "temp_directory": str(folder.absolute()),
        "threads": cores(),
        "autoinstall_known_extensions": False,  # nothing is ever downloaded
        "enable_external_file_cache": False,
    }
    try:
        with duckdb.connect(config=settings) as connection:
            with suppress(duckdb.Error):  # in a notebook without ipywidgets, where there is none
                connection.execute("SET enable_progress_bar = false")  # it goes to stdout
            yield connection
    except duckdb.Error as error:
        raise LookalikeError(str(error).splitlines()[0]) from None


def quoted(text: str | Path) -> str:
    """Write a text as SQL does."""
    return "'" + str(text).replace("'", "''") + "'"


def parquet(*files: Path) -> str:
    """Return the SQL that reads Parquet files, whatever their names."""
    names = ", ".join(quoted(plain(file)) for file in files)
    return f"read_parquet([{names}], hive_partitioning = false)"


def parquet_in(folder: Path) -> str:
    """Return the SQL that reads the Parquet files of a folder."""
    return parquet(*sorted(folder.glob("*.parquet")))


def plain(file: Path) -> str:
    """Name a file so that DuckDB, which takes names for globs, finds it alone."""
    special = str.maketrans({sign: f"[{sign}]" for sign in "*?["})
    return str(file.absolute()).translate(special)
