"""Create PyTorch networks without their last layer, with their weights, to convert or train."""

import json
import pickle
from collections.abc import Mapping, Sequence
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, TypeAlias

import torch
import torchvision
from torch import nn

from lookalike.errors import LookalikeError, either, one_line
from lookalike.images import SIDE
from lookalike.images.decoding.raster import DEVIATION, MEAN
from lookalike.models import lite0_package
from lookalike.models.efficientnet_lite0 import Lite0
from lookalike.models.weights import AUTO, BUNDLED, FILES, settle
from lookalike.system.files import new_file

_MAX_HALF = 65_504  # the largest number in half precision
_FIX_MODEL = "set `model` to the network that they were trained with"


def backbone(name: str = "resnet18", weights: str = AUTO) -> nn.Module:
    """Return step 2 of the workflow: a classification network without its last layer.

    Parameters
    ----------
    name
        A classification network of torchvision
        (https://docs.pytorch.org/vision/stable/models.html), or `efficientnet-lite0`.
    weights
        `cars` (bundled, for resnet18), `general` (bundled, for efficientnet-lite0 with a
        projection), `imagenet` or a file; `weights.settle` defines `auto`.

    Returns
    -------
    A module in eval mode from normalised float32 images (n, 3, 224, 224) to features (n, width).
    resnet18 has the width 512.

    Raises
    ------
    LookalikeError
        If there is no such network, no such weights, or they do not match.
    """
    name, weights = settle(name, weights)
    if name == lite0_package.NAME and weights not in ("cars", "imagenet"):
        state = from_file(_file(name, weights))
        if state.keys() == Lite0().state_dict().keys():  # bundled, or trained from that
            return _load_state(Lite0(), state, name, weights)
        if "_conv_stem.weight" not in state:
            raise LookalikeError(f"the weights {weights!r} are not of {name}; {_FIX_MODEL}")
    network = _untrained(name, weights)
    head = _last_layer(network)
    state = _imagenet(name) if weights == "imagenet" else from_file(_file(name, weights))
    state = {key: value for key, value in state.items() if not key.startswith(head + ".")}
    wanted = {key for key in network.state_dict() if not key.startswith(head + ".")}
    if missing := sorted(wanted - state.keys()):
        raise LookalikeError(
            f"the weights {weights!r} are not of {name}: they lack {len(missing)} of its "
            f"{len(wanted)} tensors, {missing[0]} first; {_FIX_MODEL}"
        )
    own = network.state_dict()  # contains the versions of layers, which files often lack
    own.update({key: state[key] for key in wanted})
    _remove_layer(head, _load_state(network, own, name, weights))
    return network


def _load_state(
    network: nn.Module, state: dict[str, torch.Tensor], name: str, weights: str
) -> nn.Module:
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        detail = str(error).splitlines()[-1].strip()
        raise LookalikeError(
            f"the weights {weights!r} are not of {name}: {detail}; {_FIX_MODEL}"
        ) from None
    return network.float().eval()


def dump(network: nn.Module) -> bytes:
    """Return the tensors of a network of `backbone` as a safetensors file."""
    from safetensors.torch import save

    return save({key: value.contiguous() for key, value in network.state_dict().items()})


def save(network: "FromPixels", file: Path, about: Mapping[str, str]) -> None:
    """Write weights as safetensors in half precision. Equal weights make equal files.

    Parameters
    ----------
    network
        Its state dict is written.
    file
        The file to write.
    about
        Metadata, written as JSON.

    Raises
    ------
    LookalikeError
        If a weight is too large for half precision.
    OSError
        If the file cannot be written.
    """
    from safetensors.torch import save as packed

    tensors = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous().cpu()
        for name, tensor in network.network.state_dict().items()
    }
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        raise LookalikeError(
            f"the weights have grown beyond what {_MAX_HALF:,} can hold: start with other `weights`"
        )
    with new_file(file) as part:
        # One entry: safetensors writes several in random order.
        part.write_bytes(packed(tensors, {"about": json.dumps(dict(about), sort_keys=True)}))


