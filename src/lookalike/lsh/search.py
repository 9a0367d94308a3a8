"""What an index does with the hash tables of Spark ML: fit them, write them, search by them.

Spark is imported and started by the first of these that is called, not before.
"""

import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from lookalike import lsh
from lookalike.errors import LookalikeError
from lookalike.lsh.parameters import check_target_recall
from lookalike.search.bands.kept import bands_of
from lookalike.search.bands.search import cut, limit_of, search_in_bands
from lookalike.search.filters import Filter
from lookalike.search.keys import with_keys
from lookalike.search.query import (
    DEFAULT_K,
    QueryLike,
    SearchOptions,
    are_vectors,
    as_array,
    check_search,
    make_query,
    queries_of_texts,
    query_of_id,
)
from lookalike.search.results import Query, SearchResult, SearchResults
from lookalike.search.row_lookup import number_of
from lookalike.search.rows import Neighbor, check_seed
from lookalike.search.searcher import Searcher
from lookalike.spark import local_uri, progress, session
from lookalike.storage import EmbeddingTable, push
from lookalike.system.arrays import Vectors
from lookalike.system.files import check_free, put_in_place, staging_folder
from lookalike.system.paths import Name, local_path
from lookalike.system.store import StoreError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from lookalike.lsh import Hasher, Tuned


Family = Literal["projection", "minhash"]


def hashing_session() -> "SparkSession":
    """Return a session that can hash. Raises `LookalikeError` under Spark Connect."""
    lsh.check_hashing()
    return session()


def vectors_and_hasher(table: EmbeddingTable) -> "tuple[DataFrame, Hasher]":
    """Return the embedded rows and their hash model, which is made and saved the first time."""
    spark = hashing_session()
    vectors = lsh.with_vectors(table.dataframe(spark))
    folder = table.hash_folder
    with contextlib.suppress(LookalikeError):  # none yet, or a damaged one
        return vectors, lsh.Hasher.load(folder)
    with progress(spark, "choosing hash parameters"):
        hasher = lsh.fit(vectors)
    # Else it is made again the next time.
    if os.access(table.path, os.W_OK) and table.is_in_place():
        hasher.save(folder)
        with contextlib.suppress(OSError, StoreError):  # it may be read-only
            push(table.path, folder)
    return vectors, hasher


def find(
    searcher: Searcher,
    image: "QueryLike | Sequence[QueryLike] | None",
    ids: "int | str | Sequence[int | str] | None",
    texts: "str | Sequence[str] | None",
    k: int | None,
    options: SearchOptions,
) -> SearchResult | list[SearchResult]:
    """Find the neighbours of an image, a row or words, or of each of a list (`Index.search`)."""
    table, engine, explain = searcher.table, options["engine"], options["explain"]
    recall, within = options["recall"], options["within"]
    chosen = Filter.of(options["label"], options["path"], options["where"])
    min_band, all_copies = options["min_band"], options["all_copies"]
    check_search(k, engine, recall, within, chosen, explain, table.metric, min_band, all_copies)
    if [image is None, ids is None, texts is None].count(False) != 1:
        raise LookalikeError("give an image, a vector, an `id` or a `text`, and one alone")
    hashing = cache(partial(vectors_and_hasher, table))  # read once for a list

    def answer(query: Query) -> SearchResult:
        if engine != "spark-lsh":
            how = (k, engine, recall, within, chosen)
            return search_in_bands(searcher, query, *how, min_band, all_copies)
        found = nearest(searcher, *hashing(), query, k or DEFAULT_K, explain)
        found = replace(found, find_bands=partial(bands_of, searcher))
        return found if min_band is None else cut(found, limit_of(found.bands, query, min_band))

    if texts is not None:
        given = [texts] if isinstance(texts, str) else list(texts)
        found = SearchResults(map(answer, queries_of_texts(table, given)))
        return found[0] if isinstance(texts, str) else found
    if ids is not None:
        if isinstance(ids, int | str | np.integer):
            return answer(query_of_id(searcher, ids))
        return SearchResults(answer(query_of_id(searcher, one)) for one in ids)
    given = as_array(image)
    if are_vectors(table, given) or isinstance(given, list | tuple):
        return SearchResults(answer(make_query(table, one)) for one in given)
    return answer(make_query(table, given))


def nearest(
    searcher: Searcher,
    vectors: "DataFrame",
    hasher: "Hasher",
    query: Query,
    k: int,
    explain: bool,
) -> SearchResult:
    """Find neighbours of a query by `approxNearestNeighbors`, as `Index.search` says."""
    table, own = searcher.table, number_of(searcher, query)
    started = time.perf_counter()
    found = hashed(vectors, hasher, query.vector, k, own)
    took = time.perf_counter() - started
    candidates = None
    if explain:
        found, candidates = _explained(found, hasher, vectors, query)
    if table.has_keys and found:
        rows = searcher.rows
        places = rows.find(np.array([one.number for one in found]))
        pairs = zip(found, places.tolist(), strict=True)
        found = [replace(one, id=rows.id_of(place)) for one, place in pairs]
    return SearchResult(query, tuple(found), "spark-lsh", took * 1000, table.source, candidates)


