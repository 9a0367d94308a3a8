"""Widths and heights of the images of an index, so that tiles have their shape before they load."""

import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lookalike.search.rows import Rows
from lookalike.storage import EmbeddingTable, copy_at

MAX_ROWS = 2_000_000
"""Rows whose sizes are kept in memory, 8 MB. Tiles of larger indexes have one shape."""
_MAX_SIDE = 2**16 - 1

Sizes = npt.NDArray[np.uint16]


def read_sizes(table: EmbeddingTable, rows: Rows) -> Sizes | None:
    """Return width and height of each row, uint16 (rows, 2), 0 where unknown.

    None for an index of which none are read: a large one, one in a store, or one of vectors.
    """
    is_local = table.own is None and copy_at(table.path) is None
    if not (is_local and table.has_pictures and 0 < len(rows) <= MAX_ROWS):
        return None
    with tempfile.TemporaryDirectory(prefix="lookalike-") as folder:
        query = """
            select id, coalesce(width, 0)::int as width, coalesce(height, 0)::int as height
            from stored where status = 'ok'"""
        with table.connect(Path(folder)) as sql:
            found = sql.execute(query).fetchnumpy()
    places = rows.find(np.asarray(found["id"], np.int64))
    sizes = np.zeros((len(rows), 2), np.uint16)
    for column, name in enumerate(("width", "height")):
        sides = np.asarray(found[name], np.int64).clip(0, _MAX_SIDE)
        sizes[places[places >= 0], column] = sides[places >= 0]
    return sizes
