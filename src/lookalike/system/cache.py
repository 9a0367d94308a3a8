"""The folder for what can be made again; files in it are sealed, so that damage shows.

Whoever can write into that folder is believed: it is for one person, or for people who trust each
other.
"""

import errno
import functools
import hashlib
import logging
import os
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
from platformdirs import user_cache_path

from lookalike.errors import one_line

logger = logging.getLogger(__name__)
_SEAL = struct.Struct("<16s16sQ8s")  # hash of samples, hash of all, length, mark
_MARK = b"lookseal"
_WHOLE = 2**20  # bytes up to which all of a file is compared with its seal when it is mapped
_SAMPLES = 16  # of a larger one, evenly from the first to the last
_BLOCK = 4096  # bytes of a sample: what a disk loses at a time


def cache_folder() -> Path:
    """Return `LOOKALIKE_CACHE`, or the platform's own place for caches. It may not exist yet."""
    chosen = os.environ.get("LOOKALIKE_CACHE")
    return _absolute(chosen) if chosen else user_cache_path("lookalike")


@functools.cache  # where it was seen first, wherever this process goes from there
def _absolute(chosen: str) -> Path:
    return Path(chosen).absolute()


@contextmanager
def keeping() -> Iterator[None]:
    """Let a cache folder that is full, shut or read-only cost time, not the result; say so once."""
    try:
        yield
    except OSError as error:
        say_why(error)


_said: set[str] = set()


def say_why(error: OSError) -> None:
    """Log a warning, once in a process, that nothing can be kept, or read, and why.

    Of Spark's tasks one in a job says it, for they may be thousands: on stderr too, since nobody
    sets up logging in a worker.
    """
    folder = str(cache_folder())
    pyspark = sys.modules.get("pyspark")
    task = pyspark.TaskContext.get() if pyspark else None
    if error.errno == errno.ENOENT or folder in _said or (task and task.partitionId() != 0):
        return
    _said.add(folder)
    why = (
        f"the cache {folder} cannot be used ({one_line(error)}), so that what it "
        "would keep is made again each time: set LOOKALIKE_CACHE to a folder that can be written "
        "to and has room"
    )
    logger.warning(why)
    if task:
        sys.stderr.write(f"warning: {why}\n")


def seal(file: Path) -> None:
    """Append to a file what tells whether it is whole."""
    with file.open("r+b") as opened:
        whole = hashlib.file_digest(opened, _hash).digest()
        size = opened.seek(0, os.SEEK_END)
        sample = _hash()
        for start, length in _samples(size):
            opened.seek(start)
            sample.update(opened.read(length))
        opened.seek(0, os.SEEK_END)
        opened.write(_SEAL.pack(sample.digest(), whole, size, _MARK))


def map_sealed(file: Path, *, all_of_it: bool = False) -> pa.Buffer:
    """Map what was in a file when it was sealed. Raises `OSError`, or `ValueError` if it is not.

    Of one of over a megabyte some blocks are looked at, or `all_of_it`.
    """
    # Unlike NumPy's, Arrow's maps keep no file open: an index may have thousands.
    with pa.memory_map(str(file)) as mapped:
        content = mapped.read_buffer()
    return opened_seal(content, file.name, all_of_it=all_of_it)


def opened_seal(content: pa.Buffer, name: str, *, all_of_it: bool = False) -> pa.Buffer:
    """Return what was sealed; `ValueError`, which names it, where it is not what it was."""
    size = content.size - _SEAL.size
    if size < 0:
        raise ValueError(f"{name} has no seal")
    sample, whole, sealed, mark = _SEAL.unpack(content.slice(size))
    if mark != _MARK or sealed != size:
        raise ValueError(f"{name} has no seal")
    found = _hash()
    view = memoryview(content)
    for start, length in _samples(size):
        found.update(view[start : start + length])
    if found.digest() != sample or (all_of_it and _hash(view[:size]).digest() != whole):
        raise ValueError(f"{name} is not what was written")
    return content.slice(0, size)


def _samples(size: int) -> list[tuple[int, int]]:
    if size <= _WHOLE:
        return [(0, size)]
    last = size - _BLOCK
    return [(last * number // (_SAMPLES - 1), _BLOCK) for number in range(_SAMPLES)]


def _hash(content: bytes | memoryview = b"") -> "hashlib.blake2b":
    return hashlib.blake2b(content, digest_size=16)
