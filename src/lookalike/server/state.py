"""What all routes share while the server runs: the index, pools of threads, processes, counts."""

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

from fastapi import HTTPException, Request
from PIL import Image
from starlette.requests import ClientDisconnect

from lookalike.images import IsolatedDecoder
from lookalike.search.query import make_embedder
from lookalike.server.maps import Maps
from lookalike.server.metrics import Metrics
from lookalike.server.refresher import Library
from lookalike.server.snapshot import Shelf
from lookalike.server.thumbnails import Thumbnails
from lookalike.server.uploads import Limits, Uploads
from lookalike.storage import EmbeddingTable
from lookalike.system.resources import cores

PHOTO_SECONDS = 20.0
"""For a photo to be read from its disk and made small."""
_THUMBNAIL_SECONDS = 15.0  # of those, to be decoded
T = TypeVar("T")


class Service:
    """A served index with all that its answers need."""

    def __init__(self, table: EmbeddingTable, limits: Limits, cap: int) -> None:
        self.library = Library(table)
        self.metrics = Metrics()
        self.uploads = Uploads(limits, cores(), self.metrics.batches)
        self._decoder = IsolatedDecoder(_THUMBNAIL_SECONDS, truncated=True)
        self.thumbnails = Thumbnails(self._decoder, cap)
        self.maps = Maps()
        self._searching = ThreadPoolExecutor(cores(), "search")
        self._drawing = ThreadPoolExecutor(cores(), "thumbnails")
        self._mapping = ThreadPoolExecutor(1, "map")
        self._turns = asyncio.Semaphore(cores())
        gauge = self.metrics.gauge
        gauge("images", "Images in the index.").set_function(lambda: len(self.shelf.rows))
        gauge("version", "Version of the index.").set_function(lambda: self.shelf.version)
        gauge("uploads", "Uploads on their way.").set_function(lambda: self.uploads.on_their_way)
        gauge("thumbnails_made", "Small pictures made.").set_function(lambda: self.thumbnails.made)
        gauge("thumbnails_kept", "Small pictures at hand.").set_function(
            lambda: self.thumbnails.kept
        )

    @property
    def shelf(self) -> Shelf:
        """The version that is newest now."""
        return self.library.shelf

    def row(self, shelf: Shelf, number: int) -> int:
        """Return the row of an id; `HTTPException` where no image has it."""
        found = shelf.find(number)
        if found is None:
            raise HTTPException(404, f"no image {number} in this index: it may have been removed")
        return found

    async def run(self, work: Callable[..., T], *given: Any) -> T:
        """Search, or do what takes as long, in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._searching, work, *given)

    async def draw(self, request: Request, work: Callable[..., T], *given: Any) -> T:
        """Make a small picture in a thread; searches do not wait for it.

        Whoever has scrolled past and gone keeps nobody waiting: `ClientDisconnect`. Nor does a disk
        that has gone, whose reads never end: `HTTPException`.
        """
        async with self._turns:
            if await request.is_disconnected():
                raise ClientDisconnect
            loop = asyncio.get_running_loop()
            try:
                async with asyncio.timeout(PHOTO_SECONDS):
                    return await loop.run_in_executor(self._drawing, work, *given)
            except TimeoutError:
                raise HTTPException(
                    503, "the photos' disk does not answer: see whether it is mounted"
                ) from None

    async def map(self) -> bytes | tuple[float, str]:
        """Return the map, or how far it is (`Maps.get`); it waits for no photo."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._mapping, self.maps.get, self.shelf)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep what runs beside the requests while the block does."""
        warm = asyncio.create_task(self._warm())
        self.library.start()
        try:
            yield
        finally:
            self.library.stop()
            warm.cancel()
            self.uploads.close()
            self.maps.close()
            self._decoder.close()
            for pool in (self._searching, self._drawing, self._mapping):
                pool.shutdown(wait=False, cancel_futures=True)

    async def _warm(self) -> None:
        """Have the network compiled and processes started before somebody waits for them."""
        blank = io.BytesIO()
        Image.new("RGB", (64, 64)).save(blank, "PNG")
        with suppress(Exception):  # whoever uploads something is told
            await self.uploads.embed(blank.getvalue(), make_embedder(self.shelf.table))
