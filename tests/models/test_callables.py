"""A function as the model: what it is called with, what it may return, and what an index keeps."""

import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import lookalike
from helpers.command import run
from helpers.refusals import refusal
from helpers.small import picture, pictures
from lookalike import CallableModel, ImageEmbedder, ImageError
from lookalike.images import Preprocessing
from lookalike.models import engine, resolve
from lookalike.models.callables import embed_each
from lookalike.storage import EmbeddingTable
from lookalike.system.arrays import Pixels, Vectors


def means(images: Pixels) -> Vectors:
    found: Vectors = images.reshape(len(images), -1, 3).mean(1).astype(np.float32)
    return found


def model(function: Callable[..., Any] = means, **options: Any) -> CallableModel:
    return CallableModel(function, **{"name": "means", "version": "1", "size": 8, **options})


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return pictures(tmp_path / "photos", 6, 1)


# --- the convention -------------------------------------------------------------------------------


def test_a_plain_function_is_told_how_to_be_a_model(photos: Path, tmp_path: Path) -> None:
    wanted = (
        "the function means has no name and version, which identify its vectors: set `model` to "
        'lookalike.CallableModel(means, name="means", version="1")'
    )
    for call in (
        lambda: lookalike.create_index(photos, tmp_path / "x.index", model=means),  # type: ignore[arg-type]
        lambda: ImageEmbedder(means),  # type: ignore[arg-type]
    ):
        refusal(call, f"^{re.escape(wanted)}$")
    flatten: Any = torch.nn.Flatten()
    refusal(lambda: ImageEmbedder(flatten), r"CallableModel\(Flatten, name=\"Flatten\"")
    refusal(lambda: ImageEmbedder(5), r"^a int is no model: ")  # type: ignore[arg-type]
    assert not (tmp_path / "x.index").exists()


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        ({"name": ""}, "^the name '' of a CallableModel: give a text"),
        ({"version": 2}, "^the version '2' of a CallableModel"),
        ({"name": "two\nlines"}, "^the name "),
        ({"version": "1" * 101}, "^the version "),
        ({"size": 0}, "^`size` is 0: give 1 to 2048 pixels"),
        ({"size": "large"}, "^`size` is 'large'"),
        ({"size": (8, 8, 3)}, "^`size` is "),
        ({"preprocessing": "squash-8-bilinear-4"}, "^`preprocessing` is 'squash-8-bilinear-4': "),
        ({"batch": 0}, "^`batch` is 0: give 1 or more"),
        ({"function": 5}, "^a int is no function of images$"),
    ],
)
def test_its_options_are_checked(options: dict[str, Any], pattern: str) -> None:
    function = options.pop("function", means)
    refusal(lambda: model(function, **options), pattern)


def test_it_is_called_with_pixels_of_its_size() -> None:
    seen: list[tuple[int, ...]] = []

    def note(images: Pixels) -> Vectors:
        assert images.dtype == np.uint8
        seen.append(images.shape)
        return means(images)

    embed = ImageEmbedder(model(note, size=(6, 10), batch=2))
    pictures_ = [np.full((20, 30, 3), value, np.uint8) for value in (10, 20, 30)]
    vectors = embed(pictures_)
    assert np.allclose(vectors, 1 / np.sqrt(3))
    assert seen == [(2, 6, 10, 3), (2, 6, 10, 3), (1, 6, 10, 3)]
    cropped = model(preprocessing=Preprocessing.parse("shortest-9-bicubic-crop-8-4"))
    assert resolve(cropped).preprocessing == "shortest-9-bicubic-crop-8-4"


RESULTS: dict[str, Callable[[Pixels], Any]] = {
    "float64": lambda images: means(images).astype(np.float64),
    "half": lambda images: means(images).astype(np.float16),
    "integers": lambda images: means(images).astype(np.int32),
    "lists": lambda images: means(images).tolist(),
    "a tensor": lambda images: torch.from_numpy(means(images)).requires_grad_(),
}


