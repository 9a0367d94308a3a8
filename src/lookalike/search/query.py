"""Turn an image, a file or a vector into a query, and search with it."""

import os
import random
import time
from collections.abc import Sequence
from numbers import Real
from typing import Any, TypeAlias, TypedDict, cast

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
from PIL import Image

from lookalike import images
from lookalike.errors import ImageError, LookalikeError
from lookalike.images.decoding.raster import read_file
from lookalike.images.inputs.reader import content_hash
from lookalike.models.embedder import ImageEmbedder, ImageLike, have_direction, to_pixels, unit_rows
from lookalike.search import exact
from lookalike.search.engines import Engine, KnnEngine, check_engine
from lookalike.search.results import Query, SearchResult, no_match_error
from lookalike.search.rows import check_k, check_recall
from lookalike.search.searcher import Searcher
from lookalike.storage import EmbeddingTable, Segment
from lookalike.system.arrays import Vectors
from lookalike.system.progress import progress_line

DEFAULT_K = 5
"""Default number of neighbours."""
_MAX_BLACK = 0.5 / 255  # a float picture with no value above this is black

QueryLike: TypeAlias = "ImageLike | Query"
"""An image, a vector (width,), or a `Query` from a result or a sample."""


class SearchOptions(TypedDict, total=False):
    """The keywords of `Index.search`."""

    engine: Engine
    recall: float
    within: float | None
    label: str | Sequence[str] | None
    path: str | Sequence[str] | None
    explain: bool


def make_embedder(table: EmbeddingTable) -> ImageEmbedder:
    """Return the embedder that made the vectors of a table."""
    return ImageEmbedder(model=table.model, truncated=table.source.truncated)


def make_query(table: EmbeddingTable, image: QueryLike) -> Query:
    """Turn an image or a vector into a query.

    A file of the index with unchanged bytes is not embedded again.
    """
    if isinstance(image, Query):
        check_width(table, image.vector)
        return image
    given = as_array(image)
    if isinstance(given, np.ndarray) and given.ndim == 1:
        return Query(_unit_vector(table, given))
    if isinstance(given, bytes | Image.Image):
        return Query(make_embedder(table)(given), content=given)
    if not isinstance(given, str | os.PathLike):
        content = Image.fromarray(to_pixels(given))
        return Query(make_embedder(table)(given), content=content)
    path = os.path.abspath(given)
    data = read_file(given)
    row = _row_of_path(table, path)
    segment, at, values = row if row else (None, 0, {})
    if segment is not None and values["content_hash"] == content_hash(data):
        vector: Vectors = np.array(segment.vectors[at])
    else:
        vector = make_embedder(table)(data)
    return Query(vector, images.encode_path(path), values.get("label"), values.get("id"))


def random_query(table: EmbeddingTable, seed: int | None = None) -> Query:
    """Steps 9 and 10: draw an indexed image at random and embed its file again."""
    segments = table.segments
    total = sum(len(segment.ids) for segment in segments)
    if total == 0:
        raise LookalikeError(f"{table.path} has no embedded images: add some")
    at = random.Random(seed).randrange(total)
    for segment in segments:
        if at < len(segment.ids):
            break
        at -= len(segment.ids)
    row = segment.rows.slice(at, 1).to_pylist()[0]
    source = table.source
    full_path = images.full_path(source, row["path"])
    try:
        data = images.read(source, row["path"])
    except ImageError as error:
        raise LookalikeError(f"{full_path} can no longer be read: {error}") from None
    content = None if source.kind == "files" else data
    vector = make_embedder(table)(data)
    return Query(vector, images.encode_path(full_path), row["label"], row["id"], content)


def check_search(
    k: int | None,
    engine: str,
    recall: float,
    within: float | None,
    label: str | Sequence[str] | None,
    path: str | Sequence[str] | None,
    explain: bool,
) -> None:
    """Raise `LookalikeError` for wrong options of `Index.search`, or wrong combinations."""
    if k is not None:
        check_k(k)
    check_engine(engine)
    check_recall(recall)
    if engine == "spark-lsh":
        if within is not None or label is not None or path is not None:
            raise LookalikeError(
                '`engine="spark-lsh"` supports neither filters nor `within`: leave them out'
            )
    elif explain:
        raise LookalikeError('`explain` lists hash tables: set `engine="spark-lsh"`')
    if within is not None and (not within >= 0 or engine == "approximate"):
        raise LookalikeError("`within` takes a distance from 0 to 2, and needs exact search")


