"""The neighbours of every image through Spark, against search one by one."""

from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pyarrow.parquet as pq
import pytest

from helpers.clusters import addition, clustered
from helpers.segments import Floats, collection_of, grown, in_pieces, unit
from lookalike import Index, LookalikeError
from lookalike.search import knn as module
from lookalike.search import searcher
from lookalike.search.cells import Cells, Rotation
from lookalike.search.exact import exact
from lookalike.search.knn import group_segments, tasks
from lookalike.search.knn.partitions import Partition, Region, RegionPartition, plan_regions
from lookalike.search.knn.queries import Queries
from lookalike.search.knn.tasks import choose_cells
from lookalike.search.recall import RecallProfile
from lookalike.search.rows import Rows
from lookalike.search.searcher import Searcher
from lookalike.search.signatures import Effort
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
    monkeypatch.setattr(searcher, "EXACT_UP_TO", 100)
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
    monkeypatch.setattr(searcher, "EXACT_UP_TO", 100)
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
        monkeypatch.setattr(RecallProfile, "effort", lambda *_: Effort(2, 20))
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
    monkeypatch.setattr(module, "MAX_GROUP_ROWS", 100)
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


@pytest.mark.parametrize(
    ("counts", "wanted"),
    [
        ([40, 40, 40], [(0, 2, 0, 1), (2, 3, 0, 1)]),
        ([0, 100, 0, 0, 1], [(0, 4, 0, 1), (4, 5, 0, 1)]),
        ([30, 250, 30], [(0, 1, 0, 1), (1, 2, 0, 3), (1, 2, 1, 3), (1, 2, 2, 3), (2, 3, 0, 1)]),
        ([250], [(0, 1, 0, 3), (0, 1, 1, 3), (0, 1, 2, 3)]),
        ([0, 0], []),
    ],
)
def test_regions(counts: list[int], wanted: list[tuple[int, ...]]) -> None:
    assert [tuple(region) for region in plan_regions(np.array(counts), 100)] == wanted


@pytest.fixture
def cells(vectors: Floats) -> Cells:
    rotation = Rotation.fit(vectors[:1000], 64)
    return Cells.fit(rotation, rotation(vectors[:1000]), ROWS)


def test_a_region_holds_the_rows_of_its_cells(
    vectors: Floats, cells: Cells, tmp_path: Path
) -> None:
    collection = collection_of(vectors[:ROWS], tmp_path / "cars.index", [1000, 2000])
    homes = cells.assign(vectors[:ROWS])
    partition = RegionPartition(collection.segments, cells, Region(3, 7, 0, 1), 10)
    assert sorted(partition.ids) == np.flatnonzero((homes >= 3) & (homes < 7)).tolist()
    assert np.array_equal(partition.vectors, vectors[partition.ids])
    for cell in range(3, 7):
        inside = partition.ids[partition.starts[cell - 3] : partition.starts[cell - 2]]
        assert sorted(inside) == np.flatnonzero(homes == cell).tolist()
    parts = [RegionPartition(collection.segments, cells, Region(3, 4, p, 3), 10) for p in range(3)]
    assert (
        sorted(np.concatenate([part.ids for part in parts])) == np.flatnonzero(homes == 3).tolist()
    )


def test_a_query_is_compared_with_the_cells_it_looks_into(
    vectors: Floats, cells: Cells, tmp_path: Path
) -> None:
    collection = collection_of(vectors[:ROWS], tmp_path / "cars.index", [ROWS])
    partition = RegionPartition(collection.segments, cells, Region(0, len(cells), 0, 1), 10)
    homes = cells.assign(vectors[:ROWS])
    looks = np.array([0, 0, 1, 2]), np.array([5, 2, 2, 0])
    found, distances = partition.nearest_in_cells(vectors[ROWS : ROWS + 4], 6, None, looks, ROWS)
    for query, into in enumerate(([2, 5], [2], [0], [])):
        inside = np.flatnonzero(np.isin(homes, into))
        own = np.linalg.norm(vectors[inside] - vectors[ROWS + query], axis=1)
        order = np.argsort(own)[:6]
        assert found[query].tolist()[: len(order)] == inside[order].tolist()
        assert np.allclose(distances[query][: len(order)], own[order], atol=1e-5)
        assert np.isinf(distances[query][len(order) :]).all()


def test_copies_in_a_long_cell_do_not_crowd_it(
    cells: Cells, vectors: Floats, tmp_path: Path
) -> None:
    many = np.concatenate([np.repeat(vectors[:2], 1500, axis=0), vectors[2:50]])
    collection = collection_of(many, tmp_path / "copies.index", [1000, 2048])
    everything = Region(0, len(cells), 0, 1)
    partition = RegionPartition(collection.segments, cells, everything, 6)
    assert sorted(partition.ids) == [*range(6), *range(1500, 1506), *range(3000, 3048)]
    looks = np.zeros(len(cells), np.int64), np.arange(len(cells))
    assert partition.nearest_in_cells(vectors[:1], 5, None, looks, 100)[0].tolist() == [
        [0, 1, 2, 3, 4]
    ]


