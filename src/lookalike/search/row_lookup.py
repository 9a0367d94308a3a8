"""Find single rows of an index: mapped, or by ranges where search need not map them."""

import os
from weakref import WeakKeyDictionary

import numpy as np
import pyarrow.compute as pc

from lookalike import images
from lookalike.search.results import Query
from lookalike.search.searcher import EXACT_UP_TO, Searcher
from lookalike.search.stored_rows import StoredRow, number_of_name, read_row
from lookalike.storage import EmbeddingTable
from lookalike.storage.region_folders import region_folders
from lookalike.storage.schema import KEY
from lookalike.system.arrays import Vectors

_known: WeakKeyDictionary[EmbeddingTable, bool] = WeakKeyDictionary()


def has_regions(table: EmbeddingTable) -> bool:
    """Tell whether rows of an index should be read one by one, as its search need not map them."""
    if table.counts()[0] <= EXACT_UP_TO:
        return False
    if table not in _known:  # a store would be asked each time
        _known[table] = bool(region_folders(table.path))
    return _known[table]


def stored_row(table: EmbeddingTable, id_: int | str) -> StoredRow | None:
    """Return the row with a key, or with an id where rows have no keys; None without one."""
    wanted: int | str | None = id_
    if table.has_keys:
        if isinstance(id_, str) != (table.key == "string"):
            return None
        wanted = number_of_name(table, KEY, id_)
    is_number = isinstance(wanted, int | np.integer) and 0 <= wanted < 2**63
    return read_row(table, int(wanted)) if is_number and wanted is not None else None


def number_of(searcher: Searcher, query: Query) -> int | None:
    """Return the number of the row that a query is; None if it is none of the index."""
    if query.number is not None or query.id is None:
        return query.number
    if has_regions(searcher.table):
        stored = stored_row(searcher.table, query.id)
        return None if stored is None else stored.number
    row = searcher.rows.row_of(query.id)
    return None if row is None else int(searcher.rows.ids[row])


def row_of_path(table: EmbeddingTable, path: str) -> StoredRow | None:
    """Return the row of an image by its absolute path; None where the index does not have it."""
    source = table.source
    if source.kind not in ("files", "vectors") or not source.has_pictures:
        return None
    real = os.path.relpath(os.path.realpath(path), os.path.realpath(source.root))
    # By its path, or by its path with links resolved. Images outside the root have absolute paths.
    by_range = has_regions(table)
    for below in dict.fromkeys((os.path.relpath(path, source.root), real, path)):
        name = images.encode_path(below)
        if by_range:
            number = number_of_name(table, "path", name)
            if number is not None:
                return read_row(table, number)
            continue
        for segment in table.segments:
            at = pc.index(segment.rows["path"], name).as_py()
            if at >= 0:
                row = segment.rows.slice(at, 1).to_pylist()[0]
                number = row["id"]
                named = (row["path"], row["label"], row["content_hash"])
                vector: Vectors = np.array(segment.vectors[at])
                return StoredRow(number, row.get("key", number), *named, vector)
    return None
