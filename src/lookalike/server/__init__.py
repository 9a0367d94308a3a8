"""An index as a web page and an HTTP interface. Neither a JVM nor torch is started."""

from lookalike.server.app import create_app
from lookalike.server.run import serve
from lookalike.server.uploads import Limits
from lookalike.system.extras import require

require("the server", "fastapi")

__all__ = ["Limits", "create_app", "serve"]
