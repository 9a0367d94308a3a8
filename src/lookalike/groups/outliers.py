"""What does not belong: images unlike the rest of a collection, labels unlike those around them."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np
import pyarrow as pa

from lookalike.groups.clusters import other_version, view_neighbors
from lookalike.search import Rows, check_k, draw
from lookalike.sql import create_view, fetch_row, write_parquet
from lookalike.storage import EmbeddingTable

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

SAMPLE = 1000
"""Images, drawn at random, that stand for the collection."""
NEAREST = 0.2
"""The share of them that an image should be near to. Strangers that are alike, as all that is no
car was to the first bundled weights, are told from the rest while they are fewer."""
NEARNESS = 0.2
"""What the distance to the k-th neighbour counts beside. 0 finds groups of strangers best, 1 single
ones in collections of many topics, where everything is far from most."""
TABLE = "outliers.parquet"
SUSPECTS = "suspects.parquet"
_BLOCK = 4096  # images at a time
_FAR = pa.schema({"id": pa.int64(), "far": pa.float32()})


def outliers(collection: EmbeddingTable, graph: Path, folder: Path, k: int) -> dict[str, Any]:
    """Write `outliers.parquet` into a folder: every image, the most isolated first.

    Columns: `rank, id, path, label`; `distance` to the k-th neighbour in the graph, null where
    there are fewer; `density`, the mean distance to the k neighbours over that of those to theirs,
    the idea of the local outlier factor (Breunig et al., 2000) without its reachability, null where
    it cannot be said; `score`. The score is how far the nearest fifth of the collection reaches
    (Knorr and Ng, "Algorithms for mining distance-based outliers", 1998, on a sample of it), the
    mean of the image's and its neighbours' own, and a fifth of `distance`, for which the largest
    stands where it is null. Distances are Euclidean, between vectors of length 1.

    Returns figures. Raises `LookalikeError` for a k below 1, or where the graph is none or is of
    another version of the collection.
    """
    check_k(k)
    out = folder / TABLE
    with collection.connect(folder) as sql:
        _near(sql, graph, k)
        sql.register(
            "reach", pa.RecordBatchReader.from_batches(_FAR, reach(Rows(collection.segments)))
        )
        sql.execute("create temp table reached as from reach")
        query = """
            with own as (
                select query_id as id, avg(distance) as mean, max(distance) as last,
                    count(*) as many
                from near group by all
            ), around as (
                select query_id as id, avg(own.mean) as mean, avg(far) as far
                from near
                join own on own.id = neighbor_id
                join reached on reached.id = neighbor_id
                group by all
            ), most as (select max(many) as many, max(last) as last from own),
            scored as (
                select reached.id,
                    case when own.many = most.many then own.last end as distance,
                    own.mean / nullif(around.mean, 0) as density,
                    (reached.far + coalesce(around.far, reached.far)) / 2
                        + $nearness * coalesce(distance, most.last, 0) as score
                from reached
                left join own on own.id = reached.id
                left join around on around.id = reached.id
                cross join most
            )
            select row_number() over (order by score desc, id) as rank, id, path, label,
                distance, density::float as density, score::float as score
            from scored join stored using (id) order by rank"""
        write_parquet(sql, query, out, {"nearness": NEARNESS})
        create_view(sql, "found", out)
        images, fewer = fetch_row(sql, "select count(*), count(*) - count(distance) from found")
    return {"images": images, "k": k, "fewer_neighbors": fewer}


def reach(rows: Rows) -> Iterator[pa.RecordBatch]:
    """Give of every image the distance within which the nearest fifth of a sample lies."""
    if not len(rows):
        return
    sample = rows.vectors(draw(len(rows), SAMPLE))
    place = min(int(NEAREST * len(sample)), len(sample) - 1)
    for segment in rows.segments:
        for start in range(0, len(segment.ids), _BLOCK):
            block = np.ascontiguousarray(segment.vectors[start : start + _BLOCK])
            squared = faiss.pairwise_distances(block, sample)
            far = np.partition(squared, place, axis=1)[:, place].clip(0) ** 0.5
            yield pa.record_batch([segment.ids[start : start + _BLOCK], far], schema=_FAR)


def suspects(collection: EmbeddingTable, graph: Path, folder: Path, k: int) -> dict[str, Any]:
    """Write `suspects.parquet` into a folder: images whose label may be wrong, likeliest first.

    Columns: `rank, id, path, label, suggested, score`. All that are among the k neighbours of an
    image, or have it among theirs, vote for their labels, twice if both. The score is the
    votes for the most frequent other label, which is `suggested`, over those for its own, one added
    to each; only images that score above 1 are written. Who has no label neither votes nor is
    asked.

    Returns figures. Raises `LookalikeError` for a k below 1, or where the graph is none or is of
    another version of the collection.
    """
    check_k(k)
    out = folder / SUSPECTS
    with collection.connect(folder) as sql:
        _near(sql, graph, k)
        sql.execute(
            """create temp table labels as
            select id, label from stored where status = 'ok' and label is not null"""
        )
        query = """
            with votes as (
                select asked.id, voter.label as given, count(*) as votes
                from (
                    select query_id as id, neighbor_id as voter from near
                    union all select neighbor_id, query_id from near
                ) as asked
                join labels as voter on voter.id = asked.voter
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


def _near(sql: "DuckDBPyConnection", graph: Path, k: int) -> None:
    """Make the first k neighbours of each image in a graph the table `near`."""
    view_neighbors(sql, graph, k)
    query = """
        select exists(from near anti join stored on id = query_id)
            or exists(from near anti join stored on id = neighbor_id)"""
    (unknown,) = fetch_row(sql, query)
    if unknown:
        raise other_version(graph)
