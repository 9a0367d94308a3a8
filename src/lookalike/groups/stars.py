"""Tight groups: stars, of one representative and those within reach of it.

Components of a graph of neighbours chain: of a film each frame is near the next, and the first is
in one group with the last. In a star everybody is near its representative, so that no two members
are farther from each other than twice that.
"""

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]


def stars(count: int, one: Numbers, other: Numbers, distances: npt.NDArray[np.float32]) -> Numbers:
    """Return the representative of each of `count` nodes, int64 (count,), its own where alone.

    Nodes are numbered by priority, 0 first; `one` and `other`, int64 (edges,), are edges, each of
    them once, of the lengths `distances`. What the greedy algorithm gives that goes through the
    nodes in that order, and makes each one a representative that is no member yet: the first
    maximal independent set. Of several representatives a member belongs to the nearest, of equally
    near ones to the first. A node is decided as soon as those before it that it is near are; with
    all such nodes at a time the work is linear in the edges (Blelloch, Fineman, Shun, 2012,
    https://arxiv.org/abs/1202.3205).
    """
    first, second = np.minimum(one, other), np.maximum(one, other)
    order = np.lexsort((distances, second, first))
    starts = np.searchsorted(first[order], np.arange(count + 1))  # of the edges to later nodes
    sizes = np.diff(starts)
    later, lengths = second[order], distances[order]
    waits_for = np.bincount(second, minlength=count)  # edges to earlier ones that are undecided
    of = np.full(count, -1)
    how_far = np.full(count, np.inf, np.float32)
    front = np.flatnonzero(waits_for == 0)
    while len(front):
        of[front] = front
        edges = _edges(starts, sizes, front)
        near, length = later[edges], lengths[edges]
        whose = np.repeat(front, sizes[front])
        # A member may already be known; a nearer representative still takes it.
        best = np.lexsort((whose, length, near))
        near, length, whose = near[best], length[best], whose[best]
        nearest = np.flatnonzero(np.diff(near, prepend=-1))
        near, length, whose = near[nearest], length[nearest], whose[nearest]
        fresh = near[of[near] < 0]
        closer = (length < how_far[near]) | ((length == how_far[near]) & (whose < of[near]))
        of[near[closer]] = whose[closer]
        how_far[near[closer]] = length[closer]
        # Who waited for those that are members now need not any longer.
        decided = later[np.concatenate([_edges(starts, sizes, fresh), edges])]
        np.subtract.at(waits_for, decided, 1)
        reached = np.unique(decided)
        front = reached[(waits_for[reached] == 0) & (of[reached] < 0)]
    return of


def _edges(starts: Numbers, sizes: Numbers, nodes: Numbers) -> Numbers:
    """Return the numbers of all edges of some nodes, those of the first node first."""
    sizes = sizes[nodes]
    offsets = np.repeat(starts[:-1][nodes] - np.cumsum(sizes) + sizes, sizes)
    found: Numbers = offsets + np.arange(sizes.sum())
    return found
