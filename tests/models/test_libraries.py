"""Networks of other libraries, ONNX files and functions: each is a model like the bundled ones."""

import dataclasses
import json
import logging
import os
import re
import shutil
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import lookalike
from helpers import tiny_networks
from helpers.command import run
from helpers.refusals import refusal
from helpers.small import picture, pictures
from lookalike import CallableModel, ImageEmbedder, Index
from lookalike.images import PREPROCESSING, Preprocessing, decode
from lookalike.models import Model, at_precision, engine, libraries, resolve
from lookalike.models.embedder import normalize
from lookalike.models.libraries.hub import offline_if_unreachable
from lookalike.models.runtimes import OpenVinoEngine, TorchEngine, _engine
from lookalike.models.text import TextSide
from lookalike.models.text_engine import _text_engine
from lookalike.storage import EmbeddingTable
from lookalike.system.arrays import Pixels, Vectors

Kind = str | CallableModel

LIBRARIES = {
    "timm": tiny_networks.timm_folder,
    "clip": tiny_networks.clip_folder,
    "hf": tiny_networks.hf_folder,
    "sentence-transformers": tiny_networks.sentence_folder,
}
KINDS = [*LIBRARIES, "onnx", "callable"]
INPUTS = {
    "timm": "shortest-71-bilinear-crop-64-4",
    "clip": "shortest-64-bicubic-4",
    "hf": "squash-64x48-bicubic-4",
    "sentence-transformers": "squash-64-bilinear-4",
    "onnx": "squash-64-bilinear-4",
    "callable": "squash-20-bilinear-4",
}
WIDTHS = {"clip": 24, "hf": 32, "sentence-transformers": 20, "onnx": 12, "callable": 9}


def corners(images: Pixels) -> Vectors:
    """Embed images by the colours of three corners."""
    means = [images[:, :10, :10], images[:, -10:, :10], images[:, :10, -10:]]
    return np.concatenate([part.mean((1, 2)) for part in means], axis=1).astype(np.float32)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Kind]:
    """Give the model of a kind, saved when it is first needed."""
    folder = tmp_path_factory.mktemp("networks")

    def make(kind: str) -> Kind:
        if kind == "callable":
            return CallableModel(corners, name="corners", version="1", size=20)
        if kind == "onnx":
            file = folder / "photo.onnx"
            return str(file if file.exists() else tiny_networks.export(file))
        if not (folder / kind).exists():
            LIBRARIES[kind](folder / kind)
        return f"{kind}:{folder / kind}"

    return make


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("photos"), 6, 1)


@pytest.fixture(scope="module")
def index_of(
    saved: Callable[[str], Kind], photos: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Index]:
    """Give an index of six pictures for each kind. Tests that change it copy it first."""
    folder = tmp_path_factory.mktemp("indexes")

    def make(kind: str) -> Index:
        out = folder / kind
        model = saved(kind)
        if not out.exists():
            lookalike.create_index(photos, out, model=model, spark=False)
        return lookalike.open_index(out, model=model if kind == "callable" else None)  # type: ignore[arg-type]

    return make


def vectors_of(index: Index) -> dict[str, Vectors]:
    table = index._table
    return {
        path: np.array(vector)
        for segment in table.segments
        for path, vector in zip(segment.rows["path"].to_pylist(), segment.vectors, strict=True)
    }


# --- each kind ------------------------------------------------------------------------------------


def by_timm(name: str, image: Image.Image) -> torch.Tensor:
    import timm

    network = timm.create_model(f"local-dir:{name}", pretrained=True, num_classes=0).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network))
    return torch.as_tensor(network(transform(image)[None]))


def by_open_clip(name: str, image: Image.Image) -> torch.Tensor:
    import open_clip

    network, transform = open_clip.create_model_from_pretrained(f"local-dir:{name}")
    return torch.as_tensor(network.eval().encode_image(transform(image)[None]))


def by_transformers(name: str, image: Image.Image) -> torch.Tensor:
    from transformers import AutoImageProcessor, AutoModel

    pixels = AutoImageProcessor.from_pretrained(name)(image, return_tensors="pt")
    return torch.as_tensor(AutoModel.from_pretrained(name).eval()(**pixels).pooler_output)


def by_sentence_transformers(name: str, image: Image.Image) -> torch.Tensor:
    from sentence_transformers import SentenceTransformer

    return torch.as_tensor(SentenceTransformer(name, device="cpu").encode([image]))


