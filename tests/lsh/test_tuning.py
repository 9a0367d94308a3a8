"""What `tune` promises is what hashes keep; hashes combined in tables find what they should."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.feature import BucketedRandomProjectionLSH
from pyspark.ml.linalg import Vectors as SparkVectors
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from helpers.vectors import collect_all, frame, units
from lookalike import Index, LookalikeError, lsh
from lookalike.lsh import AmplifiedProjectionLSH, AmplifiedProjectionLSHModel, Parameters, Tuned
from lookalike.lsh.parameters import collision_probability, shifted_probability
from lookalike.lsh.projection import spark_directions
from lookalike.lsh.tables import Tables, leading_axes
from lookalike.spark import session
from lookalike.system.arrays import Vectors

WIDTH = 64


@pytest.fixture(scope="module")
def mixture() -> Vectors:
    """2,000 vectors of length 1 around 40 centres, which differ in some directions more."""
    rng = np.random.default_rng(3)
    spread = np.linspace(1, 0.1, WIDTH)
    rows = units(40, WIDTH, 2)[rng.integers(0, 40, 2000)] + rng.normal(0, 0.1, (2000, WIDTH))
    rows = rows * spread + 0.2
    scaled: Vectors = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return scaled


@pytest.fixture(scope="module")
def table(mixture: Vectors) -> DataFrame:
    return frame(mixture)


@pytest.fixture(scope="module")
def tuned(table: DataFrame) -> Tuned:
    return lsh.tune(table, 0.9)


@pytest.fixture(scope="module")
def model(table: DataFrame, tuned: Tuned) -> AmplifiedProjectionLSHModel:
    return tuned.stage().fit(table)


# The formulas.


@pytest.mark.parametrize("length", [0.05, 0.4, 3.0])
def test_probabilities_are_those_of_an_experiment_at_any_lengths(length: float) -> None:
    rng = np.random.default_rng(0)
    width, count = 128, 20_000
    one, other = units(2, width, 1) * [[0.7], [2.0]]
    pair = np.array([[np.linalg.norm(one - other), 0.7, 2.0]])
    normal = rng.normal(size=(count, width))
    shift = rng.random(count)
    found = np.floor(normal @ one / length + shift) == np.floor(normal @ other / length + shift)
    assert shifted_probability(pair, length)[0] == pytest.approx(found.mean(), abs=0.02)
    unit = normal / np.linalg.norm(normal, axis=1, keepdims=True)
    found = np.floor(unit @ one / length) == np.floor(unit @ other / length)
    for pairs in (pair, pair[:, [0, 2, 1]]):
        predicted = collision_probability(pairs, length, width)
        assert predicted[0] == pytest.approx(found.mean(), abs=0.02)


def test_zeros_are_vectors_too() -> None:
    pairs = np.array([[0.0, 0, 0], [1e-9, 0, 1e-9], [3, 0, 3], [3, 3, 0], [0, 2, 2]])
    for length in (1e-6, 1.0):
        for found in (
            collision_probability(pairs, length, WIDTH),
            shifted_probability(pairs, length),
        ):
            assert np.isfinite(found).all()
            assert found[0] == found[4] == pytest.approx(1)
            assert found[2] == found[3]
            assert ((found >= 0) & (found <= 1 + 1e-9)).all()


# What `tune` finds.


def test_what_is_predicted_is_measured(tuned: Tuned) -> None:
    assert [(one.subspace > 0, one.amplified) for one in tuned.schemes] == [
        (False, False),
        (False, True),
        (False, False),
        (False, True),
        (True, False),
        (True, True),
    ]
    for scheme in tuned.schemes:
        for one in scheme.curve:
            assert one.predicted_recall == pytest.approx(0.9, abs=0.01)
            # With few tables the directions that were drawn have a say in this.
            assert one.measured_recall == pytest.approx(one.predicted_recall, abs=0.05)
        assert scheme.parameters in scheme.curve
        assert (scheme.parameters.hashes > 1) == scheme.amplified
    for best in (tuned.parameters, tuned.amplified.parameters):
        assert best.measured_recall == pytest.approx(best.predicted_recall, abs=0.03)
        assert best.measured_candidates == pytest.approx(best.predicted_candidates, abs=0.1)
    assert tuned.amplified.parameters.predicted_candidates < tuned.parameters.predicted_candidates


def test_spark_with_these_parameters_compares_what_was_said(table: DataFrame, tuned: Tuned) -> None:
    given = tuned.parameters
    hasher = lsh.fit(table, bucket_length=given.bucket_length, tables=given.tables)
    np.testing.assert_array_equal(
        lsh.directions(hasher.model), spark_directions(session(), WIDTH, given.tables, 0)
    )
    found = hasher.parameters.measured_candidates
    assert found == pytest.approx(given.measured_candidates, abs=0.03)


def test_directions_of_few_tables_are_the_first_of_many() -> None:
    many = spark_directions(session(), 8, 5, 7)
    np.testing.assert_array_equal(spark_directions(session(), 8, 2, 7), many[:2])


@pytest.mark.long
def test_the_same_seed_finds_the_same(table: DataFrame, tuned: Tuned) -> None:
    assert lsh.tune(table, 0.9) == tuned


def test_more_recall_takes_more_candidates(table: DataFrame, tuned: Tuned) -> None:
    more = lsh.tune(table, 0.97)
    for one, other in zip(tuned.schemes, more.schemes, strict=True):
        assert one.parameters.predicted_candidates < other.parameters.predicted_candidates


def test_it_says_so_plainly_and_as_json(tuned: Tuned) -> None:
    said = str(tuned)
    assert said.splitlines() == lsh.describe(tuned)
    assert f"comparing a query with {tuned.parameters.measured_candidates:.0%} of all rows" in said
    assert all(
        f"({scheme.parameters.predicted_candidates:.1%})" in said for scheme in tuned.schemes
    )
    assert "AmplifiedProjectionLSH" in said and "engine `auto`" in said
    read = json.loads(json.dumps(tuned.to_dict()))
    assert read["parameters"]["bucket_length"] == tuned.parameters.bucket_length
    assert len(read["schemes"]) == len(tuned.schemes)


def test_embeddings_of_an_index(index: Index) -> None:
    """96 drawn cars: less than a sample, so that it chooses and measures with all of them."""
    tuned = lsh.tune(lsh.with_vectors(index.to_spark()), 0.8)
    assert tuned.width == 512
    for scheme in tuned.schemes:
        assert scheme.parameters.measured_recall == pytest.approx(0.8, abs=0.1)


@pytest.mark.parametrize("recall", [0.0, 1.0, float("nan")])
def test_a_recall_that_cannot_be_is_refused(table: DataFrame, recall: float) -> None:
    with pytest.raises(LookalikeError, match="not between 0 and 1"):
        lsh.tune(table, recall)


# Degenerate collections.


def degenerate(kind: str, mixture: Vectors) -> Vectors:
    rows = mixture[:200].copy()
    if kind == "equal":
        return rows[[0] * 50]
    if kind == "zeros":
        return np.zeros((50, WIDTH), np.float32)
    if kind == "three":
        return rows[:3]
    if kind == "mostly zeros":
        rows[::2] = rows[1::4] = 0
    if kind == "outlier":
        rows[7] *= 1e9
    if kind == "tiny":
        rows *= np.float32(1e-12)
    return rows


@pytest.mark.parametrize(
    "kind",
    [
        "three",
        "outlier",
        *(
            pytest.param(one, marks=pytest.mark.long)
            for one in ("equal", "zeros", "mostly zeros", "tiny")
        ),
    ],
)
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_degenerate_collections(kind: str, mixture: Vectors) -> None:
    vectors = degenerate(kind, mixture)
    rows = frame(vectors, partitions=3)
    tuned = lsh.tune(rows, 0.9)
    for scheme in tuned.schemes:
        assert np.isfinite(scheme.parameters.bucket_length) and scheme.parameters.bucket_length > 0
        assert (scheme.parameters.measured_recall or 0) >= 0.8
    model = tuned.stage().fit(rows)
    keys = (0, len(vectors) - 1)
    searches = (model.approxNearestNeighbors(rows, vectors[row], 5) for row in keys)
    for row, found in zip(keys, collect_all(*searches), strict=True):
        assert found[0]["distCol"] == 0
        distances = np.linalg.norm(vectors.astype(float) - vectors[row], axis=1)
        for one in found:
            assert one["distCol"] == pytest.approx(distances[one["id"]], rel=1e-6)
    if kind in ("equal", "zeros"):
        assert tuned.parameters.measured_candidates == 1
        assert len(found) == 5


def test_an_outlier_does_not_take_the_directions(mixture: Vectors) -> None:
    rows = mixture.copy()
    wanted = leading_axes(rows, 16)
    rows[5] *= 1e9
    found = leading_axes(rows, 16)
    kept = np.linalg.norm(found @ wanted.T, axis=0)  # of each of the directions, in the others
    assert np.mean(kept) > 0.95


# Tables of several hashes.


def test_a_table_agrees_where_all_its_hashes_do(mixture: Vectors) -> None:
    tables = Tables.draw(Parameters(0.5, 6, 0, 0, hashes=3), np.empty((0, WIDTH)), 0)
    numbers = np.floor(mixture @ tables.projections.T + tables.shifts).reshape(-1, 6, 3)
    found = tables(mixture)
    assert found.shape == (len(mixture), 6) and found.dtype == np.int64
    np.testing.assert_array_equal(
        found[:50, None] == found[None, :50],
        (numbers[:50, None] == numbers[None, :50]).all(axis=3),
    )
    assert len(np.unique(found)) == sum(len(np.unique(numbers[:, t], axis=0)) for t in range(6))


def test_vectors_without_end_are_hashed(mixture: Vectors) -> None:
    tables = Tables.draw(Parameters(1e-3, 2, 0, 0, hashes=2), np.empty((0, WIDTH)), 0)
    odd = np.array([np.full(WIDTH, np.inf), np.full(WIDTH, np.nan), np.full(WIDTH, 1e300)])
    with np.errstate(all="ignore"):
        assert tables(odd).shape == (3, 2)


# The stage.


def test_candidates_are_the_rows_with_a_hash_in_common(
    mixture: Vectors, table: DataFrame, model: AmplifiedProjectionLSHModel
) -> None:
    hashed = model.transform(table).cache()
    assert dict(hashed.dtypes)["hashes"] == "array<bigint>"
    hashes = model.tables(mixture)
    found = {row["id"]: row["hashes"] for row in hashed.select("id", "hashes").collect()}
    np.testing.assert_array_equal([found[row] for row in range(len(mixture))], hashes)
    keys = (0, 1234)
    # Hashed before, or as part of the search.
    some = [model.candidates(rows, mixture[key]) for key in keys for rows in (table, hashed)]
    ids = [{row["id"] for row in rows} for rows in collect_all(*(one.select("id") for one in some))]
    for key, *both in zip(keys, ids[::2], ids[1::2], strict=True):
        wanted = set(np.flatnonzero((hashes == hashes[key]).any(axis=1)).tolist())
        assert both == [wanted, wanted]
        assert 10 < len(wanted) < len(mixture)


def test_neighbors_as_spark_gives_them(
    mixture: Vectors, table: DataFrame, model: AmplifiedProjectionLSHModel
) -> None:
    """With one bucket for all, both are exact search."""
    stock = BucketedRandomProjectionLSH(
        inputCol="features", outputCol="hashes", bucketLength=1e6, numHashTables=4
    ).fit(table)
    key = SparkVectors.dense(mixture[3].astype(float))
    wide = AmplifiedProjectionLSH(bucketLength=1e6, numHashTables=2).fit(table)
    one, other = collect_all(
        *(m.approxNearestNeighbors(table, key, 12).select("id", "distCol") for m in (stock, wide))
    )
    assert [row["id"] for row in one] == [row["id"] for row in other]
    np.testing.assert_allclose(
        [row["distCol"] for row in one], [row["distCol"] for row in other], atol=1e-6
    )
    found = model.approxNearestNeighbors(table, mixture[3].tolist(), 5, distCol="far").collect()
    assert (found[0]["id"], found[0]["far"]) == (3, 0)
    assert [row["far"] for row in found] == sorted(row["far"] for row in found)
    assert found[0]["path"] == "3.jpg"


def test_an_identical_vector_is_found(mixture: Vectors, table: DataFrame) -> None:
    """However selective the tables are."""
    searches = []
    for seed in range(3):
        model = AmplifiedProjectionLSH(
            bucketLength=0.01, numHashTables=1, numHashFunctions=24, subspace=16, seed=seed
        ).fit(table)
        key = mixture[100 + seed]
        sparse = SparkVectors.sparse(WIDTH, dict(enumerate(map(float, key))))
        searches += [
            model.approxNearestNeighbors(table, key, 3),
            model.approxNearestNeighbors(table, sparse, 1),
        ]
    for number, rows in enumerate(collect_all(*searches)):
        assert (rows[0]["id"], rows[0]["distCol"]) == (100 + number // 2, 0)


def test_recall_of_the_stage_is_what_was_said(
    mixture: Vectors, tuned: Tuned, model: AmplifiedProjectionLSHModel
) -> None:
    """On all vectors, of which a sample chose; the directions are drawn anew."""
    said = tuned.amplified.parameters
    hashes = model.tables(mixture)
    queries = np.arange(0, len(mixture), 5)
    distances = np.linalg.norm(mixture[None] - mixture[queries][:, None], axis=2)
    near = np.argsort(distances, axis=1)[:, 1:11]
    shared = (hashes[None] == hashes[queries][:, None]).any(axis=2)
    recall = np.take_along_axis(shared, near, axis=1).mean()
    assert recall == pytest.approx(said.predicted_recall, abs=0.03)
    assert shared.mean() == pytest.approx(said.predicted_candidates, abs=0.03)


def test_saved_and_read_back(
    mixture: Vectors, table: DataFrame, model: AmplifiedProjectionLSHModel, tmp_path: Path
) -> None:
    model.save(f"file://{tmp_path}/model")
    model.write().overwrite().save(f"file://{tmp_path}/model")
    loaded = AmplifiedProjectionLSHModel.load(f"file://{tmp_path}/model")
    assert loaded.uid == model.uid
    assert loaded.explainParams() == model.explainParams()
    np.testing.assert_array_equal(loaded.tables(mixture), model.tables(mixture))


def test_in_a_pipeline(mixture: Vectors, table: DataFrame, tuned: Tuned, tmp_path: Path) -> None:
    pipeline = Pipeline(stages=[tuned.stage()])
    pipeline.save(f"file://{tmp_path}/pipeline")
    fitted = Pipeline.load(f"file://{tmp_path}/pipeline").fit(table)
    fitted.save(f"file://{tmp_path}/fitted")
    again = PipelineModel.load(f"file://{tmp_path}/fitted")
    one, other = (
        some.transform(table).orderBy("id").select("hashes").limit(20).collect()
        for some in (fitted, again)
    )
    assert one == other
    stage: Any = again.stages[0]
    np.testing.assert_array_equal([row["hashes"] for row in one], stage.tables(mixture[:20]))


def test_the_same_seed_makes_the_same_tables(mixture: Vectors, table: DataFrame) -> None:
    def hashes(seed: int) -> Any:
        stage = AmplifiedProjectionLSH(
            bucketLength=0.5, numHashTables=3, numHashFunctions=2, subspace=8, seed=seed
        )
        return stage.fit(table).tables(mixture)

    np.testing.assert_array_equal(hashes(4), hashes(4))
    assert not np.array_equal(hashes(4), hashes(5))


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({}, "bucketLength is 0.0"),
        ({"bucketLength": -1.0}, "bucketLength is -1.0"),
        ({"bucketLength": float("inf")}, "bucketLength is inf"),
        ({"bucketLength": 1.0, "numHashTables": 0}, "numHashTables is 0"),
        ({"bucketLength": 1.0, "numHashFunctions": 0}, "numHashFunctions is 0"),
        ({"bucketLength": 1.0, "subspace": 65}, "subspace is 65: give 1 to 64"),
        ({"bucketLength": 1.0, "subspace": -1}, "subspace is -1: give 1 to 64"),
        ({"bucketLength": 1.0, "inputCol": "nothing"}, "unknown column 'nothing'"),
        ({"bucketLength": 1.0, "inputCol": "label"}, "has no vectors"),
        ({"numTables": 3}, "unknown parameter 'numTables'"),
    ],
)
def test_wrong_parameters_are_refused_in_one_line(
    table: DataFrame, values: dict[str, Any], problem: str
) -> None:
    with pytest.raises(LookalikeError, match=problem) as refused:
        AmplifiedProjectionLSH(**values).fit(table)
    assert "\n" not in str(refused.value)


def test_wrong_keys_are_refused(table: DataFrame, model: AmplifiedProjectionLSHModel) -> None:
    with pytest.raises(LookalikeError, match="the key has 3 numbers, but the vectors have 64"):
        model.approxNearestNeighbors(table, [1.0, 2.0, 3.0], 5)
    with pytest.raises(LookalikeError, match="give at least 1"):
        model.approxNearestNeighbors(table, np.zeros(WIDTH), 0)
    with pytest.raises(LookalikeError, match="unknown column 'features'"):
        model.transform(table.drop("features"))
    other = frame(units(10, 8, 0).astype(np.float32))
    with pytest.raises(Exception, match="but the hash tables are for 64"):
        model.transform(other).select("hashes").collect()


def test_nothing_to_learn_from(table: DataFrame) -> None:
    with pytest.raises(LookalikeError, match="at least 1 vector"):
        AmplifiedProjectionLSH(bucketLength=1.0).fit(table.filter(F.col("id") < 0))
    with pytest.raises(LookalikeError, match="at least 2 embedded images"):
        lsh.tune(table.filter(F.col("id") < 1))
