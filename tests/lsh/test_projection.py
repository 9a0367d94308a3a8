"""Hashing: parameters hold what they promise, and hashes are Spark's own."""

from pathlib import Path

import numpy as np
import pytest
from pyspark.ml.functions import vector_to_array
from pyspark.ml.linalg import DenseVector, SparseVector
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from scipy.spatial.distance import cdist

from helpers.vectors import frame, units
from lookalike import Index, LookalikeError, lsh
from lookalike.ingest.export import export_csv
from lookalike.lsh import Hasher, choose_parameters, collision_probability, draw_sample, fit, search
from lookalike.search.query import random_query
from lookalike.spark import session
from lookalike.system.arrays import Floats, Vectors

WIDTH = 64


def hashes_of(hasher: Hasher, vectors: DataFrame) -> dict[int, Floats]:
    """Return the buckets that Spark puts each row into, by its id."""
    rows = lsh.bucket_columns(hasher.transform(vectors), hasher.parameters.tables).collect()
    return {row["id"]: np.array(row["hashes"]) for row in rows}


@pytest.fixture(scope="module")
def clustered() -> Vectors:
    """600 vectors around 30 centres."""
    rng = np.random.default_rng(5)
    rows = units(30, WIDTH, 1)[rng.integers(0, 30, 600)] + rng.normal(0, 0.06, (600, WIDTH))
    return rows.astype(np.float32)


@pytest.fixture(scope="module")
def table(clustered: Vectors) -> DataFrame:
    return frame(clustered)


@pytest.fixture(scope="module")
def hasher(table: DataFrame) -> Hasher:
    return fit(table, seed=3)


@pytest.fixture(scope="module")
def hashes(table: DataFrame, hasher: Hasher) -> dict[int, Floats]:
    return hashes_of(hasher, table)


# Parameters.


@pytest.fixture(scope="module")
def experiment() -> tuple[Floats, Floats]:
    """Projections of 20,000 unit vectors, and of others at right angles to them."""
    one, away, direction = (units(20_000, 256, seed) for seed in (1, 2, 3))
    away -= (away * one).sum(axis=1, keepdims=True) * one
    away /= np.linalg.norm(away, axis=1, keepdims=True)
    return (one * direction).sum(axis=1), (away * direction).sum(axis=1)


@pytest.mark.parametrize(
    ("distance", "length"),
    [(0.1, 0.01), (0.1, 0.06), (0.5, 0.03), (1.0, 0.03), (1.4, 0.01), (1.4, 0.06), (1.0, 0.5)],
)
def test_collision_probability_is_that_of_an_experiment(
    distance: float, length: float, experiment: tuple[Floats, Floats]
) -> None:
    cosine = 1 - distance**2 / 2
    one, away = experiment
    other = cosine * one + np.sqrt(1 - cosine**2) * away
    buckets = [np.floor(projected / length) for projected in (one, other)]
    found = collision_probability(np.array([distance]), length, 256)
    assert found.shape == (1,)
    assert found[0] == pytest.approx(np.mean(buckets[0] == buckets[1]), abs=0.02)


def distances_within(vectors: Floats, k: int) -> tuple[Floats, Floats]:
    """Return distances of all vectors to their k neighbours, and to any."""
    every = cdist(vectors, vectors)
    return np.sort(every, axis=1)[:, 1 : k + 1].ravel(), every.ravel()


def test_more_recall_takes_more_candidates(clustered: Vectors) -> None:
    near, far = distances_within(clustered[:200].astype(float), 5)
    wanted = [0.3, 0.6, 0.8, 0.9, 0.95, 0.99]
    chosen = [choose_parameters(near, far, WIDTH, recall) for recall in wanted]
    shares = [parameters.predicted_candidates for parameters in chosen]
    assert shares == sorted(shares)
    assert shares[0] < 0.5 < shares[-1]
    for recall, parameters in zip(wanted, chosen, strict=True):
        assert recall <= parameters.predicted_recall < recall + 0.01
        assert parameters.bucket_length > 0
        assert parameters.measured_recall is None


