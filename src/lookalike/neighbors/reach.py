"""How hard to look for all rows within a distance, rather than for so many nearest."""

from dataclasses import replace

import numpy as np

from lookalike import search
from lookalike.embedding import Vectors
from lookalike.hashing.signatures import Effort
from lookalike.neighbors.queries import Queries
from lookalike.search import Numbers
from lookalike.searcher import NEIGHBORS, Searcher

_DRAWN = 400  # queries
_ENOUGH = 100  # pairs to measure with
_BLOCK = 256  # pairs at a time
_RESERVE = 1 / 3  # of what may be missed is not missed by those that decide


def effort_within(
    searcher: Searcher,
    asked: Queries,
    within: float,
    k: int,
    engine: str,
    recall: float,
    own: bool,
) -> Effort | None:
    """Return how hard queries have to look for rows within a distance; None to compare all rows.

    Measured on drawn queries. Where the rows ask themselves (`own`) a pair is found from either
    side, so that each may look less hard. Where pairs are few, the effort for the nearest
    neighbours is taken, which are no nearer.
    """
    usual = searcher.effort(NEIGHBORS, engine, recall, len(searcher.rows))
    if usual is None:
        return None
    candidates = 2 * k + NEIGHBORS  # more than k only where they are nearer along few directions
    cells = usual.cells
    queries = _draw(asked)
    squared, found = search.exact_many(searcher.rows, queries, NEIGHBORS + own)
    who, place = np.nonzero((found >= 0) & (squared <= within**2) & (squared > search.COPY))
    if len(who) >= _ENOUGH:
        rows, at = np.unique(found[who, place], return_inverse=True)
        one, other = queries[who], searcher.rows.vectors(rows)[at]
        places = _places(searcher, one, other)
        if own:
            places = np.minimum(places, _places(searcher, other, one))
        share = 1 - (1 - recall) * (1 - _RESERVE)
        cells = int(np.quantile(places, share, method="inverted_cdf"))
    return replace(usual, cells=cells, candidates=candidates)


def _draw(asked: Queries) -> Vectors:
    """Draw queries, float32 (q, width)."""
    sizes = [block.stop - block.start for block in asked.blocks]
    drawn = search.draw(sum(sizes), _DRAWN)
    starts = np.cumsum([0, *sizes])
    return np.concatenate(
        [
            asked.vectors(number)[drawn[(drawn >= start) & (drawn < start + size)] - start]
            for number, (start, size) in enumerate(zip(starts, sizes, strict=False))
        ]
    )


def _places(searcher: Searcher, queries: Vectors, rows: Vectors) -> Numbers:
    """Return which of the cells near a query holds a row, counted from 1; both (n, width)."""
    cells = searcher.cells
    places = np.empty(len(queries), np.int64)
    for start in range(0, len(queries), _BLOCK):  # of a very large index the cells are many
        block = slice(start, start + _BLOCK)
        near = cells.nearest(cells.rotation(queries[block]), len(cells))
        places[block] = 1 + np.argmax(near == cells.home(rows[block])[:, None], axis=1)
    return places
