"""Duplicates, clusters and outliers of a version of an index, made once and kept in the cache.

`python -m lookalike.analysis.groups INDEX VERSION KIND` makes them; only `GroupsJob` starts it.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import pyarrow as pa

from lookalike.analysis import outliers
from lookalike.analysis.background import BackgroundJob, Move, run_job
from lookalike.analysis.map.cache import names_of
from lookalike.analysis.result import AnalysisResult
from lookalike.analysis.run import find_clusters, find_duplicates, find_outliers
from lookalike.errors import LookalikeError
from lookalike.storage import EmbeddingTable
from lookalike.system.cache import cache_folder, ignore_cache_errors
from lookalike.system.files import delete_folder
from lookalike.system.progress import OnProgress, show_progress
from lookalike.system.sql import create_view

Kind = Literal["duplicates", "clusters", "outliers"]
KINDS: tuple[str, ...] = get_args(Kind)
MAX_ROWS = 200_000
"""Rows up to which a server finds groups by itself: beyond, it takes hours, or Spark."""
METHOD_VERSION = 1
"""Version of the methods; groups of another version are not used."""
_MAKE: dict[str, Callable[..., AnalysisResult]] = {
    "duplicates": find_duplicates,
    "clusters": find_clusters,
    "outliers": find_outliers,
}
_PAUSE_SECONDS = 0.1  # between two lines of progress

# Rows that the server can show a page of: those of one group follow each other.
_ROWS = {
    "duplicates": """
        select "group", found.id, action = 'keep' as keep, distance, agreement, same_bytes,
            found.size, modified, kept.id as keep_id
        from found join stored using (id) join (
            select "group", id from found where action = 'keep') as kept using ("group")
        order by "group", keep desc, distance, found.id""",
    "clusters": """
        select cluster as "group", found.id, representative, size, modified
        from found join stored using (id) order by cluster, representative desc, weight desc, id""",
    "outliers": """
        select found.rank::bigint - 1 as "group", found.id, distance, found.score, size, modified,
            suggested
        from found join stored using (id) left join suspects using (id) order by found.rank""",
}


@dataclass(frozen=True)
class Groups:
    """What an analysis found: its figures, and a row an image, the rows of a group together."""

    figures: dict[str, Any]
    rows: pa.Table


def read_groups(table: EmbeddingTable, kind: Kind) -> Groups | None:
    """Return what the cache has of this version of an index; None without it."""
    try:
        found = AnalysisResult.open(_folder(table, kind))
        with table.connect(found.folder) as sql:
            create_view(sql, "found", found.folder / found.table)
            if kind == "outliers":
                create_view(sql, "suspects", found.folder / outliers.SUSPECTS)
            return Groups(found.figures, sql.sql(_ROWS[kind]).to_arrow_table())
    except LookalikeError:  # none, or a damaged one
        return None


def _folder(table: EmbeddingTable, kind: str) -> Path:
    index, rows = names_of(table)
    return cache_folder() / "groups" / f"{index}-{kind}-{METHOD_VERSION}-{rows}"


class GroupsJob(BackgroundJob):
    """A process that finds groups of one kind, at low priority, and keeps them in the cache."""

    def __init__(self, table: EmbeddingTable, kind: Kind) -> None:
        self.kind = kind
        arguments = (str(table.path.absolute()), str(table.version), kind)
        super().__init__(kind, "lookalike.analysis.groups", *arguments)


@dataclass(frozen=True)
class _Opened:
    """What the analyses need of an index."""

    _table: EmbeddingTable


def make_groups(table: EmbeddingTable, kind: str) -> None:
    """Find groups in this process and keep them; delete those of other versions."""
    folder = _folder(table, kind)
    folder.parent.mkdir(parents=True, exist_ok=True)
    _MAKE[kind](_Opened(table), folder, spark=False, shown=0, overwrite=True)
    with ignore_cache_errors():
        for other in folder.parent.glob(f"{names_of(table)[0]}-{kind}-*"):
            if other != folder:
                delete_folder(other)


def _main(move: Move) -> bytes:
    path, version, kind = sys.argv[1:4]

    @contextmanager
    def display(text: str, unit: str) -> Iterator[OnProgress]:
        last = 0.0

        def on_progress(done: int, total: int | None, note: str = "") -> None:
            nonlocal last
            if time.monotonic() - last > _PAUSE_SECONDS:
                last = time.monotonic()
                move(min(done / total, 1.0) if total else 0.0, text)

        move(0.0, text)
        yield on_progress

    show_progress(display)
    make_groups(EmbeddingTable.open(Path(path), int(version)), kind)
    return b""


if __name__ == "__main__":
    run_job(_main)
