"""All-pairs k-nearest-neighbour search on Spark, exact or approximate.

Exact: a task loads a group of segments and compares all queries with it, block by block.
Approximate: a task loads a region, cells that lie together, and receives packed numbers of the
queries that probe its cells, no vectors. In both cases the k best rows per query and task are
merged to the k best of all, a block of queries at a time.
Nothing is collected. A group or region and a block bound the memory; k rows per query and region
bound the shuffle.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lookalike.search.engines import KnnEngine
from lookalike.search.knn.partitions import (
    MAX_REGION_ROWS,
    Partition,
    plan_regions,
    rows_in_memory,
)
from lookalike.search.knn.queries import Queries, QuerySource, write_queries
from lookalike.search.knn.radius import effort_within
from lookalike.search.knn.tasks import (
    CANDIDATES_SCHEMA,
    NEIGHBORS_SCHEMA,
    PROBES_SCHEMA,
    compare_task,
    merge_task,
    region_task,
    route_task,
    spark_schema,
)
from lookalike.search.rows import check_k
from lookalike.search.searcher import Searcher, assign_cells
from lookalike.spark import parallelism, setting
from lookalike.storage import EmbeddingTable, Segment
from lookalike.system.defaults import TARGET_RECALL

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


__all__ = ["NEIGHBORS_SCHEMA", "Partition", "Queries", "knn_join", "write_queries"]

MAX_GROUP_ROWS = 131_072
"""Rows in memory of a task of exact search: a quarter of a gigabyte of vectors."""
_MIN_REGIONS_PER_CORE = 2  # for balance; with more regions a query probes more of them
_TASKS_PER_CORE = 4
_MAX_PROBED_SHARE = 1 / 4  # of all cells; beyond it matrix products over all rows are quicker


def knn_join(
    spark: "SparkSession",
    table: EmbeddingTable,
    k: int,
    queries: Sequence[QuerySource] | None = None,
    engine: KnnEngine = "auto",
    recall: float = TARGET_RECALL,
    within: float = np.inf,
) -> "DataFrame":
    """Find the k nearest rows of an index to each query.

    Parameters
    ----------
    spark : SparkSession
    table : EmbeddingTable
    k : int
    queries : sequence of QuerySource, optional
        By default the rows of the index, each of which leaves itself out.
    engine : {"auto", "exact", "approximate"}
        `auto` is exact for small collections.
    recall : float
        Target recall of approximate search.
    within : float
        Leave out rows farther than this Euclidean distance.

    Returns
    -------
    DataFrame
        One row per pair: `query_id bigint, rank int, neighbor_id bigint, distance float`. Equal
        distances are ordered by id; of more ties than k, any may be left out.

    Raises
    ------
    LookalikeError
        For an invalid k, engine or recall.
    """
    check_k(k)
    searcher = Searcher(table)
    segments, width = searcher.rows.segments, int(table.about_model["width"])
    exclude_self = queries is None
    blocks = Queries.split(segments if queries is None else queries)
    if within < np.inf:
        effort = effort_within(searcher, blocks, within, k, engine, recall, exclude_self)
    else:
        effort = searcher.effort(k, engine, recall, len(searcher.rows))
    if engine == "auto" and effort and effort.cells > _MAX_PROBED_SHARE * len(searcher.cells):
        effort = None
    cores = parallelism(spark)
    tasks = _TASKS_PER_CORE * cores
    threads = int(setting(spark, "spark.task.cpus", "1"))
    if effort is None:
        groups = group_segments(segments, cores, width)
        compare = compare_task(groups, blocks, k, exclude_self, within, threads)
        numbers = spark.range(0, len(groups), 1, len(groups))
        found = numbers.mapInArrow(compare, spark_schema(CANDIDATES_SCHEMA))
    else:
        cells = searcher.cells
        counts = np.zeros(len(cells), np.int64)
        for segment in segments:
            counts += np.bincount(assign_cells(segment, cells), minlength=len(cells))
        max_rows = max(-(-len(searcher.rows) // (_MIN_REGIONS_PER_CORE * cores)), 1)
        most = rows_in_memory(MAX_REGION_ROWS, width)
        regions = list(plan_regions(counts, min(most, max_rows)))
        min_rows = k + exclude_self if within == np.inf else 0
        route = route_task(cells, counts, regions, blocks, effort.cells, min_rows, threads)
        search = region_task(
            segments, cells, regions, blocks, k, exclude_self, within, effort, threads
        )
        numbers = spark.range(0, len(blocks.blocks), 1, tasks)
        probes = numbers.mapInArrow(route, spark_schema(PROBES_SCHEMA))
        probes = probes.repartition(max(tasks, len(regions)), "region")
        probes = probes.sortWithinPartitions("region")
        found = probes.mapInArrow(search, spark_schema(CANDIDATES_SCHEMA))
    merged = found.repartition(tasks, "block").sortWithinPartitions("block")
    return merged.mapInArrow(merge_task(blocks, k), spark_schema(NEIGHBORS_SCHEMA))


def group_segments(
    segments: Sequence[Segment], tasks: int, width: int = 512
) -> list[list[Segment]]:
    """Group neighbouring segments: at least `tasks` groups of at most `MAX_GROUP_ROWS` rows.

    Segments stay whole, so there may be fewer groups, and a larger group of one segment.
    """
    sizes = [len(segment.ids) for segment in segments]
    max_rows = min(rows_in_memory(MAX_GROUP_ROWS, width), max(-(-sum(sizes) // max(tasks, 1)), 1))
    groups: list[list[Segment]] = []
    rows = 0
    for segment, size in zip(segments, sizes, strict=True):
        if groups and rows + size <= max_rows:
            groups[-1].append(segment)
            rows += size
        else:
            groups.append([segment])
            rows = size
    return groups
