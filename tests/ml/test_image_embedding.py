"""`ImageEmbedding`: all kinds of columns, and bad images as reasons."""

import contextlib
import doctest
import io
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pyspark.ml.feature import Normalizer
from pyspark.ml.linalg import VectorUDT
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from helpers.refusals import refusal
from lookalike import CallableModel, ImageEmbedder, Index
from lookalike.images.synthetic import DrawnCollection
from lookalike.ml import ImageEmbedding, image_embedding
from lookalike.spark import session
from lookalike.system.arrays import Pixels, Vectors

PIXELS = "struct<origin:string,height:int,width:int,nChannels:int,mode:int,data:binary>"


@pytest.fixture(scope="module")
def spark() -> SparkSession:
    return session()


@pytest.fixture(scope="module")
def photos(drawn: DrawnCollection) -> list[Path]:
    return sorted(drawn.photos.iterdir())[:3]


def vectors_of(rows: list[Any], column: str = "embedding") -> Vectors:
    return np.array([row[column] for row in rows], np.float32)


def means(pixels: Pixels) -> Vectors:
    """A network that is quick, and knows colours apart."""
    found: Vectors = pixels.mean((1, 2)).astype(np.float32)
    return found


MEANS = CallableModel(means, name="means", version="1", size=32)


def test_columns_of_any_kind_give_the_vectors_of_the_embedder(
    spark: SparkSession, photos: list[Path], tmp_path: Path
) -> None:
    odd = tmp_path / "100% of a car.jpg"
    odd.write_bytes(photos[2].read_bytes())
    rows = [(str(one), one.as_uri(), one.read_bytes(), n) for n, one in enumerate([*photos, odd])]
    frame = spark.createDataFrame(rows, "path string, uri string, content binary, n int")
    content = F.col("content").alias("content")
    frame = frame.coalesce(1).withColumns(
        {
            "file": F.struct("path", F.lit(0).alias("length"), content),
            "cell": F.struct(F.lit(None).cast("binary").alias("bytes"), "path"),
            "hadoop": F.concat(F.lit("file:"), "path"),
        }
    )
    kinds = ("path", "uri", "hadoop", "content", "file", "cell")
    each = [
        ImageEmbedding(inputCol=kind, model=MEANS).transform(frame).withColumn("kind", F.lit(kind))
        for kind in kinds
    ]
    made = reduce(DataFrame.union, each).coalesce(1)  # in one task
    wanted = ImageEmbedder(MEANS)([*photos, odd])
    found = made.select("kind", "n", "path", "embedding", "error").sort("n").collect()
    for kind in kinds:
        own = [row for row in found if row["kind"] == kind]
        assert {row["error"] for row in own} == {None}
        assert [row["path"] for row in own] == [path for path, *_ in rows]
        assert np.array_equal(vectors_of(own), wanted)
    assert made.schema.fields[: len(frame.columns)] == frame.schema.fields


@pytest.mark.long  # seconds of Spark for another kind of column or option
def test_images_of_spark_are_embedded_by_their_pixels(
    spark: SparkSession, photos: list[Path]
) -> None:
    with Image.open(photos[0]) as opened:
        colours = np.asarray(opened.convert("RGB"))
    grey = np.asarray(Image.fromarray(colours).convert("L"))
    bare = Image.fromarray(colours).convert("RGBA")
    bare.putalpha(Image.linear_gradient("L").resize(bare.size))
    clear = np.asarray(bare)
    high, wide = grey.shape
    rows = [
        ("", high, wide, 3, 16, colours[:, :, ::-1].tobytes()),
        ("", high, wide, 1, 0, grey.tobytes()),
        ("", high, wide, 4, 24, clear[:, :, [2, 1, 0, 3]].tobytes()),
        ("", high, wide, 3, 16, b"short"),
        ("", high, wide, 3, 21, colours.tobytes()),
        ("", None, wide, 3, 16, colours.tobytes()),
        ("", -1, -1, -1, -1, b""),  # what Spark makes of a file that it cannot decode
        None,
    ]
    frame = spark.createDataFrame(
        [(n, row) for n, row in enumerate(rows)], f"n int, image {PIXELS}"
    )
    stage = ImageEmbedding(inputCol="image", outputType="array", errorCol="why")
    found = stage.transform(frame.coalesce(1)).sort("n").collect()
    wanted = ImageEmbedder()([colours, grey, clear])
    assert np.array_equal(vectors_of(found[:3]), wanted)
    assert [row["why"] for row in found] == [
        *(None, None, None),
        f"5 bytes of pixels, not {high} x {wide} x 3",
        "pixels of the mode 21: give 8 bits in 1, 3 or 4 channels",
        "pixels without a height, a width or a mode",
        "pixels of the mode -1: give 8 bits in 1, 3 or 4 channels",
        "no image: null",
    ]


