"""Open files by path or by URI, on local disks and on what pyarrow reaches."""

import os
import re
from typing import TYPE_CHECKING, cast
from urllib.parse import quote

from lookalike.errors import ImageError

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow import fs


def open_file(place: str) -> "pa.NativeFile":
    """Open a path, or a URI as Spark writes it, without percent-encoding.

    Raises `ImageError` unless it is a regular file, `OSError` and others if it cannot be opened.
    """
    from pyarrow import fs

    filesystem, path = _filesystem(place)
    # Before opening: opening a named pipe blocks.
    local = isinstance(filesystem, fs.LocalFileSystem)
    if local and os.path.exists(path) and not os.path.isfile(path):
        raise ImageError("not a regular file")
    return filesystem.open_input_file(path)


def size_and_time(place: str) -> tuple[int | None, int | None]:
    """Return a file's size in bytes and its time of change in nanoseconds since 1970.

    Times are rounded down to milliseconds, as on Hadoop's file systems.
    """
    filesystem, path = _filesystem(place)
    about = filesystem.get_file_info(path)
    changed = about.mtime_ns
    return about.size, changed and changed // 1_000_000 * 1_000_000


def _filesystem(place: str) -> "tuple[fs.FileSystem, str]":
    from pyarrow import fs

    scheme, colon, path = place.partition(":/")
    if not colon or scheme == "file":
        return fs.LocalFileSystem(), f"/{path.lstrip('/')}" if colon else place
    uri = f"{re.sub('^s3[an]$', 's3', scheme)}:/{quote(path, safe='/:@')}"
    return cast("tuple[fs.FileSystem, str]", fs.FileSystem.from_uri(uri))
