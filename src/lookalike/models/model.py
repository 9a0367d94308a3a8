"""A model: network, weights, preprocessing and precision, resolved once and used everywhere.

A model is self-contained: an index stores it, and embeds queries without torch, without the file of
weights and without a download. Only a function of one's own is not stored.
"""

import hashlib
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from lookalike.errors import LookalikeError, Unreadable, says_nothing
from lookalike.images import Preprocessing
from lookalike.models.callables import PREFIX, CallableModel, no_function_error
from lookalike.models.text import TextSide
from lookalike.system.cache import ignore_cache_errors
from lookalike.system.files import delete_folder, new_folder
from lookalike.system.untrusted import read_json

_FILES = {
    "graph": "network.xml",
    "weights_data": "network.bin",
    "network": "network.safetensors",
    "architecture": "architecture.json",
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
    architecture
        What PyTorch needs besides the tensors of a network of another library, as JSON, or empty.
    probe
        For int8, the vector of `runtimes.probe` as float32. A processor that computes another
        vector is refused.
    text
        Embeds words in the same space, if the network does.
    function
        The function of a `CallableModel`, which is not stored.
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
    architecture: bytes = field(default=b"", repr=False, compare=False)
    probe: bytes = field(default=b"", repr=False, compare=False)
    text: TextSide | None = field(default=None, repr=False, compare=False)
    function: CallableModel | None = field(default=None, repr=False, compare=False)

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    @property
    def input(self) -> Preprocessing:
        """What is done with an image before the network. Raises `LookalikeError` without one."""
        try:
            return Preprocessing.parse(self.preprocessing)
        except ValueError as error:
            raise LookalikeError(f"{self.backbone} takes no images: {error}") from None

    @property
    def is_callable(self) -> bool:
        """Whether it is a function of one's own, which may be missing."""
        return self.backbone.startswith(PREFIX)

    def check_runs(self) -> None:
        """Raise `LookalikeError` if there is nothing that embeds images."""
        if self.function or self.graph or self.network:
            return
        if self.is_callable:
            raise no_function_error(self.backbone, self.weights)
        raise LookalikeError(f"this index has no network ({self.backbone}): search with vectors")

    def about(self) -> dict[str, Any]:
        """Return the description, as stored and shown: all fields except the network itself."""
        return {key: getattr(self, key) for key in _FIELDS}

    def save(self, folder: Path) -> None:
        """Write the model to a folder, which appears completely or not at all."""
        contents = {name: getattr(self, name) for name in _FILES}
        sizes = {name: len(content) for name, content in contents.items() if content}
        about = {**self.about(), "bytes": sizes, "crc32": _checksums(contents)}
        with new_folder(folder) as staging:
            if self.text is not None:
                about["text"] = self.text.save(staging)
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
            text = TextSide.stored(folder, about.pop("text", None))
            contents: dict[str, Any] = {
                name: (folder / _FILES[name]).read_bytes() for name in sizes
            }
            if sizes != {name: len(content) for name, content in contents.items()}:
                raise ValueError("a file is cut short")
            if about.pop("crc32", sums := _checksums(contents)) != sums:  # older models have none
                raise ValueError("a file is not what was written")
            model = cls(**check_description(about), **contents, text=text)
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
