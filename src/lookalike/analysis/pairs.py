"""Join an index with itself or another one: all pairs of images within a distance.

The same as Spark ML's `approxSimilarityJoin`, except that an image brings at most its `cap` nearest
pairs, which bounds the output; the figures count the images with more. Each pair comes once.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lookalike import lsh
from lookalike.errors import LookalikeError
from lookalike.lsh.search import hashing_session
from lookalike.search import exact
from lookalike.search.engines import Engine
from lookalike.search.knn.export import check_same_model
from lookalike.search.knn.graph import write_graph
from lookalike.search.knn.sources import IndexRows
from lookalike.search.knn.survey import inspect, nearest_of_few
from lookalike.search.rows import Rows, check_k, check_within, draw
from lookalike.spark import local_uri, progress, session
from lookalike.storage import EmbeddingTable
from lookalike.system.arrays import Numbers, Vectors
from lookalike.system.defaults import MAX_PAIRS_PER_IMAGE, TARGET_RECALL
from lookalike.system.files import delete_folder
from lookalike.system.sql import connect, create_view, fetch_row, write_parquet

MAX_CAP = 1000
"""A task has this many pairs in memory for thousands of images at a time."""
RECALL_SAMPLE_IMAGES = 300
_MAX_DUCKDB_PAIRS = 50_000_000  # beyond it Spark is as quick on one machine
_SEED = 3  # other images than those that decide the search effort

# SQL for both Spark and DuckDB; {graph}, {a} and {b} are tables, {cap} is a number.
_ONCE = """
    select least(query_id, neighbor_id) as a_id, greatest(query_id, neighbor_id) as b_id,
        min(distance) as distance
    from {graph} where rank <= {cap} group by 1, 2"""
_BETWEEN = """
    select neighbor_id as a_id, query_id as b_id, distance from {graph} where rank <= {cap}"""
_NAMED = """
select pairs.a_id, pairs.b_id, a.path as a_path, b.path as b_path, pairs.distance
from (PAIRS) as pairs join {a} as a on a.id = pairs.a_id join {b} as b on b.id = pairs.b_id
order by pairs.distance, pairs.a_id, pairs.b_id"""


def join(
    table: EmbeddingTable,
    folder: Path,
    within: float = np.inf,
    cap: int = MAX_PAIRS_PER_IMAGE,
    other: EmbeddingTable | None = None,
    *,
    engine: Engine = "auto",
    recall: float = TARGET_RECALL,
    spark: bool | None = None,
) -> dict[str, Any]:
    """Find pairs within a distance and write them into `folder/pairs`, nearest first.

    Parameters
    ----------
    table : EmbeddingTable
    folder : Path
    within : float
        Euclidean distance.
    cap : int
        Most pairs per image.
    other : EmbeddingTable, optional
        A second index, whose images are the queries.
    engine : {"auto", "exact", "approximate", "spark-lsh"}
        `spark-lsh` is Spark ML's own join, without a cap.
    recall : float
        Target recall of approximate search.
    spark : bool, optional
        Whether to use Spark; by default for large collections.

    Returns
    -------
    dict
        Figures: `cut` counts the images with more than `cap` pairs, `recall` is the found share of
        the true pairs of drawn images, and `recall_of` their number. The columns of the files are
        `a_id, b_id, a_path, b_path, distance`; `a` is in the index, `b` in the other one.
        Without another one, `a_id` is less than `b_id`.

    Raises
    ------
    LookalikeError
        For an option out of range, or another model.
    """
    check_k(cap)
    if cap > MAX_CAP:
        raise LookalikeError(f"`cap` is {cap:,}: give at most {MAX_CAP:,} pairs per image")
    if other is not None and (other.identity, other.version) == (
        table.identity,
        table.version,
    ):
        other = None
    if not within >= 0:
        check_within(table, within)
    graph, pairs = folder / "graph", folder / "pairs"
    queries = other or table
    if engine == "spark-lsh":
        _by_spark_ml(table, queries, pairs, within, other)
        return {**_figures(table, pairs, within, None, 0, other, True), "spark": True}
    by_spark = write_graph(
        table,
        graph,
        cap + 1,  # one more shows which images were cut
        within=within,
        queries=other,
        spark=spark,
        engine=engine,
        recall=recall,
    )
    named = _NAMED.replace("PAIRS", _ONCE if other is None else _BETWEEN)
    with connect(folder) as sql:
        create_view(sql, "graph", graph)
        query = "select count(*), count(*) filter (rank > $cap) from graph"
        total, cut = fetch_row(sql, query, {"cap": cap})
    if by_spark and total > _MAX_DUCKDB_PAIRS:
        running = session()
        tables: dict[str, Any] = {"graph": running.read.parquet(local_uri(graph)), "cap": cap}
        tables["a"], tables["b"] = (one.dataframe(running) for one in (table, queries))
        with progress(running, "writing pairs"):
            running.sql(named, None, **tables).write.parquet(local_uri(pairs))
    else:
        pairs.mkdir()
        with table.connect(folder) as sql:
            queries.view(sql, "other")
            create_view(sql, "graph", graph)
            named = named.format(graph="graph", a="stored", b="other", cap=cap)
            write_parquet(sql, named, pairs / "part-0.parquet")
    delete_folder(graph)
    figures = _figures(table, pairs, within, cap, cut, other, by_spark)
    return {**figures, "spark": by_spark}


def _by_spark_ml(
    table: EmbeddingTable,
    queries: EmbeddingTable,
    pairs: Path,
    within: float,
    other: EmbeddingTable | None,
) -> None:
    """Write all pairs that Spark ML finds within the distance, without a cap."""
    if within == np.inf:
        raise LookalikeError("Spark ML joins within a distance: set `within`")
    if other is not None:
        check_same_model(table, other)
    running = hashing_session()
    frames = [lsh.with_vectors(one.dataframe(running)) for one in (table, queries)]
    try:
        hasher = lsh.Hasher.load(table.hash_folder)
    except LookalikeError:  # missing or damaged
        hasher = lsh.fit(frames[0])
    with progress(running, "joining by hashes"):
        found = lsh.similarity_join(hasher, frames[0], within, frames[1] if other else None)
        for name, frame in zip("ab", frames, strict=True):
            paths = frame.selectExpr(f"id as {name}_id", f"path as {name}_path")
            found = found.join(paths, f"{name}_id")
        columns = "a_id", "b_id", "a_path", "b_path", "cast(distance as float) as distance"
        ordered = found.selectExpr(*columns).orderBy("distance", "a_id", "b_id")
        ordered.write.parquet(local_uri(pairs))


def _figures(
    table: EmbeddingTable,
    pairs: Path,
    within: float,
    cap: int | None,
    cut: int,
    other: EmbeddingTable | None,
    spark: bool,
) -> dict[str, Any]:
    with connect(pairs.parent) as sql:
        create_view(sql, "pairs", pairs)
        (count,) = fetch_row(sql, "select count(*) from pairs")
    found, true = _count_true(table, pairs, within, cap or MAX_PAIRS_PER_IMAGE, other, spark)
    return {
        "images": (other or table).counts()[0],
        "pairs": count,
        "within": None if within == np.inf else within,
        "cap": cap,
        "cut": cut,
        "recall": round(found / true, 4) if true else None,
        "recall_of": true,
    }


def _count_true(
    table: EmbeddingTable,
    pairs: Path,
    within: float,
    cap: int,
    other: EmbeddingTable | None,
    spark: bool,
) -> tuple[int, int]:
    """Count the true pairs of drawn images: the found ones, and all."""
    asked = other or table
    if not table.counts()[0] or not asked.counts()[0]:
        return 0, 0
    nearest = _nearest_on_spark if spark else _nearest_here
    own, one, squared = nearest(table, asked, cap + (other is None))
    who, place = np.nonzero(np.isfinite(squared) & (squared <= within**2))
    one, two = one[who, place], own[who]
    if other is None:
        one, two = np.minimum(one, two), np.maximum(one, two)
        one, two = one[one != two], two[one != two]
    truth = pa.table({"a_id": one, "b_id": two})
    with connect(pairs.parent) as sql:
        sql.register("truth", truth)
        create_view(sql, "pairs", pairs)
        query = """
            select (select count(*) from pairs semi join truth using (a_id, b_id)),
                (select count(*) from (select distinct * from truth))"""
        there, total = fetch_row(sql, query)
    return there, total


def _nearest_here(
    table: EmbeddingTable, asked: EmbeddingTable, k: int
) -> tuple[Numbers, Numbers, Vectors]:
    """Return the ids of drawn rows, of the k nearest to each, and their squared distances."""
    rows, query_rows = Rows(table.segments), Rows(asked.segments)
    drawn = draw(len(query_rows), RECALL_SAMPLE_IMAGES, _SEED)
    squared, found = exact.exact_many(rows, query_rows.vectors(drawn), k)
    return query_rows.ids[drawn], rows.ids[found], np.where(found < 0, np.inf, squared)


def _nearest_on_spark(
    table: EmbeddingTable, asked: EmbeddingTable, k: int
) -> tuple[Numbers, Numbers, Vectors]:
    """Do as `_nearest_here` in tasks of Spark."""
    spark = session()
    with progress(spark, "measuring recall"):
        drawn = inspect(IndexRows(spark, asked), RECALL_SAMPLE_IMAGES)
        squared, keys = nearest_of_few(IndexRows(spark, table), drawn.drawn, k)
    ids = keys.fill_null(-1).to_numpy(zero_copy_only=False)
    return drawn.keys.to_numpy(zero_copy_only=False), ids.reshape(squared.shape), squared
