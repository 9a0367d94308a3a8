"""A network as its library has loaded it, and how its input is made."""

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lookalike.images import Preprocessing

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Input:
    """How the input of a network is made.

    Attributes
    ----------
    preprocessing
        Resize and crop.
    mean, deviation
        Of red, green and blue, in 0..1: what the network takes is (pixel / 255 - mean) / deviation.
    """

    preprocessing: Preprocessing
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]


@dataclass(frozen=True)
class Loaded:
    """A network of another library with its weights.

    Attributes
    ----------
    backbone, weights
        Names, as an index shows them.
    network
        Maps normalised float32 (n, 3, height, width) to features (n, width).
    input
        How its input is made.
    architecture
        What `restore` needs besides the tensors, as JSON.
    text
        Maps tokens, int64 (n, length), to vectors (n, width) of the same space; None without.
    tokenizer
        The tokenizer of the text side, as JSON.
    """

    backbone: str
    weights: str
    network: "nn.Module"
    input: Input
    architecture: dict[str, Any] = field(default_factory=dict)
    text: "nn.Module | None" = None
    tokenizer: dict[str, Any] = field(default_factory=dict)

    @property
    def identity(self) -> dict[str, Any]:
        """The architecture without what changes from one version of a library to the next."""
        return {key: value for key, value in self.architecture.items() if key != "config"}

    def digest(self) -> str:
        """Return a hash of all tensors, those of the text side too."""
        digest = hashlib.blake2b(digest_size=16)
        for module in (self.network, self.text):
            state = module.state_dict() if module is not None else {}
            for key, tensor in sorted(state.items()):
                digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
                digest.update(tensor.detach().cpu().contiguous().float().numpy().data)
        return digest.hexdigest()
