"""Uploaded images: received within limits, embedded in batches, kept for a while."""

import asyncio
import re
import secrets
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from fastapi import HTTPException, Request
from prometheus_client import Histogram
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.requests import ClientDisconnect

from lookalike.errors import ImageError, LookalikeError
from lookalike.images import IsolatedDecoder
from lookalike.models.embedder import NO_DIRECTION, ImageEmbedder, have_direction
from lookalike.server.refresher import log
from lookalike.system.arrays import Vectors

MAX_REMEMBERED_UPLOADS = 500
"""Uploads whose vectors and thumbnails are kept in memory, about 50 MB."""
THUMBNAIL_SIDE = 640
"""Longer side of these thumbnails, in pixels."""
_MAX_CONCURRENT_UPLOADS = 64
_MAX_CONCURRENT_BYTES = 256 * 2**20  # of all concurrent uploads
_MAX_FORM_FIELDS, _MAX_FIELD_BYTES = 8, 4096  # of a form without its file; ignored
_BOUNDARY = re.compile(r'boundary=("[^"]*"|[^;\s]+)', re.IGNORECASE)


@dataclass(frozen=True)
class Limits:
    """Limits of an upload: its size in bytes and in pixels."""

    bytes: int = 20_000_000
    pixels: int = 100_000_000
    seconds: float = 20.0
    """Longest time to receive an upload, and again to decode it."""


_Waiting: TypeAlias = tuple[ImageEmbedder, npt.NDArray[np.uint8], "asyncio.Future[Vectors]"]


@dataclass(frozen=True)
class RememberedUpload:
    """An upload: its vector (width,), the fingerprint of the model, and its thumbnail."""

    vector: Vectors
    fingerprint: str
    picture: "asyncio.Future[bytes]"


