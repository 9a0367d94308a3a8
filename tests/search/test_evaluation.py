"""Evaluation: the curve of recall against speed, its plot, what less precision costs."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from helpers.clusters import clustered
from helpers.command import assert_fails, run
from helpers.segments import collection_of, in_pieces
from lookalike import Index, LookalikeError, models
from lookalike.images.synthetic import DrawnCollection
from lookalike.ingest import Options, build_index
from lookalike.rendering import plots
from lookalike.search import evaluation, fidelity
from lookalike.search.recall import RECALLS
from lookalike.search.rows import Rows
from lookalike.system.cache import seal

ROWS = 6000
PHOTOS = 24


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Index:
    """An index of vectors in which signatures find their rows among many."""
    path = tmp_path_factory.mktemp("large") / "cars.index"
    return Index(collection_of(clustered(ROWS), path, [2000, 4000]))


@pytest.fixture(scope="module")
def figures(large: Index) -> dict[str, Any]:
    return {**large.evaluate(k=10, queries=30, spark=False)}


@pytest.fixture
def rough(drawn: DrawnCollection, tmp_path: Path) -> Index:
    """An index of a few drawn cars in bf16, and their photos beside it."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for photo in sorted(drawn.photos.rglob("*.jpg"))[:PHOTOS]:
        shutil.copy(photo, photos)
    options = Options(precision="bf16", spark=False)
    return Index(build_index(photos, tmp_path / "rough.index", options)[0])


def kept(index: Index, **options: Any) -> dict[str, Any]:
    """Return what an index has in common with f32."""
    return fidelity.against_f32(index._table, index._searcher.rows, **options)


# The curve.


def test_the_curve_holds_together(figures: dict[str, Any]) -> None:
    *signatures, exact = figures["curve"]
    assert [point["asked"] for point in signatures] == list(RECALLS)
    assert {point["engine"] for point in signatures} == {"approximate"}
    compared = [point["compared"] for point in signatures]
    assert compared == sorted(compared) and 0 < compared[0] < compared[-1] < 0.1
    assert (exact["engine"], exact["asked"], exact["compared"]) == ("exact", 1, 1)
    assert (exact["recall"], exact["recall_95"]) == (1, [1, 1])
    for point in figures["curve"]:
        low, high = point["recall_95"]
        assert 0 <= low <= point["recall"] <= high <= 1
        assert point["recall"] > point["asked"] - 0.05
        assert 0 < point["ms"]["p50"] <= point["ms"]["p99"]
        assert point["queries_per_s"] == pytest.approx(1000 / point["ms"]["p50"], rel=0.05)


def test_the_usual_recall_is_a_point_of_the_curve(figures: dict[str, Any]) -> None:
    usual, usually = figures["curve"][RECALLS.index(0.98)], figures["approximate"]
    assert (usually["queries"], usually["k"]) == (30, 10)
    assert {
        name: usually[name] for name in ("recall", "recall_95", "compared")
    }.items() <= usual.items()
    assert usually["approximate_ms"] == usual["ms"]
    assert usually["exact_ms"] == figures["curve"][-1]["ms"]
    assert "spark-lsh" not in figures and "against_f32" not in figures, "it is in f32"


def test_few_labels_among_many_images_are_enough() -> None:
    (piece,) = in_pieces(clustered(3000), [3000])
    labels = [str(row % 200) if row % 100 == 0 else None for row in range(3000)]
    named = piece.rows.set_column(2, "label", pa.array(labels, pa.string()))
    piece.__dict__["rows"] = named  # as it is kept, once made
    assert evaluation.by_label(Rows([piece]))["labelled_queries"] == 30
    assert evaluation.by_label(Rows([piece]), 10)["labelled_queries"] == 10
    piece.__dict__["rows"] = named.set_column(2, "label", pa.nulls(3000, pa.string()))
    assert evaluation.by_label(Rows([piece])) == {}


def test_a_seed_draws_the_same_images_again(large: Index, figures: dict[str, Any]) -> None:
    def known(figures: dict[str, Any]) -> list[Any]:
        return [(point["recall"], point["compared"]) for point in figures["curve"]]

    again = evaluation.by_signatures(large._searcher, k=10, count=30)
    assert known(again) == known(figures)
    rows = large._searcher.rows
    drawn = [
        [number for number, *_ in evaluation.draw_queries(rows, 30, seed)] for seed in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[2])) == 30


