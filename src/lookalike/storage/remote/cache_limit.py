"""Bound what the cache holds of indexes in stores: the files used longest ago go first."""

import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from lookalike.errors import LookalikeError
from lookalike.system.cache import cache_folder

SIZE_VARIABLE = "LOOKALIKE_CACHE_SIZE"
DEFAULT_CACHE_BYTES = 20 * 10**9
_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?b?)\s*", re.IGNORECASE)
MIN_UNUSED_SECONDS = 60
"""Files that were used later stay: a process may be about to read them."""
_CALLS_BETWEEN_LOOKS = 16  # a look costs a `stat` of each file
USED = "used"
"""The file in a cache folder of a data file in a store: its time is when it was mapped."""

_lock = threading.Lock()
_calls = 0


def cache_bytes() -> int:
    """Return `LOOKALIKE_CACHE_SIZE` in bytes, such as "500 MB"; 20 GB by default.

    Raises `LookalikeError` where it is no size.
    """
    given = os.environ.get(SIZE_VARIABLE)
    if not given:
        return DEFAULT_CACHE_BYTES
    match = _SIZE.fullmatch(given)
    if match is None:
        raise LookalikeError(f"{SIZE_VARIABLE} is {given!r}: give a size such as 500 MB or 20 GB")
    unit = match[2].lower()
    return int(float(match[1]) * _UNITS[unit if unit in _UNITS else f"{unit}b"])


def make_room() -> None:
    """Delete what was used longest ago, now and then, where the cache holds more than it may."""
    global _calls
    limit = cache_bytes()
    with _lock:
        _calls += 1
        if _calls % _CALLS_BETWEEN_LOOKS == 1:
            shrink(limit)


def shrink(limit: int) -> int:
    """Delete what was used longest ago until at most `limit` bytes are left; return these."""
    found = sorted(_entries())
    total = sum(size for *_, size, _ in found)
    latest = time.time() - MIN_UNUSED_SECONDS
    for _, used, size, path in found:
        if total <= limit:
            break
        if used < latest:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
            total -= size
    return total


def _entries() -> Iterator[tuple[int, float, int, Path]]:
    """Yield order of deletion, time of last use, size in bytes and path of what may be deleted.

    Data files go before the arrays that were made of them, which search maps.
    """
    root = cache_folder()
    for pattern in ("*/data/*/*.parquet", "*/rows/data/*/*.parquet", "_work/*/*", "pages/*/*"):
        for file in root.glob(f"stores/*/{pattern}"):
            with suppress(OSError):
                status = file.stat()
                if not (file.parent / ".writing").exists():  # it may not be in the store yet
                    yield 0, status.st_mtime, status.st_size, file
    for mark in root.glob(f"segments/*/{USED}"):
        with suppress(OSError):
            sizes = [file.stat().st_size for file in mark.parent.iterdir()]
            yield 1, mark.stat().st_mtime, sum(sizes), mark.parent
