"""What an index does on Spark: hash its vectors, search by the hashes, find neighbours of many.

Spark is imported and started by the first of these that is called, not before.
"""

import atexit
import contextlib
import os
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from lookalike import hashing, search
from lookalike.cache import make_free, put_in_place, staging_folder
from lookalike.engine import KNN_ENGINES, KnnEngine, check_engine
from lookalike.errors import LookalikeError
from lookalike.given import Name
from lookalike.groups.graph import check_same_model
from lookalike.hashing.parameters import check_recall
from lookalike.hits import Query, SearchResult
from lookalike.neighbors import neighbors, store
from lookalike.search import Neighbor
from lookalike.spark import local_uri, progress, session
from lookalike.storage import EmbeddingTable

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

    from lookalike.hashing import Hasher, Tuned


def vectors_and_hasher(collection: EmbeddingTable) -> "tuple[DataFrame, Hasher]":
    """Return the embedded rows and their hash model, which is made and saved the first time."""
    spark = session()
    vectors = hashing.with_vectors(collection.dataframe(spark))
    folder = collection.hash_folder
    with contextlib.suppress(LookalikeError):  # none yet, or a damaged one
        return vectors, hashing.Hasher.load(folder)
    with progress(spark, "choosing hash parameters"):
        hasher = hashing.fit(vectors)
    # Else it is made again the next time.
    if os.access(collection.path, os.W_OK) and collection.is_in_place():
        hasher.save(folder)
    return vectors, hasher


def nearest(collection: EmbeddingTable, query: Query, k: int, explain: bool) -> SearchResult:
    """Find neighbours of a query by `approxNearestNeighbors`, as `Index.nearest` says."""
    vectors, hasher = vectors_and_hasher(collection)
    started = time.perf_counter()
    found = search.hashed(vectors, hasher, query.vector, k, query.id)
    took = time.perf_counter() - started
    candidates = None
    if explain:
        found, candidates = _explained(found, hasher, vectors, query)
    return SearchResult(
        query, tuple(found), "spark-lsh", took * 1000, collection.source, candidates
    )


def _explained(
    found: list[Neighbor], hasher: "Hasher", vectors: "DataFrame", query: Query
) -> tuple[list[Neighbor], int]:
    """Add to each neighbour the hash tables that it shares with the query; count all who do."""
    candidates = hasher.explain(vectors, query.vector).filter("size(tables) > 0")
    ids = [neighbor.id for neighbor in found]
    rows = candidates.filter(candidates["id"].isin(ids)).select("id", "tables").collect()
    tables = {row["id"]: tuple(row["tables"]) for row in rows}
    return [replace(n, tables=tables.get(n.id, ())) for n in found], candidates.count()


def tune(collection: EmbeddingTable, recall: float, seed: int) -> "Tuned":
    """Say what hashing is worth, as `Index.tune` says."""
    check_recall(recall)  # before a JVM starts
    search.check_seed(seed)
    spark = session()
    vectors = hashing.with_vectors(collection.dataframe(spark))
    with progress(spark, "measuring hashing"):
        return hashing.tune(vectors, recall, seed=seed)


def write_hashes(
    collection: EmbeddingTable, out: Path, family: str, overwrite: bool
) -> "DataFrame":
    """Steps 7 and 8: write the hashes of all vectors and their model, as `Index.hash` says."""
    out = out.absolute()
    make_free(out, overwrite)
    if out.exists() and not (out / "hashes").is_dir():
        raise LookalikeError(f"{out} holds no hashes and is not replaced: give another --out")
    with staging_folder(out) as staging:
        fresh = staging / "out"
        if family == "projection":
            vectors, hasher = vectors_and_hasher(collection)
            hashed, tables = hasher.transform(vectors), hasher.parameters.tables
            hasher.save(fresh)
        elif family == "minhash":
            sets = hashing.with_sets(hashing.with_vectors(collection.dataframe(session())))
            model = hashing.fit_sets(sets)
            hashed, tables = model.transform(sets), model.getNumHashTables()
            model.save(local_uri(fresh / "model"))
        else:
            raise LookalikeError(f"no hash family {family!r}: say projection or minhash")
        rows = hashing.bucket_columns(hashed, tables).select("id", "path", "label", "hashes")
        with progress(rows.sparkSession, "hashing"):
            rows.write.parquet(local_uri(fresh / "hashes"))
        put_in_place(fresh, out, overwrite=overwrite)
    return rows.sparkSession.read.parquet(local_uri(out / "hashes"))


