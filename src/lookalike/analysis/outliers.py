"""Find outliers: images unlike the rest of a collection, and labels unlike their neighbours'."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np
import pyarrow as pa

from lookalike.analysis.clusters import view_neighbors, wrong_version
from lookalike.search.knn.graph import IN_PROCESS
from lookalike.search.knn.sources import IndexRows, VectorBatch
from lookalike.search.knn.survey import inspect
from lookalike.search.rows import Rows, centre_of, check_k, draw
from lookalike.spark import is_spark_available, local_uri, progress, session
from lookalike.spark.columns import ddl
from lookalike.storage import EmbeddingTable
from lookalike.system.arrays import Vectors
from lookalike.system.files import delete_folder
from lookalike.system.sql import create_view, fetch_row, write_parquet

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


SAMPLE_IMAGES = 1000
"""Drawn images that represent the collection."""
NEAREST_SHARE = 0.2
"""The share of the sample that an image should be near. A group of similar strangers, as all images
without a car were to the first bundled weights, stands out while it is smaller than this."""
NEAREST_WEIGHT = 0.2
"""The weight of the distance to the k-th neighbour in the score. 0 finds groups of strangers best,
1 single ones in collections of many topics, where every image is far from most others."""
TABLE = "outliers.parquet"
SUSPECTS = "suspects.parquet"
_BLOCK_ROWS = 4096
_FAR = pa.schema({"id": pa.int64(), "far": pa.float32()})


def outliers(table: EmbeddingTable, graph: Path, folder: Path, k: int) -> dict[str, Any]:
    """Rank all images by isolation and write `outliers.parquet`, the most isolated first.

    The score of an image is the distance within which the nearest fifth of a sample of the
    collection lies (Knorr and Ng, "Algorithms for mining distance-based outliers", 1998), averaged
    over the image and its neighbours, plus a fifth of the distance to its k-th neighbour.

    Parameters
    ----------
    table : EmbeddingTable
    graph : Path
        A folder of `write_graph`.
    folder : Path
    k : int

    Returns
    -------
    dict
        Figures. The columns of the table are `rank, id, path, label`; `distance`, to the k-th
        neighbour, null where there are fewer (the score then uses the largest distance);
        `density`, the mean distance to the k neighbours relative to theirs, as the local outlier
        factor (Breunig et al., 2000) without its reachability, or null; `score`. Distances are
        Euclidean, between vectors of length 1.

    Raises
    ------
    LookalikeError
        For a k below 1, or where the graph is invalid or belongs to another version.
    """
    check_k(k)
    out = folder / TABLE
    with table.connect(folder) as sql:
        _make_near(sql, graph, k)
        if is_spark_available() and table.counts()[0] > IN_PROCESS:
            write_far_distances(table, folder / "far")
            create_view(sql, "measured", folder / "far")
        else:
            batches = far_distances(Rows(table.segments))
            sql.register("batches", pa.RecordBatchReader.from_batches(_FAR, batches))
            sql.execute("create temp table measured as from batches")
        query = """
            with own as (
                select query_id as id, avg(distance) as mean, max(distance) as last,
                    count(*) as neighbors
                from near group by all
            ), around as (
                select query_id as id, avg(own.mean) as mean, avg(far) as far
                from near
                join own on own.id = neighbor_id
                join measured on measured.id = neighbor_id
                group by all
            ), most as (select max(neighbors) as neighbors, max(last) as last from own),
            scored as (
                select measured.id,
                    case when own.neighbors = most.neighbors then own.last end as distance,
                    own.mean / nullif(around.mean, 0) as density,
                    (measured.far + coalesce(around.far, measured.far)) / 2
                        + $nearness * coalesce(distance, most.last, 0) as score
                from measured
                left join own on own.id = measured.id
                left join around on around.id = measured.id
                cross join most
            )
            select row_number() over (order by score desc, id) as rank, id, path, label,
                distance, density::float as density, score::float as score
            from scored join stored using (id) order by rank"""
        write_parquet(sql, query, out, {"nearness": NEAREST_WEIGHT})
        create_view(sql, "found", out)
        images, fewer = fetch_row(sql, "select count(*), count(*) - count(distance) from found")
    delete_folder(folder / "far")
    return {"images": images, "k": k, "fewer_neighbors": fewer}


def far_distances(rows: Rows) -> Iterator[pa.RecordBatch]:
    """Yield the distance within which the nearest fifth of a sample lies, for every image."""
    if not len(rows):
        return
    measure = _FarDistance(rows.vectors(draw(len(rows), SAMPLE_IMAGES)))
    for segment in rows.segments:
        for start in range(0, len(segment.ids), _BLOCK_ROWS):
            here = slice(start, start + _BLOCK_ROWS)
            yield pa.record_batch(
                [segment.ids[here], measure(np.ascontiguousarray(segment.vectors[here]))],
                schema=_FAR,
            )


def write_far_distances(table: EmbeddingTable, folder: Path) -> None:
    """Write what `far_distances` yields to a folder of Parquet, by tasks of Spark."""
    spark = session()
    rows = IndexRows(spark, table)
    measure = _FarDistance(inspect(rows, SAMPLE_IMAGES).drawn)

    def task(batches: Iterator[VectorBatch]) -> Iterator[pa.RecordBatch]:
        for ids, vectors in batches:
            yield pa.record_batch([ids, measure(vectors)], schema=_FAR)

    with progress(spark, "measuring distances"):
        rows.read(task, ddl(_FAR)).write.parquet(local_uri(folder))


class _FarDistance:
    """Measures the distance within which the nearest fifth of a sample (s, width) lies."""

    def __init__(self, sample: Vectors) -> None:
        self._centre = centre_of(sample)
        self._sample = sample if self._centre is None else sample - self._centre
        self._place = min(int(NEAREST_SHARE * len(sample)), len(sample) - 1)

    def __call__(self, vectors: Vectors) -> Vectors:
        """Return the distance for each vector (n, width): float32 (n,)."""
        vectors = vectors if self._centre is None else vectors - self._centre
        squared = faiss.pairwise_distances(vectors, self._sample)
        far: Vectors = np.sqrt(np.partition(squared, self._place, axis=1)[:, self._place].clip(0))
        return far


def suspects(table: EmbeddingTable, graph: Path, folder: Path, k: int) -> dict[str, Any]:
    """Rank images whose label may be wrong and write `suspects.parquet`, the likeliest first.

    The k neighbours of an image, and the images that have it among theirs, vote for their labels,
    twice if both. The score is the votes for the most frequent other label, plus one, divided by
    the votes for the image's own label, plus one. Images without a label neither vote nor appear.

    Parameters
    ----------
    table : EmbeddingTable
    graph : Path
        A folder of `write_graph`.
    folder : Path
    k : int

    Returns
    -------
    dict
        Figures. The columns of the table are `rank, id, path, label, suggested, score`; it has the
        images with a score above 1.

    Raises
    ------
    LookalikeError
        For a k below 1, or where the graph is invalid or belongs to another version.
    """
    check_k(k)
    out = folder / SUSPECTS
    with table.connect(folder) as sql:
        _make_near(sql, graph, k)
        sql.execute(
            """create temp table labels as
            select id, label from stored where status = 'ok' and label is not null"""
        )
        query = """
            with votes as (
                select ballots.id, voter.label as given, count(*) as votes
                from (
                    select query_id as id, neighbor_id as voter from near
                    union all select neighbor_id, query_id from near
                ) as ballots
                join labels as voter on voter.id = ballots.voter
                group by all
            ), counted as (
                select id, label,
                    coalesce(sum(votes) filter (given = label), 0) as own,
                    max((votes, given)) filter (given <> label) as other
                from votes join labels using (id) group by all
            ), scored as (
                select id, label, other[2] as suggested, (other[1] + 1) / (own + 1) as score
                from counted
            )
            select row_number() over (order by score desc, id) as rank, id, path, scored.label,
                suggested, score::float as score
            from scored join stored using (id) where score > 1 order by rank"""
        write_parquet(sql, query, out)
        create_view(sql, "found", out)
        labelled, found = fetch_row(
            sql, "select (select count(*) from labels), (select count(*) from found)"
        )
    return {"labelled": labelled, "suspects": found, "k": k}


def _make_near(sql: "DuckDBPyConnection", graph: Path, k: int) -> None:
    """Create the view `near` of the first k neighbours of each image."""
    view_neighbors(sql, graph, k)
    query = """
        select exists(from near anti join stored on id = query_id)
            or exists(from near anti join stored on id = neighbor_id)"""
    (unknown,) = fetch_row(sql, query)
    if unknown:
        raise wrong_version(graph)
