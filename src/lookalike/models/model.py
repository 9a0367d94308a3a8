"""A model: network, weights, preprocessing and precision, resolved once and used everywhere.

A model is self-contained: an index stores it, and embeds queries without torch, without the file of
weights and without a download.
"""

import contextlib
import hashlib
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.resources.abc import Traversable
from io import BufferedReader
from pathlib import Path
from typing import Any, Self, cast

from lookalike.errors import LookalikeError, Unreadable, says_nothing
from lookalike.images import PREPROCESSING, Preprocessing
from lookalike.models import lite0_package
from lookalike.models.weights import AUTO, BUNDLED, FILES, settle
from lookalike.system.cache import cache_folder, ignore_cache_errors
from lookalike.system.extras import require
from lookalike.system.files import delete_folder, new_folder
from lookalike.system.untrusted import read_json

_FILES = {
    "graph": "network.xml",
    "weights_data": "network.bin",
    "network": "network.safetensors",
    "probe": "probe.bin",
}
_DESCRIPTION_FILE = "model.json"
_MAX_WIDTH = 65_536  # numbers in a vector; networks have hundreds or thousands
_FIELDS = (
    "backbone",
    "weights",
    "precision",
    "width",
    "preprocessing",
    "fingerprint",
    "agreement",
)


@dataclass(frozen=True)
class Model:
    """A network with its weights. Models with equal fingerprints return equal vectors.

    Attributes
    ----------
    backbone, weights, precision, preprocessing
        Their names.
    width
        Numbers in a vector.
    fingerprint
        Identifies all that vectors depend on.
    agreement
        The share of the five nearest neighbours that agree with f32, if it was measured.
    graph, weights_data
        The network in OpenVINO's format, or empty.
    network
        Its tensors for PyTorch as safetensors, or empty.
    probe
        For int8, the vector of `runtimes.probe` as float32. A processor that computes another
        vector is refused.
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

    @property
    def input(self) -> Preprocessing:
        """What is done with an image before the network. Raises `LookalikeError` without one."""
        try:
            return Preprocessing.parse(self.preprocessing)
        except ValueError as error:
            raise LookalikeError(f"{self.backbone} takes no images: {error}") from None

    def about(self) -> dict[str, Any]:
        """Return the description, as stored and shown: all fields except the network itself."""
        return {key: getattr(self, key) for key in _FIELDS}

    def save(self, folder: Path) -> None:
        """Write the model to a folder, which appears completely or not at all."""
        contents = {name: getattr(self, name) for name in _FILES}
        sizes = {name: len(content) for name, content in contents.items() if content}
        about = {**self.about(), "bytes": sizes, "crc32": _checksums(contents)}
        with new_folder(folder) as staging:
            for name in sizes:
                (staging / _FILES[name]).write_bytes(contents[name])
            (staging / _DESCRIPTION_FILE).write_text(json.dumps(about, indent=1) + "\n")

    def keep(self, folder: Path) -> None:
        """Replace a folder of the cache by this model, unless the cache is read-only."""
        with ignore_cache_errors():
            delete_folder(folder)
            self.save(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a model; raise `LookalikeError` if it is incomplete."""
        try:
            about = read_json(folder / _DESCRIPTION_FILE)
            sizes = about.pop("bytes")
            contents: dict[str, Any] = {
                name: (folder / _FILES[name]).read_bytes() for name in sizes
            }
            if sizes != {name: len(content) for name, content in contents.items()}:
                raise ValueError("a file is cut short")
            if about.pop("crc32", sums := _checksums(contents)) != sums:  # older models have none
                raise ValueError("a file is not what was written")
            model = cls(**check_description(about), **contents)
            if len(model.probe) not in (0, 4 * model.width):
                raise ValueError("a vector of another width")
            return model
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            if says_nothing(error):
                raise Unreadable(folder, error) from None
            raise LookalikeError(f"no whole model in {folder} ({error}): index again") from None


def _checksums(contents: dict[str, bytes]) -> dict[str, int]:
    return {name: zlib.crc32(content) for name, content in contents.items() if content}


def check_description(about: Any) -> dict[str, Any]:
    """Return the description of a model from JSON; raise `ValueError` for anything else."""
    if not isinstance(about, dict):
        raise ValueError("no description of a model")
    types: dict[str, Any] = {
        **dict.fromkeys(_FIELDS, str),
        "width": int,
        "agreement": float | None,
    }
    for name, type_ in types.items():
        if not isinstance(about.get(name), type_):
            raise ValueError(f"the {name} of the model is {str(about.get(name))[:40]!r}")
    if not 0 < about["width"] <= _MAX_WIDTH:
        raise ValueError(f"vectors of {about['width']} numbers")
    return about


def fingerprint(parts: Sequence[str]) -> str:
    """Return a hash of the parts that define a model, 16 hexadecimal digits."""
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=8).hexdigest()


def identity(backbone: str, weights: str) -> str:
    """Return the f32 fingerprint of a network and weights, without loading them."""
    return fingerprint([backbone, _weights_identity(backbone, weights), PREPROCESSING, "f32"])


def resolve(backbone: str = AUTO, weights: str = AUTO, device: str = "cpu") -> Model:
    """Load or convert a model in full precision, once, on the driver.

    The cache folder keeps converted networks: only the first call with a file of weights needs
    torch, and the bundled weights never do.

    Parameters
    ----------
    backbone, weights
        Names, or a file of weights; `weights.settle` defines `auto`.
    device
        For "cuda" the model contains its PyTorch tensors too.

    Raises
    ------
    LookalikeError
        If there is no such network, or no such weights.
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
    except LookalikeError:  # missing or damaged
        pass

    make = _bundled if BUNDLED.get(backbone) == weights else _converted
    width, graph, data, tensors = make(backbone, weights, device)
    model = Model(backbone, name, "f32", width, PREPROCESSING, own, None, graph, data, tensors)
    if readable:
        model.keep(folder)
    return model


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
