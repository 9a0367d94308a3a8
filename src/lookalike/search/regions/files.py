"""Read byte ranges of the files of regions: of a disk by `pread`, of a store through a cache.

Nothing is mapped, so that a limit of the address space holds too. What a disk gives stays in the
page cache of the system, which takes it back where memory is short. Pages of a store are kept in
memory, and on the disk beside the local copy within `LOOKALIKE_CACHE_SIZE`.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from lookalike.errors import LookalikeError, one_line
from lookalike.search.regions.layout import Layout, damaged_regions
from lookalike.storage.region_folders import REGIONS
from lookalike.storage.remote.cache_limit import make_room
from lookalike.storage.remote.copies import LocalCopy, copy_at
from lookalike.system.arrays import Numbers
from lookalike.system.files import new_file

MEMORY_BYTES = 2**28
"""Pages of a store in memory."""
PAGE_BYTES = 2**17
"""A page of a store: the vectors of a usual cell."""
_GAP_BYTES = 2**14  # between ranges of a disk that are read as one
_MAX_FILE_BYTES = 2**42  # so that places in different files are far from each other
_MOST_PAGES = 32  # in one request
_OPEN_FILES = 256
_REQUESTS = 32  # to a store at a time


class Range(NamedTuple):
    """Bytes of a file, by its number in the layout."""

    file: int
    start: int
    stop: int


class RegionFiles(Protocol):
    """Where the files of regions are read."""

    def read(self, files: Numbers, starts: Numbers, sizes: Numbers) -> list[memoryview]:
        """Return some ranges of bytes (n,); `LookalikeError` where they are not there."""

    def forget(self, files: Numbers, starts: Numbers, sizes: Numbers) -> bool:
        """Forget cached ranges that are damaged; return whether there can be better ones."""


def open_files(path: Path, layout: Layout) -> RegionFiles:
    """Return the files of a layout of the index at `path`."""
    copy = copy_at(path)
    return DiskFiles(path / REGIONS, layout) if copy is None else StoredFiles(copy, layout)


def merged(
    files: Numbers, starts: Numbers, sizes: Numbers, gap: int
) -> tuple[list[Range], Numbers]:
    """Merge ranges (n,) with small gaps; return them, and the merged one that each is in."""
    order = np.lexsort((starts, files))
    file, start = files[order], starts[order]
    stop = np.maximum.accumulate(start + sizes[order] + file * _MAX_FILE_BYTES)
    begins = np.ones(len(order), bool)
    begins[1:] = start[1:] + file[1:] * _MAX_FILE_BYTES - stop[:-1] > gap
    first = np.flatnonzero(begins)
    last = np.append(first[1:], len(order)) - 1
    where = np.empty(len(order), np.int64)
    where[order] = np.cumsum(begins) - 1
    ends = stop[last] - file[last] * _MAX_FILE_BYTES
    each = zip(file[first].tolist(), start[first].tolist(), ends.tolist(), strict=True)
    return [Range(*one) for one in each], where


class DiskFiles:
    """The files on a disk."""

    def __init__(self, root: Path, layout: Layout) -> None:
        self._root, self._layout = root, layout
        self._open: dict[int, int] = {}
        self._lock = threading.Lock()

    def __del__(self) -> None:
        for opened in self._open.values():
            with suppress(OSError):
                os.close(opened)

    def read(self, files: Numbers, starts: Numbers, sizes: Numbers) -> list[memoryview]:
        """Return some ranges of bytes. The system reads all at once."""
        ranges, where = merged(files, starts, sizes, _GAP_BYTES)
        opened = {file: self._file(file) for file in dict.fromkeys(one.file for one in ranges)}
        try:
            if len(ranges) > 1 and hasattr(os, "posix_fadvise"):
                for file, start, stop in ranges:
                    length = stop - start
                    os.posix_fadvise(opened[file], start, length, os.POSIX_FADV_WILLNEED)
            contents = [
                memoryview(os.pread(opened[file], stop - start, start))
                for file, start, stop in ranges
            ]
        except OSError as error:
            raise LookalikeError(
                f"the regions in {self._root} cannot be read ({one_line(error)}): see to the disk"
            ) from None
        finally:
            for file, descriptor in opened.items():
                if file not in self._open:
                    os.close(descriptor)
        return _cut(contents, ranges, where, starts, sizes)

    def _file(self, number: int) -> int:
        """Return an open file of the expected size."""
        with self._lock:
            if number in self._open:
                return self._open[number]
            file = self._root / self._layout.names[number]
            try:
                opened = os.open(file, os.O_RDONLY)
            except FileNotFoundError:
                raise damaged_regions(self._root, f"{file.name} is missing") from None
            except OSError as error:
                raise LookalikeError(f"{file} cannot be read ({one_line(error)})") from None
            if os.fstat(opened).st_size != self._layout.file_bytes[number]:
                os.close(opened)
                raise damaged_regions(self._root, f"{file.name} is cut short or grown")
            if len(self._open) < _OPEN_FILES:
                self._open[number] = opened
            return opened

    def forget(self, files: Numbers, starts: Numbers, sizes: Numbers) -> bool:
        """A disk has what it has."""
        return False


class StoredFiles:
    """The files in a store, in pages that are kept in memory and on the disk."""

    def __init__(self, copy: LocalCopy, layout: Layout, memory: int = MEMORY_BYTES) -> None:
        self._copy, self._layout = copy, layout
        self._pages: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._held, self._memory = 0, memory
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(_REQUESTS, "regions")

    def __del__(self) -> None:
        self._pool.shutdown(wait=False)

    def read(self, files: Numbers, starts: Numbers, sizes: Numbers) -> list[memoryview]:
        """Return some ranges of bytes. Pages that are not there are fetched at once."""
        firsts, lasts = starts // PAGE_BYTES, (starts + np.maximum(sizes, 1) - 1) // PAGE_BYTES
        wanted = dict.fromkeys(
            (file, page)
            for file, first, last in zip(
                files.tolist(), firsts.tolist(), lasts.tolist(), strict=True
            )
            for page in range(first, last + 1)
        )
        found: dict[tuple[int, int], bytes] = {}
        with self._lock:
            for key in wanted:
                if key in self._pages:
                    self._pages.move_to_end(key)
                    found[key] = self._pages[key]
        missing = sorted(key for key in wanted if key not in found)
        runs: list[list[tuple[int, int]]] = []
        for key in missing:
            last = runs[-1][-1] if runs else (-1, -1)
            near = key[0] == last[0] and key[1] == last[1] + 1
            if near and len(runs[-1]) < _MOST_PAGES:
                runs[-1].append(key)
            else:
                runs.append([key])
        for pages in self._pool.map(self._fetch, runs) if runs else ():
            found |= pages
        self._keep({key: found[key] for key in missing})
        contents = []
        for file, start, size in zip(files.tolist(), starts.tolist(), sizes.tolist(), strict=True):
            first, last = start // PAGE_BYTES, (start + max(size, 1) - 1) // PAGE_BYTES
            parts = [found[file, page] for page in range(first, last + 1)]
            whole = memoryview(parts[0] if len(parts) == 1 else b"".join(parts))
            begin = start - first * PAGE_BYTES
            contents.append(whole[begin : begin + size])
        return contents

    def _fetch(self, run: list[tuple[int, int]]) -> dict[tuple[int, int], bytes]:
        """Return pages that follow each other, of the disk or the store."""
        found: dict[tuple[int, int], bytes] = {}
        left = []
        for key in run:
            page = self._of_disk(key)
            if page is None:
                left.append(key)
            else:
                found[key] = page
        if not left:
            return found
        file, first, last = left[0][0], left[0][1], left[-1][1]
        name = f"{REGIONS}/{self._layout.names[file]}"
        stop = min((last + 1) * PAGE_BYTES, int(self._layout.file_bytes[file]))
        try:
            content = self._copy.store.get_range(name, first * PAGE_BYTES, stop)
        except FileNotFoundError:
            raise damaged_regions(self._copy.folder, f"{name} is missing") from None
        if len(content) != stop - first * PAGE_BYTES:
            raise damaged_regions(self._copy.folder, f"{name} is cut short")
        for key in left:
            begin = (key[1] - first) * PAGE_BYTES
            found[key] = content[begin : begin + PAGE_BYTES]
            self._to_disk(key, found[key])
        return found

    def _place(self, key: tuple[int, int]) -> Path:
        stem = Path(self._layout.names[key[0]]).stem
        return self._copy.folder.parent / "pages" / stem / str(key[1])

    def _of_disk(self, key: tuple[int, int]) -> bytes | None:
        with suppress(OSError):
            place = self._place(key)
            content = place.read_bytes()
            os.utime(place)
            left = int(self._layout.file_bytes[key[0]]) - key[1] * PAGE_BYTES
            return content if len(content) == min(left, PAGE_BYTES) else None
        return None

    def _to_disk(self, key: tuple[int, int], page: bytes) -> None:
        with suppress(OSError):  # it is fetched again
            make_room()
            place = self._place(key)
            place.parent.mkdir(parents=True, exist_ok=True)
            with new_file(place, lasting=False) as part:
                part.write_bytes(page)

    def _keep(self, pages: dict[tuple[int, int], bytes]) -> None:
        with self._lock:
            for key, page in pages.items():
                if key not in self._pages:
                    self._pages[key] = page
                    self._held += len(page)
            while self._held > self._memory and self._pages:
                self._held -= len(self._pages.popitem(last=False)[1])

    def forget(self, files: Numbers, starts: Numbers, sizes: Numbers) -> bool:
        """Forget pages whose copy on the disk may be damaged."""
        for file, start, size in zip(files.tolist(), starts.tolist(), sizes.tolist(), strict=True):
            for page in range(start // PAGE_BYTES, (start + size) // PAGE_BYTES + 1):
                with self._lock:
                    content = self._pages.pop((file, page), b"")
                    self._held -= len(content)
                with suppress(OSError):
                    self._place((file, page)).unlink(missing_ok=True)
        return True


def _cut(
    contents: Sequence[memoryview],
    ranges: Sequence[Range],
    where: Numbers,
    starts: Numbers,
    sizes: Numbers,
) -> list[memoryview]:
    """Return each range out of the merged one that it is in."""
    found = []
    for at, start, size in zip(where.tolist(), starts.tolist(), sizes.tolist(), strict=True):
        begin = start - ranges[at].start
        found.append(contents[at][begin : begin + size])
    return found
