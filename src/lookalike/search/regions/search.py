"""Search over regions: the nearest cells, their signatures, the vectors of the best rows."""

import logging
from dataclasses import dataclass, replace

import numpy as np

from lookalike.search import exact
from lookalike.search.bands.copies import vectors_of
from lookalike.search.recall import RECALL_K, RecallProfile
from lookalike.search.regions.assignment import NearestCells
from lookalike.search.regions.changes import Changes
from lookalike.search.regions.files import open_files
from lookalike.search.regions.folder import Folder, newest_folder
from lookalike.search.regions.layout import Ids, rows_schema
from lookalike.search.regions.reading import Estimated, Reader
from lookalike.search.rows import Neighbor, squared_distances
from lookalike.search.signatures import Effort
from lookalike.storage import EmbeddingTable
from lookalike.system.arrays import Vectors

logger = logging.getLogger(__name__)

MAX_ADDED_SHARE = 1 / 2
"""Share of the rows of a version that may have come after the regions: they are compared one by
one."""
MAX_SCANNED_SHARE = 1 / 8
"""Share of all rows whose signatures, or a tenth of it whose vectors, one query may read."""
_MORE = 4  # times as many cells or candidates in a wider search
_CHECKED = 10  # neighbours, at least, whose ranks decide whether to search wider
_EFFORT_FACTOR = 3  # for each wider search, where the measured effort may not suffice
_MIN_MOST_CANDIDATES = 1_000


@dataclass(frozen=True)
class Found:
    """The rows nearest to a query, with squared distances, and how many were compared."""

    rows: Estimated
    squared: Vectors
    compared: int
    vectors: Vectors


