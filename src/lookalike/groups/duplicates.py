"""What is in a collection more than once: tight groups, with one image of each to keep."""

import io
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pyarrow as pa
from PIL import Image, ImageOps

from lookalike import images
from lookalike.defaults import AGREES, CAP, RECALL
from lookalike.errors import ImageError, LookalikeError, either
from lookalike.groups.pairs import join
from lookalike.groups.stars import stars
from lookalike.groups.threshold import suggest
from lookalike.groups.verifying import count_compared, in_threads
from lookalike.groups.verifying import verify as looked_at
from lookalike.progress import progress_line
from lookalike.sql import parquet, parquet_in, quoted
from lookalike.storage import EmbeddingTable

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

Keep = Literal["largest", "oldest", "sharpest", "first"]
KEEP: tuple[str, ...] = get_args(Keep)
TABLE = "duplicates.parquet"
_OF_PAIRS = ("within", "pairs", "cap", "cut", "recall", "recall_of", "spark")
_SHARP = pa.schema({"id": pa.int64(), "sharpness": pa.float64()})
_BATCH = 256  # images that are asked for at a time
_LONGEST = 1024  # pixels on a side, to see how sharp a picture is

# Images that are the same to the byte, or to the last pixel, are of one class, named by an id,
# however many they are: pairs were cut off, classes are not. Where pixels are not looked at, equal
# vectors are taken for equal pixels.
_CLASSES = """
CREATE TEMP TABLE same AS
    SELECT id, min(id) OVER twins AS first, count(*) OVER twins AS twins
    FROM stored WHERE status = 'ok' WINDOW twins AS (PARTITION BY content_hash);
CREATE TEMP TABLE paired AS
    SELECT id, min(first) AS first FROM (
        SELECT b_id AS id, first FROM pairs JOIN same ON same.id = a_id WHERE equal UNION ALL
        SELECT a_id AS id, first FROM pairs JOIN same ON same.id = b_id WHERE equal)
    GROUP BY id;
CREATE TEMP TABLE doubled AS
    SELECT same.id, least(same.first, coalesce(paired.first, same.first)) AS class
    FROM same LEFT JOIN paired ON paired.id = same.first
    WHERE twins > 1 OR same.id IN (SELECT a_id FROM pairs UNION SELECT b_id FROM pairs)"""

# Classes become the nodes of a graph, numbered by how much their best image is worth keeping.
_GRAPH = """
CREATE TEMP TABLE ranked AS
    SELECT doubled.id, class, row_number() OVER (ORDER BY {order}, doubled.id) AS rank
    FROM doubled JOIN stored USING (id) LEFT JOIN sharp USING (id);
CREATE TEMP TABLE nodes AS
    SELECT class, row_number() OVER (ORDER BY min(rank)) - 1 AS node, arg_min(id, rank) AS best
    FROM ranked GROUP BY class;
CREATE TEMP TABLE placed AS SELECT id, node FROM ranked JOIN nodes USING (class);
CREATE TEMP TABLE edges AS
    SELECT least(a.node, b.node) AS one, greatest(a.node, b.node) AS other,
        min(distance) AS distance, max(agreement) AS agreement
    FROM pairs JOIN placed AS a ON a.id = a_id JOIN placed AS b ON b.id = b_id
    WHERE a.node <> b.node GROUP BY 1, 2"""
_ORDER = {
    "largest": "width::bigint * height DESC, size DESC",
    "oldest": "modified",
    "sharpest": "sharpness DESC NULLS LAST",
    "first": "path",
}
_GROUPS = """
CREATE TEMP TABLE groups AS
    SELECT dense_rank() OVER (ORDER BY members DESC, best) - 1 AS "group", * EXCLUDE (members)
    FROM (SELECT placed.id, placed.id = nodes.best AS keep, nodes.best,
              coalesce(edges.distance, 0) AS distance, coalesce(edges.agreement, 1) AS agreement,
              count(*) OVER (PARTITION BY nodes.best) AS members
          FROM placed JOIN stars ON stars.node = placed.node JOIN nodes ON nodes.node = stars.best
              LEFT JOIN edges ON edges.one = stars.best AND edges.other = placed.node)
    WHERE members > 1"""
_NAMED = """
SELECT "group", CASE WHEN keep THEN 'keep' ELSE 'drop' END AS action, groups.id, one.path,
    one.label, {agreement}, distance, one.content_hash = kept.content_hash AS same_bytes,
    one.width, one.height, one.size, kept.path AS kept_path, one.content_hash,
    kept.content_hash AS kept_hash
FROM groups JOIN stored AS one USING (id) JOIN stored AS kept ON kept.id = best
ORDER BY "group", keep DESC, distance, groups.id"""
_FIGURES = """
SELECT count(DISTINCT "group") AS groups, count(*) AS images,
    count(*) FILTER (action = 'drop') AS drop,
    count(*) FILTER (action = 'drop' AND same_bytes) AS same_bytes,
    coalesce(sum(size) FILTER (action = 'drop'), 0)::bigint AS bytes,
    coalesce(max(distance), 0) AS widest
FROM {table}"""


