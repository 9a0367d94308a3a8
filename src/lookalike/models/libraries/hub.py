"""The hub that libraries fetch weights from (https://huggingface.co)."""

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies

from lookalike.system.extras import is_installed


@contextmanager
def offline_if_unreachable() -> Iterator[None]:
    """Let the libraries use what they have at once where the hub is unreachable.

    They would try for a minute or two to reach it, also for weights that are in their caches.
    """
    if not is_installed("huggingface_hub"):
        yield
        return
    from huggingface_hub import constants

    if _is_reachable(constants.ENDPOINT):
        yield
        return
    with offline():
        yield


@contextmanager
def offline() -> Iterator[None]:
    """Let the libraries use only what is in their caches and folders. Belongs into `silence`."""
    if not is_installed("huggingface_hub"):
        yield
        return
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@contextmanager
def no_bars() -> Iterator[None]:
    """Keep the libraries' bars off the terminal; the caller shows progress of its own."""
    if not is_installed("huggingface_hub"):
        yield
        return
    from huggingface_hub import utils

    bars = sys.modules.get("transformers.utils.logging")
    shows_downloads = not utils.are_progress_bars_disabled()
    shows_files = bars is not None and bars.is_progress_bar_enabled()
    utils.disable_progress_bars()
    if bars is not None:
        bars.disable_progress_bar()
    try:
        yield
    finally:
        if shows_downloads:
            utils.enable_progress_bars()
        if bars is not None and shows_files:
            bars.enable_progress_bar()


def _is_reachable(address: str) -> bool:
    """Tell whether the name of a server is known, or a proxy might know it."""
    if getproxies().keys() - {"no"}:  # that of `no_proxy`
        return True
    try:
        return bool(socket.getaddrinfo(urlsplit(address).hostname, 443))
    except OSError:
        return False
