"""The similarity join: pairs of images within a distance, of one collection or of two.

What Spark ML calls `approxSimilarityJoin`, with the same meaning of distance. Each image brings in
`cap` pairs at most, its nearest, so that what comes out is bounded whatever the images are; how
many images had more is told. Each pair comes once.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lookalike import hashing, search
from lookalike.defaults import CAP, RECALL
from lookalike.engine import Engine
from lookalike.errors import LookalikeError
from lookalike.files import delete_folder
from lookalike.groups.graph import write_graph
from lookalike.neighbors.export import check_same_model
from lookalike.search import Rows
from lookalike.spark import local_uri, progress, session
from lookalike.sql import connect, create_view, fetch_row, write_parquet
from lookalike.storage import EmbeddingTable

MOST = 1000
"""Pairs that an image may bring in; a task holds so many for thousands of images at a time."""
CHECKED = 300  # images whose pairs are compared with the true ones
_MANY = 50_000_000  # pairs that DuckDB does not name quicker, on one machine, than Spark
_SEED = 3  # of those; others are drawn to choose how hard to look

# Spark and DuckDB both read these: {graph}, {a} and {b} are tables, {cap} is a number.
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
    collection: EmbeddingTable,
    folder: Path,
    within: float = np.inf,
    cap: int = CAP,
    other: EmbeddingTable | None = None,
    *,
    engine: Engine = "auto",
    recall: float = RECALL,
    spark: bool | None = None,
) -> dict[str, Any]:
    """Write pairs within a distance into `folder/pairs`, nearest first; return figures.

    The columns are `a_id, b_id, a_path, b_path, distance`; `a` is of the collection, `b` of the
    other one, whose images then ask. Of one collection alone, `a_id` is less than `b_id`.
    `engine` is `spark-lsh` for Spark ML's own join, which takes hash tables and knows no cap.
    `cut` in the figures counts images that had more than `cap` within the distance, `recall` is
    the share of the true pairs of some drawn images that were found, `recall_of` how many; `spark`
    says whether they came through Spark.
    """
    search.check_k(cap)
    if cap > MOST:
        raise LookalikeError(f"{cap:,} pairs an image are too many: {MOST:,} at most")
    if other is not None and (other.identity, other.version) == (
        collection.identity,
        collection.version,
    ):
        other = None
    if not within >= 0:
        raise LookalikeError(f"`within` is {within}: give a distance from 0 to 2")
    graph, pairs = folder / "graph", folder / "pairs"
    asking = other or collection
    if engine == "spark-lsh":
        _by_spark_ml(collection, asking, pairs, within, other)
        return {**_figures(collection, pairs, within, None, 0, other), "spark": True}
    by_spark = write_graph(
        collection,
        graph,
        cap + 1,  # one more than wanted: it shows whose pairs were cut
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
    if by_spark and total > _MANY:
        running = session()
        tables: dict[str, Any] = {"graph": running.read.parquet(local_uri(graph)), "cap": cap}
        tables["a"], tables["b"] = (one.dataframe(running) for one in (collection, asking))
        with progress(running, "writing pairs"):
            running.sql(named, None, **tables).write.parquet(local_uri(pairs))
    else:
        pairs.mkdir()
        with collection.connect(folder) as sql:
            asking.view(sql, "other")
            create_view(sql, "graph", graph)
            named = named.format(graph="graph", a="stored", b="other", cap=cap)
            write_parquet(sql, named, pairs / "part-0.parquet")
    delete_folder(graph)
    return {**_figures(collection, pairs, within, cap, cut, other), "spark": by_spark}


def _by_spark_ml(
    collection: EmbeddingTable,
    asking: EmbeddingTable,
    pairs: Path,
    within: float,
    other: EmbeddingTable | None,
) -> None:
    """Write pairs as Spark ML finds them: every one that shares a bucket, no cap."""
    if within == np.inf:
        raise LookalikeError("Spark ML joins within a distance: set `within`")
    if other is not None:
        check_same_model(collection, other)
    running = session()
    frames = [hashing.with_vectors(one.dataframe(running)) for one in (collection, asking)]
    try:
        hasher = hashing.Hasher.load(collection.hash_folder)
    except LookalikeError:  # none yet, or a damaged one
        hasher = hashing.fit(frames[0])
    with progress(running, "joining by hashes"):
        found = hashing.similarity_join(hasher, frames[0], within, frames[1] if other else None)
        for name, frame in zip("ab", frames, strict=True):
            paths = frame.selectExpr(f"id as {name}_id", f"path as {name}_path")
            found = found.join(paths, f"{name}_id")
        columns = "a_id", "b_id", "a_path", "b_path", "cast(distance as float) as distance"
        ordered = found.selectExpr(*columns).orderBy("distance", "a_id", "b_id")
        ordered.write.parquet(local_uri(pairs))


def _figures(
    collection: EmbeddingTable,
    pairs: Path,
    within: float,
    cap: int | None,
    cut: int,
    other: EmbeddingTable | None,
) -> dict[str, Any]:
    with connect(pairs.parent) as sql:
        create_view(sql, "pairs", pairs)
        (count,) = fetch_row(sql, "select count(*) from pairs")
    found, true = _checked(collection, pairs, within, cap or CAP, other)
    return {
        "images": (other or collection).counts()[0],
        "pairs": count,
        "within": None if within == np.inf else within,
        "cap": cap,
        "cut": cut,
        "recall": round(found / true, 4) if true else None,
        "recall_of": true,
    }


def _checked(
    collection: EmbeddingTable, pairs: Path, within: float, cap: int, other: EmbeddingTable | None
) -> tuple[int, int]:
    """Count the true pairs of some drawn images: those that were found, and all."""
    rows = Rows(collection.segments)
    asking = Rows(other.segments) if other else rows
    if not len(rows) or not len(asking):
        return 0, 0
    drawn = search.draw(len(asking), CHECKED, _SEED)
    own = other is None
    squared, found = search.exact_many(rows, asking.vectors(drawn), cap + own)
    who, place = np.nonzero((found >= 0) & (squared <= within**2))
    one, two = rows.ids[found[who, place]], asking.ids[drawn[who]]
    if own:
        one, two = np.minimum(one, two), np.maximum(one, two)
    truth = pa.table(
        {"a_id": one[one != two] if own else one, "b_id": two[one != two] if own else two}
    )
    with connect(pairs.parent) as sql:
        sql.register("truth", truth)
        create_view(sql, "pairs", pairs)
        query = """
            select (select count(*) from pairs semi join truth using (a_id, b_id)),
                (select count(*) from (select distinct * from truth))"""
        there, total = fetch_row(sql, query)
    return there, total
