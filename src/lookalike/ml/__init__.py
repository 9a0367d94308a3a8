"""Stages of `pyspark.ml`: images to vectors, vectors to neighbours, hashing.

>>> from lookalike.ml import ImageEmbedding, NearestNeighbors    # doctest: +SKIP
"""

import importlib
from typing import TYPE_CHECKING, Any

from lookalike.system.extras import require

if TYPE_CHECKING:
    from lookalike.lsh.amplified import AmplifiedProjectionLSH, AmplifiedProjectionLSHModel
    from lookalike.ml.image_embedding import ImageEmbedding
    from lookalike.ml.nearest_neighbors import NearestNeighbors
    from lookalike.ml.neighbors_model import NearestNeighborsModel


__all__ = [
    "AmplifiedProjectionLSH",
    "AmplifiedProjectionLSHModel",
    "ImageEmbedding",
    "NearestNeighbors",
    "NearestNeighborsModel",
]

_MODULES = {
    "AmplifiedProjectionLSH": "lookalike.lsh.amplified",
    "AmplifiedProjectionLSHModel": "lookalike.lsh.amplified",
    "ImageEmbedding": "lookalike.ml.image_embedding",
    "NearestNeighbors": "lookalike.ml.nearest_neighbors",
    "NearestNeighborsModel": "lookalike.ml.neighbors_model",
}
"""Where each stage is defined; its module is imported when the name is first used."""


if not TYPE_CHECKING:  # which would take any name for one that is there

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        require(name, "pyspark")
        value = globals()[name] = getattr(importlib.import_module(_MODULES[name]), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