@pytest.mark.parametrize("count", [2, 5, 30])
def test_a_few_rows(tmp_path: Path, count: int) -> None:
    few = Index(collection_of(clustered(count), tmp_path / "few.index", [count]))
    curve = few.evaluate(k=5, queries=50, spark=False)["curve"]
    assert [point["recall"] for point in curve] == [1] * 7


@pytest.mark.parametrize("sizes", [[0], [0, 1]])
def test_nothing_to_evaluate(tmp_path: Path, sizes: list[int]) -> None:
    none = Index(collection_of(clustered(2), tmp_path / "none.index", sizes))
    with pytest.raises(LookalikeError, match="at least 2 embedded images"):
        none.evaluate(spark=False)


def test_spark_is_a_point_too(index: Index) -> None:
    figures = index.evaluate(k=3, queries=2)
    spark = figures["spark-lsh"]
    assert 0 < spark["ms"]["p50"] <= spark["ms"]["p99"]
    assert evaluation.points(figures)[-1]["compared"] == spark["candidates"]
    series = evaluation.series(figures)
    assert list(series) == ["approximate", "exact", "spark-lsh"]
    assert [len(points) for points in series.values()] == [6, 1, 1]
    assert series["spark-lsh"] == [(spark["queries_per_s"], spark["recall"])]


# The plot.

SERIES = {"signatures": [(9000.0, 0.91), (4000.0, 0.99)], "exact, $100^": [(12.5, 1.0)]}


@pytest.mark.parametrize("name", ["recall.png", "recall.PNG"])
def test_a_plot_is_a_picture(tmp_path: Path, name: str) -> None:
    plots.draw(SERIES, "recall@10 of $cars^ and 写真", tmp_path / name)
    with Image.open(tmp_path / name) as picture:
        picture.load()
        assert picture.format == "PNG"
        assert 1000 <= picture.width <= 2000 and 600 <= picture.height <= 1500
        colors = picture.convert("RGB").getcolors(1 << 24)
    assert colors is not None
    found = {color for _, color in colors}
    assert {(0x25, 0x63, 0xEB), (0xEA, 0x58, 0x0C)} <= found, "a colour a series"


def test_a_plot_is_a_drawing(tmp_path: Path) -> None:
    plots.draw(SERIES, "recall", tmp_path / "recall.svg")
    assert ElementTree.parse(tmp_path / "recall.svg").getroot().tag.endswith("}svg")


