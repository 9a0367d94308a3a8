"""A model: network, weights, preprocessing and precision, resolved once and then used everywhere.

It is self-contained. Stored with a collection, it embeds queries there without torch, without the
weights file and without the network.
"""

import contextlib
import hashlib
import json
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

from lookalike.cache import cache_folder, new_folder
from lookalike.errors import LookalikeError
from lookalike.images import PREPROCESSING
from lookalike.weights import CARS

PRECISIONS = ("auto", "f32", "bf16")
_GRAPH, _WEIGHTS, _ABOUT = "network.xml", "network.bin", "model.json"


@dataclass(frozen=True)
class Model:
    """What makes two embeddings comparable: models with equal fingerprints give equal vectors.

    `graph` and `weights_data` are the network as OpenVINO stores it.
    """

    backbone: str
    weights: str
    precision: str
    width: int
    preprocessing: str
    fingerprint: str
    graph: bytes = field(repr=False, compare=False)
    weights_data: bytes = field(repr=False, compare=False)

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def about(self) -> dict[str, str | int]:
        """The model in words, as stored and shown: everything but the network itself."""
        return {
            key: getattr(self, key)
            for key in ("backbone", "weights", "precision", "width", "preprocessing", "fingerprint")
        }

    def save(self, folder: Path) -> None:
        """Write the model into a folder that appears whole or not at all."""
        with new_folder(folder) as staging:
            (staging / _GRAPH).write_bytes(self.graph)
            (staging / _WEIGHTS).write_bytes(self.weights_data)
            about = {**self.about(), "bytes": [len(self.graph), len(self.weights_data)]}
            (staging / _ABOUT).write_text(json.dumps(about, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a model back; `LookalikeError` where it is not whole."""
        try:
            about = json.loads((folder / _ABOUT).read_text())
            graph, weights = (folder / _GRAPH).read_bytes(), (folder / _WEIGHTS).read_bytes()
            if about.pop("bytes") != [len(graph), len(weights)]:
                raise ValueError("a file is cut short")
            return cls(**about, graph=graph, weights_data=weights)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise LookalikeError(f"no whole model in {folder} ({error}): index again") from None


def resolve(backbone: str = "resnet18", weights: str = "cars", precision: str = "auto") -> Model:
    """Find or make the model for these three names. Done once, on the driver.

    The converted network is kept in the cache folder: with the same file of weights, or the
    bundled ones, only the first call needs torch.
    Raises `LookalikeError` for a network, weights or a precision that is not to be had.
    """
    if precision not in PRECISIONS:
        raise LookalikeError(f"no precision {precision!r}: say {', '.join(PRECISIONS)}")
    if precision == "auto":
        precision = "f32"
    identity = [backbone, _weights_identity(backbone, weights), PREPROCESSING, precision]
    fingerprint = hashlib.blake2b(json.dumps(identity).encode(), digest_size=8).hexdigest()
    name = weights if weights in ("cars", "imagenet") else Path(weights).name
    folder = cache_folder() / "models" / fingerprint
    try:
        return replace(Model.load(folder), weights=name)
    except LookalikeError:  # not there yet, or damaged
        shutil.rmtree(folder, ignore_errors=True)

    from lookalike.models.engines import convert
    from lookalike.models.networks import FromPixels
    from lookalike.models.networks import backbone as make_backbone

    network = FromPixels(make_backbone(backbone, weights)).eval()
    graph, data = convert(network)
    model = Model(
        backbone, name, precision, network.width(), PREPROCESSING, fingerprint, graph, data
    )
    with contextlib.suppress(OSError):  # a read-only or full cache costs time, not the result
        model.save(folder)
    return model


def _weights_identity(backbone: str, weights: str) -> str:
    """Name weights by their content where they are a file, by their release otherwise."""
    if weights == "imagenet":
        from torchvision.models import get_model_weights, list_models

        known = backbone in list_models()
        return str(get_model_weights(backbone).DEFAULT) if known else weights
    path = CARS if weights == "cars" else Path(weights)
    if not path.is_file():
        return weights  # what is wrong with it is said where it is loaded
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()
