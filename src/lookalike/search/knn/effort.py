"""The search effort for a target recall: which cells a query probes, how many rows it compares."""

from dataclasses import dataclass, replace

import faiss
import numpy as np

from lookalike.search.cell_search import MIN_PARTS, CellSearch
from lookalike.search.knn.routing import Probing
from lookalike.search.knn.survey import MAX_RANK, Truth
from lookalike.search.recall import (
    MIN_CANDIDATES_PER_NEIGHBOR,
    MISS_RESERVE_SHARE,
    RECALL_K,
    late_share,
    max_candidates,
    quantile,
)
from lookalike.search.rows import COPY
from lookalike.system.arrays import Mask, Numbers, Vectors

_MAX_PROBED_SHARE = 1 / 4  # of all cells; beyond it matrix products over all rows are quicker
_MIN_PAIRS = 100  # to measure with
_MIN_CELLS = 4
_CELL_MISS_SHARE = 3 / 4  # of the misses are in cells that are not probed: candidates cost little
_PART_MISS_SHARE = 1 / 4  # of these are in parts that are not looked through
_TRIED_RANKS = 16
_MAX_EXACT_ROWS = 2**18  # of more, exact search takes more than ten times as long
_MIN_TOLD_APART_SHARE = 1 / 2  # of the queries; fewer mean rows that no directions describe


@dataclass(frozen=True)
class JoinEffort:
    """The effort of a search for the neighbours of many queries.

    Attributes
    ----------
    probing : Probing
    candidates : int
        Rows to compare exactly with each query, the nearest along the leading directions.
    late_rank : float
        Mean rank of the neighbours, as a share of the candidates, above which a search widens.
    recall : float or None
        Recall that the effort reached for drawn queries that did not decide it.
    """

    probing: Probing
    candidates: int
    late_rank: float
    recall: float | None


def choose_effort(
    truth: Truth, search: CellSearch, rows: int, k: int, recall: float, within: float = np.inf
) -> JoinEffort | None:
    """Choose the effort on half of the drawn queries; measure its recall on the others.

    Parameters
    ----------
    truth : Truth
    search : CellSearch
    rows : int
        Number of rows.
    k : int
        Neighbours of each query: the effort for 10 grows with it.
    recall : float
        Target recall.
    within : float
        Count the neighbours within this distance alone. Where there are few the others count too.

    Returns
    -------
    JoinEffort or None
        None where exact search is quicker. Of many rows, drawn queries in a tight crowd do not
        decide: the directions do not tell their neighbours apart. The recall counts them.
    """
    wanted = _wanted(truth, within)
    found = _choose(truth, search, rows, k, recall, within, wanted, wanted)
    if found is not None or rows <= _MAX_EXACT_ROWS:
        return found
    told_apart = np.where(wanted, truth.ranks, 0).max(axis=1, initial=0) <= _most(rows, truth)
    if told_apart.mean() < _MIN_TOLD_APART_SHARE:
        return None
    found = _choose(truth, search, rows, k, recall, within, wanted & told_apart[:, None], wanted)
    return found and replace(found, late_rank=1.0)  # in a crowd a search would widen to all of it


