"""Pictures that people send: taken within limits, embedded together, remembered for a while."""

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

REMEMBERED = 500
"""Uploads whose vectors and small pictures are kept in memory, some 50 MB."""
PICTURE = 640  # pixels a side of those
_AT_ONCE = 64  # uploads on their way; who comes later is asked to try again
_HELD = 256 * 2**20  # bytes of them
_FIELDS, _FIELD = 8, 4096  # of a form, beside its file, and their bytes: nobody reads them
_BOUNDARY = re.compile(r'boundary=("[^"]*"|[^;\s]+)', re.IGNORECASE)


@dataclass(frozen=True)
class Limits:
    """What an upload may be."""

    bytes: int = 20_000_000
    pixels: int = 100_000_000
    seconds: float = 20.0
    """For it to arrive, and again for it to be decoded."""


_Waiting: TypeAlias = tuple[ImageEmbedder, npt.NDArray[np.uint8], "asyncio.Future[Vectors]"]


@dataclass(frozen=True)
class Remembered:
    """An upload: its vector (width,), of which model, and its small picture, soon to be there."""

    vector: Vectors
    fingerprint: str
    picture: "asyncio.Future[bytes]"


class Uploads:
    """Turns uploads into vectors. Those that wait at the same time share a batch."""

    def __init__(self, limits: Limits, threads: int, batches: Histogram) -> None:
        self.limits = limits
        self._decoder = IsolatedDecoder(limits.seconds, limits.pixels)
        self._decoding = ThreadPoolExecutor(threads, "uploads")
        self._engine = ThreadPoolExecutor(1, "engine")
        self._waiting: deque[_Waiting] = deque()
        self._batches = batches
        self._worker: asyncio.Task[None] | None = None
        self._remembered: OrderedDict[str, Remembered] = OrderedDict()
        self.on_their_way = self._held = 0  # uploads, and their bytes

    @asynccontextmanager
    async def received(self, request: Request) -> AsyncIterator[bytes]:
        """Give the picture in a request: its body, or the one file of a form.

        Raises `HTTPException` for what is too large, too slow, or none, and where too many come at
        once.
        """
        if self.on_their_way >= _AT_ONCE:
            raise _busy()
        size = 0
        parts: list[bytes] = []
        self.on_their_way += 1
        try:
            async for part in self._arriving(request):
                size += len(part)
                self._held += len(part)
                self._check(size)
                parts.append(part)
            data = b"".join(parts)
            parts.clear()  # which are as much again
            yield await _picture(request, data)
        finally:
            self.on_their_way -= 1
            self._held -= size

    async def _arriving(self, request: Request) -> AsyncIterator[bytes]:
        said = request.headers.get("content-length", "")
        self._check(int(said) if said.isdecimal() else 0)
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
                408, f"did not arrive within {self.limits.seconds:g} s: send it smaller"
            ) from None
        except ClientDisconnect:
            raise HTTPException(400, "the sender has gone") from None

    def _check(self, size: int) -> None:
        if size > self.limits.bytes:
            raise HTTPException(
                413, f"larger than {self.limits.bytes:,} bytes: send the picture smaller"
            )
        if self._held > _HELD:
            raise _busy()

    async def embed(self, data: bytes, embedder: ImageEmbedder) -> Vectors:
        """Return the vector (width,) of a picture.

        Raises `HTTPException` for what is none, and where the network does not run.
        """
        loop = asyncio.get_running_loop()
        try:
            pixels, _ = await loop.run_in_executor(
                self._decoding, self._decoder.decode_pixels, data
            )
        except ImageError as error:
            raise HTTPException(415, f"no picture to search with: {error}") from None
        mine: asyncio.Future[Vectors] = loop.create_future()
        self._waiting.append((embedder, pixels, mine))
        if self._worker is None or self._worker.done():
            self._worker = loop.create_task(self._work())
        try:
            vector = await mine
        except LookalikeError as error:
            log.error("%s", error)  # which may name files
            raise HTTPException(
                503, "the network does not run here: the log of the server says why"
            ) from None
        if not have_direction(vector[None])[0]:
            raise HTTPException(415, f"no picture to search with: {NO_DIRECTION}")
        return vector

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch = [self._waiting.popleft()]
            embedder = batch[0][0]
            try:
                # The first to ask for it waits until the network is compiled.
                most = await loop.run_in_executor(self._engine, getattr, embedder, "batch")
                while self._waiting and len(batch) < most:
                    # An index may be made again with another model while uploads wait.
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
        """Keep a vector and a small picture of an upload; return the key to them."""
        key = secrets.token_urlsafe(16)
        picture = asyncio.get_running_loop().run_in_executor(
            self._decoding, self._decoder.thumbnail, data, PICTURE
        )
        picture.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._remembered[key] = Remembered(vector, fingerprint, picture)
        while len(self._remembered) > REMEMBERED:
            self._remembered.popitem(last=False)
        return key

    def get(self, key: str) -> Remembered:
        """Return what is kept of an upload; `HTTPException` where it no longer is."""
        found = self._remembered.get(key)
        if found is None:
            raise HTTPException(404, "this upload is no longer remembered: send the picture again")
        self._remembered.move_to_end(key)
        return found

    def close(self) -> None:
        """End the processes that decode, and what waits for them."""
        self._decoder.close()
        for pool in (self._decoding, self._engine):
            pool.shutdown(wait=False, cancel_futures=True)


def _busy() -> HTTPException:
    return HTTPException(
        503, "too many uploads at once: try again in a second", {"Retry-After": "1"}
    )


async def _picture(request: Request, body: bytes) -> bytes:
    """Return the first file of a form that has arrived as a whole, or a body as it is."""
    kind = request.headers.get("content-type", "")
    if not kind.lower().startswith("multipart/form-data"):
        return _some(body)
    # Without a charset of the sender's choice: some of Python's take minutes, others fail.
    boundary = _BOUNDARY.search(kind)
    kind = f"multipart/form-data; {boundary[0]}" if boundary else "multipart/form-data"
    scope = {**request.scope, "headers": [(b"content-type", kind.encode("latin-1"))]}
    whole = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> dict[str, object]:
        return next(whole)

    try:
        async with Request(scope, receive).form(
            max_files=1, max_fields=_FIELDS, max_part_size=_FIELD
        ) as form:
            files = [value for value in form.values() if not isinstance(value, str)]
            return _some(await files[0].read() if files else b"")
    except AnyHTTPException as error:
        raise HTTPException(error.status_code, f"no form with a picture: {error.detail}") from None


def _some(data: bytes) -> bytes:
    if not data:
        raise HTTPException(415, "no picture: send its bytes, or one file in a form")
    return data