def duplicates(
    collection: EmbeddingTable,
    folder: Path,
    within: float | None = None,
    *,
    keep: Keep = "largest",
    verify: bool = True,
    agrees: float = AGREES,
    cap: int = CAP,
    recall: float = RECALL,
    spark: bool | None = None,
) -> dict[str, Any]:
    """Write groups of near-duplicates into `folder/duplicates.parquet`; return figures.

    A group has one image to keep, by a rule, and others to drop, each within the distance of that
    one: two of them are never farther apart than twice that. With `verify` their pixels have to
    agree as well. Its columns are `group` (the largest is 0), `action` (keep or drop), `id, path,
    label, agreement, distance` (to the one that is kept), `same_bytes, width, height, size,
    kept_path`. `folder/pairs` has all pairs within the distance, and how well they agree.
    Without `within` a distance is suggested (`threshold.suggest`).
    Raises `LookalikeError` for a rule that is none, or photos that cannot be read.
    """
    if keep not in KEEP:
        raise LookalikeError(f"unknown rule {keep!r}: choose {either(KEEP)}")
    if not 0 <= agrees <= 1:
        raise LookalikeError(f"`agrees` is {agrees}: give a share from 0 to 1")
    if within is not None and not 0 <= within <= 2:
        raise LookalikeError(f"`within` is {within}: give a distance from 0 to 2")
    suggested = suggest(collection, verify) if within is None else None
    within = suggested.within if suggested else within
    assert within is not None
    joined = join(collection, folder, within, cap, recall=recall, spark=spark)
    if verify:
        source = collection.source
        looked_at(folder / "pairs", source, source, joined["spark"], agrees)
    with collection.asked(folder) as sql:
        pairs = f"FROM {parquet_in(folder / 'pairs')}"
        if verify:
            chosen = f"agreement, compared = 'equal' AS equal {pairs} WHERE agreement >= {agrees}"
        else:
            chosen = f"1::float AS agreement, distance = 0 AS equal {pairs}"
        pairs = f"SELECT a_id, b_id, distance, {chosen}"
        sql.execute(f"CREATE TEMP TABLE pairs AS {pairs}; {_CLASSES}")
        seen = (
            _see_how_sharp(sql, collection.source) if keep == "sharpest" else _SHARP.empty_table()
        )
        sql.register("sharp", seen)
        sql.execute(_GRAPH.format(order=_ORDER[keep]))
        _group(sql)
        table = folder / TABLE
        named = _NAMED.format(agreement="agreement" if verify else "NULL::float AS agreement")
        sql.execute(f"COPY ({named}) TO {quoted(table)} (FORMAT parquet)")
        answer = sql.execute(_FIGURES.format(table=parquet(table)))
        names = [column[0] for column in answer.description or ()]
        (figures,) = answer.fetchall()
    return {
        **dict(zip(names, figures, strict=True)),
        "keep": keep,
        "verified": verify,
        **(count_compared(folder / "pairs") if verify else {}),
        **(suggested.to_dict() if suggested else {}),
        **{
            name: joined[name]
            for name in ("within", "pairs", "cap", "cut", "recall", "recall_of", "spark")
        },
    }


def _group(sql: "DuckDBPyConnection") -> None:
    """Make the table `groups` of `nodes` and `edges`."""
    ((count,),) = sql.execute("SELECT count(*) FROM nodes").fetchall()
    edges = sql.execute("SELECT one, other, distance FROM edges").fetchnumpy()
    best = stars(
        count,
        np.asarray(edges["one"], np.int64),
        np.asarray(edges["other"], np.int64),
        np.asarray(edges["distance"], np.float32),
    )
    sql.register("stars", pa.table({"node": np.arange(count), "best": best}))
    sql.execute(_GROUPS)


def _see_how_sharp(sql: "DuckDBPyConnection", source: images.Source) -> pa.Table:
    """Return `_SHARP` of all images that have a double."""
    query = sql.execute("SELECT id, path FROM doubled JOIN stored USING (id)")
    rows = itertools.chain.from_iterable(iter(lambda: query.fetchmany(_BATCH), []))
    found = []
    with (
        images.IsolatedDecoder(truncated=True) as decoder,
        progress_line("seeing how sharp images are", "images") as move,
    ):
        for row in in_threads(lambda row: (row[0], _sharpness(decoder, source, row[1])), rows):
            found.append(row)
            move(len(found), None)
    return pa.Table.from_pylist(
        [dict(zip(_SHARP.names, row, strict=True)) for row in found], _SHARP
    )


def _sharpness(decoder: images.IsolatedDecoder, source: images.Source, path: str) -> float | None:
    """Return the variance of the Laplacian, which blur lowers; None where there is no picture.

    All at one size, or small copies would seem the sharpest.
    Pech-Pacheco and others, 2000, "Diatom autofocusing in brightfield microscopy".
    """
    import cv2

    try:
        small = decoder.thumbnail(images.read(source, path), _LONGEST)
    except ImageError:
        return None
    same_size = ImageOps.contain(Image.open(io.BytesIO(small)).convert("L"), (_LONGEST, _LONGEST))
    return float(cv2.Laplacian(np.asarray(same_size), cv2.CV_64F).var())
