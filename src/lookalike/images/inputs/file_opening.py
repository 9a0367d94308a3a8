"""Open files by path or by URI, on local disks and in stores."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from lookalike.errors import ImageError, one_line
from lookalike.images.decoding.raster import MAX_BYTES, read_file
from lookalike.system.store import ObjectTooLarge, Store, open_object
from lookalike.system.uris import is_uri, split_uri

if TYPE_CHECKING:
    import pyarrow as pa

_MS_NS = 1_000_000


def open_file(place: str) -> "pa.NativeFile":
    """Open a path, or a URI as Spark writes it, without percent-encoding.

    Raises `ImageError` unless it is a regular file, `OSError` or `StoreError` if it cannot be
    opened.
    """
    from pyarrow import fs

    local = _local_path(place)
    if local is None:
        store, name = open_object(place)
        return store.open(name)
    # Before opening: opening a named pipe blocks.
    if os.path.exists(local) and not os.path.isfile(local):
        raise ImageError("not a regular file")
    return fs.LocalFileSystem().open_input_file(local)


def size_and_time(place: str) -> tuple[int | None, int | None]:
    """Return a file's size in bytes and its time of change in nanoseconds since 1970.

    Times are rounded down to milliseconds, as on Hadoop's file systems.
    """
    local = _local_path(place)
    if local is None:
        store, name = open_object(place)
        about = store.head(name)
        return about.size, about.modified
    with suppress(FileNotFoundError):
        status = os.stat(local)
        return status.st_size, status.st_mtime_ns // _MS_NS * _MS_NS
    return None, None


def read_whole(place: str) -> bytes:
    """Return the content of a path or URI.

    Raises `ImageError` if there is none, or it is larger than `MAX_BYTES`; `StoreError` if its
    store fails.
    """
    local = _local_path(place)
    if local is not None:
        return read_file(local)
    store, name = open_object(place)
    return read_object(store, name)


def read_part(place: str, start: int, end: int) -> bytes:
    """Return the bytes of a path or URI from `start` to `end`, fewer if it ends before.

    Errors are those of `read_whole`.
    """
    local = _local_path(place)
    with reasons_of_objects():
        if local is None:
            store, name = open_object(place)
            return store.get_range(name, start, end)
        with open(local, "rb", buffering=0) as file:
            file.seek(start)
            return file.read(end - start)


def read_object(store: Store, name: str) -> bytes:
    """Return the content of an object as `read_whole` does."""
    with reasons_of_objects():
        return store.get(name, at_most=MAX_BYTES)


@contextmanager
def reasons_of_objects() -> Iterator[None]:
    """Make errors about an object in the block an `ImageError`: it has vanished, it is shut."""
    try:
        yield
    except ObjectTooLarge as error:
        raise ImageError(f"file of {error.size:,} bytes, over the limit") from None
    except FileNotFoundError:
        raise ImageError("no such file") from None
    except OSError as error:
        raise ImageError(f"unreadable: {one_line(error)}") from None


def _local_path(place: str) -> str | None:
    """Return the local path of a path or a URI; None for a store."""
    if not is_uri(place):
        return place
    scheme, host, path = split_uri(place)
    if scheme != "file":
        return None
    if host:
        raise ImageError(f"unreadable: {place} names a host")
    return path
