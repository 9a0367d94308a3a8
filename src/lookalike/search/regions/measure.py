"""Measure the effort of a search over regions, and the recall that it reaches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lookalike.search.cells import Cells, as_bytes
from lookalike.search.recall import (
    RECALL_K,
    RECALLS,
    SAMPLE_QUERIES,
    QuerySample,
    RecallProfile,
    measure_profile,
)
from lookalike.search.regions.assignment import NearestCells
from lookalike.search.regions.files import open_files
from lookalike.search.regions.layout import Layout, Shape, rows_schema
from lookalike.search.regions.reading import Reader
from lookalike.storage import EmbeddingTable
from lookalike.system.arrays import Numbers, Vectors

__all__ = ["NEAR", "RECALLS", "choose_queries", "measure", "true_neighbors"]

NEAR = 32
"""Rows that each region gives for a drawn query: ten neighbours, itself, and some that tie."""


@dataclass(frozen=True)
class Queries:
    """Drawn rows: ids int64 (q,), vectors float32 (q, width)."""

    ids: Numbers
    vectors: Vectors


def choose_queries(ids: Numbers, vectors: Vectors) -> Queries:
    """Choose queries of a sample of rows, (n,) and (n, width). No two are copies of each other."""
    distinct = np.sort(np.unique(as_bytes(vectors), return_index=True)[1])
    chosen = np.sort(np.random.default_rng(2).permutation(distinct)[:SAMPLE_QUERIES])
    return Queries(ids[chosen], np.ascontiguousarray(vectors[chosen]))


def true_neighbors(
    queries: Queries, records: Sequence[dict[str, Any]]
) -> tuple[QuerySample, "Homes"]:
    """Merge what the task of each region found; return the sample by ids, and where they are."""
    count = len(queries.ids)
    columns = {
        name: np.concatenate(
            [np.frombuffer(one[name], kind).reshape(count, -1) for one in records], axis=1
        )
        for name, kind in (
            ("near_ids", np.int64),
            ("near_cells", np.int32),
            ("near_squared", np.float32),
        )
    }
    ids, squared = columns["near_ids"], columns["near_squared"].copy()
    squared[ids == queries.ids[:, None]] = np.inf
    order = np.lexsort((ids, squared), axis=1)[:, :RECALL_K]
    true = np.take_along_axis(ids, order, axis=1)
    last: Vectors = np.take_along_axis(squared, order, axis=1)[:, -1]
    farthest: Vectors = np.sqrt(last.clip(min=0))
    homes = Homes(
        dict(zip(ids.ravel().tolist(), columns["near_cells"].ravel().tolist(), strict=True))
    )
    whole = np.isfinite(farthest)
    sample = QuerySample(queries.ids[whole], queries.vectors[whole], true[whole], farthest[whole])
    return sample, homes


@dataclass(frozen=True)
class Homes:
    """The cells of some rows by their ids."""

    cells: dict[int, int]

    def __getitem__(self, ids: Numbers) -> Numbers:
        return np.array([self.cells[one] for one in ids.ravel().tolist()]).reshape(ids.shape)


@dataclass(frozen=True)
class _Estimates:
    """Regions as the measurement sees signatures; a row is its id."""

    reader: Reader
    assignments: Homes

    @property
    def cells(self) -> Cells:
        return self.reader.cells

    def __len__(self) -> int:
        return self.reader.layout.rows

    def nearest(self, queries: Vectors, count: int, cells: int) -> tuple[Vectors, Numbers]:
        found = [self.reader.estimate(query, cells, count) for query in queries]
        width = max(len(one.ids) for one in found)
        estimates = np.full((len(found), width), np.inf, np.float32)
        ids = np.full((len(found), width), -1, np.int64)
        for row, one in enumerate(found):
            estimates[row, : len(one.ids)] = one.estimates
            ids[row, : len(one.ids)] = one.ids
        return estimates, ids


def measure(
    table: EmbeddingTable,
    shape: Shape,
    cells: Cells,
    layout: Layout,
    sample: tuple[QuerySample, Homes],
) -> RecallProfile:
    """Decide the effort for each recall on half of a sample; measure it on the other half."""
    files = open_files(table.path, layout)
    reader = Reader(files, layout, shape, NearestCells(cells), rows_schema(table.key), ())
    return measure_profile(_Estimates(reader, sample[1]), sample[0], layout.rows, table.next_id)
