"""Build the bundled EfficientNet-Lite0 from OpenVINO operations, without torch.

Tan, Le, "EfficientNet: Rethinking model scaling for convolutional neural networks" (2019), with
ReLU6 and without squeeze-and-excitation. The file has the batch normalisations folded into the
convolutions. `lite0_torch` is the same network in PyTorch.
"""

from importlib.resources.abc import Traversable
from typing import Any

import numpy as np

from lookalike.images import SIDE
from lookalike.models.openvino_ir import packed

FEATURES = 1280  # numbers before the projection
WIDTH = 512  # numbers after it
MEAN = 127.0  # of every channel, in 0..255
DEVIATION = 128.0
SHIFT = 0.03  # added before the square root, which is too steep near zero
# For each stage: number of blocks, stride of the first one, kernel side, channels.
STAGES = (
    (1, 1, 3, 16),
    (2, 2, 3, 24),
    (2, 2, 5, 40),
    (3, 2, 3, 80),
    (3, 1, 5, 112),
    (4, 2, 5, 192),
    (1, 1, 3, 320),
)


def lite0(weights: Traversable, projected: bool = True) -> tuple[bytes, bytes]:
    """Return graph and weights, in OpenVINO's format, for a safetensors file of Lite0.

    The network maps uint8 pixels (n, 224, 224, 3) to float32 (n, 512), or, if not `projected`, to
    the features (n, 1280).
    """
    import openvino
    from openvino import opset13 as ops
    from safetensors.numpy import load

    stored = load(weights.read_bytes())
    tensors = {name: tensor.astype(np.float32) for name, tensor in stored.items()}

    def convolution(flow: Any, name: str, stride: int = 1) -> Any:
        kernel = tensors[f"{name}.weight"]
        size, pad, step = [stride] * 2, [0, 0], [1, 1]
        if name.endswith("depthwise"):  # one kernel for each channel
            kernel = kernel[:, None]
            flow = ops.group_convolution(flow, kernel, size, pad, pad, step, "same_upper")
        else:
            flow = ops.convolution(flow, kernel, size, pad, pad, step, "same_upper")
        flow.set_friendly_name(name)
        return ops.add(flow, tensors[f"{name}.bias"].reshape(1, -1, 1, 1))

    def relu6(flow: Any) -> Any:
        return ops.clamp(flow, 0.0, 6.0)

    pixels = ops.parameter([-1, SIDE, SIDE, 3], np.uint8)
    flow = ops.transpose(ops.convert(pixels, "f32"), np.array([0, 3, 1, 2]))
    flow = ops.divide(ops.subtract(flow, np.float32(MEAN)), np.float32(DEVIATION))
    flow = relu6(convolution(flow, "stem", 2))
    number = 0
    for blocks, first, _, _ in STAGES:
        for stride in (first, *[1] * (blocks - 1)):
            block, inner = f"blocks.{number}", flow
            if f"{block}.expand.weight" in tensors:
                inner = relu6(convolution(inner, f"{block}.expand"))
            inner = relu6(convolution(inner, f"{block}.depthwise", stride))
            inner = convolution(inner, f"{block}.project")
            same = flow.output(0).partial_shape == inner.output(0).partial_shape
            flow = ops.add(inner, flow) if same else inner
            number += 1
    flow = relu6(convolution(flow, "head"))
    features = ops.reduce_mean(flow, np.array([2, 3]))
    features.set_friendly_name("mean")
    if projected:
        features = ops.sqrt(ops.add(features, np.float32(SHIFT)))
        features.set_friendly_name("root")
        features = ops.matmul(features, tensors["projection.weight"], False, True)
        features.set_friendly_name("projection")
        features = ops.add(features, tensors["projection.bias"].reshape(1, -1))
    return packed(openvino.Model([features], [pixels]))