def _explained(
    found: list[Neighbor], hasher: "Hasher", vectors: "DataFrame", query: Query
) -> tuple[list[Neighbor], int]:
    """Add to each neighbour the hash tables that it shares with the query; count all who do."""
    from pyspark.sql import functions as F

    candidates = hasher.explain(vectors, query.vector).filter("size(tables) > 0")
    numbers = [neighbor.number for neighbor in found]
    own = F.when(F.col("id").isin(numbers), F.struct("id", "tables"))
    ((rows, count),) = candidates.agg(F.collect_list(own), F.count("*")).collect()
    tables = {row["id"]: tuple(row["tables"]) for row in rows}
    return [replace(n, tables=tables.get(n.number, ())) for n in found], count


def load_hasher(index: EmbeddingTable | Name) -> "Hasher":
    """Return the hash model of an index, which is made and saved the first time.

    Parameters
    ----------
    index : str or Path
        The folder of the index.

    Returns
    -------
    lookalike.lsh.Hasher
        The model of its newest version.

    """
    return vectors_and_hasher(_opened(index))[1]


def tune_index(index: EmbeddingTable | Name, recall: float = 0.9, seed: int = 0) -> "Tuned":
    """Measure what hashing on Spark is worth for an index, and with which parameters.

    Parameters
    ----------
    index : str or Path
        The folder of the index.
    recall : float
        The share of the ten nearest neighbours that hash tables have to find, between 0 and 1.
    seed : int
        Random seed for sampling the images that choose the parameters and measure them.

    Returns
    -------
    lookalike.lsh.Tuned
        The parameters, predicted and measured; `print` shows them.

    """
    check_target_recall(recall)  # before a JVM starts
    check_seed(seed)
    spark = hashing_session()
    vectors = lsh.with_vectors(_opened(index).dataframe(spark))
    with progress(spark, "measuring hashing"):
        return lsh.tune(vectors, recall, seed=seed)


def write_hashes(
    index: EmbeddingTable | Name,
    out: Name,
    family: Family = "projection",
    *,
    overwrite: bool = False,
) -> "DataFrame":
    """Steps 7 and 8: write the hashes of all vectors to `out/hashes`, the model beside them.

    Parameters
    ----------
    index : str or Path
        The folder of the index.
    out : str or Path
        The folder to write. Its `hashes` are Parquet: `id, path, label, hashes array<double>`, a
        number a hash table.
    family : {"projection", "minhash"}
        Random projections of the vectors, or MinHash of the strongest features of each.
    overwrite : bool
        Replace hashes that were written there earlier.

    Returns
    -------
    pyspark.sql.DataFrame
        The hashes.

    """
    if family not in get_args(Family):
        raise LookalikeError(f"unknown family {family!r}: choose projection or minhash")
    table = _opened(index)
    out = local_path(out).absolute()
    check_free(out, overwrite)
    if out.exists() and not (out / "hashes").is_dir():
        raise LookalikeError(f"{out} holds no hashes and is not replaced: choose another `out`")
    with staging_folder(out) as staging:
        fresh = staging / "out"
        if family == "projection":
            vectors, hasher = vectors_and_hasher(table)
            hashed, tables = hasher.transform(vectors), hasher.parameters.tables
            hasher.save(fresh)
        else:
            sets = lsh.with_sets(lsh.with_vectors(table.dataframe(hashing_session())))
            model = lsh.fit_sets(sets)
            hashed, tables = model.transform(sets), model.getNumHashTables()
            model.save(local_uri(fresh / "model"))
        rows = lsh.bucket_columns(hashed, tables).select("id", "path", "label", "hashes")
        rows = with_keys(rows, {"id": table})
        with progress(rows.sparkSession, "hashing"):
            rows.write.parquet(local_uri(fresh / "hashes"))
        put_in_place(fresh, out, overwrite=overwrite)
    return rows.sparkSession.read.schema(rows.schema).parquet(local_uri(out / "hashes"))


def _opened(index: EmbeddingTable | Name) -> EmbeddingTable:
    return index if isinstance(index, EmbeddingTable) else EmbeddingTable.open(index)


def hashed(
    vectors: "DataFrame", hasher: "Hasher", query: Vectors, k: int, without: int | None = None
) -> list[Neighbor]:
    """Return at most k neighbours by Spark ML's `approxNearestNeighbors`.

    Parameters
    ----------
    vectors : DataFrame
        With `id, path, label` and the vector column of the hasher.
    hasher : Hasher
    query : float32 (width,)
    k : int
    without : int, optional
        Leave out the row with this id.

    Returns
    -------
    list of Neighbor
        Fewer than k where fewer rows share a bucket with the query.
    """
    rows = hasher.nearest(vectors, query, k + (without is not None)).select(
        "id", "path", "label", "distance"
    )
    found = sorted((row["distance"], row["id"], row) for row in rows.collect())
    kept = [(distance, row) for distance, number, row in found if number != without][:k]
    return [
        Neighbor(rank, row["id"], row["path"], row["label"], float(distance), number=row["id"])
        for rank, (distance, row) in enumerate(kept, 1)
    ]