def by_onnx(name: str, image: Image.Image) -> torch.Tensor:
    from torchvision.transforms import v2

    steps = [v2.Resize((64, 64)), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    normal = v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    return tiny_networks.Photo().eval()(v2.Compose([*steps, normal])(image)[None])  # type: ignore[no-any-return]


OWN = {
    "timm": by_timm,
    "clip": by_open_clip,
    "hf": by_transformers,
    "sentence-transformers": by_sentence_transformers,
    "onnx": by_onnx,
}


@pytest.mark.parametrize("kind", OWN)
def test_vectors_are_those_of_the_library(
    kind: str, saved: Callable[[str], Kind], index_of: Callable[[str], Index], photos: Path
) -> None:
    """Its own preprocessing and network, from end to end."""
    name = str(saved(kind)).partition(":")[2] or str(saved(kind))
    file = photos / "002.png"
    with torch.no_grad():
        wanted = normalize(OWN[kind](name, decode(file.read_bytes())).numpy())[0]
    index = index_of(kind)
    assert float(wanted @ vectors_of(index)["002.png"]) > 0.9999
    assert float(wanted @ index.embedder(file)) > 0.9999


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_indexed_searched_and_grown(
    kind: str,
    saved: Callable[[str], Kind],
    index_of: Callable[[str], Index],
    photos: Path,
    tmp_path: Path,
) -> None:
    made = index_of(kind)
    about = made.info()["model"]
    assert about["preprocessing"] == INPUTS[kind]
    assert about["width"] == WIDTHS.get(kind, about["width"]) == made.embedder.width
    shutil.copytree(made.path, tmp_path / "x.index")
    given = {"model": saved(kind)} if kind == "callable" else {}
    index = lookalike.open_index(tmp_path / "x.index", **given)  # type: ignore[arg-type]
    new = picture(tmp_path / "new" / "new.png", 99)
    before = [(hit.path, hit.distance) for hit in index.search(new, k=6)]
    assert len(before) == 6
    assert [hit.path for hit in index.search((photos / "004.png").read_bytes(), k=1)] == ["004.png"]
    assert index.add(new).images == 1
    found = index.search(new.read_bytes(), k=7)
    assert found[0].path.endswith("new.png") and found[0].distance < 1e-3
    assert [hit.path for hit in found[1:]] == [path for path, _ in before]
    assert np.allclose([hit.distance for hit in found[1:]], [apart for _, apart in before])
    again = lookalike.create_index(photos, tmp_path / "x.index", model=saved(kind), spark=False)
    assert again.report is not None and (again.report.images, again.report.same) == (0, 6)
    assert len(again) == 7


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_refuses_a_stranger(
    kind: str, saved: Callable[[str], Kind], index_of: Callable[[str], Index], photos: Path
) -> None:
    index = index_of(kind)
    other = index_of("onnx" if kind == "callable" else "callable")
    refusal(lambda: index.kneighbors(other.path), r"model")
    for stranger in ("resnet18", CallableModel(corners, name="corners", version="2", size=20)):
        refusal(
            lambda model=stranger: lookalike.create_index(  # type: ignore[misc]
                photos, index.path, model=model, spark=False
            ),
            r"already exists, made with ",
        )
    refusal(lambda: index.search(np.ones(7)), r"the vector has 7 numbers, but this index has ")
    assert len(lookalike.open_index(index.path)) == 6


@pytest.mark.parametrize("kind", [*LIBRARIES, "onnx"])
def test_like_makes_vectors_that_can_be_compared(
    kind: str, index_of: Callable[[str], Index], photos: Path, tmp_path: Path
) -> None:
    index = index_of(kind)
    other = lookalike.create_index(photos, tmp_path / "y.index", like=index.path, spark=False)
    assert other.info()["model"] == index.info()["model"]
    assert np.allclose(list(vectors_of(other).values()), list(vectors_of(index).values()))


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_embeds_on_spark(
    kind: str,
    saved: Callable[[str], Kind],
    index_of: Callable[[str], Index],
    photos: Path,
    tmp_path: Path,
) -> None:
    model = saved(kind)
    if kind == "callable":  # of this function alone: workers cannot import it
        weights = np.arange(27, dtype=np.float32).reshape(3, 9)
        model = CallableModel(
            lambda images: images.mean((1, 2), np.float32) @ weights, name="own", version="1"
        )
        here = lookalike.create_index(photos, tmp_path / "y", model=model, spark=False)
    else:
        here = index_of(kind)
    there = lookalike.create_index(photos, tmp_path / "x.index", model=model, spark=True)
    assert there.info()["model"] == here.info()["model"]
    wanted = vectors_of(here)
    assert {path: pytest.approx(row, abs=1e-5) for path, row in vectors_of(there).items()} == wanted


@pytest.mark.parametrize("kind", [*LIBRARIES, "onnx"])
def test_an_index_needs_no_library_later(
    kind: str, index_of: Callable[[str], Index], photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = index_of(kind).path
    _engine.cache_clear()
    for package in ("timm", "open_clip", "transformers", "sentence_transformers", "torch", "onnx"):
        monkeypatch.setitem(sys.modules, package, None)
    index = lookalike.open_index(path)
    assert isinstance(engine(index.embedder.model), OpenVinoEngine)
    hits = index.search((photos / "001.png").read_bytes(), k=1)
    assert hits[0].path == "001.png" and hits[0].distance < 1e-3


@pytest.mark.parametrize("kind", LIBRARIES)
def test_pytorch_runs_it_where_openvino_cannot(
    kind: str, saved: Callable[[str], Kind], index_of: Callable[[str], Index], tmp_path: Path
) -> None:
    """As on a GPU, from what an index stores alone."""
    whole = resolve(saved(kind), device="cuda")
    assert whole == index_of(kind).embedder.model and whole.network
    dataclasses.replace(whole, graph=b"", weights_data=b"", text=None).save(tmp_path / "model")
    alone = Model.load(tmp_path / "model")
    _engine.cache_clear()
    run = engine(alone)
    assert isinstance(run, TorchEngine)
    pixels = np.random.default_rng(0).integers(0, 256, (3, *whole.input.shape), np.uint8)
    given = run(pixels)
    _engine.cache_clear()
    assert np.abs(given - engine(whole)(pixels)).max() < 1e-4
    damaged = dataclasses.replace(alone, fingerprint="0" * 16, network=alone.network[:-5])
    refusal(lambda: engine(damaged), r"the tensors are not of this network .*: index again$")


def images_of(model: Model) -> tuple[Pixels, torch.Tensor]:
    """Draw some images; return them as pixels, and as the network takes them."""
    pixels = np.random.default_rng(0).integers(0, 256, (3, *model.input.shape), np.uint8)
    (mean, deviation) = json.loads(model.architecture)["scale"]
    scaled = (pixels / 255 - mean) / deviation
    return pixels, torch.from_numpy(scaled.transpose(0, 3, 1, 2).astype(np.float32))


def test_a_clip_of_transformers_is_its_images_side(tmp_path: Path) -> None:
    from transformers import CLIPModel

    folder = tiny_networks.hf_clip_folder(tmp_path / "clip")
    model = resolve(f"hf:{folder}", device="cuda")
    assert (model.width, model.preprocessing) == (24, "shortest-64-bicubic-4")
    pixels, images = images_of(model)
    with torch.no_grad():
        found = CLIPModel.from_pretrained(folder).eval().get_image_features(pixel_values=images)
    wanted = getattr(found, "pooler_output", found).numpy()
    alone = dataclasses.replace(model, graph=b"", fingerprint="alone")
    for one in (model, alone):
        assert np.abs(engine(one)(pixels) - wanted).max() < 1e-4
    assert b"text_model" not in model.network


def test_a_pooler_without_weights_is_not_used(tmp_path: Path) -> None:
    """A classifier has none: transformers would draw it at random."""
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    torch.manual_seed(0)
    config = ViTConfig(image_size=64, patch_size=16, **tiny_networks.SMALL)
    whole = ViTForImageClassification(config).eval()
    whole.save_pretrained(tmp_path / "vit")
    ViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(tmp_path / "vit")
    model = resolve(f"hf:{tmp_path / 'vit'}", device="cuda")
    assert model == resolve(f"hf:{tmp_path / 'vit'}")
    pixels, images = images_of(model)
    with torch.no_grad():
        wanted = whole.vit(images).last_hidden_state[:, 0].numpy()
    assert np.abs(engine(model)(pixels) - wanted).max() < 1e-4


def test_nothing_is_printed(
    saved: Callable[[str], Kind], capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("LOOKALIKE_CACHE", str(tmp_path))
        made = [saved(kind) for kind in LIBRARIES]
        capfd.readouterr()  # what these libraries say when they save
        for model in made:
            resolve(model)
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")


def test_threads_leave_notes_as_they_were() -> None:
    before = logging.root.manager.disable
    inside, both, done = threading.Event(), threading.Event(), threading.Event()

    def first() -> None:
        with libraries.silence():
            inside.set()
            both.wait(0.2)
        done.set()

    def second() -> None:
        inside.wait(10)
        with libraries.silence():
            both.set()
            done.wait(10)

    with ThreadPoolExecutor(2) as pool:
        for thread in [pool.submit(first), pool.submit(second)]:
            thread.result()
    assert logging.root.manager.disable == before


@pytest.mark.parametrize("proxy", [None, "https_proxy"])
def test_the_hub_may_be_behind_a_proxy(proxy: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> None:
        raise OSError("no such name")

    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("socket.getaddrinfo", unknown)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("no_proxy", "localhost")
    if proxy is not None:
        monkeypatch.setenv(proxy, "http://proxy:3128")
    with offline_if_unreachable():
        from huggingface_hub import constants

        assert (proxy is None) == constants.HF_HUB_OFFLINE
    assert not constants.HF_HUB_OFFLINE


HOSTILE: dict[str, dict[str, Any]] = {
    "no library": {"library": "os"},
    "a file to load": {
        "library": "timm",
        "name": "test_resnet",
        "arguments": {"checkpoint_path": "/etc/passwd"},
    },
    "a place to fetch from": {"library": "timm", "name": "hf-hub:a/b", "arguments": {}},
    "code to run": {
        "library": "hf",
        "type": "nonesuch",
        "config": {"auto_map": {"AutoModel": "a/b--code.Model"}},
        "output": "first",
        "layers": [],
    },
    "half of it": {"library": "clip", "embed_dim": 3},
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_architecture_is_refused(what: str) -> None:
    refusal(lambda: libraries.restore(HOSTILE[what], b""), r": index again$")


def test_code_beside_a_network_never_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_networks.hf_folder(tmp_path / "hf")
    about = json.loads((folder / "config.json").read_text())
    about |= {"model_type": "own", "auto_map": {"AutoConfig": "own.C", "AutoModel": "own.M"}}
    (folder / "config.json").write_text(json.dumps(about))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'it ran')!r}, 'w')\n")
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    refusal(lambda: resolve(f"hf:{folder}"), r"^transformers cannot load .*\(ValueError: ")
    assert not (tmp_path / "it ran").exists()


TOKENIZERS: dict[str, dict[str, Any]] = {
    "code to run": {"options": {"trust_remote_code": True}},
    "a file to read": {"kind": "simple", "options": {"bpe_path": "/etc/passwd"}},
    "a file elsewhere": {"files": {"../x.json": "{}"}},
    "code of its own": {"files": {"tokenizer.py": "1"}},
    "nothing": {"files": {}},
}


@pytest.mark.parametrize("what", TOKENIZERS)
def test_a_hostile_tokenizer_is_refused(
    what: str, index_of: Callable[[str], Index], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = index_of("clip").embedder.model
    assert model.text is not None
    graph, data, _ = model.text.read()
    about = {"kind": "hf", "length": 16, "options": {}, "mode": None, "files": {}}
    side = TextSide((graph, data, json.dumps({**about, **TOKENIZERS[what]}).encode()))
    hostile = dataclasses.replace(model, text=side, fingerprint=f"{what:16}")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asks"))
    refusal(
        lambda: ImageEmbedder(model=hostile).embed_text("a cat"), r"^no tokenizer .*: index again$"
    )


# --- what is not there ----------------------------------------------------------------------------

ABSENT = {
    "timm:nonesuch": r"^timm has no network 'nonesuch': see timm\.list_models\(\)$",
    "timm:resnet18.a1_in1k": r"^timm cannot load .*: check the name, and connect to the network",
    "clip:nonesuch": r"^open_clip has no network 'nonesuch': see open_clip\.list_models\(\)$",
    "clip:ViT-B-32/none": r"^open_clip has no weights 'none' of ViT-B-32: choose openai, ",
    "clip:ViT-B-32/laion2b_s34b_b79k": r"^open_clip cannot load .*: check the name, and connect",
    "hf:none/such": r"^transformers cannot load hf:none/such: check the name, and connect",
    "sentence-transformers:none": r"^sentence_transformers cannot load .*: check the name",
    "none.onnx": r"^no such file: none\.onnx$",
    "timm:": r"^torchvision has no classification network 'timm:'",
    "tim:resnet18": r"^torchvision has no classification network 'tim:resnet18'",
}


@pytest.mark.parametrize("name", ABSENT)
def test_a_network_that_is_not_there(
    name: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    done = run("index", photos, "--out", tmp_path / "x.index", "--model", name)
    assert done.code == 1
    assert done.err.count("\n") == 1
    assert re.search(ABSENT[name], done.err.removeprefix("error: ").strip()), done.err
    assert not (tmp_path / "x.index").exists()


MISSING = {
    "timm:resnet18": ("timm", "timm", "timm"),
    "clip:ViT-B-32": ("open_clip", "open_clip", "clip"),
    "hf:facebook/dinov2-small": ("transformers", "transformers", "huggingface"),
    "sentence-transformers:clip-ViT-B-32": (
        "sentence_transformers",
        "sentence-transformers",
        "huggingface",
    ),
}


@pytest.mark.parametrize("name", MISSING)
def test_a_library_that_is_not_installed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    package, shown, extra = MISSING[name]
    monkeypatch.setitem(sys.modules, package, None)
    message = f'the network {name} needs {shown}: pip install "lookalike[{extra}]"'
    refusal(lambda: resolve(name), f"^{re.escape(message)}$")


@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_would_be_ignored_are_refused(
    kind: str, saved: Callable[[str], Kind], tmp_path: Path
) -> None:
    """timm and open_clip fill a network from a file; the others bring their weights."""
    (file := tmp_path / "w.safetensors").write_bytes(b"nothing")
    refusal(lambda: resolve(saved(kind), str(file)), r"leave `weights` out|holds no weights")


def test_timm_takes_a_file_of_weights(saved: Callable[[str], Kind], tmp_path: Path) -> None:
    file = Path(str(saved("timm")).partition(":")[2]) / "model.safetensors"
    model = resolve("timm:test_resnet", str(file))
    assert (model.backbone, model.weights) == ("timm:test_resnet", "model.safetensors")
    other = resolve(saved("timm"))
    shape = other.input.shape
    assert model.fingerprint != other.fingerprint, "its own description has another input"
    pixels = np.random.default_rng(0).integers(0, 256, (1, *shape), np.uint8)
    assert engine(other)(pixels).shape == (1, model.width)
    refusal(lambda: resolve("timm:test_vit", str(file)), r"are not of timm:test_vit: they lack \d+")


# --- words ----------------------------------------------------------------------------------------

TEXTS = ["a red coupe at night", "two boats"]


def test_words_lie_where_open_clip_puts_them(
    saved: Callable[[str], Kind], index_of: Callable[[str], Index]
) -> None:
    import open_clip

    name = "local-dir:" + str(saved("clip")).partition(":")[2]
    network, _ = open_clip.create_model_from_pretrained(name)
    with torch.no_grad():
        tokens = open_clip.get_tokenizer(name)(TEXTS)
        wanted = network.eval().encode_text(tokens, normalize=True).numpy()
    embed = index_of("clip").embedder
    given = embed.embed_text(TEXTS)
    assert given.shape == (2, 24) and given.dtype == np.float32
    assert np.abs(given - wanted).max() < 1e-5
    assert np.array_equal(embed.embed_text(TEXTS[0]), given[0])
    assert embed.embed_text([]).shape == (0, 24)
    many = embed.embed_text([f"picture {number}" for number in range(70)])
    assert np.allclose(many[69], embed.embed_text("picture 69"), atol=1e-6)
    assert np.isfinite(embed.embed_text("word " * 500)).all()
    long = ImageEmbedder(model=embed.model, normalize=False).embed_text(TEXTS)
    assert np.allclose(normalize(long), given, atol=1e-6)


def test_a_network_that_returns_tokens_too_gives_its_vectors() -> None:
    from lookalike.models.libraries.open_clip_networks import Pictures

    class Both(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return images.mean((2, 3)), images

    images = torch.ones(2, 3, 8, 8)
    assert torch.equal(Pictures(Both())(images), torch.ones(2, 3))
    assert torch.equal(Pictures(torch.nn.Flatten())(images), images.flatten(1))


@pytest.mark.parametrize("kind", ["timm", "hf", "onnx", "callable"])
def test_networks_without_words_say_so(kind: str, index_of: Callable[[str], Index]) -> None:
    embed = index_of(kind).embedder
    name = re.escape(embed.model.backbone)
    refusal(lambda: embed.embed_text("a cat"), rf"^{name} embeds no words: .*`clip:ViT-B-32`$")


@pytest.mark.parametrize("texts", ["", " \n", ["a", ""], [5]])
def test_texts_without_words_are_refused(texts: Any, index_of: Callable[[str], Index]) -> None:
    refusal(lambda: index_of("clip").embedder.embed_text(texts), "^a text without words: ")


def test_words_need_their_tokenizer(
    index_of: Callable[[str], Index], monkeypatch: pytest.MonkeyPatch
) -> None:
    _text_engine.cache_clear()
    monkeypatch.setitem(sys.modules, "open_clip", None)
    message = 'searching by words needs open_clip: pip install "lookalike[clip]"'
    refusal(lambda: index_of("clip").embedder.embed_text("a cat"), f"^{re.escape(message)}$")


@pytest.mark.parametrize("file", ["text.xml", "text.bin", "tokenizer.json"])
def test_a_damaged_text_side_is_said(
    file: str, index_of: Callable[[str], Index], photos: Path, tmp_path: Path
) -> None:
    shutil.copytree(index_of("clip").path, tmp_path / "x.index")
    damaged = tmp_path / "x.index" / "_model" / file
    damaged.write_bytes(damaged.read_bytes()[:-3])
    _text_engine.cache_clear()
    index = lookalike.open_index(tmp_path / "x.index")
    refusal(lambda: index.embedder.embed_text("a cat"), r"is damaged: index again$")
    checked = index.check()
    assert not checked.ok
    assert "is damaged: index again" in str(checked.examples)
    _text_engine.cache_clear()
    assert len(index.search((photos / "001.png").read_bytes(), k=2)) == 2


def test_a_tokenizer_of_transformers_travels_with_the_index(tmp_path: Path) -> None:
    """Offline too, and with its name nowhere."""
    import open_clip
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    folder = tiny_networks.clip_folder(tmp_path / "siglip")
    words = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "a", "cat", "dog"])}
    plain = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="[PAD]", unk_token="[UNK]")
    fast.save_pretrained(folder)
    config = json.loads((folder / "open_clip_config.json").read_text())
    text = {"hf_tokenizer_name": "none/such", "tokenizer_kwargs": {"clean": "canonicalize"}}
    config["model_cfg"]["text_cfg"].update(text)
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    model = resolve(f"clip:{folder}")
    network, _ = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    wanted = network.eval().encode_text(open_clip.get_tokenizer(f"local-dir:{folder}")(["A cat!"]))
    shutil.rmtree(folder)
    given = ImageEmbedder(model=model).embed_text(["A cat!"])
    assert np.abs(given - normalize(wanted.detach().numpy())).max() < 1e-5


# --- precisions -----------------------------------------------------------------------------------


def test_less_precision_keeps_the_input_and_the_words(index_of: Callable[[str], Index]) -> None:
    full = index_of("clip").embedder.model
    rough = at_precision(full, "bf16")
    assert (rough.input, rough.text) == (full.input, full.text)
    pixels = np.random.default_rng(0).integers(0, 256, (3, *full.input.shape), np.uint8)
    one, other = (normalize(engine(model)(pixels)) for model in (full, rough))
    assert ((one * other).sum(1) > 0.99).all()


def test_a_float_tensor_of_another_preprocessing_is_refused(
    index_of: Callable[[str], Index],
) -> None:
    embed = index_of("clip").embedder
    refusal(lambda: embed(torch.zeros(3, 224, 224)), "takes images as shortest-64-bicubic-4")
    assert embed(torch.zeros(3, 90, 70, dtype=torch.uint8)).shape == (24,)
    assert Preprocessing.parse(PREPROCESSING) != embed.model.input


def test_the_table_keeps_only_the_same_model(index_of: Callable[[str], Index]) -> None:
    table = EmbeddingTable.open(index_of("onnx").path)
    refusal(lambda: table.attach(index_of("clip").embedder.model), "was made with onnx:photo file ")