def test_bad_images_are_reasons_and_fail_no_job(
    spark: SparkSession, photos: list[Path], tmp_path: Path
) -> None:
    whole = photos[0].read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.jpg").write_text("no image")
    names = ["cut.jpg", "text.jpg", "nowhere.jpg", ".", "a\0b"]
    paths = [
        None,
        *(f"{tmp_path}/{name}" for name in names),
        "s4://bucket/photo.jpg",
        str(photos[0]),
    ]
    rows = [(n, path, b"" if n else None) for n, path in enumerate(paths)]
    frame = spark.createDataFrame(rows, "n int, path string, content binary").coalesce(1)
    by_path = ImageEmbedding(inputCol="path", model=MEANS).transform(frame)
    stage = ImageEmbedding(outputCol="own", errorCol="own_error", model=MEANS, truncated=True)
    found = stage.transform(by_path).sort("n").collect()
    reasons = [row["error"] for row in found]
    assert [row["embedding"] is None for row in found] == [True] * 7 + [False]
    assert reasons[0] == "no image: null" and reasons[7] is None
    assert reasons[3:6] == ["no such file", "not a regular file", "the path has a null character"]
    assert reasons[6].startswith("unreadable: ")
    assert all(reason and reason.isprintable() for reason in reasons[:7])
    assert found[0]["own_error"] == "no image: null"
    assert {row["own"] for row in found} == {None}
    cut = ImageEmbedding(inputCol="path", model=MEANS, truncated=True, errorCol="")
    row = cut.transform(frame.filter("n = 1")).first()
    assert row is not None and row["embedding"] is not None


@pytest.mark.long  # seconds of Spark for another kind of column or option
def test_vectors_keep_their_length_on_request(spark: SparkSession, photos: list[Path]) -> None:
    frame = spark.createDataFrame([(str(photos[0]),)], "path string")
    stage = ImageEmbedding(inputCol="path", model=MEANS, normalize=False)
    made = Normalizer(inputCol="embedding", outputCol="unit").transform(stage.transform(frame))
    assert isinstance(made.schema["embedding"].dataType, VectorUDT)
    row = made.first()
    assert row is not None
    wanted = ImageEmbedder(MEANS, normalize=False)(photos[0])
    assert np.allclose(row["embedding"].toArray(), wanted) and np.linalg.norm(wanted) > 1
    assert np.linalg.norm(row["unit"].toArray()) == pytest.approx(1)


def test_a_filter_on_the_reasons_embeds_once(spark: SparkSession, photos: list[Path]) -> None:
    frame = spark.createDataFrame([(str(photos[0]),)], "path string")
    made = ImageEmbedding(inputCol="path", model=MEANS).transform(frame)
    assert explained(made.filter("error is null")).count("ArrowEvalPython") == 1
    assert "ArrowEvalPython" not in explained(made.select("path"))


def explained(frame: DataFrame) -> str:
    """Return the physical plan of a DataFrame."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        frame.explain()
    return out.getvalue()


def test_wrong_options_are_refused(spark: SparkSession, tmp_path: Path, index: Index) -> None:
    frame = spark.createDataFrame([("a", 1.0)], "path string, embedding double")

    def transform(**options: Any) -> Any:
        options = {"inputCol": "path", "outputCol": "vector", **options}
        return lambda: ImageEmbedding(**options).transform(frame)

    refusal(transform(inputCol="photo"), "unknown column 'photo': choose path, embedding")
    refusal(transform(inputCol="embedding"), "column 'embedding' holds double, no images: give")
    refusal(transform(outputCol="embedding"), "the column 'embedding' exists already: choose an")
    refusal(transform(errorCol="vector"), "outputCol and errorCol are both 'vector'")
    refusal(transform(outputType="list"), "unknown outputType 'list': choose vector or array")
    refusal(transform(model="resnet19"), "resnet19")
    refusal(transform(model=str(tmp_path / "none.onnx")), "none.onnx")
    refusal(transform(weights=str(tmp_path / "none.safetensors")), "none.safetensors")
    refusal(transform(precision="f16"), "unknown precision 'f16': choose auto, f32, bf16 or int8")
    refusal(transform(precision="int8"), "make an index in int8, and set `like` to it")
    refusal(transform(device="tpu"), "unknown device 'tpu': choose auto, cpu or cuda")
    refusal(transform(like=str(tmp_path)), "index")
    refusal(transform(like=str(index.path), model="resnet18"), "`like` sets the whole model")
    with pytest.raises(TypeError, match="Boolean Param"):
        ImageEmbedding(normalize="yes")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="name of a model"):
        ImageEmbedding(model=3)  # type: ignore[arg-type]


def test_a_stage_is_saved_with_its_parameters(tmp_path: Path, index: Index) -> None:
    stage = ImageEmbedding(inputCol="photo", like=str(index.path), normalize=False)
    stage.save(str(tmp_path / "stage"))
    again = ImageEmbedding.load(str(tmp_path / "stage"))
    assert again.uid == stage.uid and again.extractParamMap() == stage.extractParamMap()
    assert again._resolved()[0].fingerprint == index.embedder.model.fingerprint
    own = ImageEmbedding(model=MEANS).write().overwrite()
    refusal(lambda: own.save(str(tmp_path / "stage")), "'means' cannot be saved")
    assert (tmp_path / "stage" / "metadata").is_dir(), "what is there is kept"
    refusal(lambda: ImageEmbedding.load(str(tmp_path / "y")), "no ImageEmbedding in .*y: ")


def test_the_examples_run(spark: SparkSession, photos: list[Path]) -> None:
    result = doctest.testmod(image_embedding, extraglobs={"spark": spark, "photos": photos})
    assert result.failed == 0 and result.attempted > 0
