"""The search effort to find all rows within a distance, rather than the k nearest."""

from dataclasses import replace

import numpy as np

from lookalike.search import exact
from lookalike.search.knn.queries import Queries
from lookalike.search.recall import RECALL_K
from lookalike.search.rows import copy_limits, draw
from lookalike.search.searcher import Searcher
from lookalike.search.signatures import Effort
from lookalike.system.arrays import Numbers, Vectors

_SAMPLE_QUERIES = 400
_MIN_PAIRS = 100  # to measure with
_BLOCK_PAIRS = 256
_MISS_RESERVE_SHARE = 1 / 3  # of the allowed misses, kept back when the effort is decided


def effort_within(
    searcher: Searcher,
    queries: Queries,
    within: float,
    k: int,
    engine: str,
    recall: float,
    exclude_self: bool,
) -> Effort | None:
    """Measure the effort to find rows within a distance; None for exact search.

    With `exclude_self`, where the rows are the queries, either side may find a pair, which takes
    less effort. Where the sample has few pairs, the effort for the nearest neighbours is used.
    """
    usual = searcher.effort(RECALL_K, engine, recall, len(searcher.rows))
    if usual is None:
        return None
    candidates = 2 * k + RECALL_K  # above k only where more rows are near along few directions
    cells = usual.cells
    drawn = _draw(queries)
    squared, found = exact.exact_many(searcher.rows, drawn, RECALL_K + exclude_self)
    who, place = np.nonzero((found >= 0) & (squared <= within**2) & (squared > copy_limits(drawn)))
    if len(who) >= _MIN_PAIRS:
        rows, at = np.unique(found[who, place], return_inverse=True)
        one, other = drawn[who], searcher.rows.vectors(rows)[at]
        ranks = _cell_ranks(searcher, one, other)
        if exclude_self:
            ranks = np.minimum(ranks, _cell_ranks(searcher, other, one))
        share = 1 - (1 - recall) * (1 - _MISS_RESERVE_SHARE)
        cells = int(np.quantile(ranks, share, method="inverted_cdf"))
    return replace(usual, cells=cells, candidates=candidates)


def _draw(queries: Queries) -> Vectors:
    """Draw the vectors of `_SAMPLE_QUERIES` queries, float32 (q, width)."""
    sizes = [block.stop - block.start for block in queries.blocks]
    drawn = draw(sum(sizes), _SAMPLE_QUERIES)
    starts = np.cumsum([0, *sizes])
    return np.concatenate(
        [
            queries.vectors(number)[drawn[(drawn >= start) & (drawn < start + size)] - start]
            for number, (start, size) in enumerate(zip(starts, sizes, strict=False))
        ]
    )


def _cell_ranks(searcher: Searcher, queries: Vectors, rows: Vectors) -> Numbers:
    """Return the rank of each row's cell among the cells near its query, from 1: int64 (n,)."""
    cells = searcher.cells
    ranks = np.empty(len(queries), np.int64)
    for start in range(0, len(queries), _BLOCK_PAIRS):
        block = slice(start, start + _BLOCK_PAIRS)
        near = cells.nearest(cells.rotation(queries[block]), len(cells))
        ranks[block] = 1 + np.argmax(near == cells.assign(rows[block])[:, None], axis=1)
    return ranks
