"""The bundled EfficientNet-Lite0 in PyTorch, for CUDA and training.

Its layers have the names of the tensors in the bundled file. `efficientnet_lite0_ir.lite0` is the
same network without torch.
"""

import torch
from torch import nn
from torch.nn import functional

from lookalike.models.efficientnet_lite0_ir import FEATURES, SHIFT, STAGES, WIDTH

_EXPANSION = 6  # channels within a block for each input channel


class Convolution(nn.Conv2d):
    """A convolution with TensorFlow's padding: an odd pixel goes after the image."""

    def __init__(
        self, channels: int, out_channels: int, side: int, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__(channels, out_channels, side, stride, groups=groups)

    def forward(self, flow: torch.Tensor) -> torch.Tensor:
        """Map (n, channels, side, side) to the same layout."""
        side, stride = self.kernel_size[0], self.stride[0]
        high, wide = (max((-(-n // stride) - 1) * stride + side - n, 0) for n in flow.shape[2:])
        padding = (wide // 2, wide - wide // 2, high // 2, high - high // 2)
        return super().forward(functional.pad(flow, padding))


class Block(nn.Module):
    """An inverted bottleneck: expand, convolve each channel separately, project."""

    def __init__(
        self, channels: int, out_channels: int, side: int, stride: int, expansion: int
    ) -> None:
        super().__init__()
        inner = channels * expansion
        self.expand = Convolution(channels, inner, 1) if expansion > 1 else None
        self.depthwise = Convolution(inner, inner, side, stride, groups=inner)
        self.project = Convolution(inner, out_channels, 1)
        self._has_shortcut = stride == 1 and channels == out_channels

    def forward(self, flow: torch.Tensor) -> torch.Tensor:
        """Map (n, channels, side, side) to the same layout."""
        inner = flow if self.expand is None else functional.relu6(self.expand(flow))
        projected: torch.Tensor = self.project(functional.relu6(self.depthwise(inner)))
        return projected + flow if self._has_shortcut else projected


class Lite0(nn.Module):
    """Maps normalised images, float32 (n, 3, side, side), to features, float32 (n, 512)."""

    def __init__(self) -> None:
        super().__init__()
        channels = 32
        self.stem = Convolution(3, channels, 3, 2)
        self.blocks = nn.ModuleList()
        for count, first, side, out_channels in STAGES:
            for stride in (first, *[1] * (count - 1)):
                expansion = _EXPANSION if len(self.blocks) else 1
                self.blocks.append(Block(channels, out_channels, side, stride, expansion))
                channels = out_channels
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
