"""The application: what can be asked of a served index, and what is answered."""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi import Path as InPath
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException as AnyHTTPException

from lookalike import __version__
from lookalike.errors import LookalikeError
from lookalike.hits import Query as Asked
from lookalike.images import BadImage, IsolatedDecoder
from lookalike.index import Index
from lookalike.index import open as open_index
from lookalike.server import answers
from lookalike.server.guard import LOOPBACK, Guard
from lookalike.server.library import Library
from lookalike.server.metrics import Counted, Metrics
from lookalike.server.shelf import Shelf
from lookalike.server.thumbnails import CAP, Thumbnails
from lookalike.server.uploads import Limits, Uploads
from lookalike.spark import cores

PAGE = Path(__file__).parent / "page"
MOST = 200
"""Neighbours or images in one answer."""
_FOREVER = "private, max-age=31536000, immutable"
_THUMBNAIL_SECONDS = 20.0
T = TypeVar("T")

_Number = Annotated[int, InPath(alias="id", ge=0, lt=2**63, description="The id of an image.")]
_K = Annotated[int, Query(ge=1, le=MOST, description="How many neighbours.")]
_Labels = Annotated[list[str], Query(alias="label", max_length=100, description="One of these.")]
_Paths = Annotated[
    list[str], Query(alias="path", max_length=20, description="Globs for paths, `*` as in a shell.")
]
_Within = Annotated[float | None, Query(ge=0, le=2, description="The largest distance.")]
_Seed = Annotated[int | None, Query(ge=0, lt=2**63, description="Makes the draw repeatable.")]
_Size = Annotated[int, Query(description="Pixels a side at most: 160, 320, 640 or 1280.")]
_SIZES = (160, 320, 640, 1280)
_JPEG: dict[str, Any] = {"content": {"image/jpeg": {"schema": {"type": "string"}}}}
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


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": answers.Problem} for status in (*statuses, 401, 403, 422)}


