"""Networks without their last layer, and the weights they carry.

It runs where a model is made, not where it is used.
"""

import json
import pickle
from collections.abc import Mapping
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

from lookalike.errors import LookalikeError, either, one_line
from lookalike.files import new_file
from lookalike.images import SIDE
from lookalike.images.decoding import DEVIATION, MEAN
from lookalike.models import lite0
from lookalike.models.lite0_torch import Lite0
from lookalike.weights import AUTO, BUNDLED, FILES, settle

_LARGEST = 65_504  # in half precision
_WHOSE = "set `model` to the network that they were trained with"


def backbone(name: str = "resnet18", weights: str = AUTO) -> nn.Module:
    """Step 2: a classification network without its last layer, in eval mode.

    `name` is one of torchvision's, or `efficientnet-lite0`. `weights` is `cars` or `general` (both
    bundled, the first of resnet18, the other of efficientnet-lite0 with a projection), `imagenet`
    (torchvision's own, or the package's) or a file. The module maps normalised float32 images
    (n, 3, 224, 224) to features (n, width); resnet18 gives 512.
    `auto` is what `weights.settle` says.
    https://docs.pytorch.org/vision/stable/models.html
    """
    name, weights = settle(name, weights)
    if name == lite0.NAME and weights not in ("cars", "imagenet"):
        state = _from_file(_file(name, weights))
        if state.keys() == Lite0().state_dict().keys():  # as it is bundled, or trained from that
            return _filled(Lite0(), state, name, weights)
        if "_conv_stem.weight" not in state:
            raise LookalikeError(f"the weights {weights!r} are not of {name}; {_WHOSE}")
    network = _untrained(name, weights)
    head = _last_layer(network)
    state = _imagenet(name) if weights == "imagenet" else _from_file(_file(name, weights))
    state = {key: value for key, value in state.items() if not key.startswith(head + ".")}
    wanted = {key for key in network.state_dict() if not key.startswith(head + ".")}
    if missing := sorted(wanted - state.keys()):
        raise LookalikeError(
            f"the weights {weights!r} are not of {name}: they lack {len(missing)} of its "
            f"{len(wanted)} tensors, {missing[0]} first; {_WHOSE}"
        )
    own = network.state_dict()  # has the versions of its layers, which files often lack
    own.update({key: state[key] for key in wanted})
    _leave_out(head, _filled(network, own, name, weights))
    return network


def _filled(
    network: nn.Module, state: dict[str, torch.Tensor], name: str, weights: str
) -> nn.Module:
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        detail = str(error).splitlines()[-1].strip()
        raise LookalikeError(
            f"the weights {weights!r} are not of {name}: {detail}; {_WHOSE}"
        ) from None
    return network.float().eval()


def dump(network: nn.Module) -> bytes:
    """Return the tensors of a network that `backbone` made, as a safetensors file."""
    from safetensors.torch import save

    return save({key: value.contiguous() for key, value in network.state_dict().items()})


def save(network: "FromPixels", file: Path, about: Mapping[str, str]) -> None:
    """Write the weights in half precision, with the keys of the network's own state dict.

    Equal ones make equal bytes. What is to be known `about` them is JSON in the file's metadata.
    Raises `LookalikeError` where half precision cannot hold them, `OSError` where the disk cannot.
    """
    from safetensors.torch import save as packed

    tensors = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous().cpu()
        for name, tensor in network.network.state_dict().items()
    }
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        raise LookalikeError(
            f"the weights have grown beyond what {_LARGEST:,} can hold: start with other `weights`"
        )
    with new_file(file) as part:
        # In one entry: safetensors writes several in any order.
        part.write_bytes(packed(tensors, {"about": json.dumps(dict(about), sort_keys=True)}))


