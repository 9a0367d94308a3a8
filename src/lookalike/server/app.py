"""The ASGI application: routes, middleware and error responses."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Response
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.types import ASGIApp, Receive, Scope, Send

from lookalike import __version__
from lookalike.index import Index
from lookalike.server import schemas
from lookalike.server.errors import add_error_handlers
from lookalike.server.hub import create_hub, running, unique_names
from lookalike.server.metrics import Metrics, RequestCounter
from lookalike.server.originals import add_originals
from lookalike.server.params import MAX_RESULTS, error_responses
from lookalike.server.routes_aside import add_aside
from lookalike.server.routes_browse import add_images, add_map, add_pictures
from lookalike.server.routes_groups import add_groups
from lookalike.server.routes_search import add_searches
from lookalike.server.security import LOOPBACK, Guard
from lookalike.server.state import Access, Service
from lookalike.server.thumbnails import MAX_CACHE_BYTES
from lookalike.server.uploads import Limits
from lookalike.storage import EmbeddingTable

Indexed = Index | str | Path
PAGE = Path(__file__).parent / "page"
_MIN_GZIP_BYTES = 16 * 2**10  # compresses maps, not search results


def create_app(
    index: Indexed | Sequence[Indexed],
    *,
    token: str | None = None,
    hosts: frozenset[str] = LOOPBACK,
    limits: Limits = Limits(),  # noqa: B008 - immutable
    cap: int = MAX_CACHE_BYTES,
    access: Access = Access(),  # noqa: B008 - immutable
) -> ASGIApp:
    """Create the ASGI application that serves an index, or several, at their newest versions.

    Parameters
    ----------
    index
        The index, or its folder; or several, each of which then has its addresses below its name.
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
    given = [index] if isinstance(index, Index | str | Path) else list(index)
    # The table of this version: an `Index` may move to a newer one.
    tables = [one._table if isinstance(one, Index) else EmbeddingTable.open(one) for one in given]
    if len(tables) == 1:
        service = Service(tables[0], limits, cap, access)
        app, metrics = _app_of(service, [service]), service.metrics
    else:
        names = unique_names(tables)
        services = [
            Service(table, limits, cap, access.below(name))
            for name, table in zip(names, tables, strict=True)
        ]
        metrics = Metrics()
        apps = {
            name: RequestCounter(_app_of(service, [], names), service.metrics)
            for name, service in zip(names, services, strict=True)
        }
        app = create_hub(apps, services, metrics, PAGE)
    packed = GZipMiddleware(app, minimum_size=_MIN_GZIP_BYTES, compresslevel=4)
    counted = RequestCounter(Guard(packed, token, hosts), metrics)

    async def serve_head(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}  # uvicorn omits the body
        await counted(scope, receive, send)

    return serve_head


def _app_of(service: Service, run: Sequence[Service], names: Sequence[str] = ()) -> FastAPI:
    """Create the application of one index, which runs services; `names` are of all indexes."""
    app = FastAPI(
        title="lookalike",
        summary=f"Look-alikes in {service.snapshot.table.path.resolve().name}",
        version=__version__,
        openapi_url="/api/openapi.json",
        docs_url=None,  # it would load scripts from other sites
        redoc_url=None,
        lifespan=running(run),
        redirect_slashes=False,
    )
    add_error_handlers(app)
    add_searches(app, service)
    add_images(app, service)
    add_pictures(app, service)
    add_originals(app, service)
    add_map(app, service)
    add_groups(app, service)
    add_aside(app, service)
    _add_status(app, service, names)
    return app


def _add_status(app: FastAPI, service: Service, names: Sequence[str]) -> None:
    indexes = [{"name": name, "address": f"../{quote(name)}/"} for name in names]

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
            "allows_changes": service.aside.is_allowed and snapshot.table.source.kind == "files",
            "has_network": snapshot.table.has_network and snapshot.table.has_pictures,
            "has_originals": service.access.originals and snapshot.table.has_pictures,
            "limits": {
                "k": MAX_RESULTS,
                "upload_bytes": limits.bytes,
                "upload_pixels": limits.pixels,
            },
            "recall": snapshot.recall,
            "indexes": indexes,
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
