"""Clusters agree with what the cars are, hold no chain together, and are the same each time."""

import itertools
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from helpers.photos import UNSEEN, needs_photos
from lookalike import Index
from lookalike.analysis.clusters import cluster, find_communities, number_by_size
from lookalike.errors import LookalikeError
from lookalike.images.synthetic import DrawnCollection
from lookalike.ingest import Options, build_index
from lookalike.search.knn.graph import write_graph
from lookalike.storage import EmbeddingTable
from lookalike.storage.schema import ROW
from lookalike.storage.segments import read_rows
from strangers import made

STEPS = 60


@pytest.fixture(scope="module")
def graph(index: Index, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ten neighbours of each drawn car."""
    folder = tmp_path_factory.mktemp("graph") / "graph"
    write_graph(index._table, folder, 10, spark=False)
    return folder


def clusters(
    collection: EmbeddingTable, graph: Path, folder: Path, resolution: float = 1.0
) -> pa.Table:
    folder.mkdir(exist_ok=True)
    cluster(collection, graph, folder, resolution=resolution)
    return pq.read_table(folder / "clusters.parquet")


def pairs_alike(table: pa.Table) -> float:
    """Return the share of pairs in a cluster that have the same label."""
    rows = zip(table["cluster"].to_pylist(), table["label"].to_pylist(), strict=True)
    pairs = [a[1] == b[1] for a, b in itertools.combinations(rows, 2) if a[0] == b[0]]
    return float(np.mean(pairs))


def test_clusters_are_of_one_kind_of_car(index: Index, graph: Path, tmp_path: Path) -> None:
    figures = cluster(index._table, graph, tmp_path, resolution=10)  # four of each kind
    table = pq.read_table(tmp_path / "clusters.parquet")
    assert figures["images"] == 96
    assert table.schema.names == ["cluster", "id", "path", "label", "representative", "weight"]
    assert table.schema.field("cluster").type == pa.int32()
    assert figures["in_clusters"] == len(table) == 96 - figures["alone"]
    by_chance = sum(n * (n - 1) for n in np.unique(table["label"], return_counts=True)[1])
    assert pairs_alike(table) > 3 * by_chance / (len(table) * (len(table) - 1))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clusters.parquet"]


def test_clusters_come_by_falling_size_with_a_representative_each(
    index: Index, graph: Path, tmp_path: Path
) -> None:
    figures = cluster(index._table, graph, tmp_path, resolution=2, least=3)
    table = pq.read_table(tmp_path / "clusters.parquet").to_pylist()
    groups = [list(rows) for _, rows in itertools.groupby(table, lambda row: row["cluster"])]
    sizes = [len(rows) for rows in groups]
    assert [rows[0]["cluster"] for rows in groups] == list(range(figures["clusters"]))
    assert sizes == sorted(sizes, reverse=True) and min(sizes) >= 3 > 0
    assert sizes[0] == figures["largest"] and sum(sizes) == figures["in_clusters"]
    for rows in groups:
        assert [row["representative"] for row in rows] == [True] + [False] * (len(rows) - 1)
        assert rows[0]["weight"] == max(row["weight"] for row in rows)


def test_the_same_graph_gives_the_same_clusters(index: Index, graph: Path, tmp_path: Path) -> None:
    once = clusters(index._table, graph, tmp_path / "once")
    # In other files and another order, as Spark may write it.
    table = pq.read_table(graph)
    other = tmp_path / "other"
    other.mkdir()
    order = np.random.default_rng(0).permutation(len(table))
    for number, part in enumerate(np.array_split(order, 3)):
        pq.write_table(table.take(part), other / f"part-{number}.parquet")
    assert clusters(index._table, other, tmp_path / "again").equals(once)


def test_a_higher_resolution_makes_smaller_clusters(
    index: Index, graph: Path, tmp_path: Path
) -> None:
    largest = [
        cluster(index._table, graph, tmp_path, resolution=resolution)["largest"]
        for resolution in (0.01, 1, 30)
    ]
    assert largest == sorted(largest, reverse=True) and largest[0] > largest[2]
    alone = cluster(index._table, graph, tmp_path, resolution=1e6)
    assert alone["clusters"] == alone["in_clusters"] == alone["largest"] == 0
    assert alone["alone"] == 96
    assert len(pq.read_table(tmp_path / "clusters.parquet")) == 0


def test_a_chain_of_pictures_that_change_step_by_step_is_no_cluster(
    drawn: DrawnCollection, tmp_path: Path
) -> None:
    """Every picture is next to one much like it; first and last are of two kinds of car."""
    photos = tmp_path / "photos"
    photos.mkdir()
    one, other = (
        Image.open(drawn.photos / name).convert("RGB").resize((160, 120))
        for name in ("00001.jpg", "00002.jpg")
    )
    for step in range(STEPS):
        Image.blend(one, other, step / (STEPS - 1)).save(photos / f"{step:02}.png")
    made = build_index(photos, tmp_path / "chain.index", Options(spark=False))[0]
    write_graph(made, tmp_path / "graph", 10, spark=False)
    # What connects neighbours connects all of them.
    from scipy import sparse

    found = pq.read_table(tmp_path / "graph")
    ends = (found["query_id"].to_numpy(), found["neighbor_id"].to_numpy())
    near = sparse.coo_array((np.ones(len(found)), ends), (STEPS, STEPS))
    assert sparse.csgraph.connected_components(near, directed=False)[0] == 1
    table = clusters(made, tmp_path / "graph", tmp_path / "out")
    of = dict(zip(table["path"].to_pylist(), table["cluster"].to_pylist(), strict=True))
    assert of["00.png"] != of[f"{STEPS - 1}.png"]
    assert max(np.bincount(table["cluster"])) <= STEPS / 2


def test_clusters_do_not_grow_with_the_collection() -> None:
    """A ring of pictures, ten or a hundred times as long, falls into parts of the same length."""
    from scipy import sparse

    def longest(count: int) -> int:
        steps = [*range(-5, 0), *range(1, 6)]
        near = sparse.diags_array(
            [np.float32(1)] * 10, offsets=steps, shape=(count, count), dtype=np.float32
        )
        return int(number_by_size(find_communities(sparse.csr_array(near), 1))[1][0])

    small, large = longest(1000), longest(50_000)
    assert 10 < small < 100
    assert large <= 1.5 * small


def test_who_has_no_links_is_alone(index: Index, graph: Path, tmp_path: Path) -> None:
    table = pq.read_table(graph)
    few = tmp_path / "few"
    few.mkdir()
    pq.write_table(table.filter(pa.compute.less(table["query_id"], 0)), few / "part-0.parquet")
    figures = cluster(index._table, few, tmp_path)
    assert (figures["clusters"], figures["alone"]) == (0, 96)
    every = cluster(index._table, few, tmp_path, least=1)
    assert (every["clusters"], every["alone"], every["largest"]) == (96, 0, 1)


def test_copies_are_one_cluster(index: Index, tmp_path: Path) -> None:
    """Distances of 0 alone, so that no scale can be taken from them."""
    graph = tmp_path / "graph"
    graph.mkdir()
    ids = pa.array([0, 1, 2, 0, 1, 2])
    others = pa.array([1, 2, 0, 2, 0, 1])
    table = {"query_id": ids, "neighbor_id": others, "distance": pa.array([0.0] * 6, pa.float32())}
    pq.write_table(pa.table(table), graph / "part-0.parquet")
    assert clusters(index._table, graph, tmp_path)["id"].to_pylist() == [0, 1, 2]


def test_more_copies_than_neighbors_are_one_cluster(index: Index, tmp_path: Path) -> None:
    """A thousand times the same picture, as a shop has for what it has no picture of."""
    rows = pa.concat_tables([read_rows(file, ROW.names) for file in index._table.files()])
    table = pa.concat_tables([rows, *[rows.slice(0, 1)] * 1000])
    collection, graph, out = made(index._table, table, tmp_path, 10)
    found = clusters(collection, graph, out, resolution=10).to_pylist()
    largest = {row["id"] for row in found if row["cluster"] == 0}
    assert {0, *range(96, 1096)} <= largest
    assert len(largest) < 1050
    # The others are put together as they are without the copies.
    alone = made(index._table, rows, tmp_path, 10)
    assert abs(len(clusters(*alone, resolution=10)) - len(found) + 1000) < 20


def test_what_cannot_be_clustered_is_said_in_a_line(
    index: Index, graph: Path, tmp_path: Path
) -> None:
    with pytest.raises(LookalikeError, match="not a neighbour graph"):
        cluster(index._table, tmp_path, tmp_path)
    for resolution in (0, -1, float("nan"), float("inf")):
        with pytest.raises(LookalikeError, match="resolution"):
            cluster(index._table, graph, tmp_path, resolution=resolution)
    with pytest.raises(LookalikeError, match="at least 1 image"):
        cluster(index._table, graph, tmp_path, least=0)
    shutil.copytree(graph, tmp_path / "graph")
    table = pq.read_table(graph)
    moved = table.set_column(0, "query_id", pa.compute.add(table["query_id"], 1000))
    pq.write_table(moved, tmp_path / "graph" / "part-0.parquet")
    with pytest.raises(LookalikeError, match="another version"):
        cluster(index._table, tmp_path / "graph", tmp_path)


@pytest.mark.long
@needs_photos
def test_clusters_of_real_photos_agree_with_their_labels(tmp_path: Path) -> None:
    options = Options(labels=UNSEEN / "cardatasettrain.csv", precision="f32", spark=False)
    made = build_index(UNSEEN / "cars_train", tmp_path / "cars.index", options)[0]
    write_graph(made, tmp_path / "graph", 15, spark=False)
    table = clusters(made, tmp_path / "graph", tmp_path)
    assert len(table) > 950
    assert pairs_alike(table) > 0.2  # by chance 0.04
    assert max(np.bincount(table["cluster"])) < 200
