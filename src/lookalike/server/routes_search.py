"""Routes to search: with an image of the index, an upload, or an earlier upload."""

import asyncio
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import Response

from lookalike.errors import ImageError, LookalikeError
from lookalike.rendering import name_jpeg
from lookalike.search.query import make_embedder, queries_of_texts
from lookalike.search.results import Query
from lookalike.server import schemas
from lookalike.server.params import (
    MAX_TEXT_CHARS,
    AllCopies,
    BoxText,
    ImageFilter,
    ImageId,
    K,
    Key,
    MinBand,
    UploadKey,
    Words,
    error_responses,
    within_of,
)
from lookalike.server.parts import Box, cut_out
from lookalike.server.snapshot import PICTURE_SIDES, Snapshot
from lookalike.server.state import Service
from lookalike.system.arrays import Vectors

_BODY = {"schema": {"type": "string", "format": "binary"}}
_FORM = {"schema": {"type": "object", "properties": {"image": _BODY["schema"]}}}
_PICTURE = {
    "requestBody": {
        "required": True,
        "description": "The bytes of an image, or a form with one file.",
        "content": {
            "image/*": _BODY,
            "application/octet-stream": _BODY,
            "multipart/form-data": _FORM,
            "application/json": {"schema": schemas.TextQuery.model_json_schema()},
        },
    }
}


def add_searches(app: FastAPI, service: Service) -> None:
    """Add the routes that search."""
    largest = within_of(service.snapshot.table.metric)

    async def respond(
        snapshot: Snapshot, query: Query, shown: dict[str, Any], *options: Any
    ) -> dict[str, Any]:
        found = await service.run(snapshot.search, query, *options)
        service.metrics.searches.labels(found["engine"]).observe(found["took_ms"] / 1000)
        return {"query": shown, **found}

    @app.get(
        "/api/search",
        response_model=schemas.SearchResponse,
        responses=error_responses(400, 404, 415, 503),
    )
    async def search(
        request: Request,
        chosen: ImageFilter,
        image: ImageId = None,
        key: Key = None,
        upload: UploadKey = None,
        text: Words = None,
        box: BoxText = None,
        k: K = 24,
        within: float | None = largest,
        min_band: MinBand = None,
        all_copies: AllCopies = True,
    ) -> Any:
        """Find the neighbours of an image of the index, an earlier upload, a part, or words."""
        if [image, key, upload, text].count(None) != 3:
            raise HTTPException(400, "give one of image=ID, key=KEY, upload=KEY and text=WORDS")
        snapshot = service.snapshot
        if text is not None:
            if box is not None:
                raise HTTPException(400, "a box is a part of a picture: give image=ID with it")
            shown, query = _text(text), await service.run(_query_of_text, snapshot, text)
        elif upload is None:
            row = service.row(snapshot, image) if key is None else _row_of_key(snapshot, key)
            shown, query = snapshot.image(row), snapshot.query(row)
        else:
            shown, query = _earlier_upload(service, snapshot, str(upload))
        if box is not None:
            part = Box.of(box)
            vector = await _vector_of_part(request, service, snapshot, shown, part)
            shown, query = {**shown, "box": list(part)}, replace(query, vector=vector)
        return await respond(snapshot, query, shown, k, chosen, within, min_band, all_copies)

    @app.get(
        "/api/words/picture",
        response_class=Response,
        responses={200: {"content": {"image/jpeg": {}}}},
    )
    async def picture_of_words(text: Words = "") -> Response:
        """Return a tile with words."""
        tile = await service.run(name_jpeg, text or "")
        return Response(tile, media_type="image/jpeg")

    @app.post(
        "/api/search",
        response_model=schemas.SearchResponse,
        responses=error_responses(400, 408, 413, 415, 503),
        openapi_extra=_PICTURE,
    )
    async def search_with_upload(
        request: Request,
        chosen: ImageFilter,
        k: K = 24,
        within: float | None = largest,
        min_band: MinBand = None,
        all_copies: AllCopies = True,
    ) -> Any:
        """Find the neighbours of an uploaded image (the body, or the file of a form), or of words.

        Words come as JSON: `{"text": "a red coupe"}`.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        async with service.uploads.received(request) as data:
            snapshot = service.snapshot
            if kind == "application/json":
                text = _text_of_json(data)
                shown, query = _text(text), await service.run(_query_of_text, snapshot, text)
            elif not snapshot.table.has_network:
                raise HTTPException(400, "this index has no network: give image=ID or key=KEY")
            else:
                vector = await service.uploads.embed(data, make_embedder(snapshot.table))
                fingerprint = snapshot.table.about_model["fingerprint"]
                key = service.uploads.remember(data, vector, fingerprint)
                shown, query = _upload(key), Query(vector)
        return await respond(snapshot, query, shown, k, chosen, within, min_band, all_copies)


async def _vector_of_part(
    request: Request, service: Service, snapshot: Snapshot, shown: dict[str, Any], box: Box
) -> Vectors:
    """Return the vector of a part of an image of the index, or of an earlier upload."""
    if not (snapshot.table.has_network and snapshot.table.has_pictures):
        raise HTTPException(400, "this index has no pictures or no network: search without `box`")
    row = None if "upload" in shown else service.row(snapshot, shown["id"])
    of = str(shown["upload"]) if row is None else snapshot.content_hash(row)

    def cut(small: bytes | None) -> bytes:
        data = snapshot.read(row) if row is not None else small
        return cut_out(service.decoder, data or b"", box)

    async def make() -> Vectors:
        try:
            small = await asyncio.shield(service.uploads.get(of).picture) if row is None else None
            data = await service.make_thumbnail(request, cut, small)
        except ImageError as error:
            raise HTTPException(404, f"this photo can no longer be read: {error}") from None
        return await service.uploads.embed(data, make_embedder(snapshot.table))

    return await service.parts.get(of, snapshot.table.about_model["fingerprint"], box, make)


def _text_of_json(body: bytes) -> str:
    try:
        return schemas.TextQuery.model_validate_json(body).text
    except ValueError:
        raise HTTPException(
            422,
            f'no JSON with words: send {{"text": "..."}}, {MAX_TEXT_CHARS:,} characters at most',
        ) from None


def _query_of_text(snapshot: Snapshot, text: str) -> Query:
    try:
        return queries_of_texts(snapshot.table, [text])[0]
    except LookalikeError as error:
        raise HTTPException(400, str(error)) from None


def _text(text: str) -> dict[str, Any]:
    address = f"api/words/picture?{urlencode({'text': text})}"
    return {"text": text, "name": f"\u201c{text}\u201d", "thumbnail": address, "picture": address}


def _row_of_key(snapshot: Snapshot, key: str) -> int:
    row = snapshot.row_of_key(key)
    if row is None:
        raise HTTPException(404, "no row has this key: it may have been removed")
    return row


def _upload(key: str) -> dict[str, Any]:
    address = f"api/uploads/{key}/picture"
    return {
        "upload": key,
        **{name: f"{address}?size={side}" for name, side in PICTURE_SIDES.items()},
    }


def _earlier_upload(service: Service, snapshot: Snapshot, key: str) -> tuple[dict[str, Any], Query]:
    kept = service.uploads.get(key)
    if kept.fingerprint != snapshot.table.about_model["fingerprint"]:
        raise HTTPException(404, "the index has a new model: send the image again")
    return _upload(key), Query(kept.vector)