@pytest.mark.parametrize("count", [5, 400])
def test_the_promised_recall_is_kept_by_any_directions(count: int) -> None:
    """Even where vectors are so few that one long bucket looks cheapest."""
    vectors, width = units(count, 512, 0), 512
    k = min(10, count - 1)
    chosen = choose_parameters(*distances_within(vectors, k), width)
    every = cdist(vectors, vectors)
    neighbors = np.argsort(every, axis=1)[:, 1 : k + 1]
    found = []
    for seed in range(20):
        buckets = np.floor(vectors @ units(chosen.tables, width, seed).T / chosen.bucket_length)
        found.append((buckets[neighbors] == buckets[:, None]).any(axis=2).mean())
    assert np.mean(found) == pytest.approx(chosen.predicted_recall, abs=0.1)


def test_equal_vectors_fit_into_any_bucket() -> None:
    chosen = choose_parameters(np.zeros(10), np.zeros(50), WIDTH)
    assert (chosen.tables, chosen.predicted_recall, chosen.predicted_candidates) == (1, 1, 1)
    assert chosen.bucket_length > 0


@pytest.mark.parametrize("recall", [0, 1, -0.5, 1.5, float("nan")])
def test_a_recall_that_cannot_be_is_refused(recall: float) -> None:
    with pytest.raises(LookalikeError, match="not between 0 and 1"):
        choose_parameters(np.ones(3), np.ones(3), WIDTH, recall)


# The sample, and the model made from it.


def test_sampled_neighbors_are_those_of_brute_force(clustered: Vectors, table: DataFrame) -> None:
    sample = draw_sample(table, seed=1)
    assert sample.queries.shape == (100, WIDTH)
    assert sample.neighbors.shape == (100, 10, WIDTH)
    assert len(np.unique(sample.others, axis=0)) == len(sample.others) == len(clustered)
    wanted = np.linalg.norm(clustered[None] - sample.queries[:, None], axis=2)
    found = np.linalg.norm(sample.neighbors - sample.queries[:, None], axis=2)
    np.testing.assert_allclose(found, np.sort(wanted, axis=1)[:, 1:11], atol=1e-5)
    np.testing.assert_array_equal(sample.near()[:, 0], found.ravel())
    assert sample.far().shape == (100 * len(clustered), 3)
    known = {row.tobytes() for row in clustered}
    assert {row.tobytes() for row in sample.neighbors.reshape(-1, WIDTH)} <= known


def test_the_model_does_what_was_predicted(table: DataFrame, hasher: Hasher) -> None:
    chosen = hasher.parameters
    assert chosen.measured_recall == pytest.approx(chosen.predicted_recall, abs=0.1)
    assert chosen.measured_candidates == pytest.approx(chosen.predicted_candidates, abs=0.1)
    assert hasher.model.getBucketLength() == chosen.bucket_length
    assert hasher.input_column == "features"
    given = fit(table, bucket_length=0.25, tables=2)
    assert (given.parameters.bucket_length, given.parameters.tables) == (0.25, 2)
    assert len(given.transform(table).first()["hashes"]) == 2  # type: ignore[index]


def test_vectors_need_not_have_length_1(clustered: Vectors, hasher: Hasher) -> None:
    """Whoever brings vectors of their own may not have normalised them."""
    for scale in (0.05, 20):
        longer = fit(frame(clustered * np.float32(scale)), seed=3).parameters
        assert longer.measured_recall == pytest.approx(longer.predicted_recall, abs=0.1)
        assert longer.measured_recall == pytest.approx(hasher.parameters.measured_recall, abs=0.1)


def test_the_same_seed_makes_the_same_model(table: DataFrame, hasher: Hasher) -> None:
    again, other = fit(table, seed=3), fit(table, seed=4)
    assert again.parameters == hasher.parameters
    np.testing.assert_array_equal(lsh.directions(again.model), lsh.directions(hasher.model))
    assert not np.array_equal(lsh.directions(other.model)[0], lsh.directions(hasher.model)[0])


