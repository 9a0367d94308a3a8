"""Build the bundled ResNet-18 from OpenVINO operations, without torch.

He, Zhang, Ren, Sun, "Deep residual learning for image recognition" (2016), as in torchvision.
`openvino_ir.convert` creates the same network from PyTorch's, but takes seconds.
"""

from importlib.resources.abc import Traversable
from typing import Any

import numpy as np
import numpy.typing as npt

from lookalike.images import SIDE
from lookalike.images.decoding.raster import DEVIATION, MEAN
from lookalike.models.openvino_ir import packed

WIDTH = 512
_EPSILON = 1e-5  # of torchvision's batch normalisation

Floats = npt.NDArray[np.float32]


def resnet18(weights: Traversable) -> tuple[bytes, bytes]:
    """Return graph and weights, in OpenVINO's format, for a safetensors file of ResNet-18.

    The network maps uint8 pixels (n, 224, 224, 3) to float32 features (n, 512).
    """
    import openvino
    from openvino import opset1
    from openvino import opset13 as ops
    from safetensors.numpy import load

    stored = load(weights.read_bytes())
    tensors = {name: tensor.astype(np.float32) for name, tensor in stored.items()}

    def convolution(flow: Any, name: str, norm: str, stride: int = 1) -> Any:
        kernel, bias = _fold_batch_norm(tensors, name, norm)
        size, pad = [stride] * 2, [kernel.shape[2] // 2] * 2
        return ops.add(ops.convolution(flow, kernel, size, pad, pad, [1, 1]), bias)

    pixels = ops.parameter([-1, SIDE, SIDE, 3], np.uint8)
    flow = ops.transpose(ops.convert(pixels, "f32"), np.array([0, 3, 1, 2]))
    flow = ops.subtract(flow, _per_channel(np.array(MEAN) * 255))
    flow = ops.divide(flow, _per_channel(np.array(DEVIATION) * 255))
    flow = ops.relu(convolution(flow, "conv1", "bn1", stride=2))
    flow = opset1.max_pool(flow, [2, 2], [1, 1], [1, 1], [3, 3])
    for layer in (1, 2, 3, 4):
        for block in (f"layer{layer}.0", f"layer{layer}.1"):
            narrowed = f"{block}.downsample.0.weight" in tensors
            stride = 2 if narrowed else 1
            inner = ops.relu(convolution(flow, f"{block}.conv1", f"{block}.bn1", stride))
            inner = convolution(inner, f"{block}.conv2", f"{block}.bn2")
            if narrowed:
                down = f"{block}.downsample"
                flow = convolution(flow, f"{down}.0", f"{down}.1", stride)
            flow = ops.relu(ops.add(inner, flow))
    features = ops.reduce_mean(flow, np.array([2, 3]))
    return packed(openvino.Model([features], [pixels]))


def _fold_batch_norm(tensors: dict[str, Floats], name: str, norm: str) -> tuple[Floats, Floats]:
    """Return the kernel and bias of a convolution with its batch normalisation folded in."""
    gain, shift, mean, variance = (
        tensors[f"{norm}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
    )
    scale = gain / np.sqrt(variance + _EPSILON)
    kernel: Floats = tensors[f"{name}.weight"] * scale[:, None, None, None]
    return kernel, _per_channel(shift - mean * scale)


def _per_channel(values: npt.NDArray[Any]) -> Floats:
    return values.astype(np.float32).reshape(1, -1, 1, 1)
