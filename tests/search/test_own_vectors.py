"""Distances of vectors of any length: every way to compare them agrees with brute force."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from helpers.own import WIDTH, crowds, distances, table_of, write_table
from lookalike import Index, LookalikeError, create_index
from lookalike.analysis.clusters import MAX_COPY_DISTANCE, copy_distance
from lookalike.search.exact import exact, exact_many
from lookalike.search.knn.partitions import Partition
from lookalike.search.rows import Rows, copy_limits
from lookalike.search.searcher import Searcher
from lookalike.server import create_app
from lookalike.spark import session
from lookalike.system.arrays import Vectors

COUNT = 400
COLUMNS: dict[str, Any] = {"embedding_column": "v", "id_column": "sku", "label_column": "kind"}
KEYS = [f"sku-{number:04}" for number in range(COUNT)]
METRICS = ("cosine", "l2")


def spread(kind: str, count: int = COUNT) -> Vectors:
    """Vectors near the origin, far from it, tiny, huge, or of very different lengths."""
    vectors = crowds(count)
    if kind == "tiny":
        return vectors * np.float32(1e-9)
    if kind == "huge":
        return vectors * np.float32(1e9)
    if kind == "far":
        return vectors + np.float32(20_000)
    if kind == "uneven":
        lengths = np.random.default_rng(1).lognormal(0, 2, (count, 1))
        return (vectors * lengths).astype(np.float32)
    return vectors


SPREADS = ("usual", "tiny", "huge", "far", "uneven")


@pytest.fixture(scope="module", params=METRICS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Index:
    folder = tmp_path_factory.mktemp(request.param)
    vectors = crowds(COUNT)
    vectors[7] = vectors[3]
    file = write_table(folder / "own.parquet", table_of(vectors))
    return create_index(file, folder / "own.index", **COLUMNS, metric=request.param)


def truth(index: Index) -> Any:
    vectors = crowds(COUNT)
    vectors[7] = vectors[3]
    return distances(vectors, index._table.metric)


def nearest(true: Any, row: int, k: int) -> list[tuple[str, float]]:
    order = np.lexsort((np.arange(COUNT), true[row]))
    order = order[order != row][:k]
    return [(KEYS[at], float(true[row, at])) for at in order]


def assert_same(found: Any, wanted: list[tuple[str, float]]) -> None:
    assert [key for key, _ in found] == [key for key, _ in wanted]
    largest = max(distance for _, distance in wanted)
    assert np.allclose([d for _, d in found], [d for _, d in wanted], atol=1e-5 * largest)


def test_a_search_has_keys_and_distances(made: Index) -> None:
    true = truth(made)
    for row in (0, 3, 7, 200):
        found = made.search(id=KEYS[row], k=9)
        assert_same([(one.id, one.distance) for one in found], nearest(true, row, 9))
        frame = found.to_pandas()
        assert list(frame.columns) == ["rank", "id", "path", "label", "distance", "band"]
        assert frame["id"].tolist() == frame["path"].tolist()
    limit = float(np.quantile(true[5], 0.1))
    within = made.search(id=KEYS[5], within=limit)
    assert {one.id for one in within} == {KEYS[at] for at in np.flatnonzero(true[5] <= limit)} - {
        KEYS[5]
    }
    some = made.search(id=KEYS[5], label="kind 2", k=3)
    assert {one.label for one in some} == {"kind 2"}
    assert len(made.search(crowds(COUNT)[:4])) == 4


def test_wrong_queries_take_one_line(made: Index) -> None:
    is_l2 = made._table.metric == "l2"
    with pytest.raises(LookalikeError, match=f"3 numbers, but this index has {WIDTH}"):
        made.search(np.ones(3))
    with pytest.raises(LookalikeError, match="not finite"):
        made.search(np.full(WIDTH, np.nan))
    with pytest.raises(LookalikeError, match="a distance from 0 on" if is_l2 else "from 0 to 2"):
        made.search(id=KEYS[0], within=-1)
    with pytest.raises(LookalikeError, match="and one alone"):
        made.search()  # type: ignore[call-overload]
    with pytest.raises(LookalikeError, match="and one alone"):
        made.search(np.ones(WIDTH), id=KEYS[0])  # type: ignore[call-overload]
    if is_l2:
        assert len(made.search(np.zeros(WIDTH))) == 5
        with pytest.raises(LookalikeError, match="scale the vectors down"):
            made.search(np.full(WIDTH, 1e30))
    else:
        with pytest.raises(LookalikeError, match="has no direction"):
            made.search(np.zeros(WIDTH))


def test_analyses_have_keys_and_true_distances(made: Index, tmp_path: Path) -> None:
    true = truth(made)
    upper = np.triu_indices(COUNT, 1)
    limit = float(np.quantile(true[upper], 0.002))
    pairs = made.pairs(tmp_path / "pairs", within=limit, spark=False, shown=3)
    found = pairs.to_pandas()
    expected = {
        (KEYS[one], KEYS[other]): float(true[one, other])
        for one, other in zip(*upper, strict=True)
        if true[one, other] <= limit
    }
    assert set(zip(found["a_id"], found["b_id"], strict=True)) == set(expected)
    assert found["distance"].is_monotonic_increasing
    assert np.allclose(sorted(expected.values()), found["distance"], atol=1e-5 * limit)
    assert pairs.figures["recall"] == 1
    assert (pairs.folder / "index.html").is_file()

    twice = made.duplicates(tmp_path / "twice", within=limit, spark=False, shown=2).to_pandas()
    assert set(twice["id"]) <= set(KEYS)
    kept = dict(zip(twice["id"], twice["kept_path"], strict=True))
    row = {key: number for number, key in enumerate(KEYS)}
    for one, other, distance in zip(kept, kept.values(), twice["distance"], strict=True):
        assert abs(true[row[one], row[other]] - distance) <= 1e-5 * max(limit, 1)
    copies = twice[twice["id"].isin([KEYS[3], KEYS[7]])]
    assert len(copies) == 2 and copies["same_bytes"].all()

    clusters = made.clusters(tmp_path / "clusters", k=8, spark=False, shown=2).to_pandas()
    assert set(clusters["id"]) <= set(KEYS) and clusters["cluster"].nunique() > 3
    outliers = made.outliers(tmp_path / "outliers", k=5, spark=False, shown=2).to_pandas()
    assert set(outliers["id"]) == set(KEYS)
    fifth = np.sort(true, axis=1)[:, 5]
    measured = [float(fifth[row[key]]) for key in outliers["id"]]
    assert np.allclose(outliers["distance"], measured, rtol=1e-3)
    gallery = made.gallery(tmp_path / "gallery", k=5, spark=False, shown=3)
    assert set(gallery.to_pandas()["id"]) <= set(KEYS)
    assert len(list((gallery.folder / "pictures").iterdir())) > 3


def test_evaluation_needs_no_pictures(made: Index) -> None:
    figures = made.evaluate(k=5, queries=20, spark=False)
    assert figures["approximate"]["recall"] >= 0.9
    assert figures["labelled_queries"] == COUNT


@pytest.mark.parametrize("kind", SPREADS)
def test_exact_comparisons_agree_at_any_scale(tmp_path: Path, kind: str) -> None:
    vectors = spread(kind)
    vectors[9] = vectors[8]
    index = create_index(vectors, tmp_path / "own.index", metric="l2")
    true = distances(vectors, "l2")
    rows, queries = Rows(index._table.segments), vectors[:50]
    order = np.argsort(true[:50], axis=1, kind="stable")[:, :6]
    expected = np.take_along_axis(true[:50], order, axis=1)
    _, many = exact_many(rows, queries, 6)
    tolerance = 1e-5 * float(np.median(true))
    assert np.allclose(np.take_along_axis(true[:50], many, axis=1), expected, atol=tolerance)
    ids, found = Partition.load(rows.segments).nearest(queries, 6, None)
    assert np.allclose(found, expected, atol=tolerance)
    assert [[one.number for one in exact(rows, query, 3)] for query in queries[:8]] == ids[
        :8, :3
    ].tolist()
    limits = copy_limits(queries)
    others = np.where(true[:50] > 0, true[:50], np.inf).min(axis=1)
    assert (limits[:, 0] < others**2).all()
    same = copy_distance(index._table)
    assert same == pytest.approx(MAX_COPY_DISTANCE * np.median(true[true > 0]), rel=0.2)
    clusters = index.clusters(tmp_path / "clusters", k=8, spark=False, shown=0)
    assert clusters.figures["clusters"] >= 3


@pytest.mark.parametrize("kind", SPREADS)
def test_signatures_reach_the_recall_at_any_scale(tmp_path: Path, kind: str) -> None:
    vectors = spread(kind, 6000)
    index = create_index(vectors, tmp_path / "own.index", metric="l2")
    searcher = Searcher(index._table)
    right = 0
    for row in range(0, 6000, 60):
        found = searcher.nearest(vectors[row], 10, engine="approximate", without=row)[0]
        true = exact(searcher.rows, vectors[row], 10, without=row)
        right += len({one.number for one in found} & {one.number for one in true})
    assert right / 1000 >= 0.97


def test_over_http(made: Index) -> None:
    is_l2 = made._table.metric == "l2"
    with TestClient(create_app(made), base_url="http://localhost") as client:
        found = client.get("/api/search", params={"key": KEYS[3], "k": 4}).json()
        assert found["query"]["key"] == KEYS[3]
        keys = [one["key"] for one in found["neighbors"]]
        assert keys == [one.id for one in made.search(id=KEYS[3], k=4)]
        assert [one["name"] for one in found["neighbors"]] == keys
        image = found["neighbors"][0]
        same = client.get("/api/search", params={"image": image["id"], "k": 4}).json()
        assert same["query"]["key"] == keys[0]
        tile = client.get(f"/{image['thumbnail']}")
        assert tile.status_code == 200 and tile.headers["content-type"] == "image/jpeg"
        other = client.get(f"/{found['neighbors'][1]['thumbnail']}")
        assert other.content != tile.content
        assert client.get("/api/search", params={"key": "stranger"}).status_code == 404
        both = client.get("/api/search", params={"key": KEYS[3], "image": 1})
        assert (both.status_code, both.json()["error"]) == (
            400,
            "give one of image=ID, key=KEY, upload=KEY and text=WORDS",
        )
        sent = client.post("/api/search", content=b"\xff\xd8\xff")
        assert sent.status_code == 400 and "no network" in sent.json()["error"]
        far = client.get("/api/search", params={"key": KEYS[3], "within": 3})
        assert far.status_code == (200 if is_l2 else 422)
        assert client.get("/api/info").json()["model"]["preprocessing"] == "none"


@pytest.mark.parametrize("made", ["l2"], indirect=True)
def test_on_spark(made: Index, tmp_path: Path) -> None:
    """One test of all that needs Spark, which takes long to start."""
    from pyspark.ml.functions import array_to_vector
    from pyspark.sql import functions as F

    true, spark, metric = truth(made), session(), made._table.metric
    vectors = crowds(COUNT)
    vectors[7] = vectors[3]
    frame = spark.createDataFrame(table_of(vectors)).cache()
    again = create_index(
        frame.withColumn("v", array_to_vector(F.col("v").cast("array<double>"))),
        tmp_path / "frame.index",
        **COLUMNS,
        metric=metric,
    )
    for row in (3, 200):
        found = again.search(id=KEYS[row], k=5)
        assert_same([(one.id, one.distance) for one in found], nearest(true, row, 5))
    assert again.check().ok
    assert again.add(frame.limit(20)).same == 20
    changed = frame.withColumn(
        "kind", F.when(F.col("sku") == KEYS[5], "new").otherwise(F.col("kind"))
    )
    done = again.sync(changed.filter(F.col("sku") != KEYS[6]))
    assert (done.changed, done.removed, done.same) == (1, 1, COUNT - 2)
    with pytest.raises(LookalikeError, match=f"2 rows of the DataFrame have the 'sku' '{KEYS[0]}'"):
        again.add(frame.union(frame.limit(1)))
    with pytest.raises(LookalikeError, match="set `id_column`"):
        create_index(frame, tmp_path / "x.index", embedding_column="v")

    neighbors = made.kneighbors(k=4).write(tmp_path / "neighbors", paths=True).collect()
    of_one = sorted((r for r in neighbors if r["query_id"] == KEYS[9]), key=lambda r: r["rank"])
    assert_same([(r["neighbor_id"], r["distance"]) for r in of_one], nearest(true, 9, 4))
    assert of_one[0]["neighbor_path"] == of_one[0]["neighbor_id"]
    asked = frame.filter(F.col("sku") == KEYS[11]).select(F.lit("my query").alias("id"), "v")
    given = made.kneighbors(asked, k=3, column="v").to_spark().collect()
    wanted = [(KEYS[11], 0.0), *nearest(true, 11, 2)]
    assert_same(
        [(r["neighbor_id"], r["distance"]) for r in sorted(given, key=lambda r: r["rank"])], wanted
    )
    assert {r["query_id"] for r in given} == {"my query"}
    rows = made.to_spark().select("id").collect()
    assert {row["id"] for row in rows} == set(KEYS)
    hashed = made.search(id=KEYS[9], k=3, engine="spark-lsh")
    assert all(one.id in KEYS for one in hashed) and len(hashed) == 3
    assert abs(hashed[0].distance - true[9, KEYS.index(str(hashed[0].id))]) < 1e-3 * true.max()


def test_a_table_is_read_by_tasks_of_spark(tmp_path: Path) -> None:
    vectors = crowds(COUNT)
    file = write_table(tmp_path / "own.parquet", table_of(vectors), 90)
    index = create_index(file, tmp_path / "a.index", **COLUMNS, spark=True)
    other = create_index(file, tmp_path / "b.index", **COLUMNS)
    assert (
        index.search(id=KEYS[5]).to_dict()["neighbors"]
        == (other.search(id=KEYS[5]).to_dict()["neighbors"])
    )
    assert np.array_equal(Rows(index._table.segments).ids, Rows(other._table.segments).ids)
    index.remove(KEYS[:3])
    assert index.sync(spark=True).new == 3
    assert index.check().ok
    with pytest.raises(LookalikeError, match="only Parquet, Delta and DataFrames"):
        create_index(vectors, tmp_path / "c.index", spark=True)
