"""The nearest cell of each of many rows, where cells are many."""

import faiss
import numpy as np

from lookalike.search.cells import Assignments, Cells
from lookalike.system.arrays import Numbers, Vectors

FEW_CELLS = 4_096
"""Up to so many cells each row is compared with all of them."""
_GROUPS_LOOKED_INTO = 16
_ITERATIONS = 8


class NearestCells:
    """Finds the nearest cells of rows, by groups of near cells where there are many.

    A row is compared with the cells of the nearest 16 groups, of the square root of the number of
    cells. That finds the nearest cell but for a hundredth of the rows, which then are in another
    near one. One matrix product serves all rows that look into a group.
    """

    def __init__(self, cells: Cells) -> None:
        self.cells = cells
        self._groups: list[Numbers] = []
        if len(cells) > FEW_CELLS:
            count = round(len(cells) ** 0.5)
            kmeans = faiss.Kmeans(
                cells.centres.shape[1], count, niter=_ITERATIONS, seed=0, min_points_per_centroid=1
            )
            kmeans.train(cells.centres)
            assert kmeans.centroids is not None
            self._centres: Vectors = kmeans.centroids
            group = faiss.knn(cells.centres, self._centres, 1)[1][:, 0]
            order = np.argsort(group, kind="stable")
            self._groups = np.split(order, np.searchsorted(group[order], np.arange(1, count)))

    def __call__(self, vectors: Vectors) -> Assignments:
        """Return the cell of each vector (n, width): int32 (n,)."""
        if not self._groups:
            return self.cells.assign(vectors)
        rotated = np.ascontiguousarray(self.cells.rotation(vectors))
        wanted = min(_GROUPS_LOOKED_INTO, len(self._groups))
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
