"""Clusters of a collection, from its neighbour graph: what hangs together more than it must.

The objective is the constant Potts model (Traag, Van Dooren and Nesterov, "Narrow scope for
resolution-limit-free community detection", 2011): the weight of the links within clusters, less a
price for every pair within. The price does not depend on how large the graph is, as that of
modularity does, so that clusters of a million images are not larger than those of a thousand. An
image stays alone where its links are not worth the pairs that it would bring. Copies count as one
image: more than k of them would name nobody but each other.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lookalike.errors import LookalikeError
from lookalike.sql import create_view, fetch_row, write_parquet
from lookalike.storage import EmbeddingTable

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection
    from scipy.sparse import csr_array

Places: TypeAlias = npt.NDArray[np.int64]
Weights: TypeAlias = npt.NDArray[np.float64]

TABLE = "clusters.parquet"
SIZE = 300
"""A pair costs, at resolution 1, this part of the weight that an image has in links. Two clusters
of n images, with the share f of their links between them, become one while n is below f * SIZE.

At half of it and at twice, clusters of photos of 24 unseen and of 98 other kinds of car, some 42 a
kind, agree with the labels about as well (adjusted mutual information 0.57 to 0.60, 0.84 to 0.88).
"""
SAME = 1e-3
"""A distance below which two images are copies; that of equal pictures is 0."""
_ROUNDS = 3  # of Leiden; ten come to an objective that is better by 0.01 %
_BATCH = 2**20  # rows of the graph at a time


def check_options(resolution: float, least: int) -> None:
    """Raise `LookalikeError` for a resolution or a size of clusters that makes none."""
    if not 0 < resolution < np.inf:
        raise LookalikeError(f"`resolution` is {resolution}: 1 is usual, 2 makes smaller clusters")
    if least < 1:
        raise LookalikeError(f"`least` is {least}: give a number from 1 on")


def cluster(
    collection: EmbeddingTable,
    graph: Path,
    folder: Path,
    *,
    resolution: float = 1.0,
    least: int = 2,
) -> dict[str, Any]:
    """Write `clusters.parquet` into a folder: the images that are in clusters; return figures.

    `graph` is the folder of `write_graph`, of 10 to 20 neighbours. Columns: `cluster` int32, 0 the
    largest, `id, path, label, representative` (true of one in each cluster, the first of its rows)
    and `weight`, the sum of an image's links to the others in its cluster, copies left out. A
    `resolution` above 1 makes clusters smaller, below 1 larger; those of fewer than `least` images
    are left out. The same graph gives the same clusters. A million images with 15 neighbours take
    2 GB, and two minutes on one core.

    Raises `LookalikeError` where the graph is none, or is of another version of the collection.
    """
    check_options(resolution, least)
    with collection.connect(folder) as sql:
        ids = sql.execute("select id from stored where status = 'ok' order by id").fetchnumpy()
        linked, node = links(sql, graph, np.asarray(ids["id"], np.int64))
        parts = communities(linked, resolution)
        named, sizes = by_size(parts[node])
        weights = inner_weights(linked, parts)[node]
        first = np.lexsort((-weights, named))[np.cumsum([0, *sizes[:-1]])] if len(sizes) else []
        chosen = np.zeros(len(named), bool)
        chosen[first] = True
        kept = int((sizes >= least).sum())
        found = pa.table([ids["id"], named, chosen, weights], ["id", "c", "representative", "w"])
        sql.register("found", found)
        query = """
            select c::int as cluster, id, path, label, representative, w::float as weight
            from found join stored using (id) where c < $kept
            order by c, representative desc, w desc, id"""
        write_parquet(sql, query, folder / TABLE, {"kept": kept})
    inside = int(sizes[:kept].sum())
    return {
        "images": len(named),
        "clusters": kept,
        "in_clusters": inside,
        "alone": len(named) - inside,
        "largest": int(sizes[0]) if kept else 0,
        "median": float(np.median(sizes[:kept])) if kept else 0.0,
        "resolution": resolution,
    }


def view_graph(sql: "DuckDBPyConnection", graph: Path) -> None:
    """Make a neighbour graph the view `graph`: `query_id, rank, neighbor_id, distance`."""
    if not any(graph.glob("*.parquet")):
        raise LookalikeError(f"{graph} is no neighbour graph: write one with `lookalike neighbors`")
    create_view(sql, "graph", graph)


def view_neighbors(sql: "DuckDBPyConnection", graph: Path, k: int) -> None:
    """Make the first k neighbours of each image in a graph the view `near`."""
    view_graph(sql, graph)
    sql.execute(f"create temp view near as from graph where rank <= {int(k)}")


def other_version(graph: Path) -> LookalikeError:
    """Return the error for a graph that names images which the collection does not have."""
    return LookalikeError(f"{graph} is of another version of the index: write it again")


def links(sql: "DuckDBPyConnection", graph: Path, ids: Places) -> tuple["csr_array", Places]:
    """Return what binds each two of m nodes, symmetric, (m, m); and the node of each row, (n,).

    A node is a row, of those with these `ids` (n,), rising, or all copies of one. A link weighs
    exp(-(distance / median distance)^2), half as much where only one is a neighbour of the other,
    and as the mean where copies bring several. The median is that of all pairs in the graph but
    copies.
    """
    from scipy import sparse

    view_graph(sql, graph)
    # Copies, of which there may be more than of all else, say nothing of how far images lie apart.
    scale = "select count(*), median(distance) filter (distance >= $same::float) from graph"
    count, middle = fetch_row(sql, scale, {"same": SAME})
    ends = np.empty((2, count), np.int32)
    weights = np.empty(count, np.float32)
    same = np.empty(count, bool)
    at = 0
    query = "select query_id, neighbor_id, distance from graph"
    for batch in sql.sql(query).to_arrow_reader(_BATCH):
        to = at + batch.num_rows
        for row, name in enumerate(("query_id", "neighbor_id")):
            ends[row, at:to] = _places(batch[name].to_numpy(), ids, graph)
        distances = batch["distance"].to_numpy()
        weights[at:to] = np.exp(-((distances / (middle or 1)) ** 2))
        same[at:to] = distances < SAME
        at = to
    copies = sparse.coo_array((same[same], tuple(ends[:, same])), (len(ids), len(ids)))
    nodes, node = sparse.csgraph.connected_components(copies, directed=False)
    ends = node[ends]
    apart = ends[0] != ends[1]
    ends, weights = ends[:, apart], weights[apart]
    one_way, times = (
        sparse.csr_array((values, tuple(ends)), (nodes, nodes))
        for values in (weights, np.ones_like(weights))
    )
    one_way.data /= times.data
    return (one_way + one_way.T) * np.float32(0.5), node


def _places(numbers: Places, ids: Places, graph: Path) -> Places:
    """Return where in `ids`, rising, each of some numbers stands."""
    found = np.searchsorted(ids, numbers)
    found[found == len(ids)] = 0
    if not len(ids) or (ids[found] != numbers).any():
        raise other_version(graph)
    return found


def communities(linked: "csr_array", resolution: float) -> Places:
    """Return the community of each node, (n,), by Leiden (Traag, Waltman and van Eck, 2019).

    https://networkit.github.io/dev-docs/python_api/community.html: its objective is modularity.
    With a loop at each node, so heavy that all nodes weigh the same, it is the constant Potts model
    (Arenas, Fernández and Gómez, 2008). On one thread and in the order of the nodes: more threads
    come to other clusters each time, and two were no quicker.
    """
    from scipy import sparse

    degrees: Weights = linked.sum(axis=1, dtype=np.float64)
    heaviest = degrees.max(initial=0)
    own = np.arange(len(degrees))
    if heaviest == 0:
        return own
    import networkit as nk

    upper = sparse.triu(linked, 1, "coo")
    ends = [np.concatenate([side, own]).astype(np.uint64) for side in (upper.row, upper.col)]
    loops = (heaviest - degrees) / 2  # both ends of which are at the node
    weights = np.concatenate([upper.data.astype(np.float64), loops])
    net = nk.GraphFromCoo((weights, (ends[0], ends[1])), n=len(own), weighted=True)
    price = resolution * degrees.mean() / SIZE
    before = nk.getMaxNumberOfThreads()
    nk.setNumberOfThreads(1)
    try:
        leiden = nk.community.ParallelLeiden(
            net, randomize=False, iterations=_ROUNDS, gamma=price * len(own) / heaviest
        )
        return np.array(leiden.run().getPartition().getVector(), np.int64)
    finally:
        nk.setNumberOfThreads(before)


def by_size(parts: Places) -> tuple[Places, Places]:
    """Number communities (n,) anew: by falling size, equal ones by their first member.

    Returns the number of each row, (n,), and the size of each community.
    """
    _, first, named = np.unique(parts, return_index=True, return_inverse=True)
    sizes = np.bincount(named)
    order = np.lexsort((first, -sizes))
    numbers = np.empty(len(order), np.int64)
    numbers[order] = np.arange(len(order))
    return numbers[named], sizes[order]


def inner_weights(linked: "csr_array", named: Places) -> Weights:
    """Return the weight of each node's links to nodes of the same name, both (m,)."""
    rows = np.repeat(np.arange(len(named), dtype=np.int32), np.diff(linked.indptr))
    within = named[rows] == named[linked.indices]
    return np.bincount(rows[within], linked.data[within], len(named)).astype(np.float64)
