"""Read cells of regions: estimate distances from signatures, compare vectors, name rows."""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lookalike.search.cells import Cells
from lookalike.search.regions.assignment import NearestCells
from lookalike.search.regions.files import RegionFiles
from lookalike.search.regions.layout import (
    CHECK_BYTES,
    ID_BYTES,
    Ids,
    Layout,
    Shape,
    damaged_regions,
)
from lookalike.system.arrays import Numbers, Vectors


@dataclass(frozen=True)
class Estimated:
    """Rows in the cells near a query, the nearest first by the estimate.

    Attributes
    ----------
    estimates : float32 (n,)
        Squared distances along the directions of the signatures alone.
    ids, entries, places : int64 (n,)
        Ids; entries of the layout; places among the rows of the entry.
    ranks : int64 (n,)
        Rank of the row's cell among the cells looked into, from 1.
    checks : uint32 (n,)
        CRC-32 of the vectors.
    rows : int
        Number of rows in these cells.
    """

    estimates: npt.NDArray[np.float32]
    ids: Numbers
    entries: Numbers
    places: Numbers
    ranks: Numbers
    checks: npt.NDArray[np.uint32]
    rows: int

    def take(self, some: Numbers) -> "Estimated":
        """Return some of the rows."""
        return Estimated(
            self.estimates[some],
            self.ids[some],
            self.entries[some],
            self.places[some],
            self.ranks[some],
            self.checks[some],
            self.rows,
        )


