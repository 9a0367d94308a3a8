"""Set aside the images of an analysis that are unchanged since indexing."""

import os
from collections.abc import Iterator
from dataclasses import replace

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

_FETCH_ROWS = 1024
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
    yielded = 0

    def drops() -> Iterator[tuple[str, str]]:
        nonlocal yielded
        for rows in iter(lambda: query.fetchmany(_FETCH_ROWS), []):
            for row in rows:
                if _is_unchanged(table, *row[:4]) and _is_unchanged(table, *row[4:]):
                    yielded += 1
                    yield row[0], row[4]

    with table.connect(found.folder) as sql:
        create_view(sql, "found", found.folder / TABLE)
        (total,) = fetch_row(sql, "select count(*) from found where action = 'drop'")
        query = sql.execute(_DROPS_QUERY)
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
