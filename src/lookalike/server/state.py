"""The state that all routes share: the index, thread pools, decoder processes, metrics."""

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from fastapi import HTTPException, Request
from PIL import Image
from starlette.requests import ClientDisconnect

from lookalike.analysis.groups import Groups, Kind
from lookalike.images import IsolatedDecoder
from lookalike.search.query import make_embedder
from lookalike.server.aside import AsideFolder
from lookalike.server.groups import GroupsCache
from lookalike.server.maps import MapCache
from lookalike.server.metrics import Metrics
from lookalike.server.parts import PartVectors
from lookalike.server.refresher import Refresher
from lookalike.server.snapshot import Snapshot
from lookalike.server.thumbnails import Thumbnails
from lookalike.server.uploads import Limits, Uploads
from lookalike.storage import EmbeddingTable
from lookalike.system.resources import cores

THUMBNAIL_TIMEOUT_SECONDS = 20.0
"""Longest time to read a photo and make its thumbnail."""
_DECODE_TIMEOUT_SECONDS = 15.0  # part of it, for decoding
T = TypeVar("T")


@dataclass(frozen=True)
class Access:
    """What a server does beyond searching."""

    originals: bool = False
    """Give out the files of images as they are, with their metadata."""
    changes: bool = False
    """Set images aside, and put them back."""
    aside: Path | None = None
    """The folder for them; by default beside the index, `NAME.aside`."""

    def below(self, name: str) -> "Access":
        """Return this for one of several indexes: what it sets aside goes below its name."""
        return replace(self, aside=self.aside and self.aside / name)


class Service:
    """A served index with its caches, pools and metrics."""

    def __init__(self, table: EmbeddingTable, limits: Limits, cap: int, access: Access) -> None:
        self.access = access
        self.refresher = Refresher(table)
        self.metrics = Metrics()
        self.uploads = Uploads(limits, cores(), self.metrics.batches)
        self.decoder = IsolatedDecoder(_DECODE_TIMEOUT_SECONDS, truncated=True)
        self.thumbnails = Thumbnails(self.decoder, cap)
        self.maps = MapCache()
        self.parts = PartVectors()
        self.groups = GroupsCache()
        self.aside = AsideFolder(access.aside or _beside(table.path), access.changes)
        self._searching = ThreadPoolExecutor(cores(), "search")
        self._drawing = ThreadPoolExecutor(cores(), "thumbnails")
        self._mapping = ThreadPoolExecutor(1, "map")
        self._thumbnail_slots = asyncio.Semaphore(cores())
        gauge = self.metrics.gauge
        gauge("images", "Images in the index.").set_function(lambda: self.snapshot.count)
        gauge("version", "Version of the index.").set_function(lambda: self.snapshot.version)
        gauge("uploads", "Uploads in progress.").set_function(lambda: self.uploads.in_progress)
        gauge("thumbnails_made", "Thumbnails made.").set_function(lambda: self.thumbnails.made)
        gauge("thumbnails_kept", "Thumbnails found in the cache.").set_function(
            lambda: self.thumbnails.hits
        )

    @property
    def snapshot(self) -> Snapshot:
        """The snapshot of the newest version."""
        return self.refresher.snapshot

    def row(self, snapshot: Snapshot, number: int | None) -> int:
        """Return the row of an id. Raises `HTTPException` if no image has it."""
        found = None if number is None else snapshot.find(number)
        if found is None:
            raise HTTPException(404, f"no image {number} in this index: it may have been removed")
        return found

    async def run(self, work: Callable[..., T], *given: Any) -> T:
        """Run a search, or work of that duration, in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._searching, work, *given)

    async def make_thumbnail(self, request: Request, work: Callable[..., T], *given: Any) -> T:
        """Make a thumbnail in a thread of its own pool.

        Raises `ClientDisconnect` if the client has gone, so that others need not wait, and
        `HTTPException` on a timeout: reads from a disconnected disk never end.
        """
        async with self._thumbnail_slots:
            if await request.is_disconnected():
                raise ClientDisconnect
            loop = asyncio.get_running_loop()
            try:
                async with asyncio.timeout(THUMBNAIL_TIMEOUT_SECONDS):
                    return await loop.run_in_executor(self._drawing, work, *given)
            except TimeoutError:
                raise HTTPException(
                    503, "the disk of the photos does not respond: check whether it is mounted"
                ) from None

    async def map(self) -> bytes | tuple[float, str]:
        """Return the map or its progress (`MapCache.get`), in a thread of its own."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._mapping, self.maps.get, self.snapshot)

    async def groups_of(self, snapshot: Snapshot, kind: Kind) -> Groups | tuple[float, str]:
        """Return groups or their progress (`GroupsCache.get`), in the thread of the map."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._mapping, self.groups.get, snapshot, kind)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the background tasks while the block runs."""
        warm = asyncio.create_task(self._warm())
        self.refresher.start()
        try:
            yield
        finally:
            self.refresher.stop()
            warm.cancel()
            self.uploads.close()
            self.maps.close()
            self.groups.close()
            self.decoder.close()
            for pool in (self._searching, self._drawing, self._mapping):
                pool.shutdown(wait=False, cancel_futures=True)

    async def _warm(self) -> None:
        """Compile the network and start decoder processes before the first upload."""
        blank = io.BytesIO()
        Image.new("RGB", (64, 64)).save(blank, "PNG")
        with suppress(Exception):  # the first upload reports the error
            await self.uploads.embed(blank.getvalue(), make_embedder(self.snapshot.table))


def _beside(index: Path) -> Path:
    """Return the folder beside an index for images that are set aside."""
    place = index.resolve()
    return place.with_name(f"{place.name}.aside")
