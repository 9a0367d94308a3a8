"""`NearestNeighbors`: the calls of spark-rapids-ml, exactness, persistence, bad input."""

import doctest
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from pyspark.ml import Pipeline, PipelineModel
from pyspark.ml.feature import BucketedRandomProjectionLSH
from pyspark.ml.functions import array_to_vector
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from scipy.spatial.distance import cdist

from helpers.clusters import clustered
from helpers.refusals import refusal
from helpers.spark_servers import connect_server
from lookalike import ImageEmbedder
from lookalike.images.synthetic import DrawnCollection, draw_collection
from lookalike.ml import (
    AmplifiedProjectionLSH,
    ImageEmbedding,
    NearestNeighbors,
    NearestNeighborsModel,
    nearest_neighbors,
    stored_rows,
)
from lookalike.ml.neighbor_params import MAX_NEIGHBORS
from lookalike.ml.stored_rows import check_shared, temporary_folder
from lookalike.spark import session
from lookalike.system.arrays import Vectors
from lookalike.system.java import java_home

WIDTH = 24


@pytest.fixture(scope="module")
def spark() -> SparkSession:
    return session()


@pytest.fixture(scope="module")
def vectors() -> Vectors:
    return clustered(240, width=WIDTH) * np.float32(3)  # not of length 1: distances are as given


def frame_of(spark: SparkSession, vectors: Vectors, first: int = 0) -> DataFrame:
    rows = [(first + n, vector.tolist()) for n, vector in enumerate(vectors)]
    return spark.createDataFrame(rows, "id int, features array<float>").coalesce(2)


@pytest.fixture(scope="module")
def items(spark: SparkSession, vectors: Vectors) -> DataFrame:
    return frame_of(spark, vectors[:200])


@pytest.fixture(scope="module")
def queries(spark: SparkSession, vectors: Vectors) -> DataFrame:
    return frame_of(spark, vectors[200:], 1000)


@pytest.fixture(scope="module")
def model(items: DataFrame) -> NearestNeighborsModel:
    return NearestNeighbors(k=4).setInputCol("features").setIdCol("id").fit(items)


