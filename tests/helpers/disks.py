"""Disks that are small, or that nobody may write to."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[Path]:
    """Mount something; skip where this process may not."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def needs_mount() -> None:
    if not sys.platform.startswith("linux") or shutil.which("mount") is None:
        pytest.skip("there is no tmpfs here")


def fill(disk: Path, left: int) -> Path:
    """Fill a disk but for some bytes; return the file that does."""
    filler = disk / "filler"
    room = shutil.disk_usage(disk).free - left
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, room)
    return filler
