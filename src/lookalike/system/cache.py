"""The cache folder, and seals: checksums at the end of files that reveal damage.

Files in the folder are trusted, so it is for one person, or for people who trust each other.
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
_SEAL = struct.Struct("<16s16sQ8s")  # hash of sample blocks, hash of all, length, mark
_MARK = b"lookseal"
_FULL_CHECK_BYTES = 2**20  # smaller files are checked completely whenever they are mapped
_SAMPLE_BLOCKS = 16  # checked in larger files, evenly spaced
_BLOCK_BYTES = 4096  # the unit that a disk loses


def cache_folder() -> Path:
    """Return `LOOKALIKE_CACHE`, or the cache folder of the platform. It may not exist yet."""
    chosen = os.environ.get("LOOKALIKE_CACHE")
    return _absolute_once(chosen) if chosen else user_cache_path("lookalike")


@functools.cache  # stays the same if this process changes its folder
def _absolute_once(chosen: str) -> Path:
    return Path(chosen).absolute()


@contextmanager
def ignore_cache_errors() -> Iterator[None]:
    """Turn an `OSError` of the cache folder into one warning: results do not depend on it."""
    try:
        yield
    except OSError as error:
        warn_cache_unusable(error)


_warned_folders: set[str] = set()


def warn_cache_unusable(error: OSError) -> None:
    """Log a warning, once per process, that the cache folder is unusable, with the reason.

    On Spark only the first task of a job warns, on stderr too: workers have no logging handlers.
    """
    folder = str(cache_folder())
    pyspark = sys.modules.get("pyspark")
    task = pyspark.TaskContext.get() if pyspark else None
    if (
        error.errno == errno.ENOENT
        or folder in _warned_folders
        or (task and task.partitionId() != 0)
    ):
        return
    _warned_folders.add(folder)
    why = (
        f"the cache {folder} cannot be used ({one_line(error)}), so its files are computed again "
        "each time: set LOOKALIKE_CACHE to a writable folder with free space"
    )
    logger.warning(why)
    if task:
        sys.stderr.write(f"warning: {why}\n")


def seal(file: Path) -> None:
    """Append a seal to a file."""
    with file.open("r+b") as opened:
        whole = hashlib.file_digest(opened, _hash).digest()
        size = opened.seek(0, os.SEEK_END)
        sample = _hash()
        for start, length in _samples(size):
            opened.seek(start)
            sample.update(opened.read(length))
        opened.seek(0, os.SEEK_END)
        opened.write(_SEAL.pack(sample.digest(), whole, size, _MARK))


def map_sealed(file: Path, *, check_all: bool = False) -> pa.Buffer:
    """Map the content of a sealed file.

    In files over a megabyte only some blocks are checked, unless `check_all` is set. Raises
    `OSError`, or `ValueError` if the file has no seal or is damaged.
    """
    # Maps of Arrow keep no file open, unlike those of NumPy: an index may have thousands.
    with pa.memory_map(str(file)) as mapped:
        content = mapped.read_buffer()
    return unseal(content, file.name, check_all=check_all)


def unseal(content: pa.Buffer, name: str, *, check_all: bool = False) -> pa.Buffer:
    """Return the content before the seal. Raises `ValueError` with `name` if it is damaged."""
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
    if found.digest() != sample or (check_all and _hash(view[:size]).digest() != whole):
        raise ValueError(f"{name} is not what was written")
    return content.slice(0, size)


def _samples(size: int) -> list[tuple[int, int]]:
    if size <= _FULL_CHECK_BYTES:
        return [(0, size)]
    last = size - _BLOCK_BYTES
    return [
        (last * number // (_SAMPLE_BLOCKS - 1), _BLOCK_BYTES) for number in range(_SAMPLE_BLOCKS)
    ]


def _hash(content: bytes | memoryview = b"") -> "hashlib.blake2b":
    return hashlib.blake2b(content, digest_size=16)
