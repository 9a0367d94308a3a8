"""Find near-duplicates: tight groups of images, with one image of each to keep."""

import io
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pyarrow as pa
from PIL import Image, ImageOps

from lookalike import images
from lookalike.analysis.pairs import join
from lookalike.analysis.representatives import find_stars
from lookalike.analysis.threshold import suggest
from lookalike.analysis.verification import count_compared, in_threads
from lookalike.analysis.verification import verify as verify_pairs
from lookalike.errors import ImageError, LookalikeError, either
from lookalike.search.rows import check_within
from lookalike.storage import EmbeddingTable
from lookalike.system.defaults import MAX_PAIRS_PER_IMAGE, MIN_AGREEMENT, TARGET_RECALL
from lookalike.system.progress import progress_line
from lookalike.system.sql import create_view, fetch_row, write_parquet

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


Keep = Literal["largest", "oldest", "sharpest", "first"]
KEEP: tuple[str, ...] = get_args(Keep)
TABLE = "duplicates.parquet"
_PAIR_FIGURES = ("within", "pairs", "cap", "cut", "recall", "recall_of", "spark")
_SHARP = pa.schema({"id": pa.int64(), "sharpness": pa.float64()})
_BATCH_ROWS = 256
_SHARPNESS_SIDE = 1024  # pixels of the longer side

# A class holds the images with equal bytes or equal pixels, and is named by an id. Pairs are
# capped, classes are not. Without verification equal vectors stand for equal pixels.
_CLASSES = """
create temp table same as
    select id, min(id) over twins as first, count(*) over twins as twins
    from stored where status = 'ok' window twins as (partition by content_hash);
create temp table paired as
    select id, min(first) as first from (
        select b_id as id, first from pairs join same on same.id = a_id where equal union all
        select a_id as id, first from pairs join same on same.id = b_id where equal)
    group by id;
create temp table doubled as
    select same.id, least(same.first, coalesce(paired.first, same.first)) as class
    from same left join paired on paired.id = same.first
    where twins > 1 or same.id in (select a_id from pairs union select b_id from pairs)"""

# A class is a node of a graph; nodes are numbered by the rule that picks the image to keep.
_GRAPH = """
create temp table ranked as
    select doubled.id, class, row_number() over (order by {order}, doubled.id) as rank
    from doubled join stored using (id) left join sharp using (id);
create temp table nodes as
    select class, row_number() over (order by min(rank)) - 1 as node, arg_min(id, rank) as best
    from ranked group by class;
create temp table placed as select id, node from ranked join nodes using (class);
create temp table edges as
    select least(a.node, b.node) as one, greatest(a.node, b.node) as other,
        min(distance) as distance, max(agreement) as agreement
    from pairs join placed as a on a.id = a_id join placed as b on b.id = b_id
    where a.node <> b.node group by 1, 2"""
_ORDER = {
    "largest": "width::bigint * height desc, size desc",
    "oldest": "modified",
    "sharpest": "sharpness desc nulls last",
    "first": "path",
}
_GROUPS = """
create temp table groups as
    select dense_rank() over (order by members desc, best) - 1 as "group", * exclude (members)
    from (select placed.id, placed.id = nodes.best as keep, nodes.best,
              coalesce(edges.distance, 0) as distance, coalesce(edges.agreement, 1) as agreement,
              count(*) over (partition by nodes.best) as members
          from placed join stars on stars.node = placed.node join nodes on nodes.node = stars.best
              left join edges on edges.one = stars.best and edges.other = placed.node)
    where members > 1"""
_NAMED = """
select "group", case when keep then 'keep' else 'drop' end as action, groups.id, one.path,
    one.label, {agreement}, distance, one.content_hash = kept.content_hash as same_bytes,
    one.width, one.height, one.size, kept.path as kept_path, one.content_hash,
    kept.content_hash as kept_hash
from groups join stored as one using (id) join stored as kept on kept.id = best
order by "group", keep desc, distance, groups.id"""
_FIGURES = """
select count(distinct "group") as groups, count(*) as images,
    count(*) filter (action = 'drop') as drop,
    count(*) filter (action = 'drop' and same_bytes) as same_bytes,
    coalesce(sum(size) filter (action = 'drop'), 0)::bigint as bytes,
    coalesce(max(distance), 0) as widest
from written"""


