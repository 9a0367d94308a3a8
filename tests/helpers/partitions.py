"""Rows in the memory of a task, as one region."""

from typing import Any

import numpy as np
import numpy.typing as npt

from helpers.segments import Floats
from lookalike.search.cells import Cells
from lookalike.search.knn.partitions import RegionPartition, thin_copies


def partition_of(
    vectors: Floats, cells: Cells, copies: int, ids: npt.NDArray[np.int64] | None = None
) -> RegionPartition:
    """All rows as one region; ids are their positions, if none are given."""
    ids = np.arange(len(vectors)) if ids is None else ids
    homes = cells.assign(vectors)
    order = np.argsort(homes, kind="stable")
    starts = np.searchsorted(homes[order], np.arange(len(cells) + 1))
    kept = thin_copies(ids[order], vectors[order], starts, copies)
    starts, order = np.searchsorted(kept, starts), order[kept]
    rows = np.ascontiguousarray(vectors[order])
    return RegionPartition(ids[order], rows, starts, cells.rotation, cells.rotation(rows))


def found_ids(partition: RegionPartition, found: Any) -> Any:
    """Ids for the positions of rows, -1 for none; and distances."""
    return np.where(found[0] >= 0, partition.ids[found[0]], -1), found[1]
