"""An index as a web page and an HTTP interface. Neither a JVM nor torch is started."""

from lookalike.server.app import create_app
from lookalike.server.running import serve
from lookalike.server.uploads import Limits

__all__ = ["Limits", "create_app", "serve"]
