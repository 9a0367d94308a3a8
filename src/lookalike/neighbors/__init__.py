"""The neighbours of many images at once, on Spark: all of a collection, or those of other vectors.

Exactly: a task holds a group of segments, and all queries pass by in blocks. By cells: a task holds
a region, cells that lie together, and gets the queries that look into one of them; what travels to
it are numbers of queries and cells, packed by the thousand, and no vector. Either way the k best
rows that tasks found for a query are merged to the k best of all, a block of queries at a time.
Nothing is joined on buckets and nothing is collected; memory is bounded by a group or region and a
block, what is shuffled by k rows a query and region.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lookalike.defaults import RECALL
from lookalike.engine import KnnEngine
from lookalike.neighbors.held import REGION_ROWS, Held, regions
from lookalike.neighbors.queries import Queries, Source, store
from lookalike.neighbors.reach import effort_within
from lookalike.neighbors.tasks import (
    FOUND,
    LOOKS,
    NEIGHBORS,
    comparing,
    ddl,
    looking,
    merging,
    routing,
)
from lookalike.search import check_k
from lookalike.searcher import Searcher, home
from lookalike.storage import EmbeddingTable, Segment

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

__all__ = ["NEIGHBORS", "Held", "Queries", "neighbors", "store"]

GROUP_ROWS = 131_072
"""Rows that a task of exact search holds at most: a quarter of a gigabyte of vectors."""
_REGIONS = 2  # a core at least, which differ in cost; with more a query looks into more of them
_TASKS = 4  # a core
_FEW = 1 / 4  # of the cells


def neighbors(
    spark: "SparkSession",
    collection: EmbeddingTable,
    k: int,
    queries: Sequence[Source] | None = None,
    engine: KnnEngine = "auto",
    recall: float = RECALL,
    within: float = np.inf,
) -> "DataFrame":
    """Find the k nearest rows of a collection to each query: a DataFrame with a row a pair.

    Its columns are `query_id, rank, neighbor_id, distance`. Without `queries` the rows of the
    collection ask, each of which then leaves itself out. Distances are Euclidean, equal ones
    ordered by id; of more equal ones than there is room for, any may be given. Rows farther than
    `within` are left out. `auto` is exact for small collections.
    """
    check_k(k)
    searcher = Searcher(collection)
    segments = searcher.rows.segments
    asked = Queries.of(segments if queries is None else queries)
    if within < np.inf:
        effort = effort_within(searcher, asked, within, k, engine, recall, queries is None)
    else:
        effort = searcher.effort(k, engine, recall, len(searcher.rows))
    if engine == "auto" and effort is not None and effort.cells > _FEW * len(searcher.cells):
        effort = None  # matrix products over all rows are quicker
    tasks = spark.sparkContext.defaultParallelism
    threads = int(spark.conf.get("spark.task.cpus", "1") or 1)
    own = queries is None
    if effort is None:
        groups = group(segments, tasks)
        compare = comparing(groups, asked, k, own, within, threads)
        found = spark.range(0, len(groups), 1, len(groups)).mapInArrow(compare, ddl(FOUND))
    else:
        cells = searcher.cells
        counts = np.zeros(len(cells), np.int64)
        for segment in segments:
            counts += np.bincount(home(segment, cells), minlength=len(cells))
        most = min(REGION_ROWS, max(-(-len(searcher.rows) // (_REGIONS * tasks)), 1))
        plan = list(regions(counts, most))
        least = k + own if within == np.inf else 0
        route = routing(cells, counts, plan, asked, effort.cells, least, threads)
        look = looking(segments, cells, plan, asked, k, own, within, effort, threads)
        blocks = spark.range(0, len(asked.blocks), 1, _TASKS * tasks)
        parts = max(_TASKS * tasks, len(plan))
        looks = blocks.mapInArrow(route, ddl(LOOKS)).repartition(parts, "region")
        found = looks.sortWithinPartitions("region").mapInArrow(look, ddl(FOUND))
    merged = found.repartition(_TASKS * tasks, "block").sortWithinPartitions("block")
    return merged.mapInArrow(merging(asked, k), ddl(NEIGHBORS))


def group(segments: Sequence[Segment], tasks: int) -> list[list[Segment]]:
    """Put neighbouring segments together: `tasks` groups or more, of `GROUP_ROWS` or fewer.

    A segment stays whole, so that there may be fewer groups, and larger ones of one segment.
    """
    sizes = [len(segment.ids) for segment in segments]
    most = min(GROUP_ROWS, max(-(-sum(sizes) // max(tasks, 1)), 1))
    groups: list[list[Segment]] = []
    held = 0
    for segment, size in zip(segments, sizes, strict=True):
        if groups and held + size <= most:
            groups[-1].append(segment)
            held += size
        else:
            groups.append([segment])
            held = size
    return groups
