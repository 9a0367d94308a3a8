"""A model: network, weights, preprocessing and precision, resolved once and then used everywhere.

It is self-contained. Stored with a collection, it embeds queries there without torch, without the
weights file and without the network.
"""

import contextlib
import hashlib
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Self

from lookalike.cache import cache_folder, delete_folder, keeping, new_folder
from lookalike.errors import LookalikeError, Unreadable, says_nothing
from lookalike.extras import require
from lookalike.images import PREPROCESSING
from lookalike.models import lite0
from lookalike.untrusted import read_json
from lookalike.weights import AUTO, BUNDLED, FILES, settle

_FILES = {
    "graph": "network.xml",
    "weights_data": "network.bin",
    "network": "network.safetensors",
    "probe": "probe.bin",
}
_ABOUT = "model.json"
_WIDEST = 65_536  # numbers in a vector; networks give some hundreds or thousands
_WORDS = ("backbone", "weights", "precision", "width", "preprocessing", "fingerprint", "agreement")


@dataclass(frozen=True)
class Model:
    """What makes two embeddings comparable: models with equal fingerprints give equal vectors.

    `graph` and `weights_data` are the network as OpenVINO stores it, `network` its tensors for
    PyTorch; either may be empty. `probe`, for int8, is the vector of `engines.PROBE`, float32: an
    engine that gives another is refused, as where the sums of an older int8 overflow. `agreement`
    is the share of the five nearest neighbours that a precision has in common with f32, where it
    was measured.
    """

    backbone: str
    weights: str
    precision: str
    width: int
    preprocessing: str
    fingerprint: str
    agreement: float | None = field(default=None, compare=False)
    graph: bytes = field(default=b"", repr=False, compare=False)
    weights_data: bytes = field(default=b"", repr=False, compare=False)
    network: bytes = field(default=b"", repr=False, compare=False)
    probe: bytes = field(default=b"", repr=False, compare=False)

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def about(self) -> dict[str, Any]:
        """The model in words, as stored and shown: everything but the network itself."""
        return {key: getattr(self, key) for key in _WORDS}

    def save(self, folder: Path) -> None:
        """Write the model into a folder that appears whole or not at all."""
        contents = {name: getattr(self, name) for name in _FILES}
        sizes = {name: len(content) for name, content in contents.items() if content}
        about = {**self.about(), "bytes": sizes, "crc32": _sums(contents)}
        with new_folder(folder) as staging:
            for name in sizes:
                (staging / _FILES[name]).write_bytes(contents[name])
            (staging / _ABOUT).write_text(json.dumps(about, indent=1) + "\n")

    def keep(self, folder: Path) -> None:
        """Write it into a folder of the cache in place of what is there, if that can be written."""
        with keeping():
            delete_folder(folder)
            self.save(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a model back; `LookalikeError` where it is not whole."""
        try:
            about = read_json(folder / _ABOUT)
            sizes = about.pop("bytes")
            contents: dict[str, Any] = {
                name: (folder / _FILES[name]).read_bytes() for name in sizes
            }
            if sizes != {name: len(content) for name, content in contents.items()}:
                raise ValueError("a file is cut short")
            if about.pop("crc32", sums := _sums(contents)) != sums:  # older ones have none
                raise ValueError("a file is not what was written")
            model = cls(**check_description(about), **contents)
            if len(model.probe) not in (0, 4 * model.width):
                raise ValueError("a vector of another width")
            return model
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            if says_nothing(error):
                raise Unreadable(folder, error) from None
            raise LookalikeError(f"no whole model in {folder} ({error}): index again") from None


def _sums(contents: dict[str, bytes]) -> dict[str, int]:
    return {name: zlib.crc32(content) for name, content in contents.items() if content}


def check_description(about: Any) -> dict[str, Any]:
    """Return what `Model.about` gave and JSON kept; `ValueError` where that was something else."""
    if not isinstance(about, dict):
        raise ValueError("no model in words")
    kinds: dict[str, Any] = {**dict.fromkeys(_WORDS, str), "width": int, "agreement": float | None}
    for name, kind in kinds.items():
        if not isinstance(about.get(name), kind):
            raise ValueError(f"the {name} of the model is {str(about.get(name))[:40]!r}")
    if not 0 < about["width"] <= _WIDEST:
        raise ValueError(f"vectors of {about['width']} numbers")
    return about


def fingerprint(parts: Sequence[str]) -> str:
    """Return 16 hexadecimal digits for what makes a model what it is."""
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=8).hexdigest()


def identity(backbone: str, weights: str) -> str:
    """Return the fingerprint in f32 of what is called so here and now; nothing is loaded for it."""
    return fingerprint([backbone, _weights_identity(backbone, weights), PREPROCESSING, "f32"])


def resolve(backbone: str = AUTO, weights: str = AUTO, device: str = "cpu") -> Model:
    """Find or make the model for these names, in full precision. Done once, on the driver.

    The converted network is kept in the cache folder: with the same file of weights only the first
    call needs torch, with the bundled ones none. For CUDA the model carries its tensors too.
    `auto` is what `weights.settle` says.
    Raises `LookalikeError` for a network or weights that are not to be had.
    """
    backbone, weights = settle(backbone, weights)
    own = identity(backbone, weights)
    name = weights if weights in (*FILES, "imagenet") else Path(weights).name
    folder = cache_folder() / "models" / own
    readable = True
    try:
        kept = replace(Model.load(folder), weights=name)
        if device == "cpu" or kept.network:
            return kept
    except Unreadable:
        readable = False
    except LookalikeError:  # not there yet, or damaged
        pass

    make = _bundled if BUNDLED.get(backbone) == weights else _converted
    width, graph, data, tensors = make(backbone, weights, device)
    model = Model(backbone, name, "f32", width, PREPROCESSING, own, None, graph, data, tensors)
    if readable:
        model.keep(folder)
    return model


def _bundled(backbone: str, weights: str, device: str) -> tuple[int, bytes, bytes, bytes]:
    """Make what most people begin with, without the seconds that importing torch takes."""
    from lookalike.models import efficientnet, resnet

    tensors = b""
    if device != "cpu":
        from lookalike.models import networks

        tensors = networks.dump(networks.backbone(backbone, weights))
    if backbone == lite0.NAME:
        return efficientnet.WIDTH, *efficientnet.lite0(FILES[weights]), tensors
    return resnet.WIDTH, *resnet.resnet18(FILES[weights]), tensors


def _converted(backbone: str, weights: str, device: str) -> tuple[int, bytes, bytes, bytes]:
    """Make any network by way of torch: width, OpenVINO's two files, tensors for PyTorch."""
    _require_torch(backbone, weights)
    from lookalike.models import networks
    from lookalike.models.engines import convert

    pure = networks.backbone(backbone, weights)
    network = networks.FromPixels(pure, backbone).eval()
    graph = data = tensors = b""
    with contextlib.suppress(Exception):  # whatever it cannot convert, PyTorch can run
        graph, data = convert(network)
    if device != "cpu" or not graph:
        tensors = networks.dump(pure)
    return network.width(), graph, data, tensors


def _require_torch(backbone: str, weights: str) -> None:
    require(f"{backbone} with the weights {weights!r}", "torch")


def _weights_identity(backbone: str, weights: str) -> str:
    """Name weights by their content where they are a file, by their release otherwise."""
    if weights == "imagenet" and backbone == lite0.NAME:
        weights = str(lite0.packaged())
    if weights == "imagenet":
        _require_torch(backbone, weights)
        from torchvision.models import get_model_weights, list_models

        known = backbone in list_models()
        return str(get_model_weights(backbone).DEFAULT) if known else weights
    path: Traversable = FILES.get(weights) or Path(weights)
    if not path.is_file():
        return weights  # what is wrong with it is said where it is loaded
    return hashlib.blake2b(path.read_bytes()).hexdigest()