def duplicates(
    table: EmbeddingTable,
    folder: Path,
    within: float | None = None,
    *,
    keep: Keep = "largest",
    verify: bool = True,
    agrees: float = MIN_AGREEMENT,
    cap: int = MAX_PAIRS_PER_IMAGE,
    recall: float = TARGET_RECALL,
    spark: bool | None = None,
) -> dict[str, Any]:
    """Find groups of near-duplicates and write `folder/duplicates.parquet`.

    A group has one image to keep, by a rule, and others to drop, each within the distance of that
    image; two of them are never farther apart than twice the distance. `folder/pairs` has all pairs
    within the distance.

    Parameters
    ----------
    table : EmbeddingTable
    folder : Path
    within : float, optional
        Euclidean distance, 0 to 2; by default suggested (`threshold.suggest`).
    keep : {"largest", "oldest", "sharpest", "first"}
    verify : bool
        Compare pixels as well.
    agrees : float
        Least agreement of the pixels, 0 to 1.
    cap : int
        Most pairs per image.
    recall : float
        Target recall of the search for pairs.
    spark : bool, optional
        Whether to use Spark; by default for large collections.

    Returns
    -------
    dict
        Figures. The columns of the table are `group` (0 is the largest), `action` (keep or drop),
        `id, path, label, agreement, distance` (to the image to keep), `same_bytes, width, height,
        size, kept_path, content_hash, kept_hash`.

    Raises
    ------
    LookalikeError
        For an option out of range, or unreadable photos.
    """
    if keep not in KEEP:
        raise LookalikeError(f"unknown rule {keep!r}: choose {either(KEEP)}")
    if not 0 <= agrees <= 1:
        raise LookalikeError(f"`agrees` is {agrees}: give a share from 0 to 1")
    check_within(table, within)
    suggested = suggest(table, verify) if within is None else None
    within = suggested.within if suggested else within
    assert within is not None
    joined = join(table, folder, within, cap, recall=recall, spark=spark)
    if verify:
        source = table.source
        verify_pairs(folder / "pairs", source, source, joined["spark"], agrees)
    with table.connect(folder) as sql:
        create_view(sql, "found", folder / "pairs")
        if verify:
            query = """create temp table pairs as
                select a_id, b_id, distance, agreement, compared = 'equal' as equal
                from found where agreement >= $agrees::float"""
            sql.execute(query, {"agrees": agrees})
        else:
            query = """create temp table pairs as
                select a_id, b_id, distance, 1::float as agreement, distance = 0 as equal
                from found"""
            sql.execute(query)
        sql.execute(_CLASSES)
        sharp = _sharpnesses(sql, table.source) if keep == "sharpest" else _SHARP.empty_table()
        sql.register("sharp", sharp)
        sql.execute(_GRAPH.format(order=_ORDER[keep]))
        _group(sql)
        file = folder / TABLE
        named = _NAMED.format(agreement="agreement" if verify else "null::float as agreement")
        write_parquet(sql, named, file)
        create_view(sql, "written", file)
        (figures,) = sql.sql(_FIGURES).to_arrow_table().to_pylist()
    return {
        **figures,
        "keep": keep,
        "verified": verify,
        **(count_compared(folder / "pairs") if verify else {}),
        **(suggested.to_dict() if suggested else {}),
        **{name: joined[name] for name in _PAIR_FIGURES},
    }


def _group(sql: "DuckDBPyConnection") -> None:
    """Make the table `groups` from `nodes` and `edges`."""
    (count,) = fetch_row(sql, "select count(*) from nodes")
    edges = sql.execute("select one, other, distance from edges").fetchnumpy()
    best = find_stars(
        count,
        np.asarray(edges["one"], np.int64),
        np.asarray(edges["other"], np.int64),
        np.asarray(edges["distance"], np.float32),
    )
    sql.register("stars", pa.table({"node": np.arange(count), "best": best}))
    sql.execute(_GROUPS)


def _sharpnesses(sql: "DuckDBPyConnection", source: images.Source) -> pa.Table:
    """Return the table `_SHARP` of all images that have a duplicate."""
    query = sql.execute("select id, path from doubled join stored using (id)")
    rows = itertools.chain.from_iterable(iter(lambda: query.fetchmany(_BATCH_ROWS), []))
    found = []
    with (
        images.IsolatedDecoder(truncated=True) as decoder,
        progress_line("measuring sharpness", "images") as move,
    ):
        for row in in_threads(lambda row: (row[0], _sharpness(decoder, source, row[1])), rows):
            found.append(row)
            move(len(found), None)
    return pa.Table.from_pylist(
        [dict(zip(_SHARP.names, row, strict=True)) for row in found], _SHARP
    )


def _sharpness(decoder: images.IsolatedDecoder, source: images.Source, path: str) -> float | None:
    """Return the variance of the Laplacian, which blur lowers; None for an unreadable image.

    All images are scaled to one size, or small copies would seem the sharpest.
    Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", 2000.
    """
    import cv2

    try:
        small = decoder.thumbnail(images.read(source, path), _SHARPNESS_SIDE)
    except ImageError:
        return None
    same_size = ImageOps.contain(
        Image.open(io.BytesIO(small)).convert("L"), (_SHARPNESS_SIDE, _SHARPNESS_SIDE)
    )
    return float(cv2.Laplacian(np.asarray(same_size), cv2.CV_64F).var())
