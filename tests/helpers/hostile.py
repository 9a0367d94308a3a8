"""Make decoders of other processes crash and hang, by a `sitecustomize` that they start with.

An image that ends in one of the marks still is an image: decoders do not look behind its end.
"""

import os
import time
from pathlib import Path

import pytest

CRASH, HANG, LEAVE = b"crash here", b"hang here", b"leave here"
CRASHES_WHEN_LARGE = (8000, 4001)
"""The size of a picture that crashes where large ones are decoded one at a time."""

_CUSTOM = f"""
import os, signal, sys, time
from importlib.machinery import PathFinder


def hostile(decoding):
    decode, upright = decoding.decode_pixels, decoding._load_rgb

    def decode_pixels(data, truncated=False, *others):
        if data.endswith({CRASH!r}):
            os.kill(os.getpid(), signal.SIGSEGV)
        if data.endswith({HANG!r}):
            time.sleep(600)
        if data.endswith({LEAVE!r}):
            os._exit(3)
        return decode(data, truncated, *others)

    def upright_or_crash(opened, truncated):
        if opened.size == {CRASHES_WHEN_LARGE}:
            os.kill(os.getpid(), signal.SIGSEGV)
        return upright(opened, truncated)

    decoding.decode_pixels, decoding._load_rgb = decode_pixels, upright_or_crash


def impatient(isolated):
    isolated.MAX_SECONDS = float(os.environ.get("TEST_SECONDS", isolated.MAX_SECONDS))


def poor(process):
    process.MAX_MEMORY_BYTES = int(os.environ.get("TEST_MEMORY", process.MAX_MEMORY_BYTES))


CHANGES = {{"raster": hostile, "sandbox": impatient, "_sandbox_worker": poor}}


class Finder:
    @staticmethod
    def find_spec(name, path, target=None):
        package, _, last = name.rpartition(".")
        if package != "lookalike.images.decoding" or last not in CHANGES:
            return None
        spec = PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module

        def exec_and_change(module):
            execute(module)
            CHANGES[last](module)

        spec.loader.exec_module = exec_and_change
        return spec


sys.meta_path.insert(0, Finder)
"""


def let_decoders_be_hostile(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let marks count in all processes that this one starts from now on, and in theirs."""
    (folder / "sitecustomize.py").write_text(_CUSTOM)
    known = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{known}" if known else str(folder))


def decoding_processes(parent: int) -> list[int]:
    """Return the processes of a parent that decode images."""
    if not Path("/proc/self/stat").exists():
        pytest.skip("nothing here says which processes run")
    return [pid for pid, of in _parents().items() if of == parent and is_decoding(pid)]


def is_decoding(pid: int) -> bool:
    """Say whether a process runs (and is not just a name waiting for its parent) and decodes."""
    try:
        return (
            b"lookalike.images.decoding._sandbox_worker"
            in Path(f"/proc/{pid}/cmdline").read_bytes()
        )
    except OSError:
        return False


def gone(pids: list[int], seconds: float = 10) -> bool:
    """Wait until none of these processes decodes; say whether that came to be."""
    until = time.monotonic() + seconds
    while any(map(is_decoding, pids)):
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def _parents() -> dict[int, int]:
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
        except OSError:  # it has just ended
            continue
        found[int(folder.name)] = int(parent)
    return found