class Regions:
    """The regions of an index, as one version sees them."""

    def __init__(self, table: EmbeddingTable, folder: Folder) -> None:
        self.header = folder.header
        self.profile: RecallProfile = folder.profile
        layout = folder.layout
        data = [name.decode() for name in layout.data.tolist()]
        self.changes = Changes.since(table, data, self.header.stop)
        gone = [one for one in (Ids(layout.lost, layout.kept), self.changes.gone) if len(one.lost)]
        self.reader = Reader(
            open_files(table.path, layout),
            layout,
            folder.header.shape,
            NearestCells(folder.cells),
            rows_schema(table.key),
            gone,
        )
        self._has_keys = table.has_keys
        self._most = max(round(MAX_SCANNED_SHARE / 10 * layout.rows), _MIN_MOST_CANDIDATES)

    @property
    def covers(self) -> bool:
        """Whether they hold most rows."""
        return self.changes.count <= MAX_ADDED_SHARE * (self.header.rows + self.changes.count)

    def nearest(
        self, query: Vectors, k: int, recall: float, without: int | None = None
    ) -> tuple[list[Neighbor], int] | None:
        """Find the k nearest rows to a query; None where their effort was too large to be measured.

        Where neighbours rank late, or lie farther away than those of nearly all rows, the search
        widens until nothing changes, as `Searcher.nearest` does.

        Parameters
        ----------
        query : float32 (width,)
        k : int
        recall : float
            Target recall, below 1.
        without : int, optional
            Leave out the row with this id.

        Returns
        -------
        neighbors : list of Neighbor
            Distances are those to vectors as the regions hold them, in half precision where all
            have length 1: a copy is at most 0.0005 away.
        compared : int
            Number of rows whose vectors were compared.

        Raises
        ------
        LookalikeError
            Where files of the regions are missing or damaged.
        """
        effort = self.profile.effort(recall, k)
        if effort is None:
            return None
        before, found = None, self._look(query, k, effort, without)
        while found is not None and self._is_far(found) and not _are_equal(found, before):
            before, effort = found, effort.scaled(_EFFORT_FACTOR)
            found = self._look(query, k, effort, without) or before
        if found is None:
            return None
        own = self._named(found)
        if not self.changes.count:
            return own, found.compared
        best = sorted([*own, *self._added(query, k, without)], key=_order)[:k]
        neighbors = [replace(one, rank=rank) for rank, one in enumerate(best, 1)]
        return neighbors, found.compared + self.changes.count

    def _added(self, query: Vectors, k: int, without: int | None) -> list[Neighbor]:
        """Compare a query with all rows that came later."""
        rows, allowed = self.changes.added, self.changes.allowed
        found = exact.exact(rows, query, k, without, allowed)
        places = rows.find(np.array([one.number for one in found], np.int64))
        hashes = rows.hashes.take(places).to_pylist()
        vectors = vectors_of(found, rows)
        each = zip(found, hashes, vectors, strict=True)
        return [replace(one, content_hash=h or "", vector=vector) for one, h, vector in each]

    def _is_far(self, found: Found) -> bool:
        """Tell whether the neighbours are farther than those of nearly all rows."""
        last = found.squared[:RECALL_K][-1:]
        return bool((last > self.profile.reach**2).any())

    def _look(self, query: Vectors, k: int, effort: Effort, without: int | None) -> Found | None:
        """Return the nearest rows at an effort, or at a larger one where they rank late.

        None where fewer than k rows are in as many cells as one query may read.
        """
        own = without is not None
        all_cells = len(self.reader.cells)
        most_cells = max(round(all_cells * MAX_SCANNED_SHARE), min(all_cells, 4 * effort.cells))
        count = min(max(effort.candidates, k) + own, max(self._most, k + own))
        cells = min(effort.cells, all_cells)
        last: Found | None = None
        while True:
            near = self.reader.estimate(query, cells, count)
            if len(near.ids) < min(k + own, self.reader.layout.rows) and cells < all_cells:
                cells = min(cells * _MORE, all_cells)
                continue
            found, late, far = self._compare(query, max(k, _CHECKED), near, effort, cells, without)
            kept = replace(found, rows=found.rows.take(np.arange(len(found.rows.ids))[:k]))
            kept = replace(kept, squared=found.squared[:k], vectors=found.vectors[:k])
            more_rows = late and near.rows > len(near.ids) and count < self._most
            more_cells = far and cells < most_cells
            if not (more_rows or more_cells) or _are_equal(kept, last):
                return kept
            last = kept
            count = min(count * _MORE, self._most) if more_rows else count
            cells = min(cells * _MORE, most_cells) if more_cells else cells

    def _compare(
        self,
        query: Vectors,
        k: int,
        near: Estimated,
        effort: Effort,
        cells: int,
        without: int | None,
    ) -> tuple[Found, bool, bool]:
        """Compare candidates; say whether the nearest rank late among them, and among the cells."""
        vectors = self.reader.vectors(near)
        squared = squared_distances(vectors, query)
        if without is not None:
            squared[near.ids == without] = np.inf
        best = np.lexsort((near.ids, squared))[:k]
        best = best[np.isfinite(squared[best])]
        late = best.sum() > effort.late_rank * len(near.ids) * len(best)
        far = near.ranks[best].sum() > effort.late_cell * cells * len(best)
        found = Found(near.take(best), squared[best], len(near.ids), vectors[best])
        return found, bool(late), bool(far)

    def _named(self, found: Found) -> list[Neighbor]:
        rows = found.rows
        named = self.reader.rows(rows.entries, rows.places)
        each = zip(rows.ids.tolist(), found.squared.tolist(), named, found.vectors, strict=True)
        return [
            Neighbor(
                rank,
                row["key"] if self._has_keys else number,
                row["path"],
                row["label"],
                squared**0.5,
                number=number,
                content_hash=row["content_hash"] or "",
                vector=vector,
            )
            for rank, (number, squared, row, vector) in enumerate(each, 1)
        ]


def _order(found: Neighbor) -> tuple[float, int]:
    return found.distance, found.number


def _are_equal(found: Found, other: Found | None) -> bool:
    return other is not None and np.array_equal(found.rows.ids, other.rows.ids)


def open_regions(table: EmbeddingTable) -> Regions | None:
    """Return the regions of a version, if it has any that hold most of its rows.

    Raises `LookalikeError` where they are damaged.
    """
    folder = newest_folder(table)
    if folder is None:
        return None
    if not folder.fits:
        logger.info("another FAISS made the regions: `lookalike regions INDEX --anew`")
        return None
    regions = Regions(table, folder)
    if not regions.covers:
        logger.info("most rows came after the regions: `lookalike regions INDEX` adds them")
        return None
    return regions
