"""Cluster a collection by its neighbour graph.

The objective is the constant Potts model (Traag, Van Dooren and Nesterov, "Narrow scope for
resolution-limit-free community detection", 2011): the weight of the links within clusters, minus a
price for every pair within them. Unlike in modularity, the price does not depend on the size of the
graph, so a collection of a million images has clusters no larger than one of a thousand. An image
stays alone where its links are worth less than its pairs. Copies count as one image: the neighbour
lists of more than k copies would name only each other.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lookalike.errors import LookalikeError
from lookalike.search.rows import Rows, draw
from lookalike.storage import EmbeddingTable
from lookalike.system.sql import create_view, fetch_row, write_parquet

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection
    from scipy.sparse import csr_array


Places: TypeAlias = npt.NDArray[np.int64]
Weights: TypeAlias = npt.NDArray[np.float64]

TABLE = "clusters.parquet"
CLUSTER_SCALE = 300
"""At resolution 1 a pair costs the mean weight of an image's links divided by this. Two clusters of
n images, with the share f of their links between them, merge while n is below f * CLUSTER_SCALE.

At half of it and at twice, clusters of photos of 24 unseen and of 98 other kinds of car, some 42 a
kind, agree with the labels about as well (adjusted mutual information 0.57 to 0.60, 0.84 to 0.88).
"""
MAX_COPY_DISTANCE = 1e-3
"""Two images that are nearer than this are copies; equal pictures have distance 0. With vectors of
any length it is the share of the usual distance of two of them."""
_SCALE_PAIRS = 1000  # drawn at random
_LEIDEN_ITERATIONS = 3  # with ten the objective is 0.01 % better
_BATCH_ROWS = 2**20


def check_options(resolution: float, least: int) -> None:
    """Raise `LookalikeError` for a resolution or a size of clusters that makes none."""
    if not 0 < resolution < np.inf:
        raise LookalikeError(
            f"`resolution` is {resolution}: give a number above 0; 2 makes smaller clusters than 1"
        )
    if least < 1:
        raise LookalikeError(f"`least` is {least}: give at least 1 image per cluster")


def cluster(
    table: EmbeddingTable,
    graph: Path,
    folder: Path,
    *,
    resolution: float = 1.0,
    least: int = 2,
) -> dict[str, Any]:
    """Cluster the images by their neighbour graph and write `clusters.parquet`.

    The same graph gives the same clusters. A million images with 15 neighbours take 2 GB and two
    minutes on one core.

    Parameters
    ----------
    table : EmbeddingTable
    graph : Path
        A folder of `write_graph`, with 10 to 20 neighbours per image.
    folder : Path
    resolution : float
        Above 1 clusters are smaller, below 1 larger.
    least : int
        Leave out clusters of fewer images.

    Returns
    -------
    dict
        Figures. The columns of the table are `cluster` int32 (0 is the largest), `id, path, label`,
        `representative` (true for one image per cluster, its first row) and `weight`, the sum of an
        image's links within its cluster, without copies.

    Raises
    ------
    LookalikeError
        For a resolution or a `least` out of range, or where the graph is invalid or belongs to
        another version of the index.
    """
    check_options(resolution, least)
    with table.connect(folder) as sql:
        ids = sql.execute("select id from stored where status = 'ok' order by id").fetchnumpy()
        numbers = np.asarray(ids["id"], np.int64)
        adjacency, node = link_matrix(sql, graph, numbers, copy_distance(table))
        parts = find_communities(adjacency, resolution)
        numbers, sizes = number_by_size(parts[node])
        weights = inner_weights(adjacency, parts)[node]
        first = np.lexsort((-weights, numbers))[np.cumsum([0, *sizes[:-1]])] if len(sizes) else []
        chosen = np.zeros(len(numbers), bool)
        chosen[first] = True
        kept = int((sizes >= least).sum())
        found = pa.table([ids["id"], numbers, chosen, weights], ["id", "c", "representative", "w"])
        sql.register("found", found)
        query = """
            select c::int as cluster, id, path, label, representative, w::float as weight
            from found join stored using (id) where c < $kept
            order by c, representative desc, w desc, id"""
        write_parquet(sql, query, folder / TABLE, {"kept": kept})
    inside = int(sizes[:kept].sum())
    return {
        "images": len(numbers),
        "clusters": kept,
        "in_clusters": inside,
        "alone": len(numbers) - inside,
        "largest": int(sizes[0]) if kept else 0,
        "median": float(np.median(sizes[:kept])) if kept else 0.0,
        "resolution": resolution,
    }


def view_graph(sql: "DuckDBPyConnection", graph: Path) -> None:
    """Make a neighbour graph the view `graph`: `query_id, rank, neighbor_id, distance`."""
    if not any(graph.glob("*.parquet")):
        raise LookalikeError(
            f"{graph} is not a neighbour graph: write one with `lookalike neighbors`"
        )
    create_view(sql, "graph", graph)


def view_neighbors(sql: "DuckDBPyConnection", graph: Path, k: int) -> None:
    """Make the first k neighbours of each image in a graph the view `near`."""
    view_graph(sql, graph)
    sql.execute(f"create temp view near as from graph where rank <= {int(k)}")


def wrong_version(graph: Path) -> LookalikeError:
    """Return the error for a graph with images that are not in the index."""
    return LookalikeError(f"{graph} belongs to another version of the index: write it again")


def copy_distance(table: EmbeddingTable) -> float:
    """Return the distance below which two vectors of a table are copies."""
    if table.metric == "cosine":
        return MAX_COPY_DISTANCE
    rows = Rows(table.segments)
    if not len(rows):
        return 0.0
    drawn = rows.vectors(draw(len(rows), 2 * _SCALE_PAIRS))
    order = np.random.default_rng(0).permutation(len(drawn) // 2 * 2)
    half = len(order) // 2
    distances = np.linalg.norm(drawn[order[:half]] - drawn[order[half:]], axis=1)
    apart = distances[distances > 0]
    return MAX_COPY_DISTANCE * float(np.median(apart)) if len(apart) else 0.0


def link_matrix(
    sql: "DuckDBPyConnection", graph: Path, ids: Places, same: float = MAX_COPY_DISTANCE
) -> tuple["csr_array", Places]:
    """Return the weighted adjacency matrix of a neighbour graph, with copies merged.

    A link weighs exp(-(distance / median distance)^2); half of it where only one image is a
    neighbour of the other, and the mean where copies bring several. The median is over all pairs in
    the graph without copies.

    Parameters
    ----------
    sql : DuckDBPyConnection
    graph : Path
    ids : int64 (n,)
        The ids of the index, ascending.
    same : float
        The distance below which two rows are copies; equal ones always are.

    Returns
    -------
    adjacency : csr_array (m, m)
        Symmetric; a node is an image or all copies of one.
    node : int64 (n,)
        The node of each row.
    """
    from scipy import sparse

    view_graph(sql, graph)
    # Copies may be most of all pairs, and say nothing about usual distances.
    scale = """
        select count(*), median(distance) filter (distance >= $same::float and distance > 0)
        from graph"""
    count, middle = fetch_row(sql, scale, {"same": same})
    ends = np.empty((2, count), np.int32)
    weights = np.empty(count, np.float32)
    is_copy = np.empty(count, bool)
    at = 0
    query = "select query_id, neighbor_id, distance from graph"
    for batch in sql.sql(query).to_arrow_reader(_BATCH_ROWS):
        to = at + batch.num_rows
        for row, name in enumerate(("query_id", "neighbor_id")):
            ends[row, at:to] = _places(batch[name].to_numpy(), ids, graph)
        distances = batch["distance"].to_numpy()
        weights[at:to] = np.exp(-((distances / (middle or 1)) ** 2))
        is_copy[at:to] = (distances < same) | (distances == 0)
        at = to
    copies = sparse.coo_array((is_copy[is_copy], tuple(ends[:, is_copy])), (len(ids), len(ids)))
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
    """Return the position of each number in `ids`, rising."""
    found = np.searchsorted(ids, numbers)
    found[found == len(ids)] = 0
    if not len(ids) or (ids[found] != numbers).any():
        raise wrong_version(graph)
    return found


def find_communities(adjacency: "csr_array", resolution: float) -> Places:
    """Return the community of each node, int64 (m,), by Leiden (Traag, Waltman and van Eck, 2019).

    NetworKit's Leiden maximises modularity. With a loop at each node, so heavy that all nodes weigh
    the same, that is the constant Potts model (Arenas, Fernández and Gómez, 2008). It runs on one
    thread, in the order of the nodes: with more threads the result changes from run to run, and two
    are no quicker. https://networkit.github.io/dev-docs/python_api/community.html
    """
    from scipy import sparse

    degrees: Weights = adjacency.sum(axis=1, dtype=np.float64)
    heaviest = degrees.max(initial=0)
    own = np.arange(len(degrees))
    if heaviest == 0:
        return own
    import networkit as nk

    upper = sparse.triu(adjacency, 1, "coo")
    ends = [np.concatenate([side, own]).astype(np.uint64) for side in (upper.row, upper.col)]
    loops = (heaviest - degrees) / 2  # a loop has both ends at the node
    weights = np.concatenate([upper.data.astype(np.float64), loops])
    net = nk.GraphFromCoo((weights, (ends[0], ends[1])), n=len(own), weighted=True)
    price = resolution * degrees.mean() / CLUSTER_SCALE
    before = nk.getMaxNumberOfThreads()
    nk.setNumberOfThreads(1)
    try:
        leiden = nk.community.ParallelLeiden(
            net, randomize=False, iterations=_LEIDEN_ITERATIONS, gamma=price * len(own) / heaviest
        )
        return np.array(leiden.run().getPartition().getVector(), np.int64)
    finally:
        nk.setNumberOfThreads(before)


def number_by_size(parts: Places) -> tuple[Places, Places]:
    """Number communities (n,) by falling size, equal sizes by their first member.

    Returns the new number of each row, int64 (n,), and the size of each community.
    """
    _, first, named = np.unique(parts, return_index=True, return_inverse=True)
    sizes = np.bincount(named)
    order = np.lexsort((first, -sizes))
    numbers = np.empty(len(order), np.int64)
    numbers[order] = np.arange(len(order))
    return numbers[named], sizes[order]


def inner_weights(adjacency: "csr_array", parts: Places) -> Weights:
    """Return the weight of each node's links within its part: float64 (m,)."""
    rows = np.repeat(np.arange(len(parts), dtype=np.int32), np.diff(adjacency.indptr))
    within = parts[rows] == parts[adjacency.indices]
    return np.bincount(rows[within], adjacency.data[within], len(parts)).astype(np.float64)