def write_neighbors(
    collection: EmbeddingTable,
    out: Path,
    k: int,
    queries: EmbeddingTable | Name | None,
    *,
    engine: KnnEngine,
    recall: float,
    paths: bool,
    overwrite: bool,
) -> "DataFrame":
    """Write the k nearest neighbours of every image, as `Index.neighbors` says."""
    check_engine(engine, KNN_ENGINES)
    search.check_k(k)
    out = out.absolute()
    make_free(out, overwrite)
    if out.exists() and not (out / "_SUCCESS").exists():  # which Spark leaves in what it wrote
        raise LookalikeError(f"{out} is a folder of something else: give another --out")
    asking = EmbeddingTable.open(queries) if isinstance(queries, str | os.PathLike) else queries
    if asking is not None:
        check_same_model(collection, asking)
    spark = session()
    with progress(spark, "finding neighbours"), staging_folder(out) as staging:
        found = neighbors(
            spark, collection, k, None if asking is None else asking.segments, engine, recall
        )
        if paths:
            asked = (asking or collection).dataframe(spark)
            found = _with_paths(found, asked, collection.dataframe(spark))
        found.write.parquet(local_uri(staging / "out"))
        put_in_place(staging / "out", out, overwrite=overwrite)
    return spark.read.parquet(local_uri(out))


def _with_paths(found: "DataFrame", queries: "DataFrame", rows: "DataFrame") -> "DataFrame":
    for who, table in (("query", queries), ("neighbor", rows)):
        names = table.selectExpr(f"id AS {who}_id", f"path AS {who}_path")
        found = found.join(names, f"{who}_id")
    columns = ["query_id", "query_path", "rank", "neighbor_id", "neighbor_path", "distance"]
    return found.select(*columns)


def kneighbors(
    collection: EmbeddingTable,
    queries: "DataFrame",
    k: int,
    *,
    id_column: str,
    column: str,
    engine: KnnEngine,
    recall: float,
) -> "DataFrame":
    """Find the k nearest neighbours of each row of a DataFrame, as `Index.kneighbors` says."""
    from pyspark.sql import functions as F
    from pyspark.sql.types import IntegralType

    check_engine(engine, KNN_ENGINES)
    search.check_k(k)
    vector = _numbers(queries, column)
    number = _column(queries, id_column)
    try:
        folder = _kept_to_the_end().enter_context(staging_folder(collection.path)) / "queries"
        folder.mkdir()
        folder.chmod(0o1777)  # Spark's workers may be another user's
    except OSError as error:
        raise LookalikeError(
            f"the queries cannot be kept beside {collection.path} ({error.strerror}): copy the "
            "index to where you may write"
        ) from None
    names = None
    if isinstance(queries.schema[id_column].dataType, IntegralType):
        rows = queries.select(number.cast("bigint").alias("id"), vector.alias("embedding"))
    else:
        # Written down: Spark numbers rows anew each time that it looks at them.
        numbers = F.monotonically_increasing_id()
        counted = queries.select(numbers.alias("id"), number.alias("name"), vector.alias("vector"))
        counted.write.parquet(local_uri(folder / "counted"))
        names = queries.sparkSession.read.parquet(local_uri(folder / "counted"))
        rows = names.select(
            F.when(F.col("name").isNotNull(), F.col("id")).alias("id"),
            F.col("vector").alias("embedding"),
        )
    stored = store(rows, folder, int(collection.about_model["width"]))
    found = neighbors(queries.sparkSession, collection, k, stored, engine, recall)
    if names is None:
        return found
    named = found.join(names.withColumnRenamed("id", "query_id"), "query_id")
    return named.select(F.col("name").alias("query_id"), *found.columns[1:])


def _column(frame: "DataFrame", name: str) -> "Column":
    """Return a column of a DataFrame, whatever its name; `LookalikeError` where there is none."""
    if name not in frame.columns:
        raise LookalikeError(
            f"the queries have no column {name!r}, but {', '.join(frame.columns)}: say which it is"
        )
    return frame[f"`{name.replace('`', '``')}`"]


def _numbers(frame: "DataFrame", name: str) -> "Column":
    """Return a column of vectors or of arrays of numbers as arrays of floats or doubles."""
    from pyspark.ml.functions import vector_to_array
    from pyspark.ml.linalg import VectorUDT
    from pyspark.sql.types import ArrayType, FloatType, NumericType

    column, kind = _column(frame, name), frame.schema[name].dataType
    if isinstance(kind, VectorUDT):
        return vector_to_array(column)
    if not (isinstance(kind, ArrayType) and isinstance(kind.elementType, NumericType)):
        raise LookalikeError(
            f"the column {name!r} is {kind.simpleString()}: give vectors or arrays of numbers"
        )
    # As float32, what is beyond that would be infinite or zero.
    return column if isinstance(kind.elementType, FloatType) else column.cast("array<double>")


@cache
def _kept_to_the_end() -> contextlib.ExitStack:
    """Return what goes with the process."""
    stack = contextlib.ExitStack()
    atexit.register(stack.close)
    return stack
