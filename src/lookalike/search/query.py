"""Turn an image, a file or a vector into a query, and search with it."""

import os
import random
import time
from collections.abc import Sequence
from numbers import Real
from typing import Any, Required, TypeAlias, TypedDict, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from lookalike import images
from lookalike.errors import ImageError, LookalikeError
from lookalike.images.decoding.raster import read_file
from lookalike.images.inputs.reader import content_hash
from lookalike.models.embedder import ImageEmbedder, ImageLike, have_direction, to_pixels, unit_rows
from lookalike.search import exact
from lookalike.search.bands.names import Band, check_band
from lookalike.search.engines import Engine, KnnEngine, check_engine
from lookalike.search.filters import Filter
from lookalike.search.results import Query, SearchResult, read_content
from lookalike.search.row_lookup import has_regions, number_of, row_of_path, stored_row
from lookalike.search.rows import as_given, check_k, check_recall
from lookalike.search.searcher import Searcher
from lookalike.search.stored_rows import StoredRow, draw_row
from lookalike.storage import EmbeddingTable
from lookalike.storage.own_vectors import Metric
from lookalike.system.arrays import Vectors
from lookalike.system.progress import progress_line

DEFAULT_K = 5
"""Default number of neighbours."""
_MAX_BLACK = 0.5 / 255  # a float picture with no value above this is black
_ALL = Filter()

QueryLike: TypeAlias = "ImageLike | Query"
"""An image, a vector (width,), or a `Query` from a result or a sample."""


class SearchOptions(TypedDict, total=False):
    """The keywords of `Index.search`."""

    engine: Engine
    recall: float
    within: float | None
    label: str | Sequence[str] | None
    path: str | Sequence[str] | None
    where: str | None
    explain: bool
    min_band: Band | None
    all_copies: bool


class SearchByIdOptions(SearchOptions, total=False):
    """The keywords of `Index.search` with the id of a row."""

    id: Required[int | str]


class SearchByTextOptions(SearchOptions, total=False):
    """The keywords of `Index.search` with words."""

    text: Required[str]


class SearchByTextsOptions(SearchOptions, total=False):
    """The keywords of `Index.search` with several texts."""

    text: Required[Sequence[str]]


class SearchByIdsOptions(SearchOptions, total=False):
    """The keywords of `Index.search` with the ids of several rows."""

    id: Required[Sequence[int | str]]


def make_embedder(table: EmbeddingTable) -> ImageEmbedder:
    """Return the embedder that made the vectors of a table.

    Raises `LookalikeError` for vectors that were made elsewhere.
    """
    if not table.has_network:
        raise no_network_error(table)
    return ImageEmbedder(model=table.model, truncated=table.source.truncated)


def no_network_error(table: EmbeddingTable) -> LookalikeError:
    """Return the error for a picture where nothing can embed it."""
    return LookalikeError(
        f"{table.path} holds vectors without a network: search with a vector or an id"
    )


def make_query(table: EmbeddingTable, image: QueryLike) -> Query:
    """Turn an image or a vector into a query.

    A file of the index with unchanged bytes is not embedded again.
    """
    if isinstance(image, Query):
        check_width(table, image.vector)
        return image
    given = as_array(image)
    if isinstance(given, np.ndarray) and given.ndim == 1:
        return Query(_usable_vector(table, given))
    if not table.has_network:
        raise no_network_error(table)
    if isinstance(given, bytes | Image.Image):
        return Query(make_embedder(table)(given), content=given)
    if not isinstance(given, str | os.PathLike):
        content = Image.fromarray(to_pixels(given))
        return Query(make_embedder(table)(given), content=content)
    path = os.path.abspath(given)
    data = read_file(given)
    row = row_of_path(table, path)
    is_same = row is not None and row.content_hash == content_hash(data)
    vector = row.vector if row is not None and is_same else make_embedder(table)(data)
    name = images.encode_path(path)
    if row is None:
        return Query(vector, name)
    return Query(vector, name, row.label, row.id, number=row.number)


