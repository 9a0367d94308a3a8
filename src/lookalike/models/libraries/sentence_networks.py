"""Image networks of sentence-transformers: `sentence-transformers:clip-ViT-B-32`, or a folder.

https://sbert.net/docs/sentence_transformer/pretrained_models.html#image-text-models
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from torch import nn

from lookalike.errors import LookalikeError
from lookalike.models.libraries import transformers_networks
from lookalike.models.libraries.descriptions import of_processor
from lookalike.models.libraries.loaded import Loaded
from lookalike.models.libraries.transformers_networks import ImageTower
from lookalike.models.weights import AUTO

_POOLING = {"cls": "first", "mean": "mean"}


def load(name: str, weights: str) -> Loaded:
    """Load a network that embeds images, with the layers that follow it."""
    if weights != AUTO:
        raise LookalikeError(
            f"sentence-transformers:{name} brings its weights: leave `weights` out"
        )
    whole = SentenceTransformer(name, device="cpu", model_kwargs={"dtype": torch.float32})
    first, *others = whole
    about = getattr(first, "modality_config", {}).get("image")
    if about is None:
        raise LookalikeError(
            f"sentence-transformers:{name} embeds no images: choose one such as clip-ViT-B-32"
        )
    output, layers = _output(about, name), []
    for module in others:
        kind = type(module).__name__
        if kind == "Pooling" and output == "tokens":
            output = _POOLING.get(str(getattr(module, "pooling_mode", "")), output)
        elif kind == "Dense" and not getattr(module, "use_residual", False):
            activation = type(module.activation_function).__name__
            sizes = {key: getattr(module, key) for key in ("in_features", "out_features", "bias")}
            layers.append(({**sizes, "activation": activation}, module))
        elif kind not in ("Normalize", "Pooling"):
            raise LookalikeError(
                f"sentence-transformers:{name} ends in a layer {kind}, which lookalike does not "
                "know: give the network as lookalike.CallableModel"
            )
    if output == "tokens":
        raise LookalikeError(f"sentence-transformers:{name} pools its tokens in a way of its own")
    model = first.model
    dense = [nn.Sequential(one.linear, one.activation_function) for _, one in layers]
    processor = getattr(first.processor, "image_processor", first.processor)
    return Loaded(
        f"sentence-transformers:{Path(name).resolve().name if Path(name).is_dir() else name}",
        "pretrained",
        ImageTower(model, output, dense).float().eval(),
        of_processor(processor.to_dict()),
        transformers_networks.describe(
            "sentence-transformers", model, output, [about for about, _ in layers]
        ),
    )


def _output(about: Mapping[str, Any], name: str) -> str:
    named = about.get("method_output_name")
    names = (named,) if isinstance(named, str) else tuple(named or ())
    if about["method"] == "get_image_features":
        return "image_features"
    if names[-1:] == ("pooler_output",):
        return "pooler"
    if names[-1:] == ("last_hidden_state",):
        return "tokens"
    raise LookalikeError(
        f"sentence-transformers:{name} takes its vector from {named}: give the network as "
        "lookalike.CallableModel"
    )


def restore(architecture: Mapping[str, Any]) -> nn.Module:
    """Make the network again, without weights."""
    return transformers_networks.restore(architecture)
