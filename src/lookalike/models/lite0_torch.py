"""The bundled EfficientNet-Lite0 in PyTorch: for CUDA, and for training.

Layers are called as the tensors of the bundled file, whose batch normalisations are folded into the
convolutions. `efficientnet.lite0` is the same network without torch.
"""

import torch
from torch import nn
from torch.nn import functional

from lookalike.models.efficientnet import FEATURES, SHIFT, STAGES, WIDTH

_EXPANSION = 6  # channels within a block, per channel that goes into it


class Convolution(nn.Conv2d):
    """A convolution that pads as TensorFlow does: where the count is odd, after the image."""

    def __init__(self, given: int, made: int, side: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(given, made, side, stride, groups=groups)

    def forward(self, flow: torch.Tensor) -> torch.Tensor:
        """Take and give (n, channels, side, side)."""
        side, stride = self.kernel_size[0], self.stride[0]
        high, wide = (max((-(-n // stride) - 1) * stride + side - n, 0) for n in flow.shape[2:])
        around = (wide // 2, wide - wide // 2, high // 2, high - high // 2)
        return super().forward(functional.pad(flow, around))


class Block(nn.Module):
    """An inverted bottleneck: wider, each channel convolved alone, narrower again."""

    def __init__(self, given: int, made: int, side: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = given * expansion
        self.expand = Convolution(given, inner, 1) if expansion > 1 else None
        self.depthwise = Convolution(inner, inner, side, stride, groups=inner)
        self.project = Convolution(inner, made, 1)
        self._adds = stride == 1 and given == made

    def forward(self, flow: torch.Tensor) -> torch.Tensor:
        """Take and give (n, channels, side, side)."""
        inner = flow if self.expand is None else functional.relu6(self.expand(flow))
        made: torch.Tensor = self.project(functional.relu6(self.depthwise(inner)))
        return made + flow if self._adds else made


class Lite0(nn.Module):
    """Normalised images, float32 (n, 3, side, side), to features, float32 (n, 512)."""

    def __init__(self) -> None:
        super().__init__()
        channels = 32
        self.stem = Convolution(3, channels, 3, 2)
        self.blocks = nn.ModuleList()
        for count, first, side, made in STAGES:
            for stride in (first, *[1] * (count - 1)):
                expansion = _EXPANSION if len(self.blocks) else 1
                self.blocks.append(Block(channels, made, side, stride, expansion))
                channels = made
        self.head = Convolution(channels, FEATURES, 1)
        self.projection = nn.Linear(FEATURES, WIDTH)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Run the network on a batch."""
        flow = functional.relu6(self.stem(images))
        for block in self.blocks:
            flow = block(flow)
        features: torch.Tensor = functional.relu6(self.head(flow)).mean((2, 3))
        projected: torch.Tensor = self.projection((features + SHIFT).sqrt())
        return projected
