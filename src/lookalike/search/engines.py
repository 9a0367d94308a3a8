"""The names of the search engines, in Python, on the command line and over HTTP."""

from collections.abc import Sequence
from typing import Literal, get_args

from lookalike.errors import LookalikeError, either

KnnEngine = Literal["auto", "exact", "approximate"]
"""What compares vectors: with all rows, or with those whose signatures are near."""

Engine = Literal["auto", "exact", "approximate", "spark-lsh"]
"""The same, and `spark-lsh`: the hash tables of Spark ML."""

KNN_ENGINES: tuple[str, ...] = get_args(KnnEngine)
ENGINES: tuple[str, ...] = get_args(Engine)


def check_engine(engine: str, known: Sequence[str] = ENGINES) -> None:
    """Raise `LookalikeError` unless `engine` is one of the `known` names."""
    if engine not in known:
        raise LookalikeError(f"unknown engine {engine!r}: choose {either(known)}")
