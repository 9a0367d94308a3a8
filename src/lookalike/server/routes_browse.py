"""Routes to browse: lists, random images, labels, thumbnails, the map."""

import asyncio
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Path, Query, Request, Response
from fastapi.responses import JSONResponse

from lookalike.errors import ImageError
from lookalike.server import schemas
from lookalike.server.params import (
    ALLOWED_SIDES,
    MAX_RESULTS,
    After,
    Id,
    ImageFilter,
    Seed,
    Size,
    error_responses,
)
from lookalike.server.snapshot import HASH_DIGITS
from lookalike.server.state import Service

_MAP: dict[int | str, dict[str, Any]] = {
    200: {"model": schemas.Map},
    202: {"model": schemas.MapProgress},
    **error_responses(503),
}
_FOREVER = "private, max-age=31536000, immutable"
_JPEG: dict[str, Any] = {"content": {"image/jpeg": {"schema": {"type": "string"}}}}


def add_images(app: FastAPI, service: Service) -> None:
    """Add the routes that list images and labels."""

    @app.get("/api/images", response_model=schemas.ImagePage, responses=error_responses())
    async def images(
        chosen: ImageFilter,
        after: After = None,
        limit: Annotated[int, Query(ge=1, le=MAX_RESULTS)] = 60,
    ) -> Any:
        """List images in the order of ids."""
        snapshot = service.snapshot
        page, following, total = await service.run(snapshot.page, after, limit, chosen)
        return {"images": [*map(snapshot.image, page)], "next": following, "total": total}

    @app.get("/api/random", response_model=schemas.RandomImages, responses=error_responses())
    async def random(
        chosen: ImageFilter,
        count: Annotated[int, Query(ge=1, le=MAX_RESULTS)] = 24,
        seed: Seed = None,
    ) -> Any:
        """Draw images at random."""
        snapshot = service.snapshot
        rows = await service.run(snapshot.sample, count, seed, chosen)
        return {"images": [*map(snapshot.image, rows)]}

    @app.get("/api/labels", response_model=schemas.Labels, responses=error_responses())
    async def labels(
        containing: Annotated[str, Query(max_length=200)] = "",
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> Any:
        """List labels, the most frequent first."""
        found, total = await service.run(service.snapshot.labels_with, containing, limit)
        return {"labels": found, "total": total}

    @app.get("/api/images/{id}", response_model=schemas.Image, responses=error_responses(404))
    async def image(number: Id) -> Any:
        """Return the record of an image."""
        snapshot = service.snapshot
        return snapshot.image(service.row(snapshot, number))


def add_pictures(app: FastAPI, service: Service) -> None:
    """Add the routes of thumbnails."""

    @app.get(
        "/api/images/{id}/picture",
        response_class=Response,
        responses={200: _JPEG, 304: {"description": "Not modified."}, **error_responses(404, 503)},
    )
    async def picture(
        request: Request,
        number: Id,
        size: Size = 320,
        v: Annotated[
            str, Query(max_length=64, description="A part of the content hash, as in `thumbnail`.")
        ] = "",
    ) -> Response:
        """Return an image as a JPEG, upright and without metadata."""
        _check_size(size)
        snapshot = service.snapshot
        row = service.row(snapshot, number)
        named = snapshot.content_hash(row)
        headers = {"etag": f'"{named}-{size}"', "cache-control": "private, no-cache"}
        if len(v) >= HASH_DIGITS and named.startswith(v):
            headers["cache-control"] = _FOREVER
        if request.headers.get("if-none-match") == headers["etag"]:
            return Response(status_code=304, headers=headers)
        jpeg = await service.run(service.thumbnails.find, snapshot, row, size)
        if jpeg is not None:
            return Response(jpeg, media_type="image/jpeg", headers=headers)
        try:
            jpeg, same = await service.make_thumbnail(
                request, service.thumbnails.make, snapshot, row, size
            )
        except ImageError as error:
            raise HTTPException(404, f"this photo can no longer be shown: {error}") from None
        if not same:  # the file has changed since it was indexed
            headers = {"cache-control": "no-store"}
        return Response(jpeg, media_type="image/jpeg", headers=headers)

    @app.get(
        "/api/uploads/{key}/picture",
        response_class=Response,
        responses={200: _JPEG, **error_responses(404)},
    )
    async def upload_picture(
        key: Annotated[str, Path(max_length=64)], size: Size = 320
    ) -> Response:
        """Return an upload as a JPEG of at most 640 pixels a side, while the server keeps it."""
        _check_size(size)
        try:
            jpeg = await asyncio.shield(service.uploads.get(key).picture)
        except ImageError as error:
            raise HTTPException(404, f"this upload cannot be shown: {error}") from None
        return Response(jpeg, media_type="image/jpeg", headers={"cache-control": _FOREVER})


def _check_size(size: int) -> None:
    if size not in ALLOWED_SIDES:
        raise HTTPException(422, f"size: choose one of {', '.join(map(str, ALLOWED_SIDES))}")


def add_map(app: FastAPI, service: Service) -> None:
    """Add the route of the map."""

    @app.get("/api/map", response_class=Response, responses=_MAP)
    async def map_() -> Response:
        """Return the map; 202 and the progress while it is computed."""
        found = await service.map()
        if isinstance(found, bytes):
            return Response(found, media_type="application/json")
        progress, doing = found
        return JSONResponse({"progress": progress, "doing": doing}, 202)
