"""Set aside the images of an analysis that are unchanged since indexing."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from lookalike import images
from lookalike.analysis.cleanup.aside import Aside, AsideAction, check
from lookalike.analysis.cleanup.aside import set_aside as set_aside_images
from lookalike.analysis.duplicates import TABLE
from lookalike.analysis.result import AnalysisResult
from lookalike.images.inputs.reader import content_hash
from lookalike.storage import EmbeddingTable
from lookalike.storage.protocol import HasTable
from lookalike.system.paths import Name, local_path
from lookalike.system.sql import create_view, fetch_row

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_FETCH_ROWS = 1024
_CHOSEN_QUERY = """
select one.path, one.size, one.modified, one.content_hash,
    kept.path, kept.size, kept.modified, kept.content_hash
from chosen join stored as one on one.id = drop_id left join stored as kept on kept.id = keep_id
where one.status = 'ok' and (keep_id is null or kept.id is not null)
order by one.path"""
_DROPS_QUERY = """
select one.path, one.size, one.modified, one.content_hash,
    kept.path, kept.size, kept.modified, kept.content_hash
from found
join stored as one on one.path = found.path and one.content_hash = found.content_hash
join stored as kept on kept.path = kept_path and kept.content_hash = kept_hash
where action = 'drop' order by found."group", one.path"""


def set_aside(index: HasTable, found: AnalysisResult, how: AsideAction, to: Name) -> Aside:
    """Move, copy, link or list the duplicates to drop; `cleanup.undo.undo(to)` reverts it.

    An image stays if it, or the image to keep, has changed since indexing.

    Parameters
    ----------
    found : AnalysisResult
        The result of `duplicates`.
    how : {"move", "copy", "link", "list"}
        What to do with the images to drop.
    to : str or Path
        The folder to move, copy or link them into, or to write `drop.txt` into.

    Returns
    -------
    Aside
        Counts of the images that were set aside, and of those that were not, by reason.

    Raises
    ------
    LookalikeError
        If the folder is taken, the disk is full, or a file may not be written or moved.

    Examples
    --------
    >>> found = index.duplicates(folder / "twice", within=0.9, spark=False, shown=0, verify=False)
    >>> index.set_aside(found, "list", folder / "drop").done == found.figures["drop"]
    True

    """
    table = index._table
    to = local_path(to).absolute()
    check(how, table.source, to)
    with table.connect(found.folder) as sql:
        create_view(sql, "found", found.folder / TABLE)
        (total,) = fetch_row(sql, "select count(*) from found where action = 'drop'")
        return _set_aside_rows(table, sql.execute(_DROPS_QUERY), total, how, to)


def set_chosen_aside(
    table: EmbeddingTable, chosen: Sequence[tuple[int, int | None]], how: AsideAction, to: Path
) -> Aside:
    """Set chosen images aside, as `set_aside` does those of an analysis.

    Parameters
    ----------
    table : EmbeddingTable
    chosen : sequence of (int, int or None)
        The id of each image and that of the image that is kept for it; None for an image that is
        no duplicate. One that is to be kept for another is not set aside.
    how : {"move", "copy", "link", "list"}
    to : Path

    Returns
    -------
    Aside
    """
    to = to.absolute()
    check(how, table.source, to)
    kept = {keep for _, keep in chosen if keep is not None}
    pairs = {drop: keep for drop, keep in chosen if drop not in kept and drop != keep}
    rows = pa.table(
        {
            "drop_id": pa.array(pairs.keys(), pa.int64()),
            "keep_id": pa.array(pairs.values(), pa.int64()),
        }
    )
    with (
        tempfile.TemporaryDirectory(prefix="lookalike-") as folder,
        table.connect(Path(folder)) as sql,
    ):
        sql.register("chosen", rows)
        return _set_aside_rows(table, sql.execute(_CHOSEN_QUERY), len(chosen), how, to)


def _set_aside_rows(
    table: EmbeddingTable, query: "DuckDBPyConnection", total: int, how: AsideAction, to: Path
) -> Aside:
    """Set aside what a query names and is unchanged; the rest of `total` counts as changed."""
    yielded = 0

    def drops() -> Iterator[tuple[str, str | None]]:
        nonlocal yielded
        for rows in iter(lambda: query.fetchmany(_FETCH_ROWS), []):
            for row in rows:
                is_same = row[4] is None or _is_unchanged(table, *row[4:])
                if is_same and _is_unchanged(table, *row[:4]):
                    yielded += 1
                    yield row[0], row[4]

    aside = set_aside_images(how, table.source, drops(), to)
    return replace(aside, changed=total - yielded)


def _is_unchanged(
    table: EmbeddingTable, path: str, size: int | None, modified: int | None, known: str
) -> bool:
    """Tell whether a file is unchanged since indexing.

    A missing file counts as unchanged: `set_aside` counts it as gone. An unreadable file counts as
    changed.
    """
    if table.source.kind != "files":
        return True
    file = images.full_path(table.source, path)
    try:
        status = os.stat(file)
        if (size, modified) == (status.st_size, status.st_mtime_ns):
            return True
        return content_hash(images.read(table.source, path)) == known
    except (OSError, ValueError):
        return not os.path.lexists(file)
