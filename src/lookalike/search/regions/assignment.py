"""The nearest cells of rows and of queries, where cells are many."""

from typing import Any

import faiss
import numpy as np

from lookalike.search.cell_search import CellSearch
from lookalike.search.cells import Assignments, Cells
from lookalike.system.arrays import Numbers, Vectors

_PARTS_OF_ROW = 48  # that a row looks into
_PARTS_OF_QUERY_SHARE = 1 / 8  # that a query looks into, and more if it wants many cells
_MORE_MEMBERS = 8  # times as many cells as are wanted are compared


class NearestCells:
    """Finds the nearest cells, by parts of near cells where there are many (`CellSearch`).

    Few of the nearest cells are in other parts than those that are looked into.
    """

    def __init__(self, cells: Cells) -> None:
        self.cells = cells
        self._rows = CellSearch(cells).through(_PARTS_OF_ROW)
        centres = self._rows.parts
        if centres is None:
            return
        self._coarse = faiss.IndexFlatL2(centres.shape[1])
        self._coarse.add(centres)
        index: Any = faiss.IndexIVFFlat(self._coarse, centres.shape[1], len(centres))
        index.is_trained = True
        for part in range(len(centres)):
            members = self._rows.members(part)
            if len(members):
                inside = np.ascontiguousarray(cells.centres[members]).view(np.uint8)
                some, codes = faiss.swig_ptr(members), faiss.swig_ptr(inside)
                index.invlists.add_entries(part, len(members), some, codes)
        index.ntotal = len(cells)
        self._index = index

    def search(self, rotated: Vectors, count: int) -> tuple[Vectors, Numbers]:
        """Return squared distances to about the nearest cells of one rotated query (1, bits).

        And the cells, nearest first: both (1, count), or fewer.
        """
        parts = self._rows.parts
        if parts is None or count * _MORE_MEMBERS >= len(self.cells):
            return self.cells.nearest_with_distances(rotated, count)
        wanted = -(-count * _MORE_MEMBERS * len(parts) // len(self.cells))
        wanted = max(wanted, round(len(parts) * _PARTS_OF_QUERY_SHARE))
        squared, near = self._index.search(
            rotated,
            count,
            params=faiss.SearchParametersIVF(nprobe=wanted),  # type: ignore[call-arg]
        )
        there = near[0] >= 0
        return squared[:, there], near[:, there]

    def __call__(self, vectors: Vectors) -> Assignments:
        """Return the cell of each vector (n, width): int32 (n,)."""
        if self._rows.parts is None:
            return self.cells.assign(vectors)
        return self._rows.within(self.cells.rotation(vectors), 0.0, 1)[0].astype(np.int32)
