"""Give the rows of a result the keys of the user instead of the numbers of rows."""

from collections.abc import Sequence
from pathlib import Path

from lookalike.storage import EmbeddingTable
from lookalike.system.files import delete
from lookalike.system.sql import connect, create_view, write_parquet

_PAIRS = "pairs"


def show_keys(folder: Path, table: EmbeddingTable, other: EmbeddingTable | None = None) -> None:
    """Replace `id`, `a_id` and `b_id` in all tables of a result by keys, where rows have some.

    Parameters
    ----------
    folder
        The folder of the result.
    table
        The index.
    other
        The index of `b_id` in pairs, if that is another one.

    """
    for place in sorted(folder.iterdir()):
        if place.name == _PAIRS:
            _replace(place, [("a_id", table), ("b_id", other or table)])
        elif place.suffix == ".parquet":
            _replace(place, [("id", table)])


def _replace(place: Path, columns: Sequence[tuple[str, EmbeddingTable]]) -> None:
    """Write a file or a folder of Parquet again, in its order, with keys in these columns."""
    named = [(column, table) for column, table in columns if table.has_keys]
    if not named:
        return
    fresh = place.with_name(f".{place.name}")
    with connect(place.parent) as sql:
        create_view(sql, "found", place, numbered=True)
        joins, replaced = [], []
        for number, (column, table) in enumerate(named):
            table.view(sql, f"stored_{number}")
            joins.append(f"join stored_{number} on stored_{number}.id = found.{column}")
            replaced.append(f"stored_{number}.key as {column}")
        query = f"""
            select found.* exclude (filename, file_row_number) replace ({", ".join(replaced)})
            from found {" ".join(joins)} order by filename, file_row_number"""
        if place.is_dir():
            fresh.mkdir()
        write_parquet(sql, query, fresh / "part-0.parquet" if place.is_dir() else fresh)
    delete(place)
    fresh.rename(place)
