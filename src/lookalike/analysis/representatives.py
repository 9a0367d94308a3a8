"""Group nodes into stars: a representative and the members within reach of it.

Connected components would chain: each frame of a film is near the next one, and the first is in one
group with the last. In a star every member is near the representative, so two members are never
farther apart than twice the reach.
"""

import numpy as np
import numpy.typing as npt

from lookalike.system.arrays import Numbers


def find_stars(
    count: int, one: Numbers, other: Numbers, distances: npt.NDArray[np.float32]
) -> Numbers:
    """Return the representative of each node; a node without edges is its own.

    The result is that of a greedy algorithm over the nodes in order: a node that is not a member
    becomes a representative, so these are the lexicographically first maximal independent set. A
    member belongs to its nearest representative, of equally near ones to the first. Nodes whose
    earlier neighbours are decided are handled together, so the work is linear in the edges
    (Blelloch, Fineman, Shun, 2012, https://arxiv.org/abs/1202.3205).

    Parameters
    ----------
    count : int
        Number of nodes, numbered by priority: 0 is first.
    one, other : int64 (edges,)
        The ends of each edge, once.
    distances : float32 (edges,)

    Returns
    -------
    int64 (count,)

    Examples
    --------
    >>> find_stars(3, np.array([0, 1]), np.array([1, 2]), np.array([0.1, 0.1], np.float32))
    array([0, 0, 2])
    """
    first, second = np.minimum(one, other), np.maximum(one, other)
    order = np.lexsort((distances, second, first))
    starts = np.searchsorted(first[order], np.arange(count + 1))  # edges to later nodes
    sizes = np.diff(starts)
    later, lengths = second[order], distances[order]
    pending = np.bincount(second, minlength=count)  # undecided earlier neighbours
    star = np.full(count, -1)
    radius = np.full(count, np.inf, np.float32)
    front = np.flatnonzero(pending == 0)
    while len(front):
        star[front] = front
        edges = _edges(starts, sizes, front)
        near, length = later[edges], lengths[edges]
        owner = np.repeat(front, sizes[front])
        # A nearer representative takes over a member.
        best = np.lexsort((owner, length, near))
        near, length, owner = near[best], length[best], owner[best]
        nearest = np.flatnonzero(np.diff(near, prepend=-1))
        near, length, owner = near[nearest], length[nearest], owner[nearest]
        fresh = near[star[near] < 0]
        closer = (length < radius[near]) | ((length == radius[near]) & (owner < star[near]))
        star[near[closer]] = owner[closer]
        radius[near[closer]] = length[closer]
        decided = later[np.concatenate([_edges(starts, sizes, fresh), edges])]
        np.subtract.at(pending, decided, 1)
        reached = np.unique(decided)
        front = reached[(pending[reached] == 0) & (star[reached] < 0)]
    return star


def _edges(starts: Numbers, sizes: Numbers, nodes: Numbers) -> Numbers:
    """Return the numbers of all edges of some nodes, in the order of the nodes."""
    sizes = sizes[nodes]
    offsets = np.repeat(starts[:-1][nodes] - np.cumsum(sizes) + sizes, sizes)
    found: Numbers = offsets + np.arange(sizes.sum())
    return found
