"""Search an index from SQL: a table function of Spark."""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from lookalike.errors import LookalikeError
from lookalike.images.inputs.image_columns import is_file_uri, local_place, read_place
from lookalike.search.filters import Filter
from lookalike.search.query import (
    DEFAULT_K,
    make_query,
    queries_of_texts,
    query_of_id,
    search_vectors,
)
from lookalike.search.results import Query
from lookalike.search.rows import check_k
from lookalike.search.searcher import Searcher
from lookalike.spark import session
from lookalike.spark.columns import ddl
from lookalike.storage import EmbeddingTable
from lookalike.storage.protocol import HasTable
from lookalike.storage.schema import KEY
from lookalike.system.defaults import TARGET_RECALL
from lookalike.system.uris import is_uri

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def register_function(
    self: HasTable, name: str = "lookalike_search", spark: "SparkSession | None" = None
) -> None:
    """Make a table function of Spark SQL that searches this version of the index.

    Its arguments are those of `Index.search`: `image` (a path, a URI, the bytes of a file, or a
    vector), `k`, `id`, `text`, `where`. It gives `rank, id, path, label, distance`, nearest first,
    and no row where `image`, `id` and `text` are null. The query runs in a task, which has to see
    the folder of the index.

    Parameters
    ----------
    name : str
        The name of the function.
    spark : SparkSession, optional
        The session; by default the active one, or a new one.

    Examples
    --------
    >>> index.register_function("alike")  # doctest: +SKIP
    >>> spark.sql("select * from alike(image => 'new.jpg', k => 3)").show()  # doctest: +SKIP

    """
    from pyspark.sql.functions import udtf

    table = self._table
    path, version = table.path, table.version
    id_type = table.schema.field(KEY).type if table.has_keys else pa.int64()
    schema = pa.schema(
        [
            ("rank", pa.int32()),
            ("id", id_type),
            ("path", pa.string()),
            ("label", pa.string()),
            ("distance", pa.float64()),
        ]
    )

    class Search:
        def eval(
            self,
            image: Any = None,
            k: Any = DEFAULT_K,
            id: Any = None,
            text: Any = None,
            where: Any = None,
        ) -> Iterator[tuple[Any, ...]]:
            yield from neighbors(path, version, image, k, id, text, where)

    function: Any = udtf(Search, returnType=ddl(schema))
    (spark or session()).udtf.register(name, function)


def neighbors(
    path: Path, version: int, image: Any, k: Any, id_: Any, text: Any, where: Any
) -> Iterator[tuple[int, int | str, str, str | None, float]]:
    """Yield the neighbours of a query, in a task. Raises `LookalikeError` for a wrong argument."""
    given = [one for one in (image, id_, text) if one is not None]
    if not given:
        return
    if len(given) > 1:
        raise LookalikeError("give an image, an `id` or a `text`, and one alone")
    check_k(k)
    searcher = _searcher(path, version)
    query = _query(searcher, image, id_, text)
    found = search_vectors(searcher, query, k, "auto", TARGET_RECALL, None, Filter.of(where=where))
    for one in found:
        yield one.rank, one.id, one.path, one.label, float(one.distance)


def _query(searcher: Searcher, image: Any, id_: Any, text: Any) -> Query:
    table = searcher.table
    if id_ is not None:
        return query_of_id(searcher, id_)
    if text is not None:
        return queries_of_texts(table, [text])[0]
    if isinstance(image, str) and is_file_uri(image):
        image = local_place(image)
    elif isinstance(image, str) and is_uri(image):
        image = read_place(image)
    elif isinstance(image, list):
        image = np.asarray(image, np.float32)
    elif isinstance(image, bytearray):
        image = bytes(image)
    return make_query(table, image)


@lru_cache(2)
def _searcher(path: Path, version: int) -> Searcher:
    return Searcher(EmbeddingTable.open(path, version))