def test_directions_give_the_hashes_of_spark(
    clustered: Vectors, hasher: Hasher, hashes: dict[int, Floats]
) -> None:
    directions = lsh.directions(hasher.model)
    assert directions.shape == (hasher.parameters.tables, WIDTH)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1)
    wanted = np.floor(clustered @ directions.T / hasher.parameters.bucket_length)
    np.testing.assert_array_equal([hashes[row] for row in range(len(clustered))], wanted)


def test_a_saved_model_is_read_back(
    table: DataFrame, hasher: Hasher, hashes: dict[int, Floats], tmp_path: Path
) -> None:
    fit(table, bucket_length=1.0, tables=1).save(tmp_path / "lsh")
    hasher.save(tmp_path / "lsh")
    loaded = Hasher.load(tmp_path / "lsh")
    assert loaded.parameters == hasher.parameters
    found = hashes_of(loaded, table)
    assert hashes.keys() == found.keys()
    assert all(np.array_equal(hashes[row], found[row]) for row in hashes)
    (tmp_path / "lsh" / "parameters.json").write_text('{"tables": 3}')
    for folder in (tmp_path / "lsh", tmp_path / "nowhere"):
        with pytest.raises(LookalikeError, match="no hash model in"):
            Hasher.load(folder)


# Search by hashing.


@pytest.mark.parametrize("query", [0, 17, 599])
def test_nearest_and_explain_agree_with_the_hashes(
    clustered: Vectors,
    table: DataFrame,
    hasher: Hasher,
    hashes: dict[int, Floats],
    query: int,
) -> None:
    shared = {
        row: [int(at) + 1 for at in np.flatnonzero(buckets == hashes[query])]
        for row, buckets in hashes.items()
    }
    explained = hasher.explain(table, clustered[query]).select("id", "tables").collect()
    assert {row["id"]: row["tables"] for row in explained} == shared
    assert shared[query] == list(range(1, hasher.parameters.tables + 1))

    distances = np.linalg.norm(clustered.astype(float) - clustered[query], axis=1)
    wanted = sorted((row for row in shared if shared[row]), key=lambda row: float(distances[row]))
    assert 10 < len(wanted) < len(clustered), "or nothing was left out, and nothing tested"
    rows = hasher.nearest(table, clustered[query], 10).collect()
    assert [row["id"] for row in rows] == wanted[:10]
    np.testing.assert_allclose([row["distance"] for row in rows], distances[wanted[:10]], atol=1e-6)

    found = search.hashed(table, hasher, clustered[query], 10, without=query)
    assert [one.id for one in found] == wanted[1:11]
    assert [one.rank for one in found] == list(range(1, 11))
    assert (found[0].path, found[0].label) == (f"{wanted[1]}.jpg", str(wanted[1] % 7))


def test_more_neighbors_than_there_are(
    clustered: Vectors, table: DataFrame, hasher: Hasher
) -> None:
    found = search.hashed(table, hasher, clustered[0], 10_000, without=0)
    candidates = hasher.explain(table, clustered[0]).filter("size(tables) > 0").count()
    assert len(found) == len({one.id for one in found}) == candidates - 1
    assert 0 not in {one.id for one in found}


@pytest.mark.parametrize("kind", ["two", "three", "equal"])
def test_collections_of_hardly_anything(kind: str) -> None:
    rows = {"two": units(2, 16, 0), "three": units(3, 16, 0), "equal": units(1, 16, 0)[[0] * 5]}
    vectors = rows[kind].astype(np.float32)
    few = frame(vectors, partitions=8)  # most of them empty
    hasher = fit(few)
    assert hasher.parameters.measured_recall is not None
    assert 0 <= hasher.parameters.measured_recall <= 1
    found = search.hashed(few, hasher, vectors[0], 10)
    assert found[0].distance == pytest.approx(0, abs=1e-6)
    if kind == "equal":
        assert [one.id for one in found] == list(range(5)), "equal distances by id"
        assert hasher.parameters.measured_recall == 1


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_can_be_learned_from_a_single_image(count: int) -> None:
    with pytest.raises(LookalikeError, match="at least 2 embedded images"):
        fit(frame(units(count, 16, 0).astype(np.float32)))