@pytest.mark.parametrize("name", ["recall.pdf", "recall", "png"])
def test_other_files_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        LookalikeError, match=f"^{name}: a plot is a file that ends in .png or .svg$"
    ):
        plots.draw(SERIES, "recall", tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(LookalikeError, match=r'pip install "lookalike\[plot\]"'):
        plots.check(tmp_path / "recall.png")


# Less precision.


def test_bf16_beside_f32(rough: Index) -> None:
    found = kept(rough)
    assert (found["images"], found["left_out"], found["k"]) == (PHOTOS, 0, 5)
    assert found["overlap_95"][0] <= found["overlap"] <= found["overlap_95"][1]
    assert 0.9 < found["overlap"] <= 1
    assert kept(rough, k=100)["k"] == PHOTOS - 1
    assert kept(rough, k=100)["overlap"] == 1, "all others are neighbours of each"


def test_vectors_of_something_else_have_less_in_common(rough: Index) -> None:
    (segment,) = rough._table.segments
    assert len(segment.vectors) == PHOTOS  # and so they are in the cache
    np.save(segment.cache / "vectors.npy", clustered(PHOTOS))
    seal(segment.cache / "vectors.npy")
    assert kept(Index(rough._table.open(rough.path)))["overlap"] < 0.6


def test_images_that_are_gone_or_changed_are_left_out(rough: Index, tmp_path: Path) -> None:
    first, second, third, *others = sorted((tmp_path / "photos").iterdir())
    first.unlink()
    second.write_bytes(b"no picture")
    shutil.copy(others[0], third)
    found = kept(rough)
    assert (found["images"], found["left_out"]) == (PHOTOS - 3, 3)
    assert found["overlap"] > 0.9
    for photo in others[1:]:
        photo.unlink()
    found = kept(rough)
    assert (found["images"], found["left_out"], found["overlap"]) == (1, PHOTOS - 1, None)
    assert "fewer than two" in found["reason"]


def test_without_a_model_in_f32(rough: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "in_f32", lambda model: None)
    found = kept(rough)
    assert (found["overlap"], found["overlap_95"]) == (None, None)
    assert found["reason"] == "efficientnet-lite0 with the weights general is not available in f32"
    shutil.rmtree(rough.path / "_model")
    again = Index(rough._table.open(rough.path))
    assert "no whole model" in kept(again)["reason"]


# The command.


def test_the_command(rough: Index, tmp_path: Path) -> None:
    plot = tmp_path / "new" / "recall.png"
    asked = ("evaluate", rough.path, "--no-spark", "-k", "3", "--queries", "4")
    done = run(*asked, "--plot", plot)
    assert (done.code, done.err) == (0, f"wrote {plot}\n")
    with Image.open(plot) as picture:
        picture.verify()
    first, second, heading, *lines, last = done.out.splitlines()
    assert first == f"images: {PHOTOS}"
    assert second == "recall@3 of 4 query images, one at a time:"
    assert heading.split()[:3] == ["engine", "target", "recall"]
    assert [line.split()[:2] for line in lines] == [
        *(["approximate", str(recall)] for recall in RECALLS),
        ["exact", "1.0"],
    ]
    assert last.startswith("of the 3 nearest in f32, ")
    assert last.endswith(f" among {PHOTOS} images)")

    shutil.rmtree(tmp_path / "photos")
    last = run(*asked).out.splitlines()[-1]
    assert last.startswith("agreement with f32 is not known: fewer than two")
    figures = json.loads(run(*asked, "--json").out)
    assert list(figures) == ["images", "approximate", "curve", "against_f32"]
    assert figures["against_f32"]["left_out"] == PHOTOS


def test_what_was_measured_is_told(large: Index, figures: dict[str, Any]) -> None:
    facts: dict[str, Any] = {**large.info()}
    assert (facts["approximate"]["k"], facts["approximate"]["queries"]) == (10, 100)
    assert facts["approximate"]["recall"]["0.98"] == facts["recall"]["approximate"]
    said = run("info", large.path).out
    share = f"{facts['recall']['approximate']:.1%}"
    assert (
        f"approximate  recall@10 {share} for a target of 98% (measured with 100 of the images)"
        in said
    )


def test_matplotlib_is_missed_before_anything_is_measured(
    rough: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(Index, "evaluate", None)
    done = run("evaluate", rough.path, "--plot", tmp_path / "recall.svg")
    assert_fails(done, 'pip install "lookalike[plot]"')


@pytest.mark.parametrize("recall", [0.5, 0.9, 0.98])
def test_intervals_hold_the_truth(recall: float) -> None:
    """Shares of 10 that are found one by one, and such that are found together or not at all."""
    rng = np.random.default_rng(0)
    alone = rng.binomial(10, recall, size=(2000, 50)) / 10
    together = rng.binomial(1, recall, size=(2000, 50)).astype(float)
    for drawn in (alone, together):
        bounds = np.array([evaluation.interval(shares) for shares in drawn])
        assert ((bounds[:, 0] <= recall) & (recall <= bounds[:, 1])).mean() > 0.9
    assert (
        np.ptp(bounds, axis=1).mean()
        > 2 * np.ptp([evaluation.interval(shares) for shares in alone], axis=1).mean()
    ), "neighbours that are missed together are fewer trials"


def test_an_interval_is_never_nothing() -> None:
    low, high = evaluation.interval(np.ones(50))
    assert 0.95 < low < 0.98 and high == pytest.approx(1)
    assert low < evaluation.interval(np.ones(1000))[0] < 1
    low, high = evaluation.interval(np.zeros(3))
    assert low == pytest.approx(0) and 0.2 < high < 0.9
    assert 0 < evaluation.interval(np.array([0.5]))[0] < 0.5
