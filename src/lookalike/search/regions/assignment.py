"""The nearest cells of rows and of queries, where cells are many."""

from typing import Any

import faiss
import numpy as np

from lookalike.search.cells import Assignments, Cells
from lookalike.system.arrays import Numbers, Vectors

FEW_CELLS = 4_096
"""Up to so many cells each row is compared with all of them."""
_GROUPS_OF_ROW = 16  # that a row looks into
_GROUPS_OF_QUERY = 32  # that a query looks into, and more if it wants many cells
_MORE_MEMBERS = 8  # times as many cells as are wanted are compared
_ITERATIONS, _POINTS_PER_GROUP = 8, 32


class NearestCells:
    """Finds the nearest cells, by groups of near cells where there are many.

    There are as many groups as the square root of the number of cells. A row looks into the 16
    nearest groups, a query into the 32 nearest: few of their nearest cells are in others.
    """

    def __init__(self, cells: Cells) -> None:
        self.cells = cells
        self._groups: list[Numbers] = []
        if len(cells) <= FEW_CELLS:
            return
        count, bits = round(len(cells) ** 0.5), cells.centres.shape[1]
        kmeans = faiss.Kmeans(
            bits, count, niter=_ITERATIONS, seed=0, max_points_per_centroid=_POINTS_PER_GROUP
        )
        kmeans.train(cells.centres)
        assert kmeans.centroids is not None
        self._centres: Vectors = kmeans.centroids
        group = faiss.knn(cells.centres, self._centres, 1)[1][:, 0]
        order = np.argsort(group, kind="stable")
        self._groups = np.split(order, np.searchsorted(group[order], np.arange(1, count)))
        self._coarse = faiss.IndexFlatL2(bits)
        self._coarse.add(self._centres)
        index: Any = faiss.IndexIVFFlat(self._coarse, bits, count)
        index.is_trained = True
        for number, members in enumerate(self._groups):
            if len(members):
                inside = np.ascontiguousarray(cells.centres[members]).view(np.uint8)
                some, codes = faiss.swig_ptr(members), faiss.swig_ptr(inside)
                index.invlists.add_entries(number, len(members), some, codes)
        index.ntotal = len(cells)
        self._index = index

    def search(self, rotated: Vectors, count: int) -> tuple[Vectors, Numbers]:
        """Return squared distances to about the nearest cells of one rotated query (1, bits).

        And the cells, nearest first: both (1, count), or fewer.
        """
        if not self._groups or count * _MORE_MEMBERS >= len(self.cells):
            return self.cells.nearest_with_distances(rotated, count)
        wanted = -(-count * _MORE_MEMBERS * len(self._groups) // len(self.cells))
        squared, near = self._index.search(
            rotated,
            count,
            params=faiss.SearchParametersIVF(nprobe=max(wanted, _GROUPS_OF_QUERY)),  # type: ignore[call-arg]
        )
        there = near[0] >= 0
        return squared[:, there], near[:, there]

    def __call__(self, vectors: Vectors) -> Assignments:
        """Return the cell of each vector (n, width): int32 (n,).

        One matrix product serves all rows that look into a group.
        """
        if not self._groups:
            return self.cells.assign(vectors)
        rotated = np.ascontiguousarray(self.cells.rotation(vectors))
        wanted = min(_GROUPS_OF_ROW, len(self._groups))
        looked = faiss.knn(rotated, self._centres, wanted)[1]
        order = np.argsort(looked, axis=None, kind="stable")
        stops = np.searchsorted(looked.ravel()[order], np.arange(len(self._groups)), side="right")
        best = np.full(len(vectors), np.inf, np.float32)
        found = np.zeros(len(vectors), np.int32)
        start = 0
        for members, stop in zip(self._groups, stops.tolist(), strict=True):
            rows = order[start:stop] // wanted
            start = stop
            if not len(rows) or not len(members):
                continue
            squared, near = faiss.knn(rotated[rows], self.cells.centres[members], 1)
            closer = squared[:, 0] < best[rows]
            best[rows[closer]] = squared[closer, 0]
            found[rows[closer]] = members[near[closer, 0]]
        return found
