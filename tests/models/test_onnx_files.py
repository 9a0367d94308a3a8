"""ONNX files as exporters write them: vectors, or one line that says what to do."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto

from helpers.refusals import refusal
from helpers.tiny_networks import SIDE, Photo, export, noise, write_onnx
from lookalike import ImageEmbedder
from lookalike.images.decoding.raster import DEVIATION, MEAN
from lookalike.models import Model, engine, resolve
from lookalike.system.arrays import Pixels, Vectors

PIXELS: Pixels = np.random.default_rng(0).integers(0, 256, (5, SIDE, SIDE, 3), np.uint8)
Node = tuple[str, list[str], list[str], dict[str, Any]]
POOLED: list[Node] = [
    ("ReduceMean", ["image"], ["pooled"], {"axes": [2, 3], "keepdims": 0}),
    ("MatMul", ["pooled", "w"], ["vector"], {}),
]
WEIGHTS = {"w": noise((3, 7))}


def normalised(pixels: Pixels) -> torch.Tensor:
    scaled = (pixels / 255 - np.array(MEAN)) / np.array(DEVIATION)
    return torch.from_numpy(scaled.transpose(0, 3, 1, 2).astype(np.float32))


def by_photo(pixels: Pixels) -> Vectors:
    with torch.no_grad():
        given: Vectors = Photo().eval()(normalised(pixels)).numpy()
    return given


EXPORTS: dict[str, tuple[int, ...]] = {
    "one size of batch": (),
    "any batch": (0,),
    "any size of image": (2, 3),
    "any batch and size": (0, 2, 3),
}


@pytest.mark.parametrize("what", EXPORTS)
@pytest.mark.parametrize("batch", [1, 4])
def test_exports_give_what_pytorch_gives(what: str, batch: int, tmp_path: Path) -> None:
    file = export(tmp_path / "photo.onnx", EXPORTS[what], batch)
    model = resolve(str(file))
    assert (model.backbone, model.weights, model.width) == ("onnx:photo", "file", 12)
    side = 224 if 2 in EXPORTS[what] else SIDE
    assert model.preprocessing == f"squash-{side}-bilinear-4"
    pixels = PIXELS if side == SIDE else PIXELS.repeat(4, 1).repeat(4, 2)[:, :224, :224]
    assert np.abs(engine(model)(pixels) - by_photo(pixels)).max() < 1e-5


def test_a_batch_of_one_size_is_filled_up(tmp_path: Path) -> None:
    """A reshape to numbers in the file keeps it from taking other batches."""
    nodes: list[Node] = [
        ("Reshape", ["image", "shape"], ["flat"], {}),
        ("MatMul", ["flat", "m"], ["vector"], {}),
    ]
    matrix = noise((3 * 16 * 16, 5))
    constants = {"shape": np.array([4, 3 * 16 * 16]), "m": matrix}
    file = write_onnx(
        tmp_path / "x.onnx", [4, 3, 16, 16], nodes, {"vector": [4, 5]}, constants=constants
    )
    run = engine(resolve(str(file)))
    pixels = PIXELS[:, :16, :16]
    wanted = normalised(pixels).reshape(5, -1).numpy() @ matrix
    for count in (1, 4, 5):
        assert np.abs(run(pixels[:count]) - wanted[:count]).max() < 1e-3


def test_channels_may_come_last(tmp_path: Path) -> None:
    nodes: list[Node] = [
        ("ReduceMean", ["image"], ["pooled"], {"axes": [1, 2], "keepdims": 0}),
        POOLED[1],
    ]
    file = write_onnx(
        tmp_path / "x.onnx", ["n", SIDE, 40, 3], nodes, {"vector": ["n", 7]}, constants=WEIGHTS
    )
    model = resolve(str(file))
    assert model.preprocessing == "squash-64x40-bilinear-4"
    wanted = normalised(PIXELS[:, :, :40]).mean((2, 3)).numpy() @ WEIGHTS["w"]
    assert np.abs(engine(model)(PIXELS[:, :, :40]) - wanted).max() < 1e-5


def test_pixels_that_are_bytes_come_as_they_are(tmp_path: Path) -> None:
    cast = ("Cast", ["image"], ["floats"], {"to": TensorProto.FLOAT})
    pool = ("ReduceMean", ["floats"], ["pooled"], {"axes": [2, 3], "keepdims": 0})
    file = write_onnx(
        tmp_path / "x.onnx",
        ["n", 3, SIDE, SIDE],
        [cast, pool, POOLED[1]],
        {"vector": ["n", 7]},
        kind=TensorProto.UINT8,
        constants=WEIGHTS,
    )
    wanted = PIXELS.mean((1, 2)) @ WEIGHTS["w"]
    assert np.abs(engine(resolve(str(file)))(PIXELS) - wanted).max() < 1e-2


def several(file: Path) -> Path:
    """Write a network with an output that words take part in, and two that they do not."""
    nodes: list[Node] = [
        *POOLED,
        ("Add", ["vector", "words"], ["both"], {}),
        ("Relu", ["pooled"], ["other"], {}),
    ]
    outputs: dict[str, list[int | str]] = {"both": ["n", 7], "vector": ["n", 7], "other": ["n", 3]}
    return write_onnx(
        file, ["n", 3, 32, 32], nodes, outputs, others={"words": ["n", 7]}, constants=WEIGHTS
    )


def test_one_of_several_outputs_is_chosen_by_its_name(tmp_path: Path) -> None:
    file = several(tmp_path / "x.onnx")
    pixels = PIXELS[:, :32, :32]
    pooled = normalised(pixels).mean((2, 3)).numpy()
    wanted = {"vector": pooled @ WEIGHTS["w"], "other": np.maximum(pooled, 0)}
    models = {name: resolve(f"{file}#{name}") for name in wanted}
    for name, model in models.items():
        assert np.abs(engine(model)(pixels) - wanted[name]).max() < 1e-5
    assert models["vector"].fingerprint != models["other"].fingerprint
    refusal(
        lambda: resolve(str(file)), r"has the outputs both .*, vector .*: add #NAME to the file"
    )
    refusal(lambda: resolve(f"{file}#nonesuch"), r"no output 'nonesuch': choose one of both ")
    refusal(lambda: resolve(f"{file}#both"), r"the output both needs other inputs than images")


def test_a_usual_name_of_an_output_needs_no_choice(tmp_path: Path) -> None:
    nodes: list[Node] = [
        POOLED[0],
        ("MatMul", ["pooled", "w"], ["image_embeds"], {}),
        ("Relu", ["pooled"], ["tokens"], {}),
    ]
    outputs: dict[str, list[int | str]] = {"tokens": ["n", 3], "image_embeds": ["n", 7]}
    file = write_onnx(tmp_path / "x.onnx", ["n", 3, 32, 32], nodes, outputs, constants=WEIGHTS)
    assert resolve(str(file)).width == 7


def test_a_vector_of_four_dimensions_is_flattened(tmp_path: Path) -> None:
    pool: Node = ("GlobalAveragePool", ["image"], ["vector"], {})
    file = write_onnx(tmp_path / "x.onnx", ["n", 3, 32, 32], [pool], {"vector": ["n", 3, 1, 1]})
    assert engine(resolve(str(file)))(PIXELS[:, :32, :32]).shape == (5, 3)


def test_images_that_would_change_each_other_are_run_alone(tmp_path: Path) -> None:
    nodes: list[Node] = [
        ("ReduceMean", ["image"], ["pooled"], {"axes": [2, 3], "keepdims": 0}),
        ("ReduceMean", ["pooled"], ["mean"], {"axes": [0], "keepdims": 1}),
        ("Add", ["pooled", "mean"], ["vector"], {}),
    ]
    file = write_onnx(tmp_path / "x.onnx", ["n", 3, 32, 32], nodes, {"vector": ["n", 3]})
    pixels = PIXELS[:, :32, :32]
    wanted = 2 * normalised(pixels).mean((2, 3)).numpy()
    assert np.abs(engine(resolve(str(file)))(pixels) - wanted).max() < 1e-5


PROCESSOR = {
    "do_resize": True,
    "size": {"shortest_edge": 72},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": SIDE, "width": SIDE},
    "do_rescale": True,
    "do_normalize": True,
    "image_mean": [0.1, 0.2, 0.3],
    "image_std": [0.5, 0.6, 0.7],
}


@pytest.mark.parametrize("folder", [".", "onnx"])
def test_the_description_beside_it_says_how_its_input_is_made(folder: str, tmp_path: Path) -> None:
    (tmp_path / folder).mkdir(exist_ok=True)
    file = export(tmp_path / folder / "model.onnx")
    plain = resolve(str(file))
    about = tmp_path / "preprocessor_config.json"
    about.write_text(json.dumps(PROCESSOR))
    model = resolve(str(file))
    assert model.preprocessing == "shortest-72-bicubic-crop-64-4"
    assert model.fingerprint != plain.fingerprint
    scaled = (PIXELS / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.6, 0.7]
    with torch.no_grad():
        images = torch.from_numpy(scaled.transpose(0, 3, 1, 2).astype(np.float32))
        wanted = Photo().eval()(images).numpy()
    assert np.abs(engine(model)(PIXELS) - wanted).max() < 1e-5
    about.write_text(json.dumps({**PROCESSOR, "crop_size": 32}))
    refusal(
        lambda: resolve(str(file)), r"makes images of \(32, 32\), but model\.onnx takes \(64, 64\)"
    )
    for text in ("[]", "{", '{"size": "large"}'):
        about.write_text(text)
        refusal(lambda: resolve(str(file)), r"preprocessor_config\.json describes no images: ")


def test_other_weights_make_another_model(tmp_path: Path) -> None:
    made: list[Model] = []
    for seed in (1, 2, 1):
        folder = tmp_path / str(len(made))
        folder.mkdir()
        file = write_onnx(
            folder / "x.onnx",
            ["n", 3, 8, 8],
            POOLED,
            {"vector": ["n", 7]},
            constants={"w": noise((3, 7), seed)},
        )
        made.append(resolve(str(file)))
    assert made[0] == made[2] != made[1]


@pytest.mark.parametrize("location", ["x.onnx.data", "weights.bin"])
def test_weights_beside_the_file_count(location: str, tmp_path: Path) -> None:
    import onnx

    made: list[Model] = []
    for seed in (1, 2):
        file = write_onnx(
            tmp_path / "x.onnx",
            ["n", 3, 8, 8],
            POOLED,
            {"vector": ["n", 7]},
            constants={"w": noise((3, 7), seed)},
        )
        whole = onnx.load(file)
        onnx.save_model(
            whole, file, save_as_external_data=True, location=location, size_threshold=0
        )
        made.append(resolve(str(file)))
        (tmp_path / location).unlink()
    assert made[0] != made[1]


def bad(file: Path, **options: Any) -> Path:
    given: dict[str, Any] = {
        "shape": ["n", 3, 32, 32],
        "nodes": POOLED,
        "outputs": {"vector": ["n", 7]},
        "constants": WEIGHTS,
    }
    return write_onnx(file, **{**given, **options})


POOL = ("ReduceMean", ["image"], ["vector"], {"axes": [2, 3], "keepdims": 0})
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "one channel": (
        {"shape": ["n", 1, 32, 32], "constants": {"w": noise((1, 7))}},
        r"takes \[\?,1,32,32\]: export it with red",
    ),
    "integers": (
        {
            "kind": TensorProto.INT64,
            "nodes": [
                ("Cast", ["image"], ["floats"], {"to": TensorProto.FLOAT}),
                ("GlobalAveragePool", ["floats"], ["vector"], {}),
            ],
            "outputs": {"vector": ["n", 3, 1, 1]},
        },
        r"takes images of i64: export it with float32",
    ),
    "no shape": (
        {"shape": None},
        r"has the inputs image \[\.\.\.\]: give a file with one input of",
    ),
    "no images": (
        {"shape": ["n", 16], "nodes": [("MatMul", ["image", "w"], ["vector"], {})]}
        | {"constants": {"w": noise((16, 7))}},
        r"has the inputs image \[\?,16\]: give a file with one input of images",
    ),
    "places": (
        {"nodes": [("Relu", ["image"], ["vector"], {})], "outputs": {"vector": ["n", 3, 32, 32]}},
        r"its output is .*3,32,32\]: export it with one vector for each image",
    ),
    "tokens": (
        {
            "nodes": [("Reshape", ["image", "shape"], ["vector"], {})],
            "constants": {"shape": np.array([0, 3, -1])},
            "outputs": {"vector": ["n", 3, "m"]},
        },
        r"its output is .*: export it with one vector for each image",
    ),
    "one vector for a batch": (
        {
            "nodes": [("ReduceMean", ["image"], ["vector"], {"axes": [0, 2], "keepdims": 0})],
            "outputs": {"vector": [3, 32]},
        },
        r"gives no vectors: three images give \(3, 32\), not \(3, d\)$",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_other_networks_are_refused(what: str, tmp_path: Path) -> None:
    options, pattern = BAD[what]
    file = bad(tmp_path / "x.onnx", **options)
    refusal(lambda: ImageEmbedder(str(file)), pattern)


@pytest.mark.parametrize("content", [b"", b"no network", bytes(1000)])
def test_files_that_hold_no_network(content: bytes, tmp_path: Path) -> None:
    (file := tmp_path / "x.onnx").write_bytes(content)
    refusal(lambda: resolve(str(file)), r"OpenVINO cannot read .*x\.onnx: |has the inputs")
    refusal(lambda: resolve(str(tmp_path / "y.onnx")), r"^no such file: ")
