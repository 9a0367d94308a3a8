"""The ASGI application: routes, middleware and error responses."""

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
from lookalike.server.metrics import RequestCounter
from lookalike.server.originals import add_originals
from lookalike.server.params import MAX_RESULTS, error_responses
from lookalike.server.refresher import log
from lookalike.server.routes_browse import add_images, add_map, add_pictures
from lookalike.server.routes_search import add_searches
from lookalike.server.security import LOOPBACK, Guard
from lookalike.server.state import Access, Service
from lookalike.server.thumbnails import MAX_CACHE_BYTES
from lookalike.server.uploads import Limits
from lookalike.storage import EmbeddingTable

PAGE = Path(__file__).parent / "page"
_MIN_GZIP_BYTES = 16 * 2**10  # compresses maps, not search results


def create_app(
    index: Index | str | Path,
    *,
    token: str | None = None,
    hosts: frozenset[str] = LOOPBACK,
    limits: Limits = Limits(),  # noqa: B008 - immutable
    cap: int = MAX_CACHE_BYTES,
    access: Access = Access(),  # noqa: B008 - immutable
) -> ASGIApp:
    """Create the ASGI application that serves an index at its newest version.

    Parameters
    ----------
    index
        The index, or its folder.
    token
        Requests have to send this token; None for no token.
    hosts
        Without a token, the host names that requests may use.
    limits
        Limits of an upload.
    cap
        Largest size in bytes of the thumbnail cache on disk.
    access
        What the server does beyond searching; by default nothing.

    """
    # The table of this version: an `Index` may move to a newer one.
    table = index._table if isinstance(index, Index) else EmbeddingTable.open(index)
    service = Service(table, limits, cap, access)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = FastAPI(
        title="lookalike",
        summary=f"Look-alikes in {table.path.resolve().name}",
        version=__version__,
        openapi_url="/api/openapi.json",
        docs_url=None,  # it would load scripts from other sites
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    _add_error_handlers(app)
    add_searches(app, service)
    add_images(app, service)
    add_pictures(app, service)
    add_originals(app, service)
    add_map(app, service)
    _add_status(app, service)
    packed = GZipMiddleware(app, minimum_size=_MIN_GZIP_BYTES, compresslevel=4)
    counted = RequestCounter(Guard(packed, token, hosts), service.metrics)

    async def serve_head(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}  # uvicorn omits the body
        await counted(scope, receive, send)

    return serve_head


def _add_error_handlers(app: FastAPI) -> None:
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
        return JSONResponse({"error": "the client has disconnected"}, 400)

    @app.exception_handler(LookalikeError)
    async def wrong(_: Request, error: LookalikeError) -> Response:
        log.error("%s", error)  # it names files: not for the response
        return JSONResponse({"error": "not available now: see the log of the server"}, 503)

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:
        return JSONResponse({"error": "internal error: see the log of the server"}, 500)


def _add_status(app: FastAPI, service: Service) -> None:
    @app.get("/api/info", response_model=schemas.Info, responses=error_responses())
    async def info() -> Any:
        """Return the counts, the model and the measured recall of the index."""
        snapshot = service.snapshot
        embedded, skipped = snapshot.table.counts()
        limits = service.uploads.limits
        return {
            "name": snapshot.table.path.resolve().name,
            "images": embedded,
            "skipped": skipped,
            **snapshot.version_key._asdict(),
            "labels": len(await service.run(lambda: snapshot.labels)),
            "model": snapshot.table.about_model,
            "has_words": await service.run(snapshot.has_words),
            "has_network": snapshot.table.has_network and snapshot.table.has_pictures,
            "has_originals": service.access.originals and snapshot.table.has_pictures,
            "limits": {
                "k": MAX_RESULTS,
                "upload_bytes": limits.bytes,
                "upload_pixels": limits.pixels,
            },
            "recall": snapshot.recall,
        }

    @app.get("/healthz", response_model=schemas.Health)
    async def healthz() -> Any:
        """Return whether the server can open the newest version."""
        status = "cannot open the newest version" if service.refresher.error else "ok"
        return {"status": status, "version": service.snapshot.version}

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Return metrics for Prometheus."""
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    app.mount("/page", StaticFiles(directory=PAGE))

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return FileResponse(PAGE / "index.html")
