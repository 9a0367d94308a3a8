"""Small pictures of indexed images: made when they are first asked for, kept within a cap."""

import contextlib
import os
import threading
import time
from pathlib import Path

import pyarrow as pa

from lookalike.images import IsolatedDecoder
from lookalike.images.inputs.reader import content_hash
from lookalike.server.snapshot import Shelf
from lookalike.system.cache import cache_folder, keeping, opened_seal
from lookalike.system.files import new_file

CAP = 2 * 2**30
"""Bytes on the disk: some 150,000 pictures of 320 pixels."""
_LEFT = 0.9  # of the cap is left once it is reached
_RECENT = 3600  # seconds in which a picture counts as used once


class Thumbnails:
    """Makes JPEGs of images and keeps them in a folder, those used last.

    A picture is named by the hash of the content it was made of, so that it serves every index that
    has the image, and is never out of date. Several servers may share the folder.
    """

    def __init__(
        self, decoder: IsolatedDecoder, cap: int = CAP, folder: Path | None = None
    ) -> None:
        self._decoder, self._cap = decoder, cap
        self._folder = folder or cache_folder() / "thumbnails"
        self._lock = threading.Lock()
        self._bytes: int | None = None  # on the disk, counted when the first one is written
        self.kept = self.made = 0
        """Pictures that were found in the folder, and that were made."""

    def find(self, shelf: Shelf, row: int, side: int) -> bytes | None:
        """Return a JPEG that was made before, if it is still kept."""
        if not (named := shelf.content_hash(row)):
            return None
        file = self._file(named, side)
        try:
            jpeg = opened_seal(pa.py_buffer(file.read_bytes()), file.name, all_of_it=True)
        except (OSError, ValueError):  # none, or not all of it was on the disk before a power cut
            return None
        self.kept += 1
        with contextlib.suppress(OSError):
            if time.time() - file.stat().st_mtime > _RECENT:
                os.utime(file)
        return bytes(jpeg)

    def make(self, shelf: Shelf, row: int, side: int) -> tuple[bytes, bool]:
        """Return a JPEG of at most `side` pixels, and whether it shows what was indexed.

        Raises `ImageError` where the image is gone or is none any more.
        """
        named = shelf.content_hash(row)
        data = shelf.read(row)
        jpeg = self._decoder.thumbnail(data, side)
        self.made += 1
        same = content_hash(data) == named
        if same and self._cap:
            file = self._file(named, side)
            with keeping():
                file.parent.mkdir(parents=True, exist_ok=True)
                with new_file(file, sealed=True, lasting=False) as part:
                    part.write_bytes(jpeg)
                self._count(file.stat().st_size)
        return jpeg, same

    def _file(self, named: str, side: int) -> Path:
        return self._folder / named[:2] / f"{named}-{side}.jpg"

    @property
    def size(self) -> int:
        """Bytes on the disk, as far as this process knows."""
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
                    if self._bytes <= _LEFT * self._cap:
                        break
                    file.unlink(missing_ok=True)
                    self._bytes -= size