def queries_of_texts(table: EmbeddingTable, texts: Sequence[str]) -> list[Query]:
    """Turn words into queries. Raises `LookalikeError` where the model embeds no words."""
    vectors = make_embedder(table).embed_text(list(texts))
    return [Query(vector, text=text) for text, vector in zip(texts, vectors, strict=True)]


def query_of_id(searcher: Searcher, id_: int | str) -> Query:
    """Return a row of the index as a query, by its key, or by its id where rows have no keys.

    Raises `LookalikeError` if there is no such row.
    """
    table = searcher.table
    if has_regions(table):
        stored = stored_row(table, id_)
        if stored is None:
            raise _no_row_error(table, id_)
        return _query_of_row(table, stored)
    rows = searcher.rows
    row = rows.row_of(id_)
    if row is None:
        raise _no_row_error(table, id_)
    vector: Vectors = rows.vectors(np.array([row]))[0]
    source, path = table.source, rows.paths[row].as_py()
    full_path = images.encode_path(images.full_path(source, path))
    content = None if source.kind == "files" else read_content(source, path)
    label, number = rows.labels[row].as_py(), int(rows.ids[row])
    return Query(vector, full_path, label, rows.id_of(row), content, number)


def _no_row_error(table: EmbeddingTable, id_: int | str) -> LookalikeError:
    what = "key" if table.has_keys else "id"
    return LookalikeError(f"{table.path} has no embedded row with the {what} {id_!r}")


def _query_of_row(table: EmbeddingTable, row: StoredRow) -> Query:
    source = table.source
    full_path = images.encode_path(images.full_path(source, row.path))
    content = None if source.kind == "files" else read_content(source, row.path)
    return Query(row.vector, full_path, row.label, row.id, content, row.number)


def id_of_text(table: EmbeddingTable, text: str) -> int | str:
    """Return an id or a key that was given as a text, by the type of those of a table."""
    if table.key == "string":
        return text
    try:
        return int(text)
    except ValueError:
        raise LookalikeError(f"{text!r} is no whole number, as the ids of {table.path}") from None


def random_query(table: EmbeddingTable, seed: int | None = None) -> Query:
    """Steps 9 and 10: draw an indexed image at random and embed its file again."""
    if has_regions(table) and (drawn := draw_row(table, seed)) is not None:
        return _embedded_again(table, drawn)
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
    number = row["id"]
    named = (row["path"], row["label"], row["content_hash"])
    vector: Vectors = np.array(segment.vectors[at])
    return _embedded_again(table, StoredRow(number, row.get("key", number), *named, vector))


def _embedded_again(table: EmbeddingTable, row: StoredRow) -> Query:
    """Return a row as a query, with the vector of its file as that is now."""
    if not table.has_network:  # its stored vector is the only one
        source = table.source
        name = images.encode_path(images.full_path(source, row.path))
        return Query(
            row.vector, name, row.label, row.id, read_content(source, row.path), row.number
        )
    source = table.source
    full_path = images.full_path(source, row.path)
    try:
        data = images.read(source, row.path)
    except ImageError as error:
        raise LookalikeError(f"{full_path} can no longer be read: {error}") from None
    content = None if source.kind == "files" else data
    vector = make_embedder(table)(data)
    name = images.encode_path(full_path)
    return Query(vector, name, row.label, row.id, content, row.number)


def check_search(
    k: int | None,
    engine: str,
    recall: float,
    within: float | None,
    chosen: Filter,
    explain: bool,
    metric: Metric = "cosine",
    min_band: str | None = None,
    all_copies: bool = True,
) -> None:
    """Raise `LookalikeError` for wrong options of `Index.search`, or wrong combinations."""
    if k is not None:
        check_k(k)
    check_band(min_band)
    check_engine(engine)
    check_recall(recall)
    if engine == "spark-lsh":
        if within is not None or chosen:
            raise LookalikeError(
                '`engine="spark-lsh"` supports neither filters nor `within`: leave them out'
            )
        if not all_copies:
            raise LookalikeError(
                '`engine="spark-lsh"` gives each copy as a result: set `all_copies=True`'
            )
    elif explain:
        raise LookalikeError('`explain` lists hash tables: set `engine="spark-lsh"`')
    if within is not None and (not within >= 0 or engine == "approximate"):
        limits = "0 to 2" if metric == "cosine" else "0 on"
        raise LookalikeError(f"`within` takes a distance from {limits}, and needs exact search")


