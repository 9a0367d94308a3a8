"""The weights that come with the package; `general.md` and `cars.md` are their model cards."""

import json
import os
import re
from contextlib import suppress
from importlib.resources import files
from importlib.resources.abc import Traversable

AUTO = "auto"
"""For a network or weights: the default ones."""

DEFAULT = "efficientnet-lite0"
"""The network for photos of anything."""

BUNDLED = {"efficientnet-lite0": "general", "resnet18": "cars"}
"""Networks whose weights come along, and what these are called."""

FILES: dict[str, Traversable] = {
    "general": files(__name__) / "efficientnet-lite0.safetensors",
    "cars": files(__name__) / "resnet18-cars.safetensors",
}
"""Bundled weights by name. They may lie in a zip, as Spark's `--py-files` ships a package."""


def settle(network: str, weights: str | os.PathLike[str]) -> tuple[str, str]:
    """Say which network and weights are meant where one of them, or both, is `auto`.

    >>> settle("auto", "auto"), settle("auto", "cars"), settle("resnet18", "auto")
    (('efficientnet-lite0', 'general'), ('resnet18', 'cars'), ('resnet18', 'cars'))

    A file that `lookalike train` wrote says which network it is of. Of a network that has no
    bundled weights, `auto` stays what it is.
    """
    weights = os.fspath(weights)
    if network == AUTO:
        bundled = next((name for name in BUNDLED if BUNDLED[name] == weights), None)
        network = bundled or _network_of(weights) or DEFAULT
    return network, BUNDLED.get(network, AUTO) if weights == AUTO else weights


def _network_of(weights: str) -> str | None:
    """Return the network that a safetensors file says it is of."""
    if not weights.endswith(".safetensors"):
        return None
    from safetensors import SafetensorError, safe_open

    # What is wrong with the file is said where it is loaded.
    with suppress(OSError, SafetensorError, ValueError, KeyError, TypeError):
        with safe_open(weights, "np") as file:
            name = json.loads(file.metadata()["about"])["arch"]
        found = re.fullmatch(r"(?:torchvision\.models\.)?([\w-]+)(?: without fc)?", name)
        return found[1] if found else None
    return None
