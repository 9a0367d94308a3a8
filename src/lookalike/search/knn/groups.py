"""Rows in groups, such as cells: a query is compared with some groups, by one product each."""

from typing import Any

import faiss
import numpy as np

from lookalike.system.arrays import Numbers, Vectors

MAX_PRODUCT = 2**24
"""Distances in memory: 64 MB."""


class GroupedRows:
    """Rows sorted by group, to compare with queries.

    Parameters
    ----------
    rows : float32 (n, directions)
    starts : int64 (groups + 1,)
        The rows `starts[g]` to `starts[g + 1]` are those of the group g.
    """

    def __init__(self, rows: Vectors, starts: Numbers) -> None:
        # A last column of half the squared norm: one product then orders the rows for a query.
        self.rows = np.hstack([rows, np.einsum("ij,ij->i", rows, rows)[:, None] / 2])
        self.starts = starts

    def nearest(
        self,
        queries: Vectors,
        pairs: tuple[Numbers, Numbers],
        count: int,
        within: Vectors | None = None,
        first: Numbers | None = None,
        max_product: int = MAX_PRODUCT,
    ) -> tuple[Vectors, Numbers]:
        """Return the `count` nearest rows to each query among those of its groups.

        Parameters
        ----------
        queries : float32 (q, directions)
        pairs : (int64 (p,), int64 (p,))
            Numbers of queries, and a group for each.
        count : int
        within : float32 (q,), optional
            Leave out rows farther than this squared distance of each query.
        first : int64 (q,), optional
            The group of each query that is likely to have its nearest rows: compared first, it
            leaves little to do for the others.
        max_product : int
            Distances in memory.

        Returns
        -------
        halves : float32 (q, count)
            Half the squared distance, less half the squared norm of the query; rising.
        rows : int64 (q, count)
            -1 where the groups have fewer rows.
        """
        padded = np.pad(-queries, ((0, 0), (0, 1)), constant_values=1)
        farthest = None
        if within is not None:
            farthest = (within - np.einsum("ij,ij->i", queries, queries)) / 2
        best = faiss.ResultHeap(len(queries), count)
        query, group = pairs
        if first is None:
            order = np.argsort(group, kind="stable")
        else:
            order = np.lexsort((group, group != first[query]))
        query, group = query[order], group[order]
        begin = 0
        for end in (np.flatnonzero(np.diff(group, append=-1)) + 1).tolist():
            start, stop = self.starts[group[begin] :][:2].tolist()
            numbers = np.arange(start, stop)
            step = max(max_product // max(len(numbers), 1), 1)
            for at in range(begin, end, step):
                some = np.ascontiguousarray(query[at : min(at + step, end)], np.int64)
                halves = padded[some] @ self.rows[start:stop].T
                if farthest is not None:
                    halves[halves > farthest[some, None]] = np.inf
                arrays: tuple[Any, ...] = (some, halves, numbers)
                who, values, which = map(faiss.swig_ptr, arrays)
                best.heaps.addn_query_subset_with_ids(
                    len(some), who, len(numbers), values, which, 0
                )
            begin = end
        best.finalize()
        return best.D, best.I
