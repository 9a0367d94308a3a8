"""Signatures: a few bytes a vector, from which distances are estimated without the vector."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from lookalike.embedding import Vectors
from lookalike.hashing.cells import Cells, Codes, Homes, Numbers


@dataclass(frozen=True)
class Effort:
    """How hard to look: into how many cells, and at how many candidates there.

    What is found stands early among them: on average before the share `late_cell` of the cells,
    nearest first, and `late_rank` of the candidates, in the order of their estimates. Where it
    stands later there is more beyond, and one looks harder; not with 1.
    """

    cells: int
    candidates: int
    late_cell: float = 1.0
    late_rank: float = 1.0

    def times(self, factor: float) -> "Effort":
        """Return so many times the effort."""
        cells, candidates = round(self.cells * factor), round(self.candidates * factor)
        return replace(self, cells=cells, candidates=candidates)


class Signatures:
    """The signatures of many vectors, ready to be scanned cell by cell.

    Rows are counted from 0 as given. `homes` and `codes` are what `Cells` made of parts of them.
    """

    def __init__(self, cells: Cells, homes: Sequence[Homes], codes: Sequence[Codes]) -> None:
        self.cells = cells
        self._index = cells.empty()
        self.homes = home = np.concatenate([np.empty(0, np.int32), *homes])
        order = np.argsort(home, kind="stable")
        starts = np.searchsorted(home[order], np.arange(len(cells) + 1))
        sorted_codes = np.concatenate([np.empty((0, self.width), np.uint8), *codes])[order]
        self._lists = faiss.ArrayInvertedLists(len(cells), self.width)
        for cell, (start, stop) in enumerate(itertools.pairwise(starts.tolist())):
            if start < stop:
                rows, signed = map(faiss.swig_ptr, (order[start:stop], sorted_codes[start:stop]))
                self._lists.add_entries(cell, stop - start, rows, signed)
        self._index.replace_invlists(self._lists, False)
        self._index.ntotal = len(order)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def width(self) -> int:
        """Bytes of a signature."""
        return int(self._index.code_size)

    def nearest(
        self,
        queries: Vectors,
        count: int,
        cells: int,
        allowed: npt.NDArray[np.bool_] | None = None,
    ) -> tuple[npt.NDArray[np.float32], Numbers]:
        """Return the `count` rows of least estimated distance in the `cells` nearest to each query.

        Queries are (q, width); estimates (squared, along the directions alone) and rows (q, count),
        -1 where there are no more. `allowed`, bool (rows,), leaves rows out.
        """
        return self.look(queries, count, cells, allowed)[:2]

    def look(
        self,
        queries: Vectors,
        count: int,
        cells: int,
        allowed: npt.NDArray[np.bool_] | None = None,
    ) -> tuple[npt.NDArray[np.float32], Numbers, Numbers]:
        """Do as `nearest`, and return the cells looked into as well, nearest first, (q, cells)."""
        rotated = np.ascontiguousarray(self.cells.rotation(queries))
        count = min(count, len(self))
        how_far, near = self.cells.look(rotated, cells)
        estimates = np.empty((len(queries), count), np.float32)
        rows = np.empty((len(queries), count), np.int64)
        if count:
            options: dict[str, Any] = {"nprobe": near.shape[1], "qb": 4}
            if allowed is not None:
                packed = np.packbits(allowed, bitorder="little")
                options["sel"] = faiss.IDSelectorBitmap(len(allowed), faiss.swig_ptr(packed))
            arrays: tuple[Any, ...] = (near, how_far, estimates, rows)
            self._index.search_preassigned_c(
                len(queries),
                faiss.swig_ptr(rotated),
                count,
                *map(faiss.swig_ptr, arrays),
                False,
                faiss.IVFRaBitQSearchParameters(**options),
            )
        return estimates, rows, near

    def places(self, rows: Numbers, near: Numbers) -> Numbers:
        """Return which of the cells near a query (cells,), counted from 1, holds each row (n,)."""
        place = np.zeros(len(self.cells), np.int64)
        place[near] = np.arange(1, len(near) + 1)
        found: Numbers = place[self.homes[rows]]
        return found
