"""Images as such: lists, draws, labels, small pictures."""

import asyncio
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Path, Query, Request, Response
from fastapi.responses import JSONResponse

from lookalike.errors import ImageError
from lookalike.server import schemas
from lookalike.server.params import (
    MOST,
    SIZES,
    After,
    Id,
    LabelFilter,
    PathFilter,
    Seed,
    Size,
    problems,
)
from lookalike.server.snapshot import HASH
from lookalike.server.state import Service

_MAP: dict[int | str, dict[str, Any]] = {
    200: {"model": schemas.Map},
    202: {"model": schemas.Underway},
    **problems(503),
}
_FOREVER = "private, max-age=31536000, immutable"
_JPEG: dict[str, Any] = {"content": {"image/jpeg": {"schema": {"type": "string"}}}}


def add_images(app: FastAPI, service: Service) -> None:
    """Add the routes that list images and labels."""

    @app.get("/api/images", response_model=schemas.Page, responses=problems())
    async def images(
        labels: LabelFilter = [],  # noqa: B006
        paths: PathFilter = [],  # noqa: B006
        after: After = None,
        limit: Annotated[int, Query(ge=1, le=MOST)] = 60,
    ) -> Any:
        """List images, in the order of their ids."""
        shelf = service.shelf
        page, following, total = await service.run(shelf.page, after, limit, labels, paths)
        return {"images": [*map(shelf.image, page)], "next": following, "total": total}

    @app.get("/api/random", response_model=schemas.Some, responses=problems())
    async def random(
        count: Annotated[int, Query(ge=1, le=MOST)] = 24,
        labels: LabelFilter = [],  # noqa: B006
        paths: PathFilter = [],  # noqa: B006
        seed: Seed = None,
    ) -> Any:
        """Draw images at random."""
        shelf = service.shelf
        rows = await service.run(shelf.draw, count, seed, labels, paths)
        return {"images": [*map(shelf.image, rows)]}

    @app.get("/api/labels", response_model=schemas.Labels, responses=problems())
    async def labels(
        containing: Annotated[str, Query(max_length=200)] = "",
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> Any:
        """List labels, the most frequent first."""
        found, total = await service.run(service.shelf.labels_with, containing, limit)
        return {"labels": found, "total": total}

    @app.get("/api/images/{id}", response_model=schemas.Image, responses=problems(404))
    async def image(number: Id) -> Any:
        """Return what is known of an image."""
        shelf = service.shelf
        return shelf.image(service.row(shelf, number))


def add_pictures(app: FastAPI, service: Service) -> None:
    """Add the routes that show small pictures."""

    @app.get(
        "/api/images/{id}/picture",
        response_class=Response,
        responses={200: _JPEG, 304: {"description": "As you have it."}, **problems(404, 503)},
    )
    async def picture(
        request: Request,
        number: Id,
        size: Size = 320,
        v: Annotated[str, Query(max_length=64, description="As in `thumbnail`, `picture`.")] = "",
    ) -> Response:
        """Return an image as a JPEG, upright and without what its file says of it."""
        _check_size(size)
        shelf = service.shelf
        row = service.row(shelf, number)
        named = shelf.content_hash(row)
        headers = {"etag": f'"{named}-{size}"', "cache-control": "private, no-cache"}
        if len(v) >= HASH and named.startswith(v):
            headers["cache-control"] = _FOREVER
        if request.headers.get("if-none-match") == headers["etag"]:
            return Response(status_code=304, headers=headers)
        jpeg = await service.run(service.thumbnails.find, shelf, row, size)
        if jpeg is not None:
            return Response(jpeg, media_type="image/jpeg", headers=headers)
        try:
            jpeg, same = await service.draw(request, service.thumbnails.make, shelf, row, size)
        except ImageError as error:
            raise HTTPException(404, f"this photo cannot be shown any more: {error}") from None
        if not same:  # the file has changed since it was indexed
            headers = {"cache-control": "no-store"}
        return Response(jpeg, media_type="image/jpeg", headers=headers)

    @app.get(
        "/api/uploads/{key}/picture",
        response_class=Response,
        responses={200: _JPEG, **problems(404)},
    )
    async def upload_picture(
        key: Annotated[str, Path(max_length=64)], size: Size = 320
    ) -> Response:
        """Return an upload as a JPEG of at most 640 pixels a side, while it is remembered."""
        _check_size(size)
        try:
            jpeg = await asyncio.shield(service.uploads.get(key).picture)
        except ImageError as error:
            raise HTTPException(404, f"this upload cannot be shown: {error}") from None
        return Response(jpeg, media_type="image/jpeg", headers={"cache-control": _FOREVER})


def _check_size(size: int) -> None:
    if size not in SIZES:
        raise HTTPException(422, f"size: choose one of {', '.join(map(str, SIZES))}")


def add_map(app: FastAPI, service: Service) -> None:
    """Add the route to the map of the whole index."""

    @app.get("/api/map", response_class=Response, responses=_MAP)
    async def whole_map() -> Response:
        """Return the index in two dimensions; 202 and how far it is while it is being made."""
        found = await service.map()
        if isinstance(found, bytes):
            return Response(found, media_type="application/json")
        progress, doing = found
        return JSONResponse({"progress": progress, "doing": doing}, 202)
