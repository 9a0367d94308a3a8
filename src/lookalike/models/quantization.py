"""Quantise a network to int8 with NNCF, calibrated on images, in a separate process.

    python -m lookalike.models.quantization

reads the name of a folder from stdin, then `network.xml`, `network.bin` and `sample.npy` there, and
writes `int8.xml` and `int8.bin`. A process of its own keeps NNCF's messages off the caller's
streams, hides PyTorch from it, which makes it start four times as fast, and imports it while the
caller does something else.
https://docs.openvino.ai/2025/openvino-workflow/model-optimization-guide/quantizing-models-post-training/basic-quantization-flow.html
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from lookalike.errors import LookalikeError
from lookalike.models.ir_validation import check_graph
from lookalike.system.arrays import Pixels
from lookalike.system.extras import require

METHOD = "activations of 8 bits, weights of 7, delicate layers whole"
"""The method, as part of cache names. Change it together with `_main`."""

# Layers of `efficientnet_lite0_ir.lite0` that lose most. With these in f32, a tenth more of its
# neighbours agree. Networks without these names are quantised as a whole.
_F32_LAYERS = ("stem", r"blocks\.0\..*", "mean", "root", "projection")

_waiting_processes: list[subprocess.Popen[str]] = []


@contextmanager
def preload(wanted: bool = True) -> Iterator[None]:
    """Import NNCF, which takes seconds, while the block prepares a call of `quantize`."""
    if wanted:
        with suppress(LookalikeError):  # `quantize` will raise it
            _waiting_processes.append(_start())
    try:
        yield
    finally:
        cancel_preload()


def cancel_preload() -> None:
    """End a process that waits for a call of `quantize`."""
    while _waiting_processes:
        with _waiting_processes.pop() as process:
            process.kill()


def quantize(graph: bytes, weights: bytes, sample: Pixels) -> tuple[bytes, bytes]:
    """Quantise a network: activations to 8 bits, weights to 7.

    With 7 bits, sums of products overflow on no processor, so that vectors are the same with VNNI
    and without.

    Parameters
    ----------
    graph, weights
        The network in OpenVINO's format.
    sample
        uint8 (n, height, width, 3): calibrates the ranges of the activations.

    Returns
    -------
    Graph and weights of the int8 network.

    Raises
    ------
    LookalikeError
        If the network cannot be quantised.

    """
    check_graph(graph, len(weights))
    process = _waiting_processes.pop() if _waiting_processes else _start()
    with process, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "network.xml").write_bytes(graph)
        (folder / "network.bin").write_bytes(weights)
        np.save(folder / "sample.npy", sample)
        _, errors = process.communicate(name)
        if process.returncode:
            reason = (errors.strip() or f"exit code {process.returncode}").splitlines()[-1]
            raise LookalikeError(f"no int8 of this network ({reason}): use another precision")
        return (folder / "int8.xml").read_bytes(), (folder / "int8.bin").read_bytes()


def _start() -> subprocess.Popen[str]:
    require("precision int8", "nncf")
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "lookalike.models.quantization"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
    except OSError as error:
        raise LookalikeError(f"no int8: Python does not start ({error})") from None


def _main() -> None:
    # None hides torch from NNCF.
    sys.modules["torch"] = None  # type: ignore[assignment]
    import nncf
    import openvino
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix

    name = sys.stdin.read()
    if not name:  # the caller has ended
        return
    folder = Path(name)
    sample = np.load(folder / "sample.npy", allow_pickle=False)
    network = openvino.Core().read_model(folder / "network.xml")
    is_lite0 = any(layer.get_friendly_name() == _F32_LAYERS[0] for layer in network.get_ops())
    quantized = nncf.quantize(
        network,
        nncf.Dataset([image[None] for image in sample]),
        subset_size=len(sample),
        preset=nncf.QuantizationPreset.MIXED if is_lite0 else nncf.QuantizationPreset.PERFORMANCE,
        ignored_scope=nncf.IgnoredScope(patterns=list(_F32_LAYERS), validate=False),
        # Without VNNI a processor adds two 8-bit products in 16 bits, which hold 2 * 255 * 64 but
        # not 2 * 255 * 127. For ResNets, bias correction does not improve the neighbours.
        advanced_parameters=AdvancedQuantizationParameters(
            overflow_fix=OverflowFix.ENABLE, disable_bias_correction=not is_lite0
        ),
    )
    openvino.save_model(quantized, folder / "int8.xml", compress_to_fp16=False)


if __name__ == "__main__":
    _main()
