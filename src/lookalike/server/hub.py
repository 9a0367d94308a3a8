"""Several indexes behind one server: each has its addresses below its name."""

import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Response
from fastapi.responses import FileResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.types import ASGIApp

from lookalike import __version__
from lookalike.server import schemas
from lookalike.server.errors import add_error_handlers
from lookalike.server.metrics import Metrics
from lookalike.server.state import Service
from lookalike.storage import EmbeddingTable

_PATTERN = re.compile(r"[{}:/\\?#%]")  # of routes and addresses
_OWN = frozenset({"api", "page", "healthz", "metrics"})
"""First parts of addresses of the server itself."""


def unique_names(tables: Sequence[EmbeddingTable]) -> list[str]:
    """Return a name for each of several indexes: that of its folder, numbered where it is taken."""
    names: list[str] = []
    for table in tables:
        base = _PATTERN.sub("-", table.path.resolve().name) or "index"
        name, number = base, 1
        while name in names or name in _OWN:
            number += 1
            name = f"{base}-{number}"
        names.append(name)
    return names


def running(
    services: Sequence[Service],
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """Return the lifespan of an application that runs services."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for service in services:
                await stack.enter_async_context(service.running())
            yield

    return lifespan


def create_hub(
    apps: Mapping[str, ASGIApp], services: Sequence[Service], metrics: Metrics, page: Path
) -> FastAPI:
    """Create the application that lists indexes and passes requests to that of each.

    Parameters
    ----------
    apps
        The application of each index, by its name.
    services
        The services of the indexes, in the same order.
    metrics
        The metrics of all requests.
    page
        The folder of the page.

    """
    hub = FastAPI(
        title="lookalike",
        summary="Look-alikes in several indexes",
        version=__version__,
        openapi_url="/api/openapi.json",
        docs_url=None,  # it would load scripts from other sites
        redoc_url=None,
        lifespan=running(services),
        redirect_slashes=False,
    )
    add_error_handlers(hub)
    _add_status(hub, list(apps), services, metrics)
    hub.mount("/page", StaticFiles(directory=page))

    @hub.get("/", include_in_schema=False)
    async def choose() -> Response:
        return FileResponse(page / "choose.html")

    for name, app in apps.items():
        _add_index(hub, name, app)
    return hub


def _add_index(hub: FastAPI, name: str, app: ASGIApp) -> None:
    @hub.get(f"/{name}", include_in_schema=False)
    async def move() -> Response:  # addresses are relative to the folder
        return RedirectResponse(f"{quote(name)}/", 308)

    hub.mount(f"/{name}", app)


def _add_status(
    hub: FastAPI, names: Sequence[str], services: Sequence[Service], metrics: Metrics
) -> None:
    @hub.get("/api/indexes", response_model=schemas.Indexes)
    async def indexes() -> Any:
        """List the indexes of this server, with their addresses."""
        each = zip(names, services, strict=True)
        return {
            "indexes": [
                {"name": name, "address": f"{quote(name)}/", "images": service.snapshot.count}
                for name, service in each
            ]
        }

    @hub.get("/healthz", response_model=schemas.HubHealth)
    async def healthz() -> Any:
        """Return whether the server can open the newest version of each index."""
        wrong = any(service.refresher.error for service in services)
        return {"status": "cannot open the newest version of an index" if wrong else "ok"}

    @hub.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def all_metrics() -> Response:
        """Return metrics of all requests for Prometheus; those of an index are below its name."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)