def test_from_a_csv_file_to_neighbors(index: Index, tmp_path: Path) -> None:
    """Steps 5 to 8 and 11 as the notebook has them."""
    export_csv(index._table, tmp_path / "cars.csv")
    embeddings = lsh.read_embeddings(session(), tmp_path / "cars.csv")
    assert embeddings.columns == ["image", "label", *(f"e{number}" for number in range(512))]
    vectors = lsh.assemble(embeddings).cache()
    assert vectors.columns == ["image", "label", "features"]
    hasher = fit(vectors)
    hashed = hasher.transform(vectors)
    assert hashed.columns == ["image", "label", "features", "hashes"]

    query = random_query(index._table, 1)
    assert query.path is not None
    name = Path(query.path).name
    others = lsh.numbered(vectors, without=name)
    assert others.count() == len(index) - 1
    rows = hasher.nearest(others, query.vector, 5).collect()
    exact = index.search(query, 5)
    assert name not in {row["path"] for row in rows}
    assert len({row["path"] for row in rows} & {hit.path for hit in exact}) >= 3
    known = {hit.path: hit for hit in index.search(query, len(index))}
    for row in rows:
        assert row["distance"] == pytest.approx(known[row["path"]].distance, abs=1e-4)
        assert row["label"] == known[row["path"]].label


# Sets.


def test_a_set_has_the_strongest_components(clustered: Vectors) -> None:
    vectors = np.abs(clustered[:20])
    vectors[0, 5:] = 0  # not more than five stand out here
    rows = lsh.with_sets(frame(vectors), strongest=8).select("id", vector_to_array(F.col("set")))
    for number, members in rows.collect():
        count = 5 if number == 0 else 8
        wanted = set(np.argsort(vectors[number])[-count:].tolist())
        assert set(np.flatnonzero(members).tolist()) == wanted
        assert set(members) == {0.0, 1.0}


def test_sets_collide_as_often_as_they_are_similar() -> None:
    rng = np.random.default_rng(0)
    members = np.zeros((40, 200), np.float32)
    members[0, :32] = 1
    for row in range(1, 40):  # ever fewer of the first one's members, and others instead
        members[row, : 32 - row // 2] = 1
        members[row, 32 + rng.permutation(168)[: row // 2]] = 1
    sets = frame(members).withColumnRenamed("features", "set")
    model = lsh.fit_sets(sets, tables=128)
    hashed = lsh.bucket_columns(model.transform(sets), 128).collect()
    buckets = {row["id"]: np.array(row["hashes"]) for row in hashed}
    both = (members * members[0]).sum(axis=1)
    similarity = both / (64 - both)
    found = np.array([np.mean(buckets[row] == buckets[0]) for row in range(40)])
    np.testing.assert_allclose(found, similarity, atol=0.2)
    assert found[:5].min() > found[-5:].max()


def test_an_identical_set_is_found_at_distance_zero(index: Index) -> None:
    vectors = lsh.with_vectors(index.to_spark())
    sets = lsh.with_sets(vectors).cache()
    model = lsh.fit_sets(sets)
    first = sets.orderBy("id").first()
    assert first is not None
    key = first["set"]
    assert isinstance(key, DenseVector | SparseVector)
    assert 1 <= key.numNonzeros() <= 32
    rows = model.approxNearestNeighbors(sets, key, 3).collect()
    assert (rows[0]["id"], rows[0]["distCol"]) == (first["id"], 0.0)
    assert all(0 < row["distCol"] < 1 for row in rows[1:])
    # Jaccard's distance, said again.
    other = np.array(rows[1]["set"].toArray(), bool)
    mine = np.array(key.toArray(), bool)
    assert rows[1]["distCol"] == pytest.approx(1 - (mine & other).sum() / (mine | other).sum())
    assert sets.agg(F.count("*")).first()[0] == len(index)  # type: ignore[index]
