"""Quantisation to int8, calibrated on images, by NNCF. Runs as a process of its own.

    python -m lookalike.models.calibration

waits for a folder to be named, reads `network.xml`, `network.bin` and `sample.npy` there and writes
`int8.xml` and `int8.bin`. NNCF talks on every stream and brings PyTorch with it where there is one.
Here it talks to nobody and finds none, which makes it start in a quarter of the time; and it can be
imported while the caller does something else.
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
from lookalike.extras import require
from lookalike.models.engines import Pixels
from lookalike.models.graphs import check_graph

METHOD = "activations of 8 bits, weights of 7, delicate layers whole"
"""How int8 is made: part of the name under which it is kept. Change it with what `_main` does."""

# What `efficientnet.lite0` calls the layers that lose most: left in f32, they bring a tenth more of
# its neighbours back. Networks without such names are quantised whole.
_DELICATE = ("stem", r"blocks\.0\..*", "mean", "root", "projection")

_waiting: list[subprocess.Popen[str]] = []


@contextmanager
def expected(likely: bool) -> Iterator[None]:
    """Import NNCF, which takes seconds, while the block gets everything ready for `quantize`."""
    if likely:
        with suppress(LookalikeError):  # whoever then needs it says so
            _waiting.append(_start())
    try:
        yield
    finally:
        never_mind()


def never_mind() -> None:
    """End what waits for a `quantize` that is not going to come."""
    while _waiting:
        with _waiting.pop() as process:
            process.kill()


def quantize(graph: bytes, weights: bytes, sample: Pixels) -> tuple[bytes, bytes]:
    """Return graph and weights of a network with its activations in 8 bits and its weights in 7.

    So sums of products overflow on no processor: with VNNI and without, the vectors are the same.
    `sample` is uint8 (n, 224, 224, 3); the ranges of the activations are taken from it. Raises
    `LookalikeError` where the network cannot be quantised.
    """
    check_graph(graph, len(weights))
    process = _waiting.pop() if _waiting else _start()
    with process, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "network.xml").write_bytes(graph)
        (folder / "network.bin").write_bytes(weights)
        np.save(folder / "sample.npy", sample)
        _, said = process.communicate(name)
        if process.returncode:
            words = (said.strip() or f"exit code {process.returncode}").splitlines()[-1]
            raise LookalikeError(f"no int8 of this network ({words}): use another precision")
        return (folder / "int8.xml").read_bytes(), (folder / "int8.bin").read_bytes()


def _start() -> subprocess.Popen[str]:
    require("precision int8", "nncf")
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "lookalike.models.calibration"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
    except OSError as error:
        raise LookalikeError(f"no int8, for Python does not start ({error})") from None


def _main() -> None:
    # Before anything looks for it: what is None here counts as not installed.
    sys.modules["torch"] = None  # type: ignore[assignment]
    import nncf
    import openvino
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix

    named = sys.stdin.read()
    if not named:  # the caller has ended, or needs nothing
        return
    folder = Path(named)
    sample = np.load(folder / "sample.npy", allow_pickle=False)
    network = openvino.Core().read_model(folder / "network.xml")
    delicate = any(one.get_friendly_name() == _DELICATE[0] for one in network.get_ops())
    quantized = nncf.quantize(
        network,
        nncf.Dataset([image[None] for image in sample]),
        subset_size=len(sample),
        preset=nncf.QuantizationPreset.MIXED if delicate else nncf.QuantizationPreset.PERFORMANCE,
        ignored_scope=nncf.IgnoredScope(patterns=list(_DELICATE), validate=False),
        # Without VNNI a processor adds two products of 8 bits in 16, which holds 255 * 64 twice but
        # not 255 * 127. Of ResNets a correction of biases brings neighbours no nearer to f32's.
        advanced_parameters=AdvancedQuantizationParameters(
            overflow_fix=OverflowFix.ENABLE, disable_bias_correction=not delicate
        ),
    )
    openvino.save_model(quantized, folder / "int8.xml", compress_to_fp16=False)


if __name__ == "__main__":
    _main()
