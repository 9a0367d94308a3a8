"""The neighbours of every image through Spark, against search one by one."""

from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.clusters import addition, clustered
from helpers.partitions import found_ids, partition_of
from helpers.segments import Floats, collection_of, grown, in_pieces, unit
from lookalike import Index, LookalikeError
from lookalike.search import cells as cells_module
from lookalike.search.cell_search import CellSearch
from lookalike.search.cells import Cells, Rotation
from lookalike.search.exact import exact
from lookalike.search.knn import effort as effort_module
from lookalike.search.knn import join as module
from lookalike.search.knn import partitions, regions, tasks
from lookalike.search.knn.effort import JoinEffort
from lookalike.search.knn.packing import hash_rows, pack_keys, packed_type, take, unpack_keys
from lookalike.search.knn.partitions import Partition, group_segments
from lookalike.search.knn.region_tasks import RegionSearch, region_task
from lookalike.search.knn.regions import plan_regions
from lookalike.search.knn.routing import Probing, Routing
from lookalike.search.knn.sources import VectorBatch
from lookalike.search.rows import Rows
from lookalike.search.searcher import Searcher
from lookalike.spark import session
from lookalike.storage import EmbeddingTable

ROWS = 3000
Found = dict[int, list[tuple[int, float]]]


@pytest.fixture(scope="module")
def vectors() -> Floats:
    return clustered(ROWS + 300)


@pytest.fixture(scope="module")
def index(vectors: Floats, tmp_path_factory: pytest.TempPathFactory) -> Index:
    folder = tmp_path_factory.mktemp("cars")
    return Index(collection_of(vectors[:ROWS], folder / "cars.index", [700, 1, 1299, 1000]))


def told(frame: Any) -> Found:
    """What a table of neighbours says of each query; ranks have to be 1, 2, 3 and so on."""
    found: Found = {}
    rows = frame.toArrow().sort_by([("query_id", "ascending"), ("rank", "ascending")])
    names = "query_id", "rank", "neighbor_id", "distance"
    for query, rank, neighbor, distance in zip(
        *(rows[name].to_pylist() for name in names), strict=True
    ):
        own = found.setdefault(query, [])
        own.append((neighbor, distance))
        assert rank == len(own)
    return found


def test_all_neighbours_exactly(index: Index, vectors: Floats, tmp_path: Path) -> None:
    found = told(index.kneighbors(k=7, engine="exact").write(tmp_path / "all"))
    assert sorted(found) == list(range(ROWS))
    rows = Rows(index._table.segments)
    for number in range(0, ROWS, 41):
        wanted = exact(rows, vectors[number], 7, without=number)
        assert [other for other, _ in found[number]] == [one.id for one in wanted]
        distances = [one.distance for one in wanted]
        assert np.allclose([distance for _, distance in found[number]], distances, rtol=1e-5)
    files = list((tmp_path / "all").glob("*.parquet"))
    assert pq.read_schema(files[0]).names == ["query_id", "rank", "neighbor_id", "distance"]