def search_vectors(
    searcher: Searcher,
    query: Query,
    k: int | None,
    engine: KnnEngine,
    recall: float,
    within: float | None = None,
    labels: list[str] | None = None,
    globs: list[str] | None = None,
) -> SearchResult:
    """Find the neighbours of a query without Spark, as described in `Index.search`."""
    table, rows = searcher.table, searcher.rows
    check_width(table, query.vector)
    allowed = rows.chosen(labels, globs)
    if allowed is not None and len(allowed) and not allowed.any():
        raise no_match_error(labels, globs)
    if within is None and searcher.may_approximate(engine, recall, len(rows)):
        with progress_line("preparing signatures"):
            searcher.get_ready()  # before the clock starts
    started = time.perf_counter()
    used: KnnEngine = "exact"
    compared: int | None = None
    if within is not None:
        found = exact.within(rows, query.vector, within, k, query.id, allowed)
    else:
        found, used, compared = searcher.nearest(
            query.vector,
            k or DEFAULT_K,
            engine=engine,
            recall=recall,
            without=query.id,
            allowed=allowed,
        )
    took_ms = (time.perf_counter() - started) * 1000
    candidates = compared if used == "approximate" else None
    return SearchResult(query, tuple(found), used, took_ms, table.source, candidates)


def as_array(image: Any) -> Any:
    """Return a list of numbers, or a tensor without channels, as an array; else the argument."""
    if hasattr(image, "detach") and image.ndim < 3:
        return image.detach().cpu().numpy()
    if isinstance(image, list | tuple) and image and all(isinstance(one, Real) for one in image):
        return np.array(image, np.float64)
    return image


def are_vectors(table: EmbeddingTable, image: Any) -> bool:
    """Tell whether an array (n, width) has embeddings, and is not a grey image with floats in 0..1.

    It has if half of its rows have length 1, or if its values do not fit an image.
    """
    if not (isinstance(image, np.ndarray) and image.ndim == 2 and image.dtype.kind == "f"):
        return False
    if image.shape[1] != table.about_model["width"]:
        return False
    unit = np.isclose(np.linalg.norm(image.astype(np.float64), axis=1), 1, atol=1e-3)
    is_picture = image.size > 0 and image.min() >= 0 and _MAX_BLACK <= image.max() <= 1
    return bool(2 * np.count_nonzero(unit) >= len(unit)) or not is_picture


def check_width(table: EmbeddingTable, vector: npt.NDArray[Any]) -> None:
    """Raise `LookalikeError` unless a vector has the width of the index."""
    width = table.about_model["width"]
    if vector.shape != (width,):
        raise LookalikeError(
            f"the vector has {vector.size} numbers, but this index has {width}: "
            "embed the query with `index.embedder`"
        )


def _unit_vector(table: EmbeddingTable, vector: npt.NDArray[Any]) -> Vectors:
    check_width(table, vector)
    if vector.dtype.kind not in "fiu":
        raise LookalikeError(f"the vector has the type {vector.dtype}: give numbers")
    if not np.isfinite(vector).all():
        raise LookalikeError("the vector has numbers that are not finite: embed the query again")
    unit = unit_rows(vector[None])
    if not have_direction(unit)[0]:
        raise LookalikeError(
            "a vector of zeros, or near zero, has no direction: embed the query again"
        )
    return cast("Vectors", unit[0])


def _row_of_path(table: EmbeddingTable, path: str) -> tuple[Segment, int, dict[str, Any]] | None:
    source = table.source
    if source.kind != "files":
        return None
    real = os.path.relpath(os.path.realpath(path), os.path.realpath(source.root))
    # By its path, or by its path with links resolved. Images outside the root have absolute paths.
    for below in dict.fromkeys((os.path.relpath(path, source.root), real, path)):
        for segment in table.segments:
            at = pc.index(segment.rows["path"], images.encode_path(below)).as_py()
            if at >= 0:
                return segment, at, segment.rows.slice(at, 1).to_pylist()[0]
    return None


def as_list(one: str | Sequence[str] | None) -> list[str] | None:
    """Return a text, or several, as a list; None for None."""
    return [one] if isinstance(one, str) else None if one is None else list(one)
