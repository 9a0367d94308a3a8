"""Networks of other libraries: timm, open_clip, transformers, sentence-transformers.

`load` takes a name such as `timm:resnet18.a1_in1k`, whose first part is one of `LIBRARIES`. It
returns the network in PyTorch with what the library knows of its input. `restore` makes the same
network again from its tensors, as an index stores them.
"""

import logging
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from lookalike.errors import LookalikeError, one_line
from lookalike.models.libraries.hub import no_bars, offline, offline_if_unreachable
from lookalike.models.libraries.loaded import Loaded
from lookalike.system.extras import MissingExtra, require
from lookalike.system.progress import progress_line

if TYPE_CHECKING:
    from torch import nn


LIBRARIES = {
    "timm": ("timm_networks", "timm"),
    "clip": ("open_clip_networks", "open_clip"),
    "hf": ("transformers_networks", "transformers"),
    "sentence-transformers": ("sentence_networks", "sentence_transformers"),
}
"""The module here and the package to install for each first part of a name."""


def is_library_name(name: str) -> bool:
    """Tell whether a name is that of a network of another library.

    >>> is_library_name("timm:resnet18"), is_library_name("resnet18")
    (True, False)
    """
    library, colon, rest = name.partition(":")
    return bool(colon and rest) and library in LIBRARIES


def package(name: str) -> str:
    """Return the import name of the package that a network is of."""
    return LIBRARIES[name.partition(":")[0]][1]


def load(name: str, weights: str) -> Loaded:
    """Load a network with its weights through its library, which may download them.

    Parameters
    ----------
    name
        A name for which `is_library_name` is true.
    weights
        `auto` for the weights that the library has by this name, or a file.

    Raises
    ------
    LookalikeError
        If the library is not installed, has no such network, or cannot fetch its weights.
    """
    library, _, rest = name.partition(":")
    try:
        with progress_line(f"loading {name}"), silence(), offline_if_unreachable():
            module = _module(library, name)
            with no_bars():
                return cast("Callable[[str, str], Loaded]", module.load)(rest, weights)
    except (LookalikeError, MemoryError):
        raise
    except Exception as error:  # the libraries raise anything
        raise _not_loaded(name, error) from None


def restore(architecture: Mapping[str, Any], data: bytes) -> "nn.Module":
    """Make a network of `load` again from its architecture and the result of `networks.dump`.

    Raises `LookalikeError` if the two do not belong together.
    """
    from safetensors.torch import load as read

    library = str(architecture.get("library"))
    if library not in LIBRARIES:
        raise LookalikeError(f"no network of {library[:40]!r} is known: index again")
    module = _module(library, f"this index, made with {library},")
    try:
        with silence(), offline():  # what an index names is not fetched
            network: nn.Module = module.restore(architecture)
            network.load_state_dict(read(data))
    except (LookalikeError, MemoryError):
        raise
    except Exception as error:
        detail = one_line(error)[-200:]
        raise LookalikeError(
            f"the tensors are not of this network ({detail}): index again"
        ) from None
    return network.float().eval()


_switches = threading.RLock()


@contextmanager
def silence() -> Iterator[None]:
    """Keep the libraries' notes, warnings and bars off the terminal: errors are raised.

    One thread at a time: this and `offline` set switches of the whole process, and set them back.
    """
    with _switches, warnings.catch_warnings():
        before = logging.root.manager.disable
        warnings.simplefilter("ignore")
        logging.disable(logging.ERROR)
        try:
            yield
        finally:
            logging.disable(before)


def tokenizer(about: Mapping[str, Any]) -> Callable[[list[str]], Any]:
    """Return the tokenizer of a text side: maps texts to tokens, int64 (n, length).

    Raises `MissingExtra` without open_clip, and other errors for a damaged description.
    """
    with silence(), offline():
        module = _module("clip", "searching by words")
        return cast("Callable[[list[str]], Any]", module.tokenizer(about))


def _module(library: str, feature: str) -> Any:
    file, package = LIBRARIES[library]
    require(feature, package)
    try:
        return import_module(f"lookalike.models.libraries.{file}")
    except MissingExtra:
        raise
    except ImportError as error:
        raise LookalikeError(
            f"{feature} cannot import {package} ({one_line(error)[:200]}): install it again"
        ) from None


def _not_loaded(name: str, error: Exception) -> LookalikeError:
    """Return the error for a network that its library does not have, or cannot fetch."""
    said = one_line(error)
    detail = f"{type(error).__name__}: {said[:200]}" if said else type(error).__name__
    library = name.partition(":")[0]
    return LookalikeError(
        f"{LIBRARIES[library][1]} cannot load {name}: check the name, and connect to the network "
        f"once so that it is fetched, or give a folder that the library saved ({detail})"
    )