def test_all_neighbours_by_signatures(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EXACT_UP_TO", 100)
    by_signatures = told(index.kneighbors(k=10, recall=0.95).write(tmp_path / "lsh"))
    exactly = told(index.kneighbors(k=10, recall=1).write(tmp_path / "exact"))
    shares = []
    for number, wanted in exactly.items():
        own = by_signatures[number]
        assert len({other for other, _ in own}) == len(own) == 10
        assert number not in {other for other, _ in own}
        assert [distance for _, distance in own] == sorted(distance for _, distance in own)
        shares.append(len({other for other, _ in own} & {other for other, _ in wanted}) / 10)
    assert 0.94 < np.mean(shares) < 1, "less than all, or it was exact"


def test_another_index_asks(index: Index, vectors: Floats, tmp_path: Path) -> None:
    asking = Index(collection_of(vectors[ROWS - 20 :], tmp_path / "new.index", [100, 220]))
    found = told(index.kneighbors(asking, 3).write(tmp_path / "out"))
    assert sorted(found) == list(range(320))
    rows = Rows(index._table.segments)
    for number in (0, 19, 20, 150, 319):
        wanted = exact(rows, vectors[ROWS - 20 + number], 3)
        assert [other for other, _ in found[number]] == [one.id for one in wanted]
    assert found[5][0] == (ROWS - 15, 0.0), "an image of the other index is no query of its own"


def test_paths_are_joined_on_request(index: Index, tmp_path: Path) -> None:
    index.kneighbors(k=2).write(tmp_path / "out", paths=True)
    rows = pq.read_table(tmp_path / "out").to_pylist()
    assert len(rows) == 2 * ROWS
    assert all(row["query_path"] == f"{row['query_id']}.jpg" for row in rows)
    assert all(row["neighbor_path"] == f"{row['neighbor_id']}.jpg" for row in rows)


@pytest.mark.parametrize("kind", ["arrays", "vectors"])
def test_queries_from_a_dataframe(index: Index, vectors: Floats, kind: str) -> None:
    from pyspark.ml.functions import array_to_vector
    from pyspark.sql import functions

    rows = [(number + 10**12, vectors[ROWS + number].tolist()) for number in range(30)]
    none = (7, None)  # left out
    frame = session().createDataFrame([*rows, none], "number bigint, v array<double>")
    if kind == "vectors":
        numbers = functions.col("v")
        made = functions.when(numbers.isNotNull(), array_to_vector(numbers))
        frame = frame.withColumn("v", made)
    found = told(index.kneighbors(frame, 4, id_column="number", column="v").to_spark())
    assert sorted(found) == [number for number, _ in rows]
    for number, vector in rows[::7]:
        wanted = exact(Rows(index._table.segments), np.array(vector, np.float32), 4)
        assert [other for other, _ in found[number]] == [one.id for one in wanted]


@pytest.mark.parametrize("kind", ["near copies", "other directions"])
def test_all_neighbours_of_what_is_added(
    kind: str, vectors: Floats, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too few to have cells of their own, and nothing that their directions tell apart."""
    monkeypatch.setattr(module, "EXACT_UP_TO", 100)
    wide = clustered(ROWS, 0, 384)
    stored = collection_of(wide, tmp_path / "wide.index", [ROWS])
    Searcher(stored).get_ready()
    index = Index(grown(stored, addition(kind, wide, 200)))
    found = told(index.kneighbors(k=10).write(tmp_path / "out"))
    rows = Rows(index._table.segments)
    for numbers in (range(ROWS, ROWS + 200), range(0, ROWS, 60)):
        shares = []
        for number in numbers:
            query = rows.vectors(np.array([number]))[0]
            wanted = {one.id for one in exact(rows, query, 10, without=number)}
            shares.append(len({other for other, _ in found[number]} & wanted) / 10)
        assert np.mean(shares) >= 0.97


@pytest.mark.parametrize("count", [1, 3])
def test_a_handful_of_images(count: int, tmp_path: Path) -> None:
    few = Index(collection_of(unit((count, 8), 0), tmp_path / "few.index", [1] * count))
    found = told(few.kneighbors(k=5).write(tmp_path / "out"))
    assert {number: len(own) for number, own in found.items()} == (
        dict.fromkeys(range(count), count - 1) if count > 1 else {}
    )


@pytest.mark.parametrize("engine", ["exact", "approximate"])
def test_a_collection_of_copies_does_not_blow_up(
    engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = np.repeat(unit((1, 32), 0), 2000, axis=0)
    index = Index(collection_of(copies, tmp_path / "copies.index", [800, 1200]))
    if engine == "approximate":
        effort = JoinEffort(Probing(0.0, 2), 20, 1.0, None)
        monkeypatch.setattr(module, "choose_effort", lambda *_: effort)
    found = told(index.kneighbors(k=5, engine=engine).write(tmp_path / "out"))
    assert len(found) == 2000
    for number, own in found.items():
        assert len({other for other, _ in own} - {number}) == 5
        assert {distance for _, distance in own} == {0.0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "fast"}, "unknown engine 'fast'"),
        ({"recall": 5}, "`recall` is 5"),
        ({"k": 0}, "k is 0"),
    ],
)
def test_wrong_options(index: Index, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(LookalikeError, match=message):
        index.kneighbors(**options).write(tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_what_is_refused(index: Index, vectors: Floats, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(LookalikeError, match="already exists"):
        index.kneighbors().write(tmp_path / "taken")
    with pytest.raises(LookalikeError, match="a folder of something else"):
        index.kneighbors().write(tmp_path / "taken", overwrite=True)
    with pytest.raises(LookalikeError, match="k is 0"):
        index.kneighbors(k=0).write(tmp_path / "out")
    other = Index(collection_of(vectors[:50], tmp_path / "other.index", [50]))
    other._table.about_model["fingerprint"] = "another"
    with pytest.raises(LookalikeError, match="made with another model"):
        index.kneighbors(other, 5).write(tmp_path / "out")
    for lists in ([[0.5, 0.5]], [[0.5], [0.5] * (2 * vectors.shape[1] - 1)]):
        rows = list(enumerate(lists))
        frame = session().createDataFrame(rows, "id bigint, embedding array<double>")
        with pytest.raises(Exception, match="vectors of another width"):
            index.kneighbors(frame)
    frame = session().createDataFrame(
        [(1, [float("nan")] * vectors.shape[1])], "id int, embedding array<double>"
    )
    with pytest.raises(Exception, match="not finite"):
        index.kneighbors(frame)


def test_it_can_be_written_again(tmp_path: Path) -> None:
    few = Index(collection_of(unit((20, 8), 0), tmp_path / "few.index", [20]))
    few.kneighbors(k=1).write(tmp_path / "out")
    assert few.kneighbors(k=2).write(tmp_path / "out", overwrite=True).count() == 2 * 20


# --- parts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "tasks", "wanted"),
    [
        ([10] * 6, 2, [30, 30]),
        ([10] * 6, 100, [10] * 6),
        ([10] * 6, 1, [60]),
        ([60, 0, 60], 1, [60, 60]),
        ([250, 1, 1], 1, [250, 2]),
        ([], 2, []),
    ],
)
def test_groups(
    sizes: list[int], tasks: int, wanted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "MAX_GROUP_ROWS", 100)
    groups = group_segments(in_pieces(unit((sum(sizes), 4), 0), sizes), tasks)
    assert [sum(len(segment.ids) for segment in one) for one in groups] == wanted


def test_a_group_travels_light(index: Index) -> None:
    segments = index._searcher.rows.segments
    assert sum(len(segment.vectors) for segment in segments) == ROWS
    assert len(cloudpickle.dumps(group_segments(segments, 2))) < 10_000


def test_near_ties_are_told_apart() -> None:
    # Matrix products in float32 would have them in any order.
    base = unit((1, 64), 0)[0].astype(np.float64)
    steps = np.linspace(1e-4, 2e-4, 12)[:, None] * np.eye(64)[:12]
    some = in_pieces((base + steps).astype(np.float32), [12])
    query = base.astype(np.float32)[None]
    (found,), _ = Partition.load(some).nearest(query, 8, None)
    assert found.tolist() == [one.id for one in exact(Rows(some), query[0], 8)]


def test_open_collection_is_unchanged(index: Index) -> None:
    again = EmbeddingTable.open(index.path)
    assert again.counts() == (ROWS, 0)


def test_regions_are_balanced_groups_of_near_cells(cells: Cells, vectors: Floats) -> None:
    counts = np.bincount(cells.assign(vectors[:ROWS]), minlength=len(cells))
    plan = plan_regions(cells.centres, counts, 900)
    held = np.bincount(plan.first, counts)
    assert len(held) == 4 and held.max() < 1.4 * ROWS / 4 and (plan.parts == 1).all()
    around = np.linalg.norm(cells.centres[:, None] - cells.centres[None], axis=2)
    together = plan.first[:, None] == plan.first[None]
    assert around[together].mean() < around[~together].mean()


def test_a_crowded_cell_is_cut() -> None:
    plan = plan_regions(unit((3, 4), 0), np.array([30, 250, 30]), 100)
    assert plan.parts.tolist() == [1, 3, 1]
    assert plan.first.tolist() == [0, 1, 0]
    assert plan_regions(unit((2, 4), 0), np.array([0, 0]), 100).first.tolist() == [0, 0]


@pytest.fixture
def cells(vectors: Floats) -> Cells:
    rotation = Rotation.fit(vectors[:1000], 64)
    return Cells.fit(rotation, rotation(vectors[:1000]), ROWS)


def test_a_query_is_compared_with_the_cells_it_looks_into(vectors: Floats, cells: Cells) -> None:
    partition = partition_of(vectors[:ROWS], cells, 7)
    homes = cells.assign(vectors[:ROWS])
    looks = np.array([0, 0, 1, 2]), np.array([5, 2, 2, 0])
    asking = vectors[ROWS : ROWS + 4]
    found, distances = found_ids(
        partition, partition.nearest_in_cells(asking, 6, None, looks, ROWS)
    )
    for query, into in enumerate(([2, 5], [2], [0], [])):
        inside = np.flatnonzero(np.isin(homes, into))
        own = np.linalg.norm(vectors[inside] - vectors[ROWS + query], axis=1)
        order = np.argsort(own)[:6]
        assert found[query].tolist()[: len(order)] == inside[order].tolist()
        assert np.allclose(distances[query][: len(order)], own[order], atol=1e-5)
        assert np.isinf(distances[query][len(order) :]).all()


def test_copies_in_a_long_cell_do_not_crowd_it(cells: Cells, vectors: Floats) -> None:
    many = np.concatenate([np.repeat(vectors[:2], 1500, axis=0), vectors[2:50]])
    partition = partition_of(many, cells, 6)
    assert sorted(partition.ids) == [*range(6), *range(1500, 1506), *range(3000, 3048)]
    looks = np.zeros(len(cells), np.int64), np.arange(len(cells))
    found = partition.nearest_in_cells(vectors[:1], 5, None, looks, 100)
    assert found_ids(partition, found)[0].tolist() == [[0, 1, 2, 3, 4]]


def test_a_long_cell_of_different_rows_is_taken_in_steps(cells: Cells, vectors: Floats) -> None:
    # Fives so far from each other that no rounding of a matrix product, which depends on its shape
    # and on the processor, brings one of them among the nearest of another.
    centres = vectors[:1] + 0.05 * unit((500, vectors.shape[1]), 3)
    crowd = np.repeat(centres, 5, axis=0) + 1e-3 * unit((2500, vectors.shape[1]), 4)
    home = int(cells.assign(vectors[:1])[0])
    assert (cells.assign(crowd) == home).all()
    partition = partition_of(crowd, cells, 6)
    assert len(partition.ids) == 2500
    looks = np.arange(2500), np.full(2500, home)
    five = np.repeat(np.arange(2500).reshape(500, 5), 5, axis=0)
    wanted = np.sort(np.linalg.norm(crowd[:, None] - crowd[five], axis=2), axis=1)
    for product in (2**24, 10_000):  # all queries at once, and four at a time
        found, distances = found_ids(
            partition,
            partition.nearest_in_cells(crowd, 5, None, looks, 60, max_product=product),
        )
        assert np.array_equal(np.sort(found, axis=1), five)
        assert np.array_equal(found[:, 0], np.arange(2500))
        np.testing.assert_allclose(distances, wanted, rtol=1e-4, atol=1e-7)


def test_a_query_that_finds_its_neighbours_late_is_compared_with_more(cells: Cells) -> None:
    """Rows that are one point along the directions of the cells, and differ in others."""
    width = cells.rotation.directions.shape[1]
    others = np.linalg.svd(cells.rotation.directions)[2][len(cells.centres[0]) :]
    crowd = unit((900, len(others)), 3) @ others
    partition = partition_of(crowd.astype(np.float32), cells, 6)
    asking = crowd[:40].astype(np.float32)
    assert asking.shape == (40, width)
    looks = np.repeat(np.arange(40), len(cells)), np.tile(np.arange(len(cells)), 40)
    own = np.arange(40)

    def search(*options: float, **late: float) -> Any:
        found = partition.nearest_in_cells(asking, 5, own, looks, 20, *options, **late)  # type: ignore[arg-type]
        return found_ids(partition, found)

    wanted = partition.nearest(asking, 5, own)
    once, found = search(), search(late=0.05)
    assert np.array_equal(found[0], wanted[0]) and not np.array_equal(once[0], wanted[0])
    near = float(np.median(wanted[1]))  # where all within a distance are asked for, as well
    some = search(near, late=0.05)
    there = wanted[1] <= near
    assert np.array_equal(some[0][there], wanted[0][there])


def routing_of(cells: Cells, counts: Any, probing: Probing, min_rows: int = 0) -> Routing:
    plan = plan_regions(cells.centres, counts, -(-int(counts.sum()) // 4))
    return Routing(cells, counts, *plan, probing, min_rows)


def test_queries_look_until_there_are_enough_rows(cells: Cells, vectors: Floats) -> None:
    counts = np.zeros(len(cells), np.int64)
    counts[[2, 5]] = 4
    rotated = cells.rotation(vectors[:20])
    visits = routing_of(cells, counts, Probing(0.0, 1), 7).visits(rotated)
    for query in range(20):
        assert {2, 5} <= set(visits.cells[visits.rows == query].tolist())
    counts[:] = 100
    visits = routing_of(cells, counts, Probing(0.0, 1), 7).visits(rotated)
    assert np.array_equal(visits.cells[np.argsort(visits.rows)], visits.nearest)
    assert np.array_equal(visits.nearest, cells.assign(vectors[:20]))


def test_queries_probe_cells_that_are_hardly_farther_than_the_nearest(
    cells: Cells, vectors: Floats
) -> None:
    rotated = cells.rotation(vectors[:50])
    squared = ((rotated[:, None] - cells.centres) ** 2).sum(axis=2)
    gap = 0.1
    wanted = squared <= squared.min(axis=1, keepdims=True) + gap
    nearest, rows, near = CellSearch(cells).within(rotated, gap, len(cells))
    found = np.zeros_like(wanted)
    found[rows, near] = True
    assert np.array_equal(found, wanted) and np.array_equal(nearest, squared.argmin(axis=1))
    _, rows, _ = CellSearch(cells).within(rotated, gap, 2)
    assert np.bincount(rows).max() == 2


@pytest.mark.parametrize("kind", ["numbers", "names"])
def test_keys_travel_as_bytes(kind: str) -> None:
    keys = pa.array([3, 1, 2]) if kind == "numbers" else pa.array(["c", "ä", "b"])
    assert unpack_keys(pack_keys(keys)).equals(keys)
    assert take(keys, np.array([2, 0])).to_pylist() == [keys[2].as_py(), keys[0].as_py()]
    rows = unit((3, 8), 0)
    hashes = hash_rows(keys, rows)
    assert len(set(hashes.tolist())) == 3
    assert np.array_equal(hashes[::-1], hash_rows(keys[::-1], rows[::-1].copy()))


@pytest.mark.parametrize("most", [1, 50, 10**6])
@pytest.mark.parametrize("max_cells", [4, 65_536])
def test_regions_find_what_one_region_finds(
    most: int, max_cells: int, vectors: Floats, cells: Cells, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In any number of batches; with large cells, that a region divides further, as well."""
    if max_cells == 4:
        cells = Cells.fit(cells.rotation, cells.rotation(vectors[:400]), 4 * 128)
    rows = vectors[:1200]
    counts = np.bincount(cells.assign(rows), minlength=len(cells))
    everything = Probing(float("inf"), len(cells))
    route = tasks.route_task(
        routing_of(cells, counts, everything), 1, tasks.Role(True, True), None, np.float32, 500, 1
    )
    batches = [(pa.array(range(at, at + 300)), rows[at : at + 300]) for at in range(0, 1200, 300)]
    routed = pa.Table.from_batches(list(route(VectorBatch(*batch) for batch in batches))).sort_by(
        [("region", "ascending"), ("visits", "ascending")]
    )
    effort = JoinEffort(everything, 1200, 1.0, None)
    monkeypatch.setattr(RegionSearch, "max_queries", most)
    search = RegionSearch(5, rows.shape[1], np.float32, True, np.inf, 3, 1, cells.rotation, effort)
    found = pa.Table.from_batches(list(region_task(search)(iter(routed.to_batches()))))
    merge = tasks.merge_task(5)(iter(found.sort_by("bucket").to_batches()))
    wanted = Partition(np.arange(1200), rows).nearest(rows, 5, np.arange(1200))
    merged = pa.Table.from_batches(list(merge)).sort_by(
        [("query_id", "ascending"), ("rank", "ascending")]
    )
    neighbors = merged["neighbor_id"].to_numpy().reshape(1200, 5)
    if max_cells == 4:  # a query looks into the near groups of these cells alone
        shares = [len({*a} & {*b}) / 5 for a, b in zip(neighbors, wanted[0], strict=True)]
        assert np.mean(shares) > 0.97
        return
    assert np.array_equal(neighbors, wanted[0])
    np.testing.assert_allclose(merged["distance"].to_numpy().reshape(1200, 5), wanted[1], rtol=1e-5)


def test_tasks_travel_light(index: Index, cells: Cells) -> None:
    counts = np.ones(len(cells), np.int64)
    chosen = routing_of(cells, counts, Probing(0.1, 8))
    _ = chosen.visits(np.zeros((1, cells.centres.shape[1]), np.float32))
    role = tasks.Role(items=True, queries=True)
    route = tasks.route_task(chosen, 1, role, None, np.float16, 500, 1)
    assert (
        len(cloudpickle.dumps(route))
        < 2 * cells.centres.nbytes + 2 * cells.rotation.directions.nbytes + 50_000
    )


def test_vectors_of_any_length_travel_whole() -> None:
    assert packed_type("cosine", 10**6) is np.float16
    assert packed_type("cosine", 10**5) is packed_type("l2", 10**6) is np.float32


@pytest.mark.long
def test_cells_in_several_regions(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = told(index.kneighbors(k=5, engine="approximate").write(tmp_path / "one"))
    monkeypatch.setattr(regions, "MAX_REGION_ROWS", 60)
    assert told(index.kneighbors(k=5, engine="approximate").write(tmp_path / "two")) == whole


def test_cells_are_divided_without_a_bound(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EXACT_UP_TO", 100)
    monkeypatch.setattr(cells_module, "MAX_CELLS", 4)
    monkeypatch.setattr(effort_module, "_MAX_PROBED_SHARE", 1)
    by_cells = index.kneighbors(k=10, recall=0.95)
    found = told(by_cells.write(tmp_path / "cells"))
    assert by_cells.plan.routing is not None and len(by_cells.plan.routing.cells) == 4
    exactly = told(index.kneighbors(k=10, recall=1).write(tmp_path / "exact"))
    shares = [
        len({other for other, _ in own} & {other for other, _ in exactly[number]}) / 10
        for number, own in found.items()
    ]
    assert np.mean(shares) > 0.94
