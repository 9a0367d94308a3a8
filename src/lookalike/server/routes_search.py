"""Searches: with an image of the index, with an upload, with an upload of before."""

from typing import Any

from fastapi import FastAPI, HTTPException, Request

from lookalike.search.query import make_embedder
from lookalike.search.results import Query
from lookalike.server import schemas
from lookalike.server.params import ImageId, K, LabelFilter, PathFilter, UploadKey, Within, problems
from lookalike.server.snapshot import SIDES, Shelf
from lookalike.server.state import Service

_BODY = {"schema": {"type": "string", "format": "binary"}}
_FORM = {"schema": {"type": "object", "properties": {"image": _BODY["schema"]}}}
_PICTURE = {
    "requestBody": {
        "required": True,
        "description": "The bytes of a picture, or a form with one file.",
        "content": {
            "image/*": _BODY,
            "application/octet-stream": _BODY,
            "multipart/form-data": _FORM,
        },
    }
}


def add_searches(app: FastAPI, service: Service) -> None:
    """Add the routes that search."""

    async def answer(
        shelf: Shelf, asked: Query, query: dict[str, Any], *how: Any
    ) -> dict[str, Any]:
        found = await service.run(shelf.search, asked, *how)
        service.metrics.searches.labels(found["engine"]).observe(found["took_ms"] / 1000)
        return {"query": query, **found}

    @app.get("/api/search", response_model=schemas.SearchResponse, responses=problems(400, 404))
    async def search(
        image: ImageId = None,
        upload: UploadKey = None,
        k: K = 24,
        labels: LabelFilter = [],  # noqa: B006 - FastAPI copies it
        paths: PathFilter = [],  # noqa: B006
        within: Within = None,
    ) -> Any:
        """Find the look-alikes of an image of the index, or of an earlier upload."""
        if (image is None) == (upload is None):
            raise HTTPException(400, "give image=ID or upload=KEY, not both")
        shelf = service.shelf
        if image is not None:
            row = service.row(shelf, image)
            query, asked = shelf.image(row), shelf.query(row)
        else:
            query, asked = _remembered(service, shelf, str(upload))
        return await answer(shelf, asked, query, k, labels, paths, within)

    @app.post(
        "/api/search",
        response_model=schemas.SearchResponse,
        responses=problems(400, 408, 413, 415, 503),
        openapi_extra=_PICTURE,
    )
    async def search_with_upload(
        request: Request,
        k: K = 24,
        labels: LabelFilter = [],  # noqa: B006
        paths: PathFilter = [],  # noqa: B006
        within: Within = None,
    ) -> Any:
        """Find the look-alikes of a picture, sent as the body or as the one file of a form."""
        async with service.uploads.received(request) as data:
            shelf = service.shelf
            vector = await service.uploads.embed(data, make_embedder(shelf.table))
            fingerprint = shelf.table.about_model["fingerprint"]
            key = service.uploads.remember(data, vector, fingerprint)
        return await answer(shelf, Query(vector), _upload(key), k, labels, paths, within)


def _upload(key: str) -> dict[str, Any]:
    address = f"api/uploads/{key}/picture"
    return {"upload": key, **{name: f"{address}?size={side}" for name, side in SIDES.items()}}


def _remembered(service: Service, shelf: Shelf, key: str) -> tuple[dict[str, Any], Query]:
    kept = service.uploads.get(key)
    if kept.fingerprint != shelf.table.about_model["fingerprint"]:
        raise HTTPException(404, "the index has another model since this upload: send it again")
    return _upload(key), Query(kept.vector)
