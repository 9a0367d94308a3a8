"""Regions as a method of `Index`."""

from typing import Protocol

from lookalike.search.regions.build import BuiltRegions, build_regions
from lookalike.storage import EmbeddingTable


class Moving(Protocol):
    """An index that moves from version to version."""

    _table: EmbeddingTable

    def _move_to(self, table: EmbeddingTable) -> None: ...


def build_regions_of(
    self: Moving, *, anew: bool = False, spark: bool | None = None
) -> BuiltRegions:
    """Prepare the index for search by ranges, or add the rows that came since.

    Its regions are a copy of all rows, near ones together, in the index itself. A search among more
    than 10,000 rows then reads what it needs of them, in bounded memory, and maps no row. Only
    searches with a filter, within a distance, or with `engine="exact"` do.

    Parameters
    ----------
    anew : bool
        Write all rows again.
    spark : bool, optional
        By default for more than 50,000 rows, or where Spark runs already.

    Returns
    -------
    lookalike.search.regions.BuiltRegions
        Counts of rows, cells, files and bytes, and the recall for each target recall.

    """
    built = build_regions(self._table, anew=anew, spark=spark)
    self._move_to(self._table.reopen())
    return built