@dataclass(frozen=True)
class Reader:
    """Reads what is stored of rows, cell by cell, and checks it."""

    files: RegionFiles
    layout: Layout
    shape: Shape
    near: NearestCells
    schema: pa.Schema
    gone: Sequence[Ids]

    @property
    def cells(self) -> Cells:
        """The cells."""
        return self.near.cells

    def estimate(self, query: Vectors, cells: int, count: int) -> Estimated:
        """Return the `count` rows with the least estimates, of the nearest cells to a query.

        Rows of equal estimates come by id, of one cell. Rows that are gone are left out.

        Parameters
        ----------
        query : float32 (width,)
        cells : int
            Look into this many cells, the nearest.
        count : int
        """
        rotated = np.ascontiguousarray(self.cells.rotation(query[None]))
        squared, near = self.near.search(rotated, cells)
        entries, which = self.layout.entries(near[0])
        codes, ids, checks, counts = self._signatures(entries)
        places = np.arange(len(ids)) - np.repeat(np.cumsum(counts) - counts, counts)
        entry, rank = np.repeat(entries, counts), np.repeat(which, counts) + 1
        if self.gone and len(ids):
            alive = np.flatnonzero(np.all([one.are_alive(ids) for one in self.gone], axis=0))
            codes, ids, checks = codes[alive], ids[alive], checks[alive]
            places, entry, rank = places[alive], entry[alive], rank[alive]
        if (np.diff(which) == 0).any():  # a cell is in several files
            order = np.lexsort((ids, rank))
            codes, ids, checks = codes[order], ids[order], checks[order]
            places, entry, rank = places[order], entry[order], rank[order]
        bounds = np.searchsorted(rank, np.arange(1, near.shape[1] + 2))
        estimates, found = self._scan(rotated, squared, near, codes, bounds, count)
        by_id = np.lexsort((ids[found], estimates))
        found = found[by_id]
        columns = (ids[found], entry[found], places[found], rank[found], checks[found])
        return Estimated(estimates[by_id], *columns, len(ids))

    def _scan(
        self,
        rotated: Vectors,
        squared: Vectors,
        near: Numbers,
        codes: npt.NDArray[np.uint8],
        bounds: Numbers,
        count: int,
    ) -> tuple[npt.NDArray[np.float32], Numbers]:
        """Return the least estimates, and the rows that have them, by an index of these alone."""
        wanted = min(count, len(codes))
        estimates, found = np.empty((1, wanted), np.float32), np.empty((1, wanted), np.int64)
        if wanted:
            lists = near.shape[1]
            quantizer = faiss.IndexFlatL2(rotated.shape[1])
            quantizer.add(self.cells.centres[near[0]])
            index: Any = faiss.IndexIVFRaBitQ(quantizer, rotated.shape[1], lists)
            index.is_trained = True
            inverted = faiss.ArrayInvertedLists(lists, self.shape.code_bytes)
            rows = np.arange(len(codes))
            for number in np.flatnonzero(np.diff(bounds)).tolist():
                start, stop = int(bounds[number]), int(bounds[number + 1])
                some = faiss.swig_ptr(rows[start:stop])
                part = faiss.swig_ptr(codes[start:stop])
                inverted.add_entries(number, stop - start, some, part)
            index.replace_invlists(inverted, False)
            index.ntotal = len(codes)
            keys = np.arange(lists)[None]
            options: dict[str, Any] = {"nprobe": lists, "qb": 4}
            arrays: tuple[Any, ...] = (keys, squared, estimates, found)
            index.search_preassigned_c(
                1,
                faiss.swig_ptr(rotated),
                wanted,
                *map(faiss.swig_ptr, arrays),
                False,
                faiss.IVFRaBitQSearchParameters(**options),
            )
        there = found[0] >= 0
        return estimates[0][there], found[0][there]

    def _signatures(
        self, entries: Numbers
    ) -> tuple[npt.NDArray[np.uint8], Numbers, npt.NDArray[np.uint32], Numbers]:
        """Read codes, ids and checks of all rows of some entries, and how many each has."""
        layout, row = self.layout, self.shape.signature_bytes
        counts = layout.count[entries].astype(np.int64)
        contents = self._read(
            layout.of_file[entries].astype(np.int64),
            layout.first[entries] * row,
            counts * row,
            lambda at, content: zlib.crc32(content) == layout.signature_check[entries[at]],
        )
        width = self.shape.code_bytes
        codes = np.empty((int(counts.sum()), width), np.uint8)
        ids, checks = np.empty(len(codes), np.int64), np.empty(len(codes), np.uint32)
        start = 0
        for content, count in zip(contents, counts.tolist(), strict=True):
            stop, at = start + count, count * width
            codes[start:stop] = np.frombuffer(content, np.uint8, at).reshape(count, width)
            ids[start:stop] = np.frombuffer(content, np.int64, count, at)
            checks[start:stop] = np.frombuffer(content, np.uint32, count, at + count * ID_BYTES)
            start = stop
        assert row == width + ID_BYTES + CHECK_BYTES
        return codes, ids, checks, counts

    def vectors(self, rows: Estimated) -> Vectors:
        """Read the vectors of some rows: float32 (n, width)."""
        layout, size = self.layout, self.shape.vector_bytes
        file = layout.of_file[rows.entries].astype(np.int64)
        starts = (
            self.shape.vectors_at(layout.file_rows[file])
            + (layout.first[rows.entries] + rows.places) * size
        )
        contents = self._read(
            file,
            starts,
            np.full(len(file), size),
            lambda at, content: zlib.crc32(content) == rows.checks[at],
        )
        whole = np.frombuffer(b"".join(contents), self.shape.numbers)
        return whole.reshape(len(file), self.shape.width).astype(np.float32)

    def rows(self, entries: Numbers, places: Numbers) -> list[dict[str, Any]]:
        """Read path, label, content_hash, and key if any, of some rows."""
        layout = self.layout
        some, where = np.unique(entries, return_inverse=True)
        contents = self._read(
            layout.of_file[some].astype(np.int64),
            layout.place[some],
            layout.size[some].astype(np.int64),
            lambda at, content: zlib.crc32(content) == layout.rows_check[some[at]],
        )
        messages = [pa.ipc.read_record_batch(pa.py_buffer(one), self.schema) for one in contents]
        return [
            messages[at].slice(place, 1).to_pylist()[0]
            for at, place in zip(where.tolist(), places.tolist(), strict=True)
        ]

    def _read(
        self,
        files: Numbers,
        starts: Numbers,
        sizes: Numbers,
        is_whole: Callable[[int, memoryview], bool],
    ) -> list[memoryview]:
        """Read ranges; once more those that a cache has damaged. Raises `LookalikeError`."""
        contents = self.files.read(files, starts, sizes)
        bad = [at for at, content in enumerate(contents) if not is_whole(at, content)]
        if bad and self.files.forget(files[bad], starts[bad], sizes[bad]):
            again = self.files.read(files[bad], starts[bad], sizes[bad])
            for at, content in zip(bad, again, strict=True):
                contents[at] = content
            bad = [at for at in bad if not is_whole(at, contents[at])]
        if bad:
            raise damaged_regions(self.layout.names[int(files[bad[0]])], "a check does not match")
        return contents