@dataclass
class Service:
    """What the routes share while the server runs."""

    library: Library
    uploads: Uploads
    thumbnails: Thumbnails
    metrics: Metrics
    decoder: IsolatedDecoder
    searching: ThreadPoolExecutor
    drawing: ThreadPoolExecutor

    @property
    def shelf(self) -> Shelf:
        """The version that is newest now."""
        return self.library.shelf

    def row(self, shelf: Shelf, number: int) -> int:
        """Return the row of an id; `HTTPException` where no image has it."""
        found = shelf.rows.find(number)
        if found is None:
            raise HTTPException(404, f"no image {number} in this index: it may have been removed")
        return found

    async def run(self, work: Callable[..., T], *given: Any) -> T:
        """Do in a thread what takes more than a moment."""
        return await asyncio.get_running_loop().run_in_executor(self.searching, work, *given)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keep all that runs beside the requests while the block does."""
        warm = asyncio.create_task(self._warm())
        try:
            async with self.library.followed():
                yield
        finally:
            warm.cancel()
            self.uploads.close()
            self.decoder.close()
            for pool in (self.searching, self.drawing):
                pool.shutdown(wait=False, cancel_futures=True)

    async def _warm(self) -> None:
        """Compile the network and start the processes before the first person waits for them."""
        await self.uploads.warm(self.shelf.index.embedder)


def create_app(
    index: Index | str | Path,
    *,
    token: str | None = None,
    hosts: frozenset[str] = LOOPBACK,
    limits: Limits = Limits(),  # noqa: B008 - it cannot change
    cap: int = CAP,
) -> FastAPI:
    """Make the ASGI application that serves an index, at its newest version.

    Without a `token` it answers whoever can reach it and calls it by one of `hosts`. `cap` bounds
    the bytes of small pictures that are kept on the disk. `lookalike.server.serve` runs it.
    """
    opened = index if isinstance(index, Index) else open_index(index)
    metrics = Metrics()
    decoder = IsolatedDecoder(_THUMBNAIL_SECONDS)
    service = Service(
        Library(opened),
        Uploads(limits, cores(), metrics.batches),
        Thumbnails(decoder, cap),
        metrics,
        decoder,
        ThreadPoolExecutor(cores(), "search"),
        ThreadPoolExecutor(cores(), "thumbnails"),
    )
    _watch(service)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = FastAPI(
        title="lookalike",
        summary=f"Look-alikes in {opened.path.resolve().name}",
        version=__version__,
        openapi_url="/api/openapi.json",
        docs_url=None,  # it would load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.service = service
    _answer_problems(app)
    _add_searches(app, service)
    _add_images(app, service)
    _add_pictures(app, service)
    _add_upkeep(app, service)
    app.add_middleware(Counted, metrics=metrics)
    app.add_middleware(Guard, token=token, hosts=hosts)  # outermost: it is asked first
    return app


def _watch(service: Service) -> None:
    gauge = service.metrics.gauge
    gauge("images", "Images in the index.").set_function(lambda: len(service.shelf.rows))
    gauge("version", "Version of the index.").set_function(lambda: service.shelf.version)
    gauge("thumbnails_made", "Small pictures made.").set_function(lambda: service.thumbnails.made)
    gauge("thumbnails_kept", "Small pictures found.").set_function(lambda: service.thumbnails.kept)
    gauge("uploads", "Uploads on their way.").set_function(lambda: service.uploads.on_their_way)


def _answer_problems(app: FastAPI) -> None:
    @app.exception_handler(AnyHTTPException)
    async def refused(_: Request, error: AnyHTTPException) -> Response:
        return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"][1:]) or "the request"
        return JSONResponse({"error": f"{name}: {first['msg']}"}, 422)

    @app.exception_handler(LookalikeError)
    async def wrong(_: Request, error: LookalikeError) -> Response:
        return JSONResponse({"error": str(error)}, 422)


def _add_searches(app: FastAPI, service: Service) -> None:
    async def answer(
        shelf: Shelf, asked: Asked, query: dict[str, Any], *how: Any
    ) -> dict[str, Any]:
        found = await service.run(shelf.search, asked, *how)
        service.metrics.searches.labels(found["engine"]).observe(found["took_ms"] / 1000)
        return {"query": query, **found}

    @app.get("/api/search", response_model=answers.Found, responses=_problems(400, 404))
    async def search(
        image: Annotated[int | None, Query(ge=0, lt=2**63, description="An image's id.")] = None,
        upload: Annotated[str | None, Query(max_length=64, description="An upload's key.")] = None,
        k: _K = 24,
        labels: _Labels = [],  # noqa: B006 - FastAPI copies it
        paths: _Paths = [],  # noqa: B006
        within: _Within = None,
    ) -> Any:
        """Find the look-alikes of an image of the index, or of an earlier upload."""
        if (image is None) == (upload is None):
            raise HTTPException(400, "say image=ID or upload=KEY, and not both")
        shelf = service.shelf
        if image is not None:
            row = service.row(shelf, image)
            query, asked = shelf.image(row), shelf.query(row)
        else:
            query, asked = _remembered(service, shelf, str(upload))
        return await answer(shelf, asked, query, k, labels, paths, within)

    @app.post(
        "/api/search",
        response_model=answers.Found,
        responses=_problems(400, 408, 413, 415, 503),
        openapi_extra=_PICTURE,
    )
    async def search_with_upload(
        request: Request,
        k: _K = 24,
        labels: _Labels = [],  # noqa: B006
        paths: _Paths = [],  # noqa: B006
        within: _Within = None,
    ) -> Any:
        """Find the look-alikes of a picture, sent as the body or as the one file of a form."""
        with service.uploads.turn():
            data = await service.uploads.body(request)
            shelf = service.shelf
            vector = await service.uploads.embed(data, shelf.index.embedder)
            fingerprint = shelf.index.collection.about_model["fingerprint"]
            key = service.uploads.remember(data, vector, fingerprint)
        return await answer(shelf, Asked(vector), _upload(key), k, labels, paths, within)


def _upload(key: str) -> dict[str, Any]:
    address = f"api/uploads/{key}/picture"
    sizes = {"thumbnail": 320, "picture": 1280}
    return {"upload": key, **{name: f"{address}?size={side}" for name, side in sizes.items()}}


def _remembered(service: Service, shelf: Shelf, key: str) -> tuple[dict[str, Any], Asked]:
    kept = service.uploads.recall(key)
    if kept.fingerprint != shelf.index.collection.about_model["fingerprint"]:
        raise HTTPException(404, "the index has another model since this upload: send it again")
    return _upload(key), Asked(kept.vector)


def _add_images(app: FastAPI, service: Service) -> None:
    @app.get("/api/images", response_model=answers.Page, responses=_problems())
    async def images(
        labels: _Labels = [],  # noqa: B006
        paths: _Paths = [],  # noqa: B006
        after: Annotated[
            int | None, Query(ge=0, lt=2**63, description="`next` of the last")
        ] = None,
        limit: Annotated[int, Query(ge=1, le=MOST)] = 60,
    ) -> Any:
        """List images, in the order of their ids."""
        shelf = service.shelf
        page, following, total = await service.run(
            shelf.page, after, limit, tuple(labels), tuple(paths)
        )
        return {"images": [*map(shelf.image, page)], "next": following, "total": total}

    @app.get("/api/random", response_model=answers.Some, responses=_problems())
    async def random(
        count: Annotated[int, Query(ge=1, le=MOST)] = 24,
        labels: _Labels = [],  # noqa: B006
        seed: _Seed = None,
    ) -> Any:
        """Draw images at random."""
        shelf = service.shelf
        rows = await service.run(shelf.draw, count, seed, tuple(labels))
        return {"images": [*map(shelf.image, rows)]}

    @app.get("/api/labels", response_model=answers.Labels, responses=_problems())
    async def labels(
        containing: Annotated[str, Query(max_length=200)] = "",
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> Any:
        """List labels, the most frequent first."""
        found, total = await service.run(service.shelf.labels_with, containing, limit)
        return {"labels": found, "total": total}

    @app.get("/api/images/{id}", response_model=answers.Image, responses=_problems(404))
    async def image(number: _Number) -> Any:
        """Return what is known of an image."""
        shelf = service.shelf
        return shelf.image(service.row(shelf, number))


def _add_pictures(app: FastAPI, service: Service) -> None:
    @app.get(
        "/api/images/{id}/picture",
        response_class=Response,
        responses={200: _JPEG, 304: {"description": "As you have it."}, **_problems(404)},
    )
    async def picture(
        request: Request,
        number: _Number,
        size: _Size = 320,
        v: Annotated[str, Query(max_length=64, description="As in `thumbnail`, `picture`.")] = "",
    ) -> Response:
        """Return an image as a JPEG, upright and without what its file says of it."""
        _check_size(size)
        shelf = service.shelf
        row = service.row(shelf, number)
        named = shelf.content_hash(row)
        headers = {"etag": f'"{named}-{size}"', "cache-control": "private, no-cache"}
        if v and named.startswith(v):
            headers["cache-control"] = _FOREVER
        if request.headers.get("if-none-match") == headers["etag"]:
            return Response(status_code=304, headers=headers)
        loop = asyncio.get_running_loop()
        try:
            jpeg, same = await loop.run_in_executor(
                service.drawing, service.thumbnails.get, shelf, row, size
            )
        except BadImage as error:
            raise HTTPException(404, f"this photo cannot be shown any more: {error}") from None
        if not same:  # the file has changed since it was indexed
            headers = {"cache-control": "no-store"}
        return Response(jpeg, media_type="image/jpeg", headers=headers)

    @app.get(
        "/api/uploads/{key}/picture",
        response_class=Response,
        responses={200: _JPEG, **_problems(404)},
    )
    async def upload_picture(
        key: Annotated[str, InPath(max_length=64)], size: _Size = 320
    ) -> Response:
        """Return an upload as a JPEG of at most 640 pixels a side, while it is remembered."""
        _check_size(size)
        try:
            jpeg = await asyncio.shield(service.uploads.recall(key).picture)
        except BadImage as error:
            raise HTTPException(404, f"this upload cannot be shown: {error}") from None
        return Response(jpeg, media_type="image/jpeg", headers={"cache-control": _FOREVER})


def _check_size(size: int) -> None:
    if size not in _SIZES:
        raise HTTPException(422, f"size: say one of {', '.join(map(str, _SIZES))}")


def _add_upkeep(app: FastAPI, service: Service) -> None:
    @app.get("/api/info", response_model=answers.Info, responses=_problems())
    async def info() -> Any:
        """Say what the index holds, and what its searches find."""
        shelf = service.shelf
        embedded, skipped = shelf.index.collection.counts()
        limits = service.uploads.limits
        return {
            "name": shelf.index.path.resolve().name,
            "images": embedded,
            "skipped": skipped,
            "version": shelf.version,
            "labels": len(await service.run(lambda: shelf.labels)),
            "model": shelf.index.collection.about_model,
            "limits": {
                "k": MOST,
                "upload_bytes": limits.bytes,
                "upload_pixels": limits.pixels,
            },
            "recall": shelf.recall,
        }

    @app.get("/healthz", response_model=answers.Health)
    async def healthz() -> Any:
        """Say that the server answers, and whether it has the newest version."""
        status = (
            "an older version: the newest cannot be opened" if service.library.trouble else "ok"
        )
        return {"status": status, "version": service.shelf.version}

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Return what was counted, for Prometheus."""
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    app.mount("/page", StaticFiles(directory=PAGE))

    @app.get("/", include_in_schema=False)
    async def start() -> Response:
        return FileResponse(PAGE / "index.html")
