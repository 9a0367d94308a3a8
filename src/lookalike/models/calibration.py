"""Quantisation to int8, calibrated on images, by NNCF. Runs as a process of its own.

    python -m lookalike.models.calibration FOLDER

reads `network.xml`, `network.bin` and `sample.npy` there and writes `int8.xml` and `int8.bin`.
NNCF brings PyTorch with it and talks on every stream; here neither reaches the caller.
https://docs.openvino.ai/2025/openvino-workflow/model-optimization-guide/quantizing-models-post-training/basic-quantization-flow.html
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from lookalike.errors import LookalikeError
from lookalike.models.engines import Pixels


def quantize(graph: bytes, weights: bytes, sample: Pixels) -> tuple[bytes, bytes]:
    """Return graph and weights of a network with its weights and activations in 8 bits.

    `sample` is uint8 (n, 224, 224, 3); the ranges of the activations are taken from it. Raises
    `LookalikeError` where the network cannot be quantised.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "network.xml").write_bytes(graph)
        (folder / "network.bin").write_bytes(weights)
        np.save(folder / "sample.npy", sample)
        ran = subprocess.run(
            [sys.executable, "-m", "lookalike.models.calibration", name],
            capture_output=True,
            text=True,
        )
        if ran.returncode:
            words = (ran.stderr.strip() or f"exit code {ran.returncode}").splitlines()[-1]
            raise LookalikeError(f"no int8 of this network ({words}): use another precision")
        return (folder / "int8.xml").read_bytes(), (folder / "int8.bin").read_bytes()


def _main(folder: Path) -> None:
    import nncf
    import openvino
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix

    sample = np.load(folder / "sample.npy")
    quantized = nncf.quantize(
        openvino.Core().read_model(folder / "network.xml"),
        nncf.Dataset([image[None] for image in sample]),
        subset_size=len(sample),
        # Measured: with weights scaled by channel, neither a correction of biases nor weights
        # of 7 bits (for processors that overflow) bring neighbours nearer to those of f32.
        advanced_parameters=AdvancedQuantizationParameters(
            overflow_fix=OverflowFix.DISABLE, disable_bias_correction=True
        ),
    )
    openvino.save_model(quantized, folder / "int8.xml", compress_to_fp16=False)


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
