"""Routes of duplicates, clusters and outliers."""

from typing import Annotated, Any

from fastapi import FastAPI, Query
from fastapi.responses import JSONResponse

from lookalike.analysis.groups import Groups, Kind
from lookalike.server import schemas
from lookalike.server.groups import images_of, page_of
from lookalike.server.params import MAX_RESULTS, error_responses
from lookalike.server.snapshot import Snapshot
from lookalike.server.state import Service

_After = Annotated[
    int | None, Query(ge=0, lt=2**31, description="The last group of the previous page.")
]
_Limit = Annotated[int, Query(ge=1, le=100, description="Number of groups.")]
_WAIT: dict[int | str, dict[str, Any]] = {
    202: {"model": schemas.MapProgress},
    **error_responses(409, 503),
}


def add_groups(app: FastAPI, service: Service) -> None:
    """Add the routes of duplicates, clusters and outliers."""

    async def find(kind: Kind) -> tuple[Snapshot, Groups] | JSONResponse:
        snapshot = service.snapshot
        found = await service.groups_of(snapshot, kind)
        if isinstance(found, Groups):
            return snapshot, found
        progress, doing = found
        return JSONResponse({"progress": progress, "doing": doing}, 202)

    @app.get("/api/duplicates", response_model=schemas.Duplicates, responses=_WAIT)
    async def duplicates(after: _After = None, limit: _Limit = 20) -> Any:
        """Return groups of duplicates, the largest first; 202 and the progress until then."""
        found = await find("duplicates")
        if isinstance(found, JSONResponse):
            return found
        snapshot, groups = found

        def shown() -> dict[str, Any]:
            pages, following, total = page_of(groups, after, limit)
            listed = [
                {"group": page["group"][0].as_py(), "images": images_of(snapshot, page)}
                for page in pages
            ]
            for group in listed:
                for image in group["images"]:
                    image["aside"] = service.aside.is_aside(snapshot, image["id"])
            return {"groups": listed, "next": following, "total": total}

        figures = {name: groups.figures[name] for name in ("drop", "bytes", "within", "keep")}
        return {**snapshot.version_key._asdict(), **figures, **await service.run(shown)}

    @app.get("/api/clusters", response_model=schemas.Clusters, responses=_WAIT)
    async def clusters(
        after: _After = None,
        limit: _Limit = 20,
        shown: Annotated[int, Query(ge=1, le=MAX_RESULTS, description="Images of a cluster.")] = 12,
    ) -> Any:
        """Return clusters, the largest first, the most typical image of each first; or 202."""
        found = await find("clusters")
        if isinstance(found, JSONResponse):
            return found
        snapshot, groups = found

        def listed() -> dict[str, Any]:
            pages, following, total = page_of(groups, after, limit)
            each = [
                {
                    "group": page["group"][0].as_py(),
                    "count": len(page),
                    "images": images_of(snapshot, page.slice(0, shown)),
                }
                for page in pages
            ]
            return {"groups": each, "next": following, "total": total}

        return {
            **snapshot.version_key._asdict(),
            "alone": groups.figures["alone"],
            **await service.run(listed),
        }

    @app.get("/api/outliers", response_model=schemas.Outliers, responses=_WAIT)
    async def outliers(after: _After = None, limit: _Limit = 60) -> Any:
        """Return images, the most isolated first; or 202."""
        found = await find("outliers")
        if isinstance(found, JSONResponse):
            return found
        snapshot, groups = found

        def listed() -> dict[str, Any]:
            pages, following, total = page_of(groups, after, limit)
            images = [image for page in pages for image in images_of(snapshot, page)]
            return {"images": images, "next": following, "total": total}

        return {**snapshot.version_key._asdict(), **await service.run(listed)}
