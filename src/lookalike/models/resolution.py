"""Resolve a name, a file or a function to a model in full precision."""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from importlib.resources.abc import Traversable
from io import BufferedReader
from pathlib import Path
from typing import cast

from lookalike.errors import LookalikeError, Unreadable
from lookalike.images import PREPROCESSING
from lookalike.models import callables, libraries, lite0_package, onnx_file
from lookalike.models.callables import CallableModel
from lookalike.models.model import Model, fingerprint
from lookalike.models.weights import AUTO, BUNDLED, FILES, settle
from lookalike.system.cache import cache_folder
from lookalike.system.extras import require


def identity(backbone: str, weights: str) -> str:
    """Return the f32 fingerprint of a network and weights, without loading them."""
    return fingerprint([backbone, _weights_identity(backbone, weights), PREPROCESSING, "f32"])


def resolve(
    backbone: "str | os.PathLike[str] | CallableModel" = AUTO,
    weights: str | os.PathLike[str] = AUTO,
    device: str = "cpu",
) -> Model:
    """Load or convert a model in full precision, once, on the driver.

    The cache folder keeps converted networks: only the first call with a file of weights needs
    torch, and the bundled weights never do.

    Parameters
    ----------
    backbone
        The name of a network: bundled, of torchvision, or of another library as
        `libraries.load` takes it; an ONNX file; or a `CallableModel`.
    weights
        A name, or a file of weights; `weights.settle` defines `auto`.
    device
        For "cuda" the model contains its PyTorch tensors too.

    Raises
    ------
    LookalikeError
        If there is no such network, or no such weights.
    """
    if not isinstance(backbone, str | os.PathLike):
        return _of_callable(callables.checked(backbone), weights)
    backbone, weights = os.fspath(backbone), os.fspath(weights)
    if libraries.is_library_name(backbone):
        return _of_library(backbone, weights, device)
    if onnx_file.is_onnx(backbone):
        return _of_onnx(backbone, weights)
    backbone, weights = settle(backbone, weights)
    own = identity(backbone, weights)
    name = weights if weights in (*FILES, "imagenet") else Path(weights).name
    make = _bundled if BUNDLED.get(backbone) == weights else _converted

    def convert() -> Model:
        width, graph, data, tensors = make(backbone, weights, device)
        return Model(backbone, name, "f32", width, PREPROCESSING, own, None, graph, data, tensors)

    return _kept(own, backbone, name, device, convert)


def _bundled(backbone: str, weights: str, device: str) -> tuple[int, bytes, bytes, bytes]:
    """Build a bundled network without importing torch, which takes seconds."""
    from lookalike.models import efficientnet_lite0_ir, resnet18_ir

    tensors = b""
    if device != "cpu":
        from lookalike.models import networks

        tensors = networks.dump(networks.backbone(backbone, weights))
    if backbone == lite0_package.NAME:
        return efficientnet_lite0_ir.WIDTH, *efficientnet_lite0_ir.lite0(FILES[weights]), tensors
    return resnet18_ir.WIDTH, *resnet18_ir.resnet18(FILES[weights]), tensors


def _converted(backbone: str, weights: str, device: str) -> tuple[int, bytes, bytes, bytes]:
    """Convert any network from torch: return width, graph, weights, and PyTorch's tensors."""
    _require_torch(backbone, weights)
    from lookalike.models import networks
    from lookalike.models.openvino_ir import convert

    pure = networks.backbone(backbone, weights)
    network = networks.FromPixels(pure, backbone).eval()
    graph = data = tensors = b""
    with contextlib.suppress(Exception):  # PyTorch can run what OpenVINO cannot convert
        graph, data = convert(network)
    if device != "cpu" or not graph:
        tensors = networks.dump(pure)
    return network.width(), graph, data, tensors


def _require_torch(backbone: str, weights: str) -> None:
    require(f"{backbone} with the weights {weights!r}", "torch")


def _weights_identity(backbone: str, weights: str) -> str:
    """Identify a file of weights by its content, other weights by their release."""
    if weights == "imagenet" and backbone == lite0_package.NAME:
        weights = str(lite0_package.packaged())
    if weights == "imagenet":
        _require_torch(backbone, weights)
        from torchvision.models import get_model_weights, list_models

        known = backbone in list_models()
        return str(get_model_weights(backbone).DEFAULT) if known else weights
    path: Traversable = FILES.get(weights) or Path(weights)
    if not path.is_file():
        return weights  # loading it raises the error
    with path.open("rb") as file:
        return hashlib.file_digest(cast(BufferedReader, file), "blake2b").hexdigest()


def _of_callable(given: CallableModel, weights: str | os.PathLike[str]) -> Model:
    """Return the model of a function, whose width is found by one call."""
    if weights != AUTO:
        raise LookalikeError(f"the function {given.name} brings its weights: leave `weights` out")
    parts = [*given.identity(), given.input.name]
    return Model(
        callables.PREFIX + given.name,
        given.version,
        "f32",
        callables.find_width(given),
        given.input.name,
        fingerprint(parts),
        function=given,
    )


def _of_onnx(path: str, weights: str | os.PathLike[str]) -> Model:
    if weights != AUTO:
        raise LookalikeError(f"{path} contains its weights: leave `weights` out")
    found = onnx_file.load(path)
    return Model(
        f"onnx:{found.name}",
        "file",
        "f32",
        found.width,
        found.input.preprocessing.name,
        fingerprint(["onnx", *found.identity, "f32"]),
        graph=found.graph,
        weights_data=found.data,
    )


def _of_library(name: str, weights: str, device: str) -> Model:
    """Load a network of another library; convert it unless the cache folder has it."""
    require(f"the network {name}", libraries.package(name))
    loaded = libraries.load(name, weights)
    about = loaded.input
    scale = [list(about.mean), list(about.deviation)]
    preprocessing = about.preprocessing.name
    own = fingerprint([loaded.digest(), json.dumps([loaded.identity, scale]), preprocessing, "f32"])

    def convert() -> Model:
        from lookalike.models import conversion

        made = conversion.convert(loaded, needs_torch=device != "cpu")
        architecture = json.dumps({**loaded.architecture, "scale": scale}).encode()
        return Model(
            loaded.backbone,
            loaded.weights,
            "f32",
            made.width,
            preprocessing,
            own,
            graph=made.graph,
            weights_data=made.data,
            network=made.network,
            architecture=architecture if made.network else b"",
            text=made.text,
        )

    return _kept(own, loaded.backbone, loaded.weights, device, convert)


def _kept(own: str, backbone: str, weights: str, device: str, make: Callable[[], Model]) -> Model:
    """Return the model of a fingerprint from the cache folder, else make it and keep it there."""
    folder = cache_folder() / "models" / own
    readable = True
    try:
        kept = replace(Model.load(folder), backbone=backbone, weights=weights)
        if device == "cpu" or kept.network:
            return kept
    except Unreadable:
        readable = False
    except LookalikeError:  # missing or damaged
        pass
    model = make()
    if readable:
        model.keep(folder)
    return model
