"""Image networks of transformers: `hf:facebook/dinov2-small`, or a folder of `save_pretrained`.

https://huggingface.co/docs/transformers
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoImageProcessor, AutoModel

from lookalike.errors import LookalikeError
from lookalike.models.libraries.descriptions import of_processor
from lookalike.models.libraries.loaded import Loaded
from lookalike.models.weights import AUTO

OUTPUTS = ("image_features", "pooler", "first", "mean")
"""Where the vector is: the method of networks that know words too, the pooled output, the first
token, or the mean of all tokens or places."""
_TEXT_PARTS = ("text_model", "text_projection")


class ImageTower(nn.Module):
    """The images' side of a network of transformers, and layers after it.

    Parameters
    ----------
    model
        A network of transformers.
    output
        One of `OUTPUTS`.
    layers
        What follows it.
    """

    def __init__(self, model: Any, output: str, layers: Sequence[nn.Module] = ()) -> None:
        super().__init__()
        if output not in OUTPUTS:
            raise ValueError(f"the output {output!r}")
        for part in _TEXT_PARTS:
            if output == "image_features" and hasattr(model, part):
                delattr(model, part)
        pooler = getattr(model, "pooler", None)
        if output in ("first", "mean") and pooler is not None and list(pooler.parameters()):
            model.pooler = None  # not used: it may have no weights, or none that were learned
        self.model = model
        self.output = output
        self.layers = nn.Sequential(*layers)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map normalised images to vectors."""
        if self.output == "image_features":
            found = self.model.get_image_features(pixel_values=images)
            flow = found if isinstance(found, torch.Tensor) else found.pooler_output
        else:
            found = self.model(pixel_values=images, return_dict=True)
            flow = found.pooler_output if self.output == "pooler" else found.last_hidden_state
            if self.output == "first":
                flow = flow[:, 0]
            elif self.output == "mean":
                flow = flow.mean((2, 3)) if flow.ndim == 4 else flow.mean(1)
        vectors: torch.Tensor = self.layers(flow.flatten(1))
        return vectors


def load(name: str, weights: str) -> Loaded:
    """Load a network, with the input that its image processor describes."""
    if weights != AUTO:
        raise LookalikeError(
            f"hf:{name} brings its weights: leave `weights` out, or give a folder with both"
        )
    # Without `trust_remote_code` transformers would ask on the terminal whether to run the code.
    processor = AutoImageProcessor.from_pretrained(name, trust_remote_code=False)
    model, found = AutoModel.from_pretrained(
        name, output_loading_info=True, dtype=torch.float32, trust_remote_code=False
    )
    missing = {str(key) for key in found["missing_keys"]}
    pooler = {key for key in missing if "pooler" in key}
    if missing - pooler:
        raise LookalikeError(
            f"hf:{name} lacks {len(missing)} tensors, {min(missing - pooler)} first: choose a "
            "network with all its weights"
        )
    output = _output(model, bool(pooler))
    return Loaded(
        f"hf:{Path(name).resolve().name if Path(name).is_dir() else name}",
        "pretrained",
        ImageTower(model, output).eval(),
        of_processor(processor.to_dict(), getattr(model.config, "image_size", None)),
        describe("hf", model, output),
    )


def describe(library: str, model: Any, output: str, layers: Sequence[Any] = ()) -> dict[str, Any]:
    """Return the architecture of an `ImageTower` as JSON."""
    config = model.config.to_diff_dict()
    config.pop("auto_map", None)
    return {
        "library": library,
        "type": model.config.model_type,
        "config": config,
        "output": output,
        "layers": list(layers),
    }


def _output(model: Any, has_no_pooler: bool) -> str:
    if hasattr(model, "get_image_features"):
        return "image_features"
    if getattr(model, "pooler", None) is not None and not has_no_pooler:
        return "pooler"
    with torch.no_grad():
        side = getattr(model.config, "image_size", None) or 64
        high, wide = (side, side) if isinstance(side, int) else side
        found = model(pixel_values=torch.zeros(1, 3, high, wide), return_dict=True)
    if getattr(found, "pooler_output", None) is not None and not has_no_pooler:
        return "pooler"
    # A transformer's first token stands for the image; without one, each is a place.
    has_token = any("cls_token" in key or "class_embedding" in key for key in model.state_dict())
    return "first" if has_token and found.last_hidden_state.ndim == 3 else "mean"


def restore(architecture: Mapping[str, Any]) -> nn.Module:
    """Make the network again, without weights. No code from elsewhere runs."""
    config = {key: value for key, value in architecture["config"].items() if key != "auto_map"}
    config.pop("model_type", None)
    made = AutoConfig.for_model(str(architecture["type"]), **config)
    model = AutoModel.from_config(made, trust_remote_code=False)
    return ImageTower(
        model, str(architecture["output"]), [_layer(one) for one in architecture["layers"]]
    )


def _layer(about: Mapping[str, Any]) -> nn.Module:
    """Return a dense layer of sentence-transformers."""
    linear = nn.Linear(int(about["in_features"]), int(about["out_features"]), bool(about["bias"]))
    activation = {"Tanh": nn.Tanh, "Identity": nn.Identity, "ReLU": nn.ReLU, "GELU": nn.GELU}
    return nn.Sequential(linear, activation[str(about["activation"])]())
