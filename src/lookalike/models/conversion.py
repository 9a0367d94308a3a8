"""Convert the PyTorch network of another library, and check that the result is the same."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lookalike.models import networks
from lookalike.models.ir_validation import check_graph
from lookalike.models.libraries import silence
from lookalike.models.libraries.loaded import Loaded
from lookalike.models.openvino_ir import convert as to_openvino
from lookalike.models.runtimes import OpenVinoEngine
from lookalike.models.text import TextSide

if TYPE_CHECKING:
    from torch import nn


_MIN_COSINE = 0.999  # between a network and its conversion, in f32


@dataclass(frozen=True)
class Converted:
    """A converted network: `graph` and `data` are empty where OpenVINO cannot run it.

    `network` has its tensors for PyTorch, where they are needed.
    """

    width: int
    graph: bytes
    data: bytes
    network: bytes
    text: TextSide | None


def convert(loaded: Loaded, needs_torch: bool) -> Converted:
    """Convert a network; keep its tensors for PyTorch too if wanted, or if it has to run there."""
    about = loaded.input
    network = networks.FromPixels(loaded.network, scale=(about.mean, about.deviation)).eval()
    shape = about.preprocessing.shape
    rng = np.random.default_rng(0)
    # Three images, since a conversion of two may have kept the two.
    trial = torch.from_numpy(rng.integers(0, 256, (3, *shape), np.uint8))
    graph, data = _converted(network, trial, shape)
    tensors = networks.dump(loaded.network) if needs_torch or not graph else b""
    return Converted(network.width(*shape[:2]), graph, data, tensors, _text(loaded))


def _text(loaded: Loaded) -> TextSide | None:
    if loaded.text is None:
        return None
    length = int(loaded.tokenizer["length"])
    # Small, so that each vocabulary has them. Networks look for the end at the largest.
    tokens = torch.arange(3 * length, dtype=torch.int64).reshape(3, length) % 40
    graph, data = _converted(loaded.text, tokens, (length,))
    about = json.dumps(loaded.tokenizer).encode()
    return TextSide((graph, data, about)) if graph else None


def _converted(
    network: "nn.Module", trial: torch.Tensor, shape: Sequence[int]
) -> tuple[bytes, bytes]:
    """Return graph and weights, both empty if they do not give what PyTorch gives."""
    try:
        with silence():
            graph, data = to_openvino(network, trial[:2], shape)
        check_graph(graph, len(data))
        given = OpenVinoEngine(graph, data, "f32", 0, 1)(trial.numpy())
    except Exception:  # operations that OpenVINO lacks, or shapes that it cannot vary
        return b"", b""
    with torch.no_grad():
        wanted = network(trial).float().numpy()
    return (graph, data) if _agree(wanted, given) else (b"", b"")


def _agree(wanted: Any, given: Any) -> bool:
    if wanted.shape != given.shape:
        return False
    lengths = np.linalg.norm(wanted, axis=1) * np.linalg.norm(given, axis=1)
    return bool(((wanted * given).sum(1) >= _MIN_COSINE * np.maximum(lengths, 1e-30)).all())
