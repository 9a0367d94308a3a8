"""One query by signatures: estimated distances first, exact ones of the best."""

import numpy as np

from lookalike.search.exact import _CHECKED, _MORE, _best, exact
from lookalike.search.rows import Neighbor, Rows
from lookalike.search.signatures import Effort, Signatures
from lookalike.system.arrays import Mask, Vectors


def approximate(
    rows: Rows,
    signatures: Signatures,
    query: Vectors,
    k: int,
    effort: Effort,
    without: int | None = None,
    allowed: Mask | None = None,
) -> tuple[list[Neighbor], int | None]:
    """Return the k nearest of the rows whose signatures are nearest to a query.

    Neighbours that rank late, among the scanned cells or among the candidates, hint at more beyond:
    the search then widens until they rank early or nothing changes. It also widens where the cells
    hold fewer than k rows. A search that would compare a large share of all rows is exact instead.

    Parameters
    ----------
    rows : Rows
    signatures : Signatures
        Of the same rows.
    query : float32 (width,)
    k : int
    effort : Effort
    without, allowed
        As in `exact`.

    Returns
    -------
    neighbors : list of Neighbor
    compared : int or None
        Number of rows whose vectors were compared; None for all.
    """
    own = without is not None
    count, cells = max(effort.candidates, k) + own, effort.cells
    wanted, before, is_late, is_far = count + 1, np.empty(0, np.int64), False, False
    while wanted < len(rows) // 8 and cells <= len(signatures.cells):
        (estimates,), (found,), (cells_near,) = signatures.nearest_with_cells(
            query[None], wanted, cells, allowed
        )
        filled = int(np.count_nonzero(found >= 0))
        if filled == wanted and estimates[count - 1] == estimates[-1]:
            wanted *= _MORE  # rows that tie with the last candidate are candidates too
            continue
        if filled < k + own:
            cells *= _MORE
            continue
        last = estimates[min(count, filled) - 1]
        order = np.argsort(found[: np.searchsorted(estimates[:filled], last, side="right")])
        candidates = found[order]
        squared, best = _best(rows, query, max(k, _CHECKED), without, candidates)
        near = candidates[best[:k]]
        if np.array_equal(near, before):
            break
        compared = len(candidates)
        ranks = signatures.cell_ranks(candidates[best], cells_near)
        is_late = is_late or order[best].sum() > effort.late_rank * compared * len(best)
        is_far = is_far or ranks.sum() > effort.late_cell * cells * len(best)
        is_late, is_far = is_late and filled == wanted, is_far and cells < len(signatures.cells)
        if not is_late and not is_far:
            break
        before = near
        count = compared * _MORE if is_late else count
        cells = min(cells * _MORE, len(signatures.cells)) if is_far else cells
        wanted = count + 1
    else:
        return exact(rows, query, k, without, allowed), None
    return rows.neighbors(near, squared[best[:k]]), len(candidates)