def restore(name: str, weights: str, data: bytes) -> nn.Module:
    """Restore the network of `backbone(name, weights)` from the result of `dump`.

    Raises `LookalikeError` if `data` belongs to another network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(data)
        network: nn.Module = Lite0()
        if name != lite0_package.NAME or tensors.keys() != network.state_dict().keys():
            network = _untrained(name, weights)
            _remove_layer(_last_layer(network), network)
        network.load_state_dict(tensors)
    except (SafetensorError, RuntimeError, ValueError, KeyError) as error:
        detail = " ".join(str(error).split())[-200:]
        raise LookalikeError(f"the tensors are not of {name} ({detail}): index again") from None
    return network.eval()


def _untrained(name: str, weights: str) -> nn.Module:
    if name == lite0_package.NAME:
        return lite0_package.untrained()
    if name not in torchvision.models.list_models(module=torchvision.models):
        raise LookalikeError(
            f"torchvision has no classification network {name!r}: "
            "see torchvision.models.list_models(module=torchvision.models), "
            f"or choose {lite0_package.NAME}"
        )
    options: dict[str, bool] = {}
    if name in ("googlenet", "inception_v3"):
        # torchvision's weights for these two need another input scale. The second option skips a
        # slow random initialisation.
        options = {"transform_input": weights == "imagenet", "init_weights": False}
    network: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    return network


def _remove_layer(layer: str, network: nn.Module) -> None:
    parent, _, child = layer.rpartition(".")
    setattr(network.get_submodule(parent), child, nn.Identity())


def _last_layer(network: nn.Module) -> str:
    """Return the name of the classification layer: the last linear one, else convolution."""
    for kind in (nn.Linear, nn.Conv2d):
        names = [name for name, module in network.named_modules() if isinstance(module, kind)]
        if names:
            return str(names[-1])
    raise LookalikeError(f"{type(network).__name__} has no last layer to remove")


def _file(name: str, weights: str) -> Traversable:
    if weights in FILES:
        owner = next(network for network in BUNDLED if BUNDLED[network] == weights)
        if owner != name:
            raise LookalikeError(
                f"the bundled weights {weights!r} are of {owner}, not {name}: "
                "set `weights` to imagenet or a file"
            )
        return FILES[weights]
    if weights == AUTO:
        raise LookalikeError(
            f"no weights of {name} come with lookalike: set `weights` to imagenet or a file"
        )
    if not Path(weights).is_file():
        known = either((*FILES, "imagenet", "an existing file"))
        raise LookalikeError(f"unknown weights {weights!r}: choose {known}")
    return Path(weights)


def _imagenet(name: str) -> dict[str, torch.Tensor]:
    if name == lite0_package.NAME:
        return from_file(lite0_package.packaged())
    choice = torchvision.models.get_model_weights(name).DEFAULT
    try:
        state = torch.hub.load_state_dict_from_url(
            choice.url, map_location="cpu", progress=False, check_hash=True, weights_only=True
        )
        return dict(state)
    except Exception as error:  # no network, a full disk, a damaged cache
        detail = " ".join(str(error).split())[:200]
        raise LookalikeError(
            f"cannot fetch torchvision's weights for {name} ({detail}): connect once, or put "
            f"{choice.url.rsplit('/', 1)[-1]} into {torch.hub.get_dir()}/checkpoints"
        ) from None


def from_file(path: Traversable) -> dict[str, torch.Tensor]:
    """Load safetensors, or a checkpoint that contains only tensors. Pickled code never runs."""
    from safetensors.torch import load, load_file

    try:
        if path.name.endswith(".safetensors"):
            if isinstance(path, Path):  # mapped, not read: a file of one's own may be large
                return _cleaned(load_file(path))
            return _cleaned(load(path.read_bytes()))
        with path.open("rb") as file:
            return _cleaned(torch.load(file, map_location="cpu", weights_only=True))
    except pickle.UnpicklingError:
        raise LookalikeError(
            f"{path} contains more than tensors and was not loaded, since that would run code: "
            "save the network's state_dict as safetensors"
        ) from None
    except Exception as error:  # readers raise anything for other files
        kind, reason = type(error).__name__, one_line(error)
        detail = kind if reason == kind else f"{kind} {reason}"
        raise LookalikeError(f"{path} holds no weights that can be read: {detail}") from None


def _cleaned(checkpoint: Any) -> dict[str, torch.Tensor]:
    """Unwrap a state dict from the dictionaries and prefixes of training loops."""
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(checkpoint, dict) and isinstance(checkpoint.get(key), dict):
            checkpoint = checkpoint[key]
    if not isinstance(checkpoint, dict):
        raise ValueError(f"a {type(checkpoint).__name__}, not a state dict")
    tensors = {key: value for key, value in checkpoint.items() if isinstance(value, torch.Tensor)}
    return {
        key.removeprefix("module."): value.float() if value.is_floating_point() else value
        for key, value in tensors.items()
    }


Scale: TypeAlias = tuple[Sequence[float], Sequence[float]]
"""Mean and standard deviation of red, green and blue, in 0..1."""


class FromPixels(nn.Module):
    """A network from decoded pixels, uint8 (n, height, width, 3), to vectors, float32 (n, width).

    Parameters
    ----------
    network
        A network of `backbone`.
    name
        Its name, which defines the mean and standard deviation of its input.
    scale
        These two, in 0..1, for a network of another library.
    """

    def __init__(
        self, network: nn.Module, name: str = "resnet18", scale: Scale | None = None
    ) -> None:
        super().__init__()
        if scale is None and name == lite0_package.NAME:
            scale = (lite0_package.MEAN, lite0_package.DEVIATION)
        scale = scale or (MEAN, DEVIATION)
        mean, deviation = (torch.tensor(part).view(1, 3, 1, 1) * 255 for part in scale)
        self.network = network
        self.mean = nn.Buffer(mean)
        self.deviation = nn.Buffer(deviation)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalise a batch and run the network."""
        return self.of_images(pixels.permute(0, 3, 1, 2).float())

    def of_images(self, images: torch.Tensor) -> torch.Tensor:
        """Do the same for float32 (n, 3, side, side) in 0..255, of any side."""
        features: torch.Tensor = self.network((images - self.mean) / self.deviation)
        return features.flatten(1)

    @torch.no_grad()
    def width(self, high: int = SIDE, wide: int = SIDE) -> int:
        """Return the width of the vectors, found by one call with an image of this size."""
        black = torch.zeros(1, high, wide, 3, dtype=torch.uint8, device=self.mean.device)
        return int(self(black).shape[1])