def _choose(
    truth: Truth,
    search: CellSearch,
    rows: int,
    k: int,
    recall: float,
    within: float,
    wanted: Mask,
    asked: Mask,
) -> JoinEffort | None:
    """Choose the effort that finds the wanted neighbours; measure how many of those asked for."""
    order = np.random.default_rng(1).permutation(len(wanted))
    half, check = order[: len(order) // 2], order[len(order) // 2 :]
    if not wanted[half].any():  # nothing but copies
        return None
    missed = (1 - recall) * (1 - MISS_RESERVE_SHARE)
    probing = _choose_probing(truth, search, half, wanted, missed * _CELL_MISS_SHARE)
    search = search.through(probing.parts)
    ranks = np.where(_are_probed(truth, search, probing), truth.ranks, np.inf)
    each = truth.squared.shape[1]
    least = MIN_CANDIDATES_PER_NEIGHBOR * each
    # Rows unlike the others may rank late: few queries have a neighbour beyond the candidates.
    worst = np.where(wanted, truth.ranks, 0).max(axis=1)
    most = _most(rows, truth)
    worst_rank = min(quantile(worst, recall), most)
    count = max(quantile(ranks[half][wanted[half]], 1 - missed), worst_rank, least)
    if count > most:
        return None
    if _probed_cells(truth.queries, search, probing) > _MAX_PROBED_SHARE * len(search.cells):
        return None
    reached = float(np.mean(ranks[check][asked[check]] <= count)) if asked[check].any() else None
    late = late_share(np.where(wanted, ranks, np.inf), count)
    if within < np.inf:
        count = 2 * k + RECALL_K  # above k only where more rows are near along few directions
    else:
        count *= max(k / each, 1)
    return JoinEffort(probing, int(count), late, reached)


def _most(rows: int, truth: Truth) -> float:
    """Return the largest number of candidates."""
    least = MIN_CANDIDATES_PER_NEIGHBOR * truth.squared.shape[1]
    return float(max(min(max_candidates(rows), MAX_RANK), least))


def _choose_probing(
    truth: Truth, search: CellSearch, half: Numbers, wanted: Mask, missed: float
) -> Probing:
    """Choose the bounds of rank and gap with the fewest cells for a share of missed neighbours."""
    queries = truth.queries[half]
    # Rows travel by the parts that are chosen here, which hardly ever miss the nearest cell.
    homes, wanted = _homes(truth, search.through(len(search.cells)))[half], wanted[half]
    part_ranks = search.part_ranks(search.cells.rotation(queries))
    own_parts = np.take_along_axis(part_ranks, homes, axis=1)[wanted]
    parts = max(int(quantile(own_parts, 1 - missed * _PART_MISS_SHARE)) + 1, MIN_PARTS)
    squared = _to_centres(queries, search)
    gaps = squared - squared.min(axis=1, keepdims=True)
    gaps[part_ranks >= parts] = np.inf
    order = np.argsort(gaps, axis=1)
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(gaps.shape[1])[None], axis=1)
    own_rank = np.take_along_axis(ranks, homes, axis=1)[wanted]
    own_gap = np.take_along_axis(gaps, homes, axis=1)[wanted]
    gaps = np.sort(gaps, axis=1)
    best: tuple[float, Probing] | None = None
    for share in np.linspace(1 - missed, 1, _TRIED_RANKS):
        most = max(int(quantile(own_rank, share)) + 1, min(_MIN_CELLS, gaps.shape[1]))
        gap = quantile(np.where(own_rank < most, own_gap, np.inf), 1 - missed)
        if np.isfinite(gap):
            cells = float((gaps[:, :most] <= gap).sum(axis=1).mean())
            if best is None or cells < best[0]:
                best = cells, Probing(gap, most, parts)
    assert best is not None  # the last rank misses nothing
    return best[1]


def _probed_cells(queries: Vectors, search: CellSearch, probing: Probing) -> float:
    """Return how many cells a query probes on average."""
    rows = search.within(search.cells.rotation(queries), probing.gap, probing.max_cells)[1]
    return len(rows) / max(len(queries), 1)


def widest_effort(search: CellSearch, rows: int) -> JoinEffort:
    """Return the effort where a measured one would be more than exact search takes."""
    probing = Probing(float("inf"), len(search.cells), len(search.cells))
    return JoinEffort(probing, max_candidates(rows), 1.0, None)


def _wanted(truth: Truth, within: float) -> Mask:
    """Return a mask (q, n) of the true neighbours that the effort has to find."""
    there = np.isfinite(truth.squared)
    if within == np.inf:
        return there
    squares = np.einsum("ij,ij->i", truth.queries, truth.queries)[:, None]
    near = there & (truth.squared <= within**2) & (truth.squared > squares * COPY)
    return near if near.sum() >= _MIN_PAIRS else there


def _to_centres(queries: Vectors, search: CellSearch) -> Vectors:
    rotated = np.ascontiguousarray(search.cells.rotation(queries))
    squared: Vectors = faiss.pairwise_distances(rotated, search.cells.centres)
    return squared


def _are_probed(truth: Truth, search: CellSearch, probing: Probing) -> Mask:
    """Tell of each true neighbour (q, n) whether the query probes its cell."""
    rotated = search.cells.rotation(truth.queries)
    _, row, cell = search.within(rotated, probing.gap, probing.max_cells)
    probed = np.zeros((len(rotated), len(search.cells)), bool)
    probed[row, cell] = True
    return np.take_along_axis(probed, _homes(truth, search), axis=1)


def _homes(truth: Truth, search: CellSearch) -> Numbers:
    """Return the cell of each true neighbour, int64 (q, n)."""
    count, each = truth.squared.shape
    near = truth.near.reshape(count * each, -1)
    return search.within(near, 0.0, 1)[0].reshape(count, each)
