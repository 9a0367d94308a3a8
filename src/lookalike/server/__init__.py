"""Serve an index as a web page and an HTTP API, without a JVM or torch."""

from lookalike.system.extras import require

require("the server", "fastapi")

from lookalike.server.app import create_app  # noqa: E402 - it imports FastAPI
from lookalike.server.run import serve  # noqa: E402
from lookalike.server.state import Access  # noqa: E402
from lookalike.server.uploads import Limits  # noqa: E402

__all__ = ["Access", "Limits", "create_app", "serve"]