@pytest.mark.parametrize("what", RESULTS)
def test_any_numbers_will_do(what: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    given = engine(resolve(model(RESULTS[what])))(pixels)
    assert given.dtype == np.float32
    assert np.abs(given - means(pixels)).max() <= (1 if what == "integers" else 0.1)


def fail(images: Pixels) -> Vectors:
    raise ValueError("no such layer\nat all")


WRONG: dict[str, tuple[Callable[[Pixels], Any], str]] = {
    "one vector": (
        lambda images: means(images)[0],
        r"returned float32 \(3,\), not float32 \(2, d\)",
    ),
    "fewer": (lambda images: means(images)[:1], r"returned float32 \(1, 3\), not float32 \(2, d\)"),
    "places": (lambda images: images.astype(np.float32), r"\(2, 8, 8, 3\), not float32 \(2, d\)"),
    "nothing": (lambda images: None, r"returned object \(\), not"),
    "no width": (lambda images: np.empty((2, 0), np.float32), r"returned float32 \(2, 0\)"),
    "texts": (lambda images: np.array([["a"], ["b"]]), r"returned <U1 \(2, 1\)"),
    "ragged": (lambda images: [[1.0], [1.0, 2.0]], r"the function 'means' failed: ValueError: "),
    "an error": (
        fail,
        r"the function 'means' failed: ValueError: no such layer",
    ),
    "too wide": (lambda images: np.zeros((2, 65_537), np.float32), r"\(2, 65537\), not"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_no_vector_for_each_image_is_refused_at_once(
    what: str, photos: Path, tmp_path: Path
) -> None:
    function, pattern = WRONG[what]
    refusal(
        lambda: lookalike.create_index(photos, tmp_path / "x", model=model(function), spark=False),
        pattern,
    )
    assert not (tmp_path / "x").exists()


# --- images that it fails for ---------------------------------------------------------------------


def moody(images: Pixels) -> Vectors:
    """Fail for dark images, return NaN for bright ones and another width for red ones."""
    vectors = means(images)
    if (vectors.max(1) < 20).any():
        raise RuntimeError("too dark")
    if (vectors[:, 0] > vectors[:, 1] + 100).any():
        return vectors[:, :2]
    vectors[vectors.min(1) > 250] = np.nan
    return vectors


COLOURS = {
    "dark": (0, 0, 0),
    "red": (200, 0, 0),
    "white": (255, 255, 255),
    "grey": (90, 100, 110),
    "blue": (60, 60, 200),
}


@pytest.mark.parametrize("spark", [False, True])
def test_images_that_it_fails_for_are_left_out_with_a_reason(spark: bool, tmp_path: Path) -> None:
    (folder := tmp_path / "photos").mkdir()
    for name, colour in COLOURS.items():
        Image.new("RGB", (16, 16), colour).save(folder / f"{name}.png")
    made = lookalike.create_index(folder, tmp_path / "x.index", model=model(moody), spark=spark)
    assert made.report is not None
    assert (made.report.images, made.report.skipped) == (2, 3)
    reasons = dict(EmbeddingTable.open(made.path).skipped())
    assert reasons == {
        "dark.png": "the function 'means' failed: RuntimeError: too dark",
        "red.png": "the function 'means' returned float32 (1, 2), not float32 (1, 3)",
        "white.png": "the network returns numbers that are not finite, or only zeros",
    }
    with pytest.raises(ImageError, match=r"^the function 'means' failed: RuntimeError: too dark$"):
        made.search(folder / "dark.png")
    for name in ("grey", "blue"):
        (folder / f"{name}.png").unlink()
    refusal(
        lambda: lookalike.create_index(folder, tmp_path / "y", model=model(moody), spark=spark),
        r"none of 3 inputs can be read, such as dark\.png: the function 'means' failed: ",
    )
    assert not (tmp_path / "y").exists()


def test_an_image_that_it_fails_for_may_be_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lookalike.ingest.options.MIN_IMAGES_TO_MEASURE", 3)
    folder = pictures(tmp_path / "photos", 2, 1)
    Image.new("RGB", (16, 16)).save(folder / "dark.png")
    made = lookalike.create_index(folder, tmp_path / "x.index", model=model(moody), spark=False)
    assert made.report is not None
    assert (made.report.images, made.report.skipped) == (2, 1)


def test_one_bad_image_costs_no_other_of_its_batch() -> None:
    pixels = np.full((5, 8, 8, 3), 100, np.uint8)
    pixels[3] = 0
    run = engine(resolve(model(moody)))
    vectors, reasons = embed_each(run, pixels)
    assert list(reasons) == [3]
    assert np.isnan(vectors[3]).all()
    assert np.allclose(vectors[[0, 1, 2, 4]], 100)
    assert np.isnan(ImageEmbedder(model(moody)).of_pixels(pixels)).all(1).tolist() == [
        *(False, False, False, True, False)
    ]


def test_threads_call_it_one_at_a_time() -> None:
    inside = threading.Lock()

    def alone(images: Pixels) -> Vectors:
        assert inside.acquire(blocking=False)
        try:
            time.sleep(0.001)
            return means(images)
        finally:
            inside.release()

    resolved = resolve(model(alone))
    runs = [engine(resolved, 4, 4) for _ in range(4)]
    pixels = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3), np.uint8)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda run: run(pixels), 2 * runs))
    assert len(results) == 8
    assert all(np.array_equal(result, results[0]) for result in results)


