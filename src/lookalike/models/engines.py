"""Engines: what turns pixels into vectors at speed. OpenVINO on CPUs.

https://docs.openvino.ai/2025/openvino-workflow/running-inference.html
"""

import sys
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from lookalike.models.model import Model
    from lookalike.models.networks import FromPixels

# Its absence makes OpenVINO use its own silent stand-in: nothing is ever reported to anybody.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


class Engine(Protocol):
    """A callable from pixels, uint8 (n, 224, 224, 3), to features, float32 (n, width)."""

    def __call__(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Run the network on a batch of any size."""


class OpenVinoEngine:
    """One compiled network with its own threads; 0 threads means all cores."""

    def __init__(self, xml: bytes, weights: bytes, precision: str, threads: int) -> None:
        import openvino

        core = openvino.Core()
        options: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": precision,
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # two workers would pin themselves to the same core
        }
        network = core.read_model(model=xml, weights=weights)
        self._compiled = core.compile_model(network, "CPU", options)

    def __call__(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Run the network on a batch of any size."""
        return np.array(self._compiled(pixels)[0], dtype=np.float32)  # a copy: its own is reused


def convert(network: "FromPixels") -> tuple[bytes, bytes]:
    """Convert a network to OpenVINO's two files, returned as bytes: the graph, the weights."""
    import tempfile
    import warnings
    from pathlib import Path

    import openvino
    import torch

    from lookalike.images import SIDE

    example = torch.zeros(2, SIDE, SIDE, 3, dtype=torch.uint8)
    with torch.no_grad(), warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")  # the tracer's own deprecation notes
        model = openvino.convert_model(network, example_input=example)
        model.reshape([-1, SIDE, SIDE, 3])
        graph = Path(folder, "network.xml")
        openvino.save_model(model, graph, compress_to_fp16=False)
        return graph.read_bytes(), graph.with_suffix(".bin").read_bytes()


_MODELS_AT_ONCE = 4


@lru_cache(_MODELS_AT_ONCE)
def _engine(model: "Model", threads: int) -> Engine:
    return OpenVinoEngine(model.graph, model.weights_data, model.precision, threads)


def engine(model: "Model", threads: int = 0) -> Engine:
    """Return the engine of a model, made once a process."""
    return _engine(model, threads)