def brute_force(
    queries: Vectors, items: Vectors, k: int, metric: str = "euclidean"
) -> tuple[Any, Any]:
    """Return the ids and distances of the k nearest items, (q, k) each."""
    far = cdist(queries.astype(float), items.astype(float), metric)
    order = np.argsort(far, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(far, order, 1)


def test_the_calls_of_spark_rapids_ml(
    spark: SparkSession, model: NearestNeighborsModel, queries: DataFrame, vectors: Vectors
) -> None:
    item_df, query_df, knn_df = model.kneighbors(queries)
    assert query_df is queries and item_df.columns == ["id", "features"]
    types = "query_id int, indices array<int>, distances array<float>"
    named = [f"{name} {kind}" for name, kind in knn_df.dtypes]
    assert ", ".join(named) == types
    found = knn_df.collect()
    wanted, far = brute_force(vectors[200:], vectors[:200], 4)
    assert [row["query_id"] for row in found] == list(range(1000, 1040))
    assert np.array_equal([row["indices"] for row in found], wanted)
    assert np.allclose([row["distances"] for row in found], far, rtol=1e-5)
    assert item_df.count() == 200


@pytest.mark.long  # seconds of Spark; the calls above are checked each time
def test_joins_give_the_rows_of_both_sides(
    spark: SparkSession, model: NearestNeighborsModel, queries: DataFrame, vectors: Vectors
) -> None:
    """Distances are those of Spark's own `approxSimilarityJoin`."""
    few = queries.limit(6)
    joined = model.exactNearestNeighborsJoin(few, distCol="EuclideanDistance")
    assert joined.columns == ["item_df", "query_df", "EuclideanDistance"]
    found = {
        (row["query_df"]["id"], row["item_df"]["id"]): row["EuclideanDistance"]
        for row in joined.collect()
    }
    assert len(found) == 24
    as_vectors = [
        frame.withColumn("v", array_to_vector(F.col("features"))) for frame in (few, model._items)
    ]
    lsh = BucketedRandomProjectionLSH(inputCol="v", outputCol="h", bucketLength=1e3, seed=1)
    lsh.setNumHashTables(20)  # a pair on two sides of zero shares a bucket of another table
    theirs = lsh.fit(as_vectors[1]).approxSimilarityJoin(as_vectors[0], as_vectors[1], 2.8)
    ids = F.col("datasetA.id").alias("a"), F.col("datasetB.id").alias("b")
    own = {(row["a"], row["b"]): row["distCol"] for row in theirs.select(*ids, "distCol").collect()}
    shared = own.keys() & found.keys()
    assert len(shared) >= 6
    assert [found[pair] for pair in shared] == pytest.approx([own[pair] for pair in shared], 1e-5)
    near = model.approxSimilarityJoin(few, threshold=2.8).collect()
    assert {(row["query_df"]["id"], row["item_df"]["id"]) for row in near} == shared


@pytest.mark.long  # seconds of Spark; the calls above are checked each time
@pytest.mark.parametrize("metric", ["sqeuclidean", "cosine"])
def test_other_metrics(
    metric: str, items: DataFrame, queries: DataFrame, vectors: Vectors, model: Any
) -> None:
    estimator = NearestNeighbors(k=3, inputCol="features", idCol="id", metric=metric)
    fitted = estimator.fit(items) if metric == "cosine" else model.copy().setK(3).setMetric(metric)
    found = fitted.transform(queries).sort("id").collect()
    wanted, far = brute_force(vectors[200:], vectors[:200], 3, metric)
    assert np.array_equal([[one["id"] for one in row["neighbors"]] for row in found], wanted)
    distances = [[one["distance"] for one in row["neighbors"]] for row in found]
    assert np.allclose(distances, far, rtol=1e-4, atol=1e-6)


@pytest.mark.long  # seconds of Spark; the calls above are checked each time
def test_rows_without_names_and_vectors_in_several_columns(
    spark: SparkSession, tmp_path: Path
) -> None:
    rows = spark.createDataFrame([(0.0, 0), (3.0, 4), (30.0, 40)], "x double, y int").coalesce(1)
    model = NearestNeighbors(k=2, inputCol=["x", "y"]).fit(rows)
    item_df, query_df, knn_df = model.kneighbors(rows.limit(1))
    names = {row["unique_id"]: (row["x"], row["y"]) for row in item_df.collect()}
    assert query_df.columns == ["unique_id", "x", "y"]
    row = knn_df.first()
    assert row is not None and row["distances"] == [0, 5]
    assert [names[one] for one in row["indices"]] == [(0.0, 0), (3.0, 4)]
    joined = model.exactNearestNeighborsJoin(rows.limit(1)).collect()
    assert {tuple(row["item_df"].asDict()) for row in joined} == {("x", "y")}
    refusal(lambda: model.kneighbors(item_df), "a column 'unique_id' exists already: rename it")
    refusal(lambda: NearestNeighbors(inputCol=["x", "z"]).fit(rows), "unknown column 'z'")


@pytest.mark.long  # seconds of Spark; the calls above are checked each time
def test_more_neighbours_than_rows_are_all_rows(
    model: NearestNeighborsModel, queries: DataFrame, spark: SparkSession
) -> None:
    many = model.copy().setK(MAX_NEIGHBORS)
    row = many.kneighbors(queries.limit(1))[2].first()
    assert row is not None and sorted(row["indices"]) == list(range(200))


@pytest.mark.long  # seconds of Spark; the calls above are checked each time
def test_queries_may_share_an_id_and_lack_a_vector(
    spark: SparkSession, model: NearestNeighborsModel, vectors: Vectors
) -> None:
    rows = [("a", vectors[0].tolist()), ("a", vectors[1].tolist()), ("b", None)]
    frame = spark.createDataFrame(rows, "id string, features array<float>").coalesce(1)
    found = [row["indices"][0] for row in model.kneighbors(frame)[2].collect()]
    assert sorted(found) == [0, 1]
    own = model.transform(frame).collect()
    assert [row["neighbors"] and row["neighbors"][0]["id"] for row in own] == [0, 1, None]


def test_bad_input_is_refused(
    spark: SparkSession, items: DataFrame, model: NearestNeighborsModel, vectors: Vectors
) -> None:
    def fit(frame: DataFrame = items, **options: Any) -> Any:
        options = {"inputCol": "features", "idCol": "id", **options}
        return lambda: NearestNeighbors(**options).fit(frame)

    refusal(fit(inputCol="v"), "unknown column 'v': choose id, features")
    refusal(fit(idCol="sku"), "unknown column 'sku': choose id, features")
    refusal(fit(inputCol="id"), "the column 'id' is int: give vectors or arrays of numbers")
    refusal(fit(k=0), "k is 0: give at least 1 neighbour")
    refusal(fit(k=MAX_NEIGHBORS + 1), "k is 2,049: give 2,048 at most")
    refusal(fit(recall=1.5), "`recall` is 1.5: give a share above 0 and up to 1")
    refusal(fit(metric="manhattan"), "unknown metric 'manhattan': choose euclidean, l2, sqeuc")
    refusal(fit(path="s3://bucket/x"), "s3://bucket/x is a URI, but only a local path can be")
    refusal(lambda: NearestNeighbors(idCol="id").fit(items), "no column of vectors: set `inputCol`")
    for kind in ("double", "date", "boolean"):
        odd = items.withColumn("id", F.lit(None).cast(kind))
        refusal(fit(odd), f"column 'id' holds {kind}, no ids: set `idCol` to a column of whole")
    few = frame_of(spark, vectors[:3]).coalesce(1)
    refusal(fit(few.withColumn("id", F.lit(7))), "3 rows of .* have the 'id' '?7'?: keys may not")
    nameless = few.withColumn("id", F.lit(None).cast("string"))
    refusal(fit(nameless), "3 rows of .* have no 'id': fill it")
    nulls = few.withColumn("features", F.lit(None).cast("array<float>"))
    refusal(fit(nulls), "no vector in the column 'features'")

    narrow = few.withColumn("features", F.slice("features", 1, 5))
    refusal(lambda: model.kneighbors(narrow), "vectors of another width than 24")
    unnamed = few.withColumn("id", F.lit(None).cast("int"))
    refusal(lambda: model.kneighbors(unnamed), "queries have no id in 'id': give each one")
    refusal(lambda: model.kneighbors(few.drop("id")), "unknown column 'id': choose features")
    taken = few.withColumn("neighbors", F.lit(1))
    refusal(lambda: model.transform(taken), "the column 'neighbors' exists already: set `outputC")
    with pytest.raises(TypeError, match="k"):
        NearestNeighbors(k="many")  # type: ignore[arg-type]
    with pytest.raises(
        Exception, match="a row has no neighbours: the vector has 5 numbers, not 24"
    ):
        model.transform(narrow).collect()


def test_a_cluster_needs_a_shared_folder() -> None:
    cluster: Any = SimpleNamespace(conf={"spark.master": "spark://somewhere:7077"})
    refusal(
        lambda: temporary_folder(cluster),
        "may not see a temporary folder of this machine: set `path` to a folder",
    )


@pytest.mark.parametrize("seen", [True, False])
def test_a_folder_that_workers_do_not_see_is_refused(
    spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: bool
) -> None:
    monkeypatch.setattr(stored_rows, "setting", lambda *_: "spark://somewhere:7077")
    if seen:
        check_shared(spark, tmp_path)
        assert list(tmp_path.iterdir()) == []
        return
    monkeypatch.setattr(Path, "touch", lambda _: None)
    refusal(lambda: check_shared(spark, tmp_path), "not all workers of Spark see .*: set `path` to")


def test_a_pipeline_is_saved_whole(
    spark: SparkSession, drawn: DrawnCollection, tmp_path: Path
) -> None:
    """Broken images have no neighbours, bytes are not kept, and the saved model stands alone."""
    photos = [str(one) for one in sorted(drawn.photos.iterdir())[:12]]
    rows = [(name, Path(name).read_bytes()) for name in photos] + [("broken", b"x")]
    frame = spark.createDataFrame(rows, "name string, content binary").coalesce(2)
    finder = NearestNeighbors(k=3, inputCol="embedding", idCol="name", path=str(tmp_path / "fit"))
    fitted = Pipeline(stages=[ImageEmbedding(), finder]).fit(frame)
    saved, moved = tmp_path / "saved", tmp_path / "moved"
    fitted.save(str(saved))
    (tmp_path / "fit").rename(tmp_path / "gone")
    saved.rename(moved)
    again = PipelineModel.load(str(moved))
    found = {row["name"]: row for row in again.transform(frame).collect()}
    assert found["broken"]["neighbors"] is None and found["broken"]["error"]
    made = ImageEmbedder()(photos)
    wanted, far = brute_force(made, made, 3)
    for photo, ids, distances in zip(photos, wanted, far, strict=True):
        own = found[photo]["neighbors"]
        assert [one["id"] for one in own] == [photos[number] for number in ids]
        assert [one["distance"] for one in own] == pytest.approx(distances, abs=1e-3)
    last = again.stages[-1]
    assert isinstance(last, NearestNeighborsModel)
    assert last._items.columns == ["name", "embedding", "error", "__row"]
    first = fitted.stages[-1]
    assert isinstance(first, NearestNeighborsModel)
    (tmp_path / "x").mkdir()
    gone = first.write().overwrite()
    refusal(lambda: gone.save(str(tmp_path / "x")), "the data of the model is gone")
    assert (tmp_path / "x").is_dir(), "what is there is kept"
    own = last.write().overwrite()
    refusal(lambda: own.save(str(last._folder)), "the model is in .*: save it elsewhere")
    refusal(lambda: NearestNeighborsModel.load("s3://bucket/model"), "is a URI, but only a local")
    refusal(lambda: NearestNeighborsModel.load(str(tmp_path)), "no NearestNeighborsModel in")
    refusal(lambda: NearestNeighborsModel.load(str(moved)), "no NearestNeighborsModel in")


def test_an_estimator_is_saved_with_its_parameters(tmp_path: Path) -> None:
    estimator = NearestNeighbors(k=7, inputCol=["x", "y"], recall=0.9, num_workers=2, verbose=True)
    estimator.save(str(tmp_path / "nn"))
    again = NearestNeighbors.load(str(tmp_path / "nn"))
    assert again.extractParamMap() == estimator.extractParamMap()
    assert (again.getK(), again.getInputCols(), again.getIdCol()) == (7, ["x", "y"], None)
    assert again.setInputCol("v").getInputCol() == "v" and not again.isSet("inputCols")
    assert AmplifiedProjectionLSH().uid.startswith("AmplifiedProjectionLSH")


def test_the_examples_run(spark: SparkSession) -> None:
    result = doctest.testmod(nearest_neighbors, extraglobs={"spark": spark})
    assert result.failed == 0 and result.attempted > 0


@pytest.mark.long  # an index large enough for cells takes a minute of processor time
def test_approximate_neighbours_reach_their_recall(spark: SparkSession) -> None:
    vectors = clustered(20_300, width=32)

    def frame(rows: Vectors) -> DataFrame:
        table = pd.DataFrame({"id": np.arange(len(rows)), "features": list(rows)})
        return spark.createDataFrame(table, "id bigint, features array<float>").repartition(4)

    model = NearestNeighbors(k=10, inputCol="features", idCol="id", recall=0.9)
    fitted = model.fit(frame(vectors[:20_000]))
    wanted, _ = brute_force(vectors[20_000:], vectors[:20_000], 10)
    asked = frame(vectors[20_000:])
    joined = fitted.kneighbors(asked)[2].sort("query_id").collect()
    searched = fitted.transform(asked).sort("id").collect()
    for found in (
        [row["indices"] for row in joined],
        [[one["id"] for one in row["neighbors"]] for row in searched],
    ):
        shares = [len({*a} & {*b}) / 10 for a, b in zip(found, wanted.tolist(), strict=True)]
        assert np.mean(shares) >= 0.87
    exact = fitted.exactNearestNeighborsJoin(asked).select("query_df.id", "item_df.id").collect()
    pairs = {(n, one) for n, row in enumerate(wanted.tolist()) for one in row}
    assert len(pairs & {tuple(row) for row in exact}) >= 0.999 * len(pairs)


SCRIPT = """
import sys
from pathlib import Path
from pyspark.ml import Pipeline, PipelineModel
from pyspark.sql import SparkSession
from lookalike.ml import ImageEmbedding, NearestNeighbors

photos, saved, out, doing = sys.argv[1:]
spark = SparkSession.builder.getOrCreate()
frame = spark.read.format("binaryFile").load(photos)
if doing == "fit":
    stages = [ImageEmbedding(), NearestNeighbors(k=10, inputCol="embedding", idCol="path")]
    Pipeline(stages=stages).fit(frame).save(saved)
else:
    embedding, neighbors = PipelineModel.load(saved).stages
    neighbors.kneighbors(embedding.transform(frame))[2].write.parquet(out)
"""


@pytest.mark.long  # two processes with a Spark of their own embed 500 photos
@pytest.mark.parametrize("images", [500, pytest.param(60, id="Spark Connect")])
def test_a_saved_pipeline_finds_what_exact_search_finds(tmp_path: Path, images: int) -> None:
    photos = draw_collection(tmp_path / "drawn", images=images, held_out=0).photos
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = {"JAVA_HOME": str(java_home()), "PYSPARK_PYTHON": sys.executable}
    with ExitStack() as running:
        if images == 60:
            environment["SPARK_REMOTE"] = running.enter_context(connect_server(tmp_path))
        for doing in ("fit", "use"):
            command: list[str | Path] = [
                sys.executable,
                script,
                photos,
                tmp_path / "model",
                tmp_path / "knn",
                doing,
            ]
            subprocess.run(command, check=True, env={**os.environ, **environment})
    files = sorted(photos.iterdir())
    made = ImageEmbedder()(list(map(str, files)))
    wanted, far = brute_force(made, made, 10)
    table = pq.read_table(tmp_path / "knn").sort_by("query_path")
    assert table["query_path"].to_pylist() == [f"file:{file}" for file in files]
    assert np.allclose(table["distances"].to_pylist(), far, atol=1e-3)
    for found, ids, distances in zip(table["indices"].to_pylist(), wanted, far, strict=True):
        if np.diff(distances).min() > 1e-6:  # ties may come in any order
            assert found == [f"file:{files[number]}" for number in ids]