# --- what an index keeps --------------------------------------------------------------------------


def test_an_index_keeps_its_name_and_asks_for_it(photos: Path, tmp_path: Path) -> None:
    made = lookalike.create_index(photos, tmp_path / "x.index", model=model(), spark=False)
    index = lookalike.open_index(made.path)
    about = index.info()["model"]
    assert (about["backbone"], about["weights"], about["width"]) == ("callable:means", "1", 3)
    new = picture(tmp_path / "new.png", 50)
    again = r"with the function 'means', version '1', and needs it: use open_index\(path, model="
    refusal(lambda: index.search(new), again)
    refusal(lambda: index.add(new), again)
    refusal(lambda: index.sync(), again)
    assert index.info()["version"] == 0
    vector = means(np.full((1, 8, 8, 3), 7, np.uint8))[0]
    assert len(index.search(vector, k=3)) == 3
    assert index.search(photos / "003.png", k=1)[0].path != "003.png"  # it is known, unchanged
    assert index.check().ok
    index.remove("005.png")

    whole = lookalike.open_index(made.path, model=model())
    assert len(whole.search(new)) == 5
    assert whole.add(new).images == 1
    assert whole.sync(photos).images == 1, "the removed one"
    assert len(whole.search(new.read_bytes(), k=9)) == 7
    whole.refresh()
    whole.repair()
    assert whole.search(new.read_bytes(), k=1)[0].distance < 1e-3


def test_another_function_is_refused(photos: Path, tmp_path: Path) -> None:
    path = lookalike.create_index(photos, tmp_path / "x.index", model=model(), spark=False).path
    wanted = (
        r"was made with callable:means 1 \(3 numbers, squash-8-bilinear-4\), not with callable:"
    )
    doubled = model(lambda images: np.tile(means(images), 2))
    others = [model(version="2"), model(name="other"), model(size=9), doubled]
    for other in others:
        refusal(lambda other=other: lookalike.open_index(path, model=other), wanted)  # type: ignore[misc]
    refusal(
        lambda: lookalike.create_index(photos, tmp_path / "y.index", like=path, spark=False),
        "leave `like` out, and set `model` to that function$",
    )
    other_index = lookalike.create_index(photos, tmp_path / "y.index", model=model(), spark=False)
    assert other_index.info()["model"] == lookalike.open_index(path).info()["model"]
    refusal(
        lambda: lookalike.create_index(
            photos, tmp_path / "z.index", model=model(), precision="int8", spark=False
        ),
        "callable:means has its own precision: leave `precision` out$",
    )
    assert not (tmp_path / "z.index").exists()


def test_the_newest_function_of_a_name_is_called(photos: Path) -> None:
    """As in a notebook, where a cell is run again."""
    pixels = np.full((1, 8, 8, 3), 100, np.uint8)
    one = ImageEmbedder(model(), normalize=False).of_pixels(pixels)
    two = ImageEmbedder(model(lambda images: 2 * means(images)), normalize=False).of_pixels(pixels)
    assert np.allclose(two, 2 * one)


def test_the_shell_says_that_python_has_the_function(photos: Path, tmp_path: Path) -> None:
    path = lookalike.create_index(photos, tmp_path / "x.index", model=model(), spark=False).path
    new = picture(tmp_path / "new.png", 50)
    for command in (["search", str(path), str(new)], ["add", str(path), str(new)]):
        done = run(*command)
        assert done.code == 1
        assert "use open_index(path, model=lookalike.CallableModel(...)) in Python" in done.err


def test_what_cannot_be_sent_to_workers_is_said(photos: Path, tmp_path: Path) -> None:
    lock = threading.Lock()

    def locked(images: Pixels) -> Vectors:
        with lock:
            return means(images)

    index = lookalike.create_index(photos, tmp_path / "x", model=model(locked), spark=False)
    assert len(index) == 6
    refusal(
        lambda: lookalike.create_index(photos, tmp_path / "y", model=model(locked), spark=True),
        r"the function 'means' cannot be sent to other processes \(.*lock.*\): .*`spark=False`",
    )
    assert not (tmp_path / "y").exists()
