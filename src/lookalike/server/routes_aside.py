"""Routes that change something: images set aside, and put back. Only with `--allow-changes`."""

from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import Depends, FastAPI, HTTPException, Path, Request

from lookalike.server import schemas
from lookalike.server.params import error_responses
from lookalike.server.state import Service

_Name = Annotated[str, Path(max_length=32, description="As `api/aside` lists it.")]


def check_same_origin(request: Request) -> None:
    """Refuse a request of a page of another origin, by what its browser says.

    Programs say neither where a request comes from nor its kind; they need no protection.
    """
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    if site is not None:
        is_own = site == "same-origin"
    else:
        is_own = origin is None or urlsplit(origin).netloc == request.headers.get("host")
    if not is_own:
        raise HTTPException(403, "changes are for the page of this server alone: open it")


def _check_json(request: Request) -> None:
    """Refuse what a form of another page could send without asking."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise HTTPException(415, "send JSON, as application/json")


def add_aside(app: FastAPI, service: Service) -> None:
    """Add the routes that set images aside."""

    @app.get("/api/aside", response_model=schemas.AsideList, responses=error_responses())
    async def aside() -> Any:
        """List what was set aside, the newest first."""
        found = await service.run(service.aside.listed)
        return {"allows_changes": service.aside.is_allowed, "aside": found}

    @app.post(
        "/api/aside",
        response_model=schemas.AsideCounts,
        responses=error_responses(400, 409, 415),
        dependencies=[Depends(service.aside.check_allowed), Depends(check_same_origin)],
    )
    async def set_aside(request: Request, chosen: schemas.ChosenImages) -> Any:
        """Move images out of the collection into a folder, with a journal to undo it."""
        _check_json(request)
        pairs = [(one.id, one.keep) for one in chosen.images]
        return await service.run(service.aside.apply, service.snapshot, pairs)

    @app.post(
        "/api/aside/{name}/undo",
        response_model=schemas.Restored,
        responses=error_responses(404, 409),
        dependencies=[Depends(service.aside.check_allowed), Depends(check_same_origin)],
    )
    async def put_back(name: _Name) -> Any:
        """Put images back that were set aside under a name."""
        return {"restored": await service.run(service.aside.undo, name)}