def search_vectors(
    searcher: Searcher,
    query: Query,
    k: int | None,
    engine: KnnEngine,
    recall: float,
    within: float | None = None,
    chosen: Filter = _ALL,
) -> SearchResult:
    """Find the neighbours of a query without Spark, as described in `Index.search`."""
    table = searcher.table
    check_width(table, query.vector)
    if within is None and not chosen:
        answer = _search_regions(searcher, query, k or DEFAULT_K, engine, recall)
        if answer is not None:
            return answer
    rows = searcher.rows
    allowed = rows.chosen(chosen)
    if allowed is not None and len(allowed) and not allowed.any():
        raise chosen.no_match_error()
    if within is None and searcher.may_approximate(engine, recall, len(rows)):
        with progress_line("preparing signatures"):
            searcher.get_ready()  # before the clock starts
    own = number_of(searcher, query)
    started = time.perf_counter()
    used: KnnEngine = "exact"
    compared: int | None = None
    if within is not None:
        found = exact.within(rows, query.vector, within, k, own, allowed)
    else:
        found, used, compared = searcher.nearest(
            query.vector,
            k or DEFAULT_K,
            engine=engine,
            recall=recall,
            without=own,
            allowed=allowed,
        )
    took_ms = (time.perf_counter() - started) * 1000
    candidates = compared if used == "approximate" else None
    return SearchResult(query, tuple(found), used, took_ms, table.source, candidates)


def _search_regions(
    searcher: Searcher, query: Query, k: int, engine: KnnEngine, recall: float
) -> SearchResult | None:
    """Find the neighbours of a query in the regions of an index; None without any that can tell."""
    regions = searcher.usable_regions(engine, recall)
    if regions is None:
        return None
    own = number_of(searcher, query)
    started = time.perf_counter()
    answer = regions.nearest(query.vector, k, recall, own)
    if answer is None:
        return None
    took_ms = (time.perf_counter() - started) * 1000
    found, compared = answer
    return SearchResult(
        query, tuple(found), "approximate", took_ms, searcher.table.source, compared
    )


def as_array(image: Any) -> Any:
    """Return a list of numbers, or a tensor without channels, as an array; else the argument."""
    if hasattr(image, "detach") and image.ndim < 3:
        return image.detach().cpu().numpy()
    if isinstance(image, list | tuple) and image and all(isinstance(one, Real) for one in image):
        return np.array(image, np.float64)
    return image


def are_vectors(table: EmbeddingTable, image: Any) -> bool:
    """Tell whether an array (n, width) has embeddings, and is not a grey image with floats in 0..1.

    It has if half of its rows have length 1, or if its values do not fit an image. Where there is
    no network, it always has.
    """
    if not (isinstance(image, np.ndarray) and image.ndim == 2):
        return False
    if not table.has_network:
        return True
    if image.dtype.kind != "f" or image.shape[1] != table.about_model["width"]:
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


def _usable_vector(table: EmbeddingTable, vector: npt.NDArray[Any]) -> Vectors:
    """Return a vector as the table has its own: of length 1, or of any with the metric l2."""
    check_width(table, vector)
    if vector.dtype.kind not in "fiu":
        raise LookalikeError(f"the vector has the type {vector.dtype}: give numbers")
    if not np.isfinite(vector).all():
        raise LookalikeError("the vector has numbers that are not finite: embed the query again")
    if table.metric == "l2":
        given: Vectors = as_given(vector[None])[0]
        return given
    unit = unit_rows(vector[None])
    if not have_direction(unit)[0]:
        raise LookalikeError(
            "a vector of zeros, or near zero, has no direction: embed the query again"
        )
    return cast("Vectors", unit[0])
