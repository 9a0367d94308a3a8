"""Networks of timm (https://huggingface.co/docs/timm): `timm:resnet18.a1_in1k`.

A name of timm, `hf-hub:OWNER/NAME`, or a folder that its `save_for_hf` wrote.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import timm.data
from torch import nn

from lookalike.errors import LookalikeError
from lookalike.models.libraries.descriptions import of_timm
from lookalike.models.libraries.loaded import Loaded
from lookalike.models.networks import from_file
from lookalike.models.weights import AUTO

_PLACES = ("hf-hub:", "hf_hub:", "local-dir:", "local_dir:")
_NAME = re.compile(r"\w+")
_NO_ARGUMENTS = {
    *("cache_dir", "checkpoint_path", "features_only", "pretrained"),
    *("pretrained_cfg", "pretrained_cfg_overlay"),
}
"""Arguments of timm that a stored network does not set: they name files and addresses."""


def load(name: str, weights: str) -> Loaded:
    """Load a network without its last layer; `weights` may be a file."""
    source, shown = name, name
    if Path(name).is_dir():
        source, shown = f"local-dir:{name}", Path(name).resolve().name
    elif not name.startswith(_PLACES) and not timm.is_model(name):
        raise LookalikeError(f"timm has no network {name!r}: see timm.list_models()")
    network = timm.create_model(source, pretrained=weights == AUTO, num_classes=0)
    about = network.pretrained_cfg
    if weights != AUTO:
        head = about.get("classifier") or ()
        heads = tuple(f"{one}." for one in ((head,) if isinstance(head, str) else head))
        state = from_file(Path(weights))
        _fill(network, {k: v for k, v in state.items() if not k.startswith(heads)}, weights, name)
    tag = about.get("tag") if source == name else None  # a folder keeps that of its first weights
    arguments = {**getattr(network, "_model_args", {}), "num_classes": 0}
    architecture = {"library": "timm", "name": about["architecture"], "arguments": arguments}
    json.dumps(architecture)  # raises `TypeError` for a network that cannot be made again
    return Loaded(
        f"timm:{shown}",
        Path(weights).name if weights != AUTO else tag or "pretrained",
        network.eval(),
        of_timm(timm.data.resolve_model_data_config(network)),
        architecture,
    )


def _fill(network: nn.Module, state: dict[str, Any], weights: str, name: str) -> None:
    wanted = network.state_dict()
    missing = sorted(wanted.keys() - state.keys() - {k for k in wanted if k.endswith("_tracked")})
    if missing:
        raise LookalikeError(
            f"the weights {weights!r} are not of timm:{name}: they lack {len(missing)} of its "
            f"{len(wanted)} tensors, {missing[0]} first; set `model` to the network that they were "
            "trained with"
        )
    network.load_state_dict(state)


def restore(architecture: Mapping[str, Any]) -> nn.Module:
    """Make the network again, without weights."""
    name, arguments = str(architecture["name"]), dict(architecture["arguments"])
    if not _NAME.fullmatch(name) or _NO_ARGUMENTS & arguments.keys():
        raise LookalikeError(f"timm:{name[:40]} is no network that lookalike stored: index again")
    network: nn.Module = timm.create_model(name, pretrained=False, **arguments)
    return network
