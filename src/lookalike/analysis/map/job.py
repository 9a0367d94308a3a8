"""Lay out an index in a separate process, so that the server stays quick and small."""

import io

from lookalike.analysis.background import BackgroundJob
from lookalike.analysis.map.cache import save_layout, unpack
from lookalike.analysis.map.tsne import Layout
from lookalike.storage import EmbeddingTable
from lookalike.system.untrusted import read_arrays


class Job(BackgroundJob):
    """A process that lays out an index, at low priority, and saves the layout.

    Examples
    --------
    >>> job = Job(table)  # doctest: +SKIP
    >>> while not job.ended():  # doctest: +SKIP
    ...     print(*job.progress())
    """

    def __init__(self, table: EmbeddingTable) -> None:
        self._table = table
        self._layout: Layout | None = None
        self._unsaved: Layout | None = None
        arguments = (str(table.path.absolute()), str(table.version))
        super().__init__("map", "lookalike.analysis.map", *arguments)

    def result(self) -> Layout | None:
        """Return the layout, which is saved too; None before the end."""
        return self._layout

    def _take(self, content: bytes) -> None:
        self._unsaved = unpack(read_arrays(io.BytesIO(content)))

    def _finish(self) -> None:
        assert self._unsaved is not None  # `_take` has put it there
        save_layout(self._table, self._unsaved)
        self._layout = self._unsaved
