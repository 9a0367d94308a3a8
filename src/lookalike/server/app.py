"""The application: its routes together, and how it says what went wrong."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from lookalike import __version__
from lookalike.errors import LookalikeError
from lookalike.index import Index
from lookalike.server import schemas
from lookalike.server.metrics import Counted
from lookalike.server.params import MOST, problems
from lookalike.server.refresher import log
from lookalike.server.routes_browse import add_images, add_map, add_pictures
from lookalike.server.routes_search import add_searches
from lookalike.server.security import LOOPBACK, Guard
from lookalike.server.state import Service
from lookalike.server.thumbnails import CAP
from lookalike.server.uploads import Limits
from lookalike.storage import EmbeddingTable

PAGE = Path(__file__).parent / "page"
_WORTH_PACKING = 16 * 2**10  # bytes: the map is, the look-alikes of one image are there sooner


def create_app(
    index: Index | str | Path,
    *,
    token: str | None = None,
    hosts: frozenset[str] = LOOPBACK,
    limits: Limits = Limits(),  # noqa: B008 - it cannot change
    cap: int = CAP,
) -> ASGIApp:
    """Make the ASGI application that serves an index, at its newest version.

    Without a `token` it answers whoever can reach it and calls it by one of `hosts`. `cap` bounds
    the bytes of small pictures that are kept on the disk. `lookalike.server.serve` runs it.
    """
    # This version: an `Index` may move on to a newer one.
    table = index._table if isinstance(index, Index) else EmbeddingTable.open(index)
    service = Service(table, limits, cap)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = FastAPI(
        title="lookalike",
        summary=f"Look-alikes in {table.path.resolve().name}",
        version=__version__,
        openapi_url="/api/openapi.json",
        docs_url=None,  # it would load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    _answer_problems(app)
    add_searches(app, service)
    add_images(app, service)
    add_pictures(app, service)
    add_map(app, service)
    _add_upkeep(app, service)
    packed = GZipMiddleware(app, minimum_size=_WORTH_PACKING, compresslevel=4)
    counted = Counted(Guard(packed, token, hosts), service.metrics)

    async def whole(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}  # uvicorn leaves out what a HEAD may not have
        await counted(scope, receive, send)

    return whole


def _answer_problems(app: FastAPI) -> None:
    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> Response:
        return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"][1:]) or "the request"
        return JSONResponse({"error": f"{name}: {first['msg']}"}, 422)

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, error: ClientDisconnect) -> Response:
        return JSONResponse({"error": "you have gone"}, 400)

    @app.exception_handler(LookalikeError)
    async def wrong(_: Request, error: LookalikeError) -> Response:
        log.error("%s", error)  # which names files
        return JSONResponse({"error": "not now: the log of the server says why"}, 503)

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:
        return JSONResponse({"error": "a fault of the server: its log says more"}, 500)


def _add_upkeep(app: FastAPI, service: Service) -> None:
    @app.get("/api/info", response_model=schemas.Info, responses=problems())
    async def info() -> Any:
        """Say what the index holds, and what its searches find."""
        shelf = service.shelf
        embedded, skipped = shelf.table.counts()
        limits = service.uploads.limits
        return {
            "name": shelf.table.path.resolve().name,
            "images": embedded,
            "skipped": skipped,
            **shelf.edition._asdict(),
            "labels": len(await service.run(lambda: shelf.labels)),
            "model": shelf.table.about_model,
            "limits": {
                "k": MOST,
                "upload_bytes": limits.bytes,
                "upload_pixels": limits.pixels,
            },
            "recall": shelf.recall,
        }

    @app.get("/healthz", response_model=schemas.Health)
    async def healthz() -> Any:
        """Say that the server answers, and whether it has the newest version."""
        status = "cannot open the newest version" if service.library.trouble else "ok"
        return {"status": status, "version": service.shelf.version}

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Return what was counted, for Prometheus."""
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    app.mount("/page", StaticFiles(directory=PAGE))

    @app.get("/", include_in_schema=False)
    async def start() -> Response:
        return FileResponse(PAGE / "index.html")