class Uploads:
    """Embeds uploads, in batches of those that wait at the same time."""

    def __init__(self, limits: Limits, threads: int, batches: Histogram) -> None:
        self.limits = limits
        self._decoder = IsolatedDecoder(limits.seconds, limits.pixels)
        self._decoding = ThreadPoolExecutor(threads, "uploads")
        self._engine = ThreadPoolExecutor(1, "engine")
        self._waiting: deque[_Waiting] = deque()
        self._batches = batches
        self._worker: asyncio.Task[None] | None = None
        self._remembered: OrderedDict[str, RememberedUpload] = OrderedDict()
        self.in_progress = self._received_bytes = 0  # number of concurrent uploads, and their bytes

    @asynccontextmanager
    async def received(self, request: Request) -> AsyncIterator[bytes]:
        """Yield the image of a request: its body, or the file of a form.

        Raises `HTTPException` if it is too large, too slow or empty, or there are too many uploads.
        """
        if self.in_progress >= _MAX_CONCURRENT_UPLOADS:
            raise _busy()
        size = 0
        parts: list[bytes] = []
        self.in_progress += 1
        try:
            async for part in self._chunks(request):
                size += len(part)
                self._received_bytes += len(part)
                self._check(size)
                parts.append(part)
            data = b"".join(parts)
            parts.clear()  # frees as much memory again
            yield await _picture(request, data)
        finally:
            self.in_progress -= 1
            self._received_bytes -= size

    async def _chunks(self, request: Request) -> AsyncIterator[bytes]:
        announced = request.headers.get("content-length", "")
        self._check(int(announced) if announced.isdecimal() else 0)
        until = asyncio.get_running_loop().time() + self.limits.seconds
        parts = request.stream()
        try:
            while True:
                async with asyncio.timeout_at(until):
                    part = await anext(parts, None)
                if part is None:
                    return
                yield part
        except TimeoutError:
            raise HTTPException(
                408, f"not received within {self.limits.seconds:g} s: send a smaller image"
            ) from None
        except ClientDisconnect:
            raise HTTPException(400, "the client has disconnected") from None

    def _check(self, size: int) -> None:
        if size > self.limits.bytes:
            raise HTTPException(
                413, f"larger than {self.limits.bytes:,} bytes: send a smaller image"
            )
        if self._received_bytes > _MAX_CONCURRENT_BYTES:
            raise _busy()

    async def embed(self, data: bytes, embedder: ImageEmbedder) -> Vectors:
        """Return the vector (width,) of an image.

        Raises `HTTPException` if it cannot be decoded or embedded.
        """
        loop = asyncio.get_running_loop()
        try:
            pixels, _ = await loop.run_in_executor(
                self._decoding, self._decoder.decode_pixels, data, embedder.model.input
            )
        except ImageError as error:
            raise HTTPException(415, f"cannot search with this image: {error}") from None
        mine: asyncio.Future[Vectors] = loop.create_future()
        self._waiting.append((embedder, pixels, mine))
        if self._worker is None or self._worker.done():
            self._worker = loop.create_task(self._work())
        try:
            vector = await mine
        except LookalikeError as error:
            log.error("%s", error)  # it may name files: not for the response
            raise HTTPException(
                503, "the network does not run here: see the log of the server"
            ) from None
        if not have_direction(vector[None])[0]:
            raise HTTPException(415, f"cannot search with this image: {NO_DIRECTION}")
        return vector

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch = [self._waiting.popleft()]
            embedder = batch[0][0]
            try:
                # The first access compiles the network.
                batch_size = await loop.run_in_executor(self._engine, getattr, embedder, "batch")
                while self._waiting and len(batch) < batch_size:
                    # The index may have been replaced by one with another model.
                    if self._waiting[0][0].model != embedder.model:
                        break
                    batch.append(self._waiting.popleft())
                self._batches.observe(len(batch))
                pixels = np.stack([pixels for _, pixels, _ in batch])
                vectors = await loop.run_in_executor(self._engine, embedder.of_pixels, pixels)
            except Exception as error:
                for *_, waiting in batch:
                    if not waiting.done():
                        waiting.set_exception(error)
            else:
                for (*_, waiting), vector in zip(batch, vectors, strict=True):
                    if not waiting.done():
                        waiting.set_result(vector)

    def remember(self, data: bytes, vector: Vectors, fingerprint: str) -> str:
        """Keep the vector and a thumbnail of an upload; return their key."""
        key = secrets.token_urlsafe(16)
        picture = asyncio.get_running_loop().run_in_executor(
            self._decoding, self._decoder.thumbnail, data, THUMBNAIL_SIDE
        )
        picture.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._remembered[key] = RememberedUpload(vector, fingerprint, picture)
        while len(self._remembered) > MAX_REMEMBERED_UPLOADS:
            self._remembered.popitem(last=False)
        return key

    def get(self, key: str) -> RememberedUpload:
        """Return an upload by its key. Raises `HTTPException` if it is no longer kept."""
        found = self._remembered.get(key)
        if found is None:
            raise HTTPException(404, "this upload is no longer kept: send the image again")
        self._remembered.move_to_end(key)
        return found

    def close(self) -> None:
        """Stop the decoder processes and the thread pools."""
        self._decoder.close()
        for pool in (self._decoding, self._engine):
            pool.shutdown(wait=False, cancel_futures=True)


def _busy() -> HTTPException:
    return HTTPException(
        503, "too many uploads at once: try again in a second", {"Retry-After": "1"}
    )


async def _picture(request: Request, body: bytes) -> bytes:
    """Return the first file of a form, or a body that is no form."""
    kind = request.headers.get("content-type", "")
    if not kind.lower().startswith("multipart/form-data"):
        return _non_empty(body)
    # Drop the charset of the client: some codecs of Python take minutes, others fail.
    boundary = _BOUNDARY.search(kind)
    kind = f"multipart/form-data; {boundary[0]}" if boundary else "multipart/form-data"
    scope = {**request.scope, "headers": [(b"content-type", kind.encode("latin-1"))]}
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> dict[str, object]:
        return next(messages)

    try:
        async with Request(scope, receive).form(
            max_files=1, max_fields=_MAX_FORM_FIELDS, max_part_size=_MAX_FIELD_BYTES
        ) as form:
            files = [value for value in form.values() if not isinstance(value, str)]
            return _non_empty(await files[0].read() if files else b"")
    except AnyHTTPException as error:
        raise HTTPException(
            error.status_code, f"not a form with an image: {error.detail}"
        ) from None


def _non_empty(data: bytes) -> bytes:
    if not data:
        raise HTTPException(415, "no image: send its bytes, or one file in a form")
    return data
