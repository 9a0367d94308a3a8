"""The files of indexed images as they are: sent for download, never as something to be run."""

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote, unquote

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from lookalike.errors import ImageError
from lookalike.images.decoding.formats import ENDINGS, FIRST_BYTES, sniff
from lookalike.images.inputs.reader import content_hash
from lookalike.server.params import Id, error_responses
from lookalike.server.snapshot import Snapshot
from lookalike.server.state import Service

MAX_DOWNLOADS = 4
"""Originals that are sent at the same time: each is in memory as a whole."""
_CHUNK_BYTES = 2**16
_FILE: dict[str, Any] = {
    "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
}


def add_originals(app: FastAPI, service: Service) -> None:
    """Add the route of originals."""
    slots = asyncio.Semaphore(MAX_DOWNLOADS)

    @app.get(
        "/api/images/{id}/original",
        response_class=StreamingResponse,
        responses={200: _FILE, **error_responses(404, 503)},
    )
    async def original(request: Request, number: Id) -> StreamingResponse:
        """Return the file of an image as it was indexed, with its metadata, for download."""
        if not service.access.originals:
            raise HTTPException(
                403, "originals are not given out: start the server with `--originals`"
            )
        snapshot = service.snapshot
        row = service.row(snapshot, number)
        if slots.locked():
            raise HTTPException(
                503, "too many downloads at once: try again in a moment", {"Retry-After": "2"}
            )
        await slots.acquire()
        try:
            data, ending = await service.make_thumbnail(request, read_original, snapshot, row)
        except BaseException:
            slots.release()
            raise

        name = file_name(str(snapshot.image(row)["name"]), ending)
        headers = {
            "content-disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}",
            "content-length": str(len(data)),
            "content-encoding": "identity",  # nothing to gain from packing it
            "cache-control": "private, no-cache",
        }
        return _Download(data, headers, slots)


class _Download(StreamingResponse):
    """Sends bytes as fast as the client takes them, and then frees its slot."""

    def __init__(self, data: bytes, headers: dict[str, str], slots: asyncio.Semaphore) -> None:
        self._slots = slots
        super().__init__(_chunks(data), 200, headers, "application/octet-stream")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._slots.release()


async def _chunks(data: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(data), _CHUNK_BYTES):
        yield data[at : at + _CHUNK_BYTES]


def read_original(snapshot: Snapshot, row: int) -> tuple[bytes, str]:
    """Return the file of a row and an ending of its format.

    Raises `HTTPException` if it is gone, no longer the file that was indexed, or no image.
    """
    try:
        data = snapshot.read(row)
    except ImageError as error:
        raise HTTPException(404, f"this photo can no longer be read: {error}") from None
    if content_hash(data) != snapshot.content_hash(row):
        raise HTTPException(404, "this photo has changed since it was indexed: sync the index")
    kind = sniff(data[:FIRST_BYTES])
    if kind is None:
        raise HTTPException(404, "this file has no known image format")
    return data, ENDINGS[kind][0]


def file_name(name: str, ending: str) -> str:
    """Return the name under which a browser saves an image: it has an ending of an image.

    >>> file_name("a%20boat.jpg", ".jpg"), file_name("part-0.parquet#7", ".png")
    ('a boat.jpg', 'part-0.parquet-7.png')
    """
    plain = "".join(c if c.isprintable() and c not in '/\\#:*?"<>|' else "-" for c in unquote(name))
    known = {one for endings in ENDINGS.values() for one in endings}
    return plain if os.path.splitext(plain)[1].lower() in known else plain + ending
