"""Processes that a test has started."""

import contextlib
import os
from pathlib import Path

import pytest


def calibrating() -> list[str]:
    """Return the processes that this one has started to quantise networks, and that still run."""
    if not Path("/proc/self/stat").exists():
        pytest.skip("nothing here says which processes run")
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # of a process that has just ended
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            command = (folder / "cmdline").read_bytes()
            if int(parent) == os.getpid() and b"lookalike.models.quantization" in command:
                found.append(folder.name)
    return found
