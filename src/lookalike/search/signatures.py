"""Estimate distances from the signatures of vectors, cell by cell."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from lookalike.search.cells import Assignments, Cells, Codes
from lookalike.system.arrays import Numbers, Vectors


@dataclass(frozen=True)
class Effort:
    """The search effort: the number of cells to scan, and of candidates to compare exactly.

    Neighbours usually rank early: on average within the share `late_cell` of the scanned cells and
    `late_rank` of the candidates. Where they rank later, more neighbours lie beyond, and the search
    widens. The default 1.0 never widens it.
    """

    cells: int
    candidates: int
    late_cell: float = 1.0
    late_rank: float = 1.0

    def scaled(self, factor: float) -> "Effort":
        """Return an effort of `factor` times as many cells and candidates."""
        cells, candidates = round(self.cells * factor), round(self.candidates * factor)
        return replace(self, cells=cells, candidates=candidates)


class Signatures:
    """The signatures of many vectors in inverted lists, one list per cell.

    Parameters
    ----------
    cells : Cells
    assignments : sequence of int32 (n,)
        The cell of each row, in parts; rows are numbered from 0 through all parts.
    codes : sequence of uint8 (n, bytes)
        The signatures of the same rows, in the same parts.
    """

    def __init__(
        self, cells: Cells, assignments: Sequence[Assignments], codes: Sequence[Codes]
    ) -> None:
        self.cells = cells
        self._index = cells.empty_index()
        self.assignments = np.concatenate([np.empty(0, np.int32), *assignments])
        order = np.argsort(self.assignments, kind="stable")
        starts = np.searchsorted(self.assignments[order], np.arange(len(cells) + 1))
        sorted_codes = np.concatenate([np.empty((0, self.width), np.uint8), *codes])[order]
        self._lists = faiss.ArrayInvertedLists(len(cells), self.width)
        for cell, (start, stop) in enumerate(itertools.pairwise(starts.tolist())):
            if start < stop:
                rows, part = map(faiss.swig_ptr, (order[start:stop], sorted_codes[start:stop]))
                self._lists.add_entries(cell, stop - start, rows, part)
        self._index.replace_invlists(self._lists, False)
        self._index.ntotal = len(order)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def width(self) -> int:
        """Bytes per signature."""
        return int(self._index.code_size)

    def nearest(
        self,
        queries: Vectors,
        count: int,
        cells: int,
        allowed: npt.NDArray[np.bool_] | None = None,
    ) -> tuple[npt.NDArray[np.float32], Numbers]:
        """Return the `count` rows with the least estimated distance to each query.

        Parameters
        ----------
        queries : float32 (q, width)
        count : int
        cells : int
            Scan this many cells, the nearest to each query.
        allowed : bool (rows,), optional
            Skip the rows where this is False.

        Returns
        -------
        estimates : float32 (q, count)
            Squared distances along the directions of the signatures alone.
        rows : int64 (q, count)
            -1 where the cells hold fewer rows.
        """
        return self.nearest_with_cells(queries, count, cells, allowed)[:2]

    def nearest_with_cells(
        self,
        queries: Vectors,
        count: int,
        cells: int,
        allowed: npt.NDArray[np.bool_] | None = None,
    ) -> tuple[npt.NDArray[np.float32], Numbers, Numbers]:
        """Do as `nearest`; return also the scanned cells, nearest first: int64 (q, cells)."""
        rotated = np.ascontiguousarray(self.cells.rotation(queries))
        count = min(count, len(self))
        squared, near = self.cells.nearest_with_distances(rotated, cells)
        estimates = np.empty((len(queries), count), np.float32)
        rows = np.empty((len(queries), count), np.int64)
        if count:
            options: dict[str, Any] = {"nprobe": near.shape[1], "qb": 4}
            if allowed is not None:
                packed = np.packbits(allowed, bitorder="little")
                options["sel"] = faiss.IDSelectorBitmap(len(allowed), faiss.swig_ptr(packed))
            arrays: tuple[Any, ...] = (near, squared, estimates, rows)
            self._index.search_preassigned_c(
                len(queries),
                faiss.swig_ptr(rotated),
                count,
                *map(faiss.swig_ptr, arrays),
                False,
                faiss.IVFRaBitQSearchParameters(**options),
            )
        return estimates, rows, near

    def cell_ranks(self, rows: Numbers, near: Numbers) -> Numbers:
        """Return the rank of each row's cell (n,) among the cells `near` a query, from 1."""
        rank = np.zeros(len(self.cells), np.int64)
        rank[near] = np.arange(1, len(near) + 1)
        ranks: Numbers = rank[self.assignments[rows]]
        return ranks