def restore(name: str, weights: str, data: bytes) -> nn.Module:
    """Make again the network that `backbone(name, weights)` gave, from what `dump` made of it.

    Raises `LookalikeError` where `data` is of another one, or nothing of the kind.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(data)
        network: nn.Module = Lite0()
        if name != lite0.NAME or tensors.keys() != network.state_dict().keys():
            network = _untrained(name, weights)
            _leave_out(_last_layer(network), network)
        network.load_state_dict(tensors)
    except (SafetensorError, RuntimeError, ValueError, KeyError) as error:
        detail = " ".join(str(error).split())[-200:]
        raise LookalikeError(f"the tensors are not of {name} ({detail}): index again") from None
    return network.eval()


def _untrained(name: str, weights: str) -> nn.Module:
    if name == lite0.NAME:
        return lite0.untrained()
    if name not in torchvision.models.list_models(module=torchvision.models):
        raise LookalikeError(
            f"torchvision has no classification network {name!r}: "
            f"see torchvision.models.list_models(module=torchvision.models), or choose {lite0.NAME}"
        )
    options: dict[str, bool] = {}
    if name in ("googlenet", "inception_v3"):
        # torchvision's own weights for these two want their inputs scaled in another way. Without
        # the second option they would begin with a slow random initialisation.
        options = {"transform_input": weights == "imagenet", "init_weights": False}
    network: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    return network


def _leave_out(layer: str, network: nn.Module) -> None:
    parent, _, child = layer.rpartition(".")
    setattr(network.get_submodule(parent), child, nn.Identity())


def _last_layer(network: nn.Module) -> str:
    """Name the layer that turns features into classes: the last linear one, else convolution."""
    for kind in (nn.Linear, nn.Conv2d):
        names = [name for name, module in network.named_modules() if isinstance(module, kind)]
        if names:
            return str(names[-1])
    raise LookalikeError(f"{type(network).__name__} has no last layer to leave out")


def _file(name: str, weights: str) -> Traversable:
    if weights in FILES:
        of = next(one for one in BUNDLED if BUNDLED[one] == weights)
        if of != name:
            raise LookalikeError(
                f"the bundled weights {weights!r} are of {of}, not {name}: "
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
    if name == lite0.NAME:
        return _from_file(lite0.packaged())
    choice = torchvision.models.get_model_weights(name).DEFAULT
    try:
        state = torch.hub.load_state_dict_from_url(
            choice.url, map_location="cpu", progress=False, check_hash=True, weights_only=True
        )
        return dict(state)
    except Exception as error:  # no network, a full disk, half a file or a web page in the cache
        detail = " ".join(str(error).split())[:200]
        raise LookalikeError(
            f"cannot fetch torchvision's weights for {name} ({detail}): connect once, or put "
            f"{choice.url.rsplit('/', 1)[-1]} into {torch.hub.get_dir()}/checkpoints"
        ) from None


def _from_file(path: Traversable) -> dict[str, torch.Tensor]:
    """Load safetensors, or a checkpoint of tensors alone. No pickled code is ever run."""
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
            f"{path} is no checkpoint of tensors alone and was not loaded: it would have to run "
            "code; save the network's state_dict as safetensors"
        ) from None
    except Exception as error:  # what is no checkpoint makes the reader fail in any way
        kind, reason = type(error).__name__, one_line(error)
        detail = kind if reason == kind else f"{kind} {reason}"
        raise LookalikeError(f"{path} holds no weights that can be read: {detail}") from None


def _cleaned(checkpoint: Any) -> dict[str, torch.Tensor]:
    """Unwrap what training loops wrap around a state dict."""
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


class FromPixels(nn.Module):
    """A network that takes pixels as they are decoded and normalises them itself.

    uint8 (n, 224, 224, 3) in, float32 (n, width) out. `name`, as in `backbone`, says which mean
    and deviation it was trained with.
    """

    def __init__(self, network: nn.Module, name: str = "resnet18") -> None:
        super().__init__()
        scale = (lite0.MEAN, lite0.DEVIATION) if name == lite0.NAME else (MEAN, DEVIATION)
        mean, deviation = (torch.tensor(part).view(1, 3, 1, 1) * 255 for part in scale)
        self.network = network
        self.mean = nn.Buffer(mean)
        self.deviation = nn.Buffer(deviation)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalise a batch and run the network."""
        return self.of_images(pixels.permute(0, 3, 1, 2).float())

    def of_images(self, images: torch.Tensor) -> torch.Tensor:
        """Do so with float32 (n, 3, side, side) in 0..255, of any side the network can take."""
        features: torch.Tensor = self.network((images - self.mean) / self.deviation)
        return features.flatten(1)

    @torch.no_grad()
    def width(self) -> int:
        """Length of the vectors, found by asking the network."""
        black = torch.zeros(1, SIDE, SIDE, 3, dtype=torch.uint8, device=self.mean.device)
        return int(self(black).shape[1])
