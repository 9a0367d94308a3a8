"""Choose the images of a gallery: typical, isolated, similar and suspect ones.

Five short lists, whatever the size of the index; `reports.gallery` shows them.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lookalike.analysis.clusters import view_neighbors
from lookalike.analysis.outliers import SUSPECTS
from lookalike.analysis.outliers import TABLE as OUTLIERS
from lookalike.errors import LookalikeError
from lookalike.search.bands.kept import bands_of
from lookalike.search.rows import Rows, draw
from lookalike.search.searcher import Searcher
from lookalike.storage import EmbeddingTable
from lookalike.system.arrays import Numbers, Vectors
from lookalike.system.sql import create_view, write_parquet

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


TABLE = "gallery.parquet"
SECTIONS = ("typical", "neighbors", "isolated", "pairs", "suspects")
LISTED_NEIGHBORS = 8
"""Neighbours in the line of a drawn image."""
_TRIED_PER_LINE = 50  # images or pairs, to choose from
_MIN_TRIED = 5_000  # popular images: the first may all be hubs
_SHARED = 1 / 3  # of the neighbours, by two images of one kind
_SAMPLE_IMAGES = 10_000  # clustered into regions, where there are no labels
_CHOSEN = pa.schema(
    {
        "section": pa.string(),
        "line": pa.int32(),
        "place": pa.int32(),
        "id": pa.int64(),
        "figure": pa.float64(),
    }
)
Line = tuple[str, int, int, int, float]


def overview(
    table: EmbeddingTable, graph: Path, folder: Path, count: int, k: int, seed: int = 0
) -> dict[str, Any]:
    """Choose the images of each section and write `gallery.parquet`.

    The sections are

    - `typical`: the images that are among the k nearest of the most others (`figure`) that share a
      third of their neighbours with them, without any that is a neighbour of one before it: one of
      each kind. Hubs, which are near many images that have nothing in common (Radovanović and
      others, 2010, https://jmlr.org/papers/v11/radovanovic10a.html), share few. Copies of the same
      photo do not count;
    - `neighbors`: a line per drawn image, itself first, then its 8 nearest with their distances.
      Every label comes once before any comes twice; without labels every region of the vectors;
    - `isolated`: the first of `outliers.parquet`, with their scores;
    - `pairs`: the two nearest to each other, with their distance, each image in one pair at most;
    - `suspects`: the first of `suspects.parquet`, with their scores.

    Parameters
    ----------
    table : EmbeddingTable
    graph : Path
        A folder of `write_graph`.
    folder : Path
        With `outliers.parquet` and `suspects.parquet` of the same graph.
    count : int
        Lines per section.
    k : int
    seed : int

    Returns
    -------
    dict
        Figures. The columns of the table are `section`; `line` and `place` in it, from 0; `id,
        path, label, figure`; `suggested`, another label; `same_bytes`, whether the file equals the
        first of its line.

    Raises
    ------
    LookalikeError
        For a count below 1.
    """
    check_count(count)
    rows = Rows(table.segments)
    labels = _labels(rows)
    bands = bands_of(Searcher(table))
    same = bands.limits[0] if bands.limits else 0.0
    with table.connect(folder) as sql:
        view_neighbors(sql, graph, k)
        drawn = draw_by_kind(rows, labels, count, seed)
        chosen = [
            *_typical(sql, count, k, same),
            *_neighbors(sql, drawn),
            *_first(sql, "isolated", folder / OUTLIERS, count),
            *_pairs(sql, count),
            *_first(sql, "suspects", folder / SUSPECTS, count),
        ]
        columns = list(zip(*chosen, strict=True)) or [()] * len(_CHOSEN)
        arrays = [pa.array(one, kind.type) for one, kind in zip(columns, _CHOSEN, strict=True)]
        sql.register("chosen", pa.table(arrays, schema=_CHOSEN))
        create_view(sql, "suspects", folder / SUSPECTS)
        query = """
            select section, line, place, id, stored.path, stored.label,
                figure::float as figure,
                case when section = 'suspects' then suspects.suggested end as suggested,
                place > 0 and content_hash = first_value(content_hash) over (
                    partition by section, line order by place) as same_bytes
            from chosen join stored using (id) left join suspects using (id)
            order by list_position($sections, section), line, place"""
        write_parquet(sql, query, folder / TABLE, {"sections": list(SECTIONS)})
        query = "select section, count(distinct line) from chosen group by all"
        lines = sql.execute(query).fetchall()
    known = labels[labels >= 0]
    return {
        "images": len(rows),
        "skipped": table.counts()[1],
        "labels": len(np.unique(known)),
        "k": k,
        "seed": seed,
        "shown": {name: dict(lines).get(name, 0) for name in SECTIONS},
    }


def check_count(count: int) -> None:
    """Raise `LookalikeError` for a number of lines per section below 1."""
    if count < 1:
        raise LookalikeError(f"`shown` is {count}: give at least 1 image per section")


def _typical(sql: "DuckDBPyConnection", count: int, k: int, same: float) -> Iterator[Line]:
    query = """
        with popular as (
            select neighbor_id as id, count(*) as times from near
            group by all order by times desc, id limit $tried
        ),
        votes as (
            select id, query_id from popular join near on neighbor_id = id where distance > $same
        ),
        shared as (
            select votes.id, votes.query_id from votes
            join near as own on own.query_id = votes.id
            join near as theirs
                on theirs.query_id = votes.query_id and theirs.neighbor_id = own.neighbor_id
            group by all having count(*) >= $shared
        ),
        counted as (select id, count(*) as figure from shared group by all)
        select popular.id, coalesce(figure, 0) as figure, list(near.neighbor_id) as nearest
        from popular left join counted using (id) join near on near.query_id = popular.id
        group by popular.id, figure, times order by figure desc, times desc, popular.id"""
    values = {
        "tried": max(_TRIED_PER_LINE * count, _MIN_TRIED),
        "same": same,
        "shared": max(round(_SHARED * k), 1),
    }
    chosen: set[int] = set()
    like_them: set[int] = set()
    for one, figure, nearest in sql.execute(query, values).fetchall():
        if one not in like_them and chosen.isdisjoint(nearest):
            yield "typical", len(chosen), 0, one, figure
            chosen.add(one)
            like_them.update(nearest)
        if len(chosen) == count:
            return


def _neighbors(sql: "DuckDBPyConnection", drawn: Numbers) -> Iterator[Line]:
    sql.register("drawn", pa.table({"line": np.arange(len(drawn)), "id": drawn}))
    query = """
        select line, 0 as place, id, 0.0 from drawn
        union all select line, rank, neighbor_id, distance
        from drawn join near on query_id = id where rank <= $nearest
        order by line, place"""
    found = sql.execute(query, {"nearest": LISTED_NEIGHBORS}).fetchall()
    return (("neighbors", *row) for row in found)


def _pairs(sql: "DuckDBPyConnection", count: int) -> Iterator[Line]:
    # One image per nearest neighbour: many copies share theirs.
    query = """
        select neighbor_id, min((distance, query_id)) as nearest from near where rank = 1
        group by all order by nearest, neighbor_id limit $tried"""
    found = sql.execute(query, {"tried": _TRIED_PER_LINE * count}).fetchall()
    paired: set[int] = set()
    for one, (distance, other) in found:
        if paired.isdisjoint((one, other)):
            line = len(paired) // 2
            paired |= {one, other}
            yield "pairs", line, 0, min(one, other), distance
            yield "pairs", line, 1, max(one, other), distance
        if len(paired) == 2 * count:
            return


def _first(sql: "DuckDBPyConnection", section: str, table: Path, count: int) -> Iterator[Line]:
    create_view(sql, "ranked", table)
    query = "select id, score from ranked order by rank limit $count"
    found = sql.execute(query, {"count": count}).fetchall()
    return ((section, line, 0, *row) for line, row in enumerate(found))


def draw_by_kind(rows: Rows, labels: Numbers, count: int, seed: int) -> Numbers:
    """Draw ids so that every kind comes once before any comes twice: int64 (count or fewer,).

    A kind is a label, or one of `count` k-means cells of the vectors where there are fewer than two
    labels. `labels` are int64 (rows,), negative for none.
    """
    some, kinds = np.arange(len(rows)), labels
    if len(np.unique(labels)) < 2:
        some = draw(len(rows), _SAMPLE_IMAGES, seed)
        kinds = _regions(rows.vectors(some), count, seed) if len(some) > count else some
    order = np.random.default_rng(seed).permutation(len(some))
    by_kind = order[np.argsort(kinds[order], kind="stable")]
    starts = np.flatnonzero(np.diff(kinds[by_kind], prepend=-2))  # no kind is -2
    sizes = np.diff([*starts, len(some)])
    turns = np.empty(len(some), np.int64)  # 0 for the first drawn of a kind
    turns[by_kind] = np.arange(len(some)) - np.repeat(starts, sizes)
    drawn = order[np.argsort(turns[order], kind="stable")[:count]]
    return rows.ids[some[drawn[np.lexsort((drawn, kinds[drawn]))]]]


def _regions(vectors: Vectors, count: int, seed: int) -> Numbers:
    """Return the k-means cell of each vector (n, width): int64 (n,)."""
    cells = faiss.Kmeans(vectors.shape[1], count, niter=10, seed=seed, min_points_per_centroid=1)
    cells.train(vectors)
    return np.asarray(cells.assign(vectors)[1], np.int64)


def _labels(rows: Rows) -> Numbers:
    """Return the label of each row as a number, alphabetical; -1 for none: int64 (rows,)."""
    if not len(rows):
        return np.empty(0, np.int64)
    coded = rows.labels.dictionary_encode().combine_chunks()
    places = pc.rank(coded.dictionary, tiebreaker="dense").to_numpy().astype(np.int64)
    numbers: Numbers = np.append(places, -1)[coded.indices.fill_null(-1).to_numpy()]
    return numbers
