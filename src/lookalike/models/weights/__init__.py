"""The bundled weights. `general.md` and `cars.md` are their model cards."""

import json
import os
import re
from contextlib import suppress
from importlib.resources import files
from importlib.resources.abc import Traversable

AUTO = "auto"
"""Stands for the default network or weights."""

DEFAULT = "efficientnet-lite0"
"""The default network, for photos of anything."""

BUNDLED = {"efficientnet-lite0": "general", "resnet18": "cars"}
"""The names of bundled weights by network."""

FILES: dict[str, Traversable] = {
    "general": files(__name__) / "efficientnet-lite0.safetensors",
    "cars": files(__name__) / "resnet18-cars.safetensors",
}
"""Bundled weights by name. They may lie in a zip, as Spark's `--py-files` ships a package."""


def settle(network: str, weights: str | os.PathLike[str]) -> tuple[str, str]:
    """Resolve `auto` in the names of a network and weights.

    A file of `lookalike train` names its network. If a network has no bundled weights, `auto`
    remains.

    Parameters
    ----------
    network
        A name, or `auto`.
    weights
        A name, a file, or `auto`.

    Returns
    -------
    The names of the network and of the weights.

    Examples
    --------
    >>> settle("auto", "auto"), settle("auto", "cars"), settle("resnet18", "auto")
    (('efficientnet-lite0', 'general'), ('resnet18', 'cars'), ('resnet18', 'cars'))
    """
    weights = os.fspath(weights)
    if network == AUTO:
        bundled = next((name for name in BUNDLED if BUNDLED[name] == weights), None)
        network = bundled or _network_of(weights) or DEFAULT
    return network, BUNDLED.get(network, AUTO) if weights == AUTO else weights


def _network_of(weights: str) -> str | None:
    """Return the network named in the metadata of a safetensors file."""
    if not weights.endswith(".safetensors"):
        return None
    from safetensors import SafetensorError, safe_open

    # Loading the file raises its errors.
    with suppress(OSError, SafetensorError, ValueError, KeyError, TypeError):
        with safe_open(weights, "np") as file:
            name = json.loads(file.metadata()["about"])["arch"]
        found = re.fullmatch(r"(?:torchvision\.models\.)?([\w-]+)(?: without fc)?", name)
        return found[1] if found else None
    return None
