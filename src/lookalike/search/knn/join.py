"""Plan the search for the neighbours of many queries, and run it: rows travel once, by region."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lookalike.search.cell_search import CellSearch
from lookalike.search.cells import (
    SAMPLE_ROWS_PER_CELL,
    Cells,
    Rotation,
    cell_count,
)
from lookalike.search.engines import KNN_ENGINES, KnnEngine, check_engine
from lookalike.search.knn.effort import JoinEffort, choose_effort, widest_effort
from lookalike.search.knn.packing import packed_type
from lookalike.search.knn.partitions import MAX_GROUP_ROWS
from lookalike.search.knn.region_tasks import RegionSearch, region_task
from lookalike.search.knn.regions import plan_regions, region_rows, rows_in_memory
from lookalike.search.knn.routing import HELD_ROWS_PER_NEIGHBOR, Routing
from lookalike.search.knn.sources import RowSource
from lookalike.search.knn.survey import (
    MAX_SAMPLE_ROWS,
    Inspected,
    draw_queries,
    find_true,
    inspect,
)
from lookalike.search.knn.tasks import CANDIDATES, ROUTED, Role, merge_task, route_task
from lookalike.search.recall import RECALL_K
from lookalike.search.rows import check_k, check_recall
from lookalike.search.searcher import EXACT_UP_TO
from lookalike.spark import parallelism, setting
from lookalike.spark.columns import ddl
from lookalike.system.arrays import Vectors
from lookalike.system.defaults import TARGET_RECALL

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


_MIN_GROUP_ROWS = 2_048
_MAX_BUCKET_QUERIES = 65_536
_MIN_BLOCK_ROWS, _MAX_BLOCK_ROWS = 8_192, 65_536
_BLOCK_ROWS_PER_REGION = 512
_MAX_MEASURED_K = 100
_TASKS_PER_CORE = 4


@dataclass(frozen=True)
class JoinPlan:
    """How the neighbours of many queries will be found.

    Attributes
    ----------
    items : RowSource
        The rows that are searched.
    queries : RowSource or None
        None where the rows are the queries.
    k : int
    within : float
    rows, asked : int
        Numbers of rows and of queries.
    regions : int
        Into how many regions the rows are divided.
    routing : Routing or None
        None for exact search.
    effort : JoinEffort or None
    centre : float32 (width,) or None
        What is taken from all vectors.
    visits : float
        Regions that a query visits, as drawn queries say; a row does not travel to its own.
    """

    spark: "SparkSession"
    items: RowSource
    queries: RowSource | None
    k: int
    within: float
    rows: int
    asked: int
    regions: int
    routing: Routing | None = None
    effort: JoinEffort | None = None
    centre: Vectors | None = None
    visits: float = 1.0

    @property
    def recall(self) -> float | None:
        """The recall that was measured with drawn queries: 1 for exact search."""
        return 1.0 if self.effort is None else self.effort.recall

    def run(self) -> "DataFrame":
        """Return the neighbours, found when they are used.

        One row per pair: `query_id, rank int, neighbor_id, distance float`; the ids have the types
        of the keys.
        """
        spark, items, queries = self.spark, self.items, self.queries
        threads = int(setting(spark, "spark.task.cpus", "1"))
        tasks = _TASKS_PER_CORE * parallelism(spark)
        packed = np.float32 if self.routing is None else packed_type(items.metric, self.rows)
        rotation = self._centred_rotation()
        block_rows = _BLOCK_ROWS_PER_REGION * self.regions
        block_rows = min(max(block_rows, _MIN_BLOCK_ROWS), _MAX_BLOCK_ROWS)
        block_rows = rows_in_memory(block_rows, items.width)

        def route(source: RowSource, role: Role) -> "DataFrame":
            task = route_task(
                self.routing, self.regions, role, self.centre, packed, block_rows, threads
            )
            return source.read(task, ddl(ROUTED))

        if queries is None:
            routed = route(items, Role(items=True, queries=True))
        else:
            routed = route(items, Role(items=True, queries=False)).union(
                route(queries, Role(items=False, queries=True))
            )
        buckets = max(tasks, -(-self.asked // _MAX_BUCKET_QUERIES))
        search = RegionSearch(
            self.k,
            items.width,
            packed,
            queries is None,
            self.within,
            buckets,
            threads,
            rotation,
            self.effort,
        )
        found = partition_by(routed, self.regions, "region").sortWithinPartitions(
            "region", "visits"
        )
        found = found.mapInArrow(region_task(search), ddl(CANDIDATES))
        merged = partition_by(found, min(buckets, 16 * tasks), "bucket")
        merged = merged.sortWithinPartitions("bucket")
        asked = items if queries is None else queries
        schema = (
            f"query_id {asked.key_type}, rank int, neighbor_id {items.key_type}, distance float"
        )
        return merged.mapInArrow(merge_task(self.k), schema)

    def _centred_rotation(self) -> Rotation | None:
        if self.routing is None:
            return None
        rotation = self.routing.cells.rotation
        if self.centre is None:
            return rotation
        return Rotation(rotation.directions, rotation.offset + rotation.directions @ self.centre)


def partition_by(frame: "DataFrame", count: int, column: str) -> "DataFrame":
    """Divide rows into partitions: the number in a column says which, modulo their count."""
    if hasattr(type(frame), "repartitionById"):  # PySpark 4.1 and later
        from pyspark.sql import functions as F

        return frame.repartitionById(count, F.pmod(F.col(column), F.lit(count)))
    return frame.repartition(count, column)


def plan_join(
    spark: "SparkSession",
    items: RowSource,
    k: int,
    queries: RowSource | None = None,
    engine: KnnEngine = "auto",
    recall: float = TARGET_RECALL,
    within: float = np.inf,
) -> JoinPlan:
    """Plan the search for the k nearest rows to each query; measure the effort that it takes.

    Parameters
    ----------
    spark : SparkSession
    items : RowSource
        The rows that are searched.
    k : int
    queries : RowSource, optional
        By default the rows themselves, each of which leaves itself out.
    engine : {"auto", "exact", "approximate"}
        `auto` is exact for few rows.
    recall : float
        Target recall of approximate search.
    within : float
        Leave out rows farther than this Euclidean distance.

    Returns
    -------
    JoinPlan
        Of more equal distances than k, any may be left out.

    Raises
    ------
    LookalikeError
        For an invalid k, engine or recall, and for rows that cannot be compared.
    """
    check_k(k)
    check_engine(engine, KNN_ENGINES)
    check_recall(recall)
    asked = items if queries is None else queries
    rows, sample = items.count(), None
    if rows is None or engine == "approximate" or (engine == "auto" and rows > EXACT_UP_TO):
        sample = inspect(items)
        rows = sample.rows
    asked_sample = sample
    if queries is not None:
        asked_sample = inspect(queries) if sample or queries.count() is None else None
    count = (asked_sample.rows if asked_sample else asked.count()) or 0
    cores = parallelism(spark)
    may_approximate = engine == "approximate" or (engine == "auto" and rows > EXACT_UP_TO)
    if may_approximate and recall < 1 and rows > 2 * RECALL_K and sample and asked_sample:
        planned = _plan_regions(
            spark, items, queries, k, engine, recall, within, sample, asked_sample, cores
        )
        if planned is not None:
            return planned
    most = rows_in_memory(MAX_GROUP_ROWS, items.width)
    groups = max(-(-rows // most), min(cores, -(-rows // _MIN_GROUP_ROWS)), 1)
    return JoinPlan(spark, items, queries, k, within, rows, count, groups, visits=float(groups))


def _plan_regions(
    spark: "SparkSession",
    items: RowSource,
    queries: RowSource | None,
    k: int,
    engine: KnnEngine,
    recall: float,
    within: float,
    sample: Inspected,
    asked: Inspected,
    cores: int,
) -> JoinPlan | None:
    rows, drawn = sample.rows, draw_queries(asked.drawn)
    rotation = Rotation.fit(sample.drawn)
    centre = sample.drawn.mean(axis=0)
    cell_rows = min(SAMPLE_ROWS_PER_CELL * cell_count(rows), MAX_SAMPLE_ROWS)
    near = RECALL_K if within < np.inf else min(max(k, RECALL_K), _MAX_MEASURED_K)
    truth = find_true(
        items, rotation, drawn, near, cell_rows / max(rows, 1), queries is None, centre
    )
    cells = Cells.fit(rotation, truth.sample, rows)
    search = CellSearch(cells)
    effort = choose_effort(truth, search, rows, k, recall, within)
    if effort is None and engine != "approximate":
        return None
    effort = effort or widest_effort(search, rows)
    counts = np.bincount(search.within(truth.sample, 0.0, 1)[0], minlength=len(cells))
    counts = np.ceil(counts * (rows / len(truth.sample))).astype(np.int64)
    first, parts = plan_regions(cells.centres, counts, region_rows(rows, items.width, cores))
    least = HELD_ROWS_PER_NEIGHBOR * (k + 1) if within == np.inf else 0
    routing = Routing(cells, counts, first, parts, effort.probing, least)
    visited = routing.visits(rotation(drawn))
    pairs = np.unique(visited.rows * routing.regions + visited.regions)
    return JoinPlan(
        spark,
        items,
        queries,
        k,
        within,
        rows,
        asked.rows,
        routing.regions,
        routing,
        effort,
        centre,
        len(pairs) / max(len(drawn), 1),
    )
