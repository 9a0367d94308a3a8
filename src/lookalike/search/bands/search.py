"""Search with bands: cut weak results off, and show the copies of one photo as one result."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from lookalike.errors import LookalikeError
from lookalike.search.bands.copies import collapse, vectors_of
from lookalike.search.bands.kept import bands_of
from lookalike.search.bands.limits import Bands
from lookalike.search.bands.names import check_band
from lookalike.search.engines import KnnEngine
from lookalike.search.filters import Filter
from lookalike.search.query import DEFAULT_K, search_vectors
from lookalike.search.results import Query, SearchResult
from lookalike.search.rows import Neighbor
from lookalike.search.searcher import Searcher
from lookalike.system.arrays import Vectors

MAX_LOOKED = 1024
"""Nearest rows that are looked at for k results without copies, or four times k if that is more."""
_FIRST_EXTRA = 8  # rows beyond k that are looked at first
_MORE = 4  # times as many rows where copies fill the list


def search_in_bands(
    searcher: Searcher,
    query: Query,
    k: int | None,
    engine: KnnEngine,
    recall: float,
    within: float | None,
    chosen: Filter,
    min_band: str | None = None,
    all_copies: bool = True,
    bands: Bands | None = None,
) -> SearchResult:
    """Find the neighbours of a query as `Index.search` says.

    Parameters
    ----------
    searcher, query, k, engine, recall, within, chosen
        As for `search_vectors`.
    min_band : {"same photo", "close", "similar", "weak"}, optional
        Leave out results of a weaker band.
    all_copies : bool
        Give each copy of a photo as a result of its own. Else k results without copies are looked
        for among the `MAX_LOOKED` nearest rows.
    bands : Bands, optional
        Those of the index, if they are at hand.

    Raises
    ------
    LookalikeError
        For an unknown band, and for `min_band` where the index or the query has no bands.
    """

    def find_bands() -> Bands:
        return bands_of(searcher) if bands is None else bands

    search = partial(
        search_vectors,
        searcher,
        query,
        engine=engine,
        recall=recall,
        within=within,
        chosen=chosen,
    )
    if min_band is None and all_copies:
        return replace(search(k=k), find_bands=find_bands)
    known = find_bands()
    limit = None if min_band is None else limit_of(known, query, min_band)
    if all_copies or known.limits is None:
        found = search(k=k)
    else:
        found = _without_copies(searcher, search, k, within, known.limits[0], limit)
    return replace(cut(found, limit), find_bands=find_bands)


def limit_of(bands: Bands, query: Query, min_band: str) -> float:
    """Return the largest distance of a band. Raises `LookalikeError` where there are no bands."""
    check_band(min_band)
    if query.text is not None:
        raise LookalikeError("bands are for images, not for words: leave `min_band` out")
    return bands.limit(min_band)


def cut(found: SearchResult, limit: float | None) -> SearchResult:
    """Return a result without the neighbours beyond a distance."""
    if limit is None:
        return found
    return replace(found, neighbors=tuple(one for one in found if one.distance <= limit))


def _without_copies(
    searcher: Searcher,
    search: "partial[SearchResult]",
    k: int | None,
    within: float | None,
    same: float,
    limit: float | None,
) -> SearchResult:
    """Look at more and more of the nearest rows, until k of them are different photos."""
    wanted = k or (DEFAULT_K if within is None else None)
    if wanted is None:  # all within a distance
        return _collapse_first(searcher, search(k=None), same)
    most = max(MAX_LOOKED, 4 * wanted)
    looked = min(wanted + _FIRST_EXTRA, most)
    took_ms = 0.0
    while True:
        found = search(k=looked)
        took_ms += found.took_ms
        kept = collapse(found.neighbors, _vectors(searcher, found.neighbors), same, wanted)
        is_over = len(found) < looked or looked == most
        is_cut = limit is not None and len(found) > 0 and found[-1].distance > limit
        if is_over or is_cut or len(kept) >= wanted:
            return replace(found, neighbors=tuple(kept), took_ms=took_ms, looked=len(found))
        looked = min(looked * _MORE, most)


def _collapse_first(searcher: Searcher, found: SearchResult, same: float) -> SearchResult:
    """Collapse the `MAX_LOOKED` nearest of all rows within a distance; others stay as found."""
    first, rest = found.neighbors[:MAX_LOOKED], found.neighbors[MAX_LOOKED:]
    kept = collapse(first, _vectors(searcher, first), same)
    others = (replace(one, rank=rank) for rank, one in enumerate(rest, len(kept) + 1))
    return replace(found, neighbors=(*kept, *others), looked=len(first))


def _vectors(searcher: Searcher, found: Sequence[Neighbor]) -> Vectors:
    at_hand = all(one.vector is not None for one in found)
    return vectors_of(found, None if at_hand else searcher.rows)