def test_a_long_cell_of_different_rows_is_taken_in_steps(
    cells: Cells, vectors: Floats, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Fives so far from each other that no rounding of a matrix product, which depends on its shape
    # and on the processor, brings one of them among the nearest of another.
    centres = vectors[:1] + 0.05 * unit((500, vectors.shape[1]), 3)
    crowd = np.repeat(centres, 5, axis=0) + 1e-3 * unit((2500, vectors.shape[1]), 4)
    home = int(cells.assign(vectors[:1])[0])
    assert (cells.assign(crowd) == home).all()
    collection = collection_of(crowd, tmp_path / "crowd.index", [2500])
    partition = RegionPartition(collection.segments, cells, Region(0, len(cells), 0, 1), 6)
    assert len(partition.ids) == 2500
    looks = np.arange(2500), np.full(2500, home)
    five = np.repeat(np.arange(2500).reshape(500, 5), 5, axis=0)
    wanted = np.sort(np.linalg.norm(crowd[:, None] - crowd[five], axis=2), axis=1)
    for product in (2**24, 10_000):  # all queries at once, and four at a time
        monkeypatch.setattr("lookalike.search.knn.partitions._MAX_PRODUCT", product)
        found, distances = partition.nearest_in_cells(crowd, 5, None, looks, 60)
        assert np.array_equal(np.sort(found, axis=1), five)
        assert np.array_equal(found[:, 0], np.arange(2500))
        np.testing.assert_allclose(distances, wanted, rtol=1e-4, atol=1e-7)


def test_a_query_that_finds_its_neighbours_late_is_compared_with_more(
    cells: Cells, tmp_path: Path
) -> None:
    """Rows that are one point along the directions of the cells, and differ in others."""
    width = cells.rotation.directions.shape[1]
    others = np.linalg.svd(cells.rotation.directions)[2][len(cells.centres[0]) :]
    crowd = unit((900, len(others)), 3) @ others
    collection = collection_of(crowd.astype(np.float32), tmp_path / "crowd.index", [900])
    partition = RegionPartition(collection.segments, cells, Region(0, len(cells), 0, 1), 6)
    asking = crowd[:40].astype(np.float32)
    assert asking.shape == (40, width)
    looks = np.repeat(np.arange(40), len(cells)), np.tile(np.arange(len(cells)), 40)
    own = np.arange(40)
    wanted = partition.nearest(asking, 5, own)
    once = partition.nearest_in_cells(asking, 5, own, looks, 20)
    found = partition.nearest_in_cells(asking, 5, own, looks, 20, late=0.05)
    assert np.array_equal(found[0], wanted[0]) and not np.array_equal(once[0], wanted[0])
    near = float(np.median(wanted[1]))  # where all within a distance are asked for, as well
    some = partition.nearest_in_cells(asking, 5, own, looks, 20, near, late=0.05)
    there = wanted[1] <= near
    assert np.array_equal(some[0][there], wanted[0][there])


def test_queries_look_until_there_are_enough_rows(cells: Cells, vectors: Floats) -> None:
    counts = np.zeros(len(cells), np.int64)
    counts[[2, 5]] = 4
    queries, into = choose_cells(cells, counts, vectors[:20], 2, 7)
    for query in range(20):
        assert {2, 5} <= set(into[queries == query].tolist())
    counts[:] = 100
    queries, into = choose_cells(cells, counts, vectors[:20], 2, 7)
    assert np.array_equal(into.reshape(20, 2), cells.nearest(cells.rotation(vectors[:20]), 2))


@pytest.mark.parametrize("most", [1, 50, 10**6])
def test_portions_are_all_that_is_asked(most: int) -> None:
    rng = np.random.default_rng(0)
    pairs = [np.unique(rng.integers(300, size=(900, 2)), axis=0) for _ in range(3)]
    rows = [
        {
            "block": block,
            "queries": some[:, 0].astype(np.int32).tobytes(),
            "cells": some[:, 1].astype(np.int32).tobytes(),
        }
        for block, some in enumerate(pairs)
    ]
    wanted = {(block, *pair) for block, some in enumerate(pairs) for pair in some.tolist()}
    seen = set()
    for portion in tasks._batch(tasks._unpack(rows, most), most):
        assert sum(len(one.places) for one in portion) <= most
        for one in portion:
            each = zip(one.places[one.numbers].tolist(), one.cells.tolist(), strict=True)
            seen |= {(one.block, *pair) for pair in each}
    assert seen == wanted


def test_tasks_travel_light(index: Index, cells: Cells) -> None:
    _ = cells.assign(np.zeros((1, cells.rotation.directions.shape[1]), np.float32))
    asked = Queries.split(index._table.segments)
    plan = [Region(0, len(cells), 0, 1)]
    route = tasks.route_task(cells, np.ones(len(cells), np.int64), plan, asked, 3, 5, 1)
    effort = Effort(3, 20)
    look = tasks.region_task(index._table.segments, cells, plan, asked, 5, True, np.inf, effort, 1)
    for task in (route, look):
        assert (
            len(cloudpickle.dumps(task))
            < 2 * cells.centres.nbytes + 2 * cells.rotation.directions.nbytes + 50_000
        )


@pytest.mark.long
def test_cells_in_several_regions(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = told(index.kneighbors(k=5, engine="approximate").write(tmp_path / "one"))
    monkeypatch.setattr(module, "MAX_REGION_ROWS", 60)
    assert told(index.kneighbors(k=5, engine="approximate").write(tmp_path / "two")) == whole
