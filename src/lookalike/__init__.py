"""Visual similarity search for image collections of any size, on Apache Spark.

>>> import lookalike
>>> index = lookalike.open_index("cars.index")              # doctest: +SKIP
>>> found = index.search("photo.jpg", k=5)                  # doctest: +SKIP

What happens is logged to the logger `lookalike`; nothing is printed. `show_progress` shows the
progress of long jobs on a terminal.
"""

import importlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lookalike.create import create_index, open_index
    from lookalike.errors import ImageError, LookalikeError
    from lookalike.index import Index
    from lookalike.models.callables import CallableModel
    from lookalike.models.embedder import ImageEmbedder
    from lookalike.search.knn.nearest import nearest
    from lookalike.search.results import SearchResult
    from lookalike.search.rows import Neighbor
    from lookalike.system.progress import show_progress


__version__ = "0.2.0"

__all__ = [
    "CallableModel",
    "ImageEmbedder",
    "ImageError",
    "Index",
    "LookalikeError",
    "Neighbor",
    "SearchResult",
    "create_index",
    "nearest",
    "open_index",
    "show_progress",
]

_MODULES = {
    "CallableModel": "lookalike.models.callables",
    "ImageEmbedder": "lookalike.models.embedder",
    "ImageError": "lookalike.errors",
    "Index": "lookalike.index",
    "LookalikeError": "lookalike.errors",
    "Neighbor": "lookalike.search.rows",
    "SearchResult": "lookalike.search.results",
    "create_index": "lookalike.create",
    "nearest": "lookalike.search.knn.nearest",
    "open_index": "lookalike.create",
    "show_progress": "lookalike.system.progress",
}
"""Where each public name is defined; its module is imported when the name is first used."""

logging.getLogger("lookalike").addHandler(logging.NullHandler())


if not TYPE_CHECKING:  # which would take any name for one that is there

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(importlib.import_module(_MODULES[name]), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
