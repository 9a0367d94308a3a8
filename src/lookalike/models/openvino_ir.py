"""Networks as OpenVINO keeps them: a graph and its weights, as two byte strings."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lookalike.images import SIDE

if TYPE_CHECKING:
    import torch
    from torch import nn


def convert(
    network: "nn.Module",
    example: "torch.Tensor | None" = None,
    shape: Sequence[int] = (SIDE, SIDE, 3),
) -> tuple[bytes, bytes]:
    """Convert a PyTorch network; return graph and weights in OpenVINO's format.

    `example` is an input of it, by default pixels, and `shape` that of one element of a batch.
    """
    import warnings

    import openvino
    import torch

    if example is None:
        example = torch.zeros(2, *shape, dtype=torch.uint8)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer's deprecations
        model = openvino.convert_model(network, example_input=example)
    model.reshape([-1, *shape])
    return packed(model)


def packed(model: Any) -> tuple[bytes, bytes]:
    """Return graph and weights of an OpenVINO model as bytes."""
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder, "network.xml")
        openvino.save_model(model, graph, compress_to_fp16=False)
        return graph.read_bytes(), graph.with_suffix(".bin").read_bytes()
