"""Thumbnails of indexed images: made on the first request, cached up to a size limit."""

import contextlib
import os
import threading
import time
from pathlib import Path

import pyarrow as pa

from lookalike.images import IsolatedDecoder
from lookalike.images.inputs.reader import content_hash
from lookalike.rendering import name_jpeg
from lookalike.server.snapshot import Snapshot
from lookalike.system.cache import cache_folder, ignore_cache_errors, unseal
from lookalike.system.files import new_file

MAX_CACHE_BYTES = 2 * 2**30
"""Room for about 150,000 thumbnails of 320 pixels."""
_FILL_AFTER_CLEANUP = 0.9  # share of the limit to keep when it is reached
_RECENT_SECONDS = 3600  # access times are updated once in this time


class Thumbnails:
    """Makes thumbnails (JPEG) and caches the most recently used ones in a folder.

    The name of a thumbnail is the content hash of its image: it is valid for every index with that
    image and never outdated. Several servers can share the folder.
    """

    def __init__(
        self, decoder: IsolatedDecoder, cap: int = MAX_CACHE_BYTES, folder: Path | None = None
    ) -> None:
        self._decoder, self._cap = decoder, cap
        self._folder = folder or cache_folder() / "thumbnails"
        self._lock = threading.Lock()
        self._bytes: int | None = None  # on the disk, counted when the first one is written
        self.hits = self.made = 0
        """Number of thumbnails found in the cache, and of those made."""

    def find(self, snapshot: Snapshot, row: int, side: int) -> bytes | None:
        """Return the cached JPEG of a row, None if there is none."""
        if snapshot.table.own is not None or not (named := snapshot.content_hash(row)):
            return None
        file = self._file(named, side)
        try:
            jpeg = unseal(pa.py_buffer(file.read_bytes()), file.name, check_all=True)
        except (OSError, ValueError):  # missing, or incomplete after a power cut
            return None
        self.hits += 1
        with contextlib.suppress(OSError):
            if time.time() - file.stat().st_mtime > _RECENT_SECONDS:
                os.utime(file)
        return bytes(jpeg)

    def make(self, snapshot: Snapshot, row: int, side: int) -> tuple[bytes, bool]:
        """Return a JPEG of at most `side` pixels, and whether the file is unchanged since indexing.

        Raises `ImageError` if the image is gone or cannot be decoded.
        """
        if not snapshot.table.has_pictures:  # named by its vector, which other rows may have too
            return name_jpeg(snapshot.image(row)["name"]), False
        named = snapshot.content_hash(row)
        data = snapshot.read(row)
        jpeg = self._decoder.thumbnail(data, side)
        self.made += 1
        same = content_hash(data) == named
        if same and self._cap:
            file = self._file(named, side)
            with ignore_cache_errors():
                file.parent.mkdir(parents=True, exist_ok=True)
                with new_file(file, sealed=True, lasting=False) as part:
                    part.write_bytes(jpeg)
                self._count(file.stat().st_size)
        return jpeg, same

    def _file(self, named: str, side: int) -> Path:
        return self._folder / named[:2] / f"{named}-{side}.jpg"

    @property
    def size(self) -> int:
        """Size of the cache in bytes, as far as this process knows."""
        return self._bytes or 0

    def _count(self, more: int) -> None:
        with self._lock:
            if self._bytes is not None and self._bytes + more <= self._cap:
                self._bytes += more
                return
            files = []
            for file in self._folder.glob("*/*.jpg"):
                with contextlib.suppress(OSError):  # another server has deleted it
                    status = file.stat()
                    files.append((status.st_mtime, status.st_size, file))
            self._bytes = sum(size for _, size, _ in files)
            if self._bytes > self._cap:
                for _, size, file in sorted(files):
                    if self._bytes <= _FILL_AFTER_CLEANUP * self._cap:
                        break
                    file.unlink(missing_ok=True)
                    self._bytes -= size
