"""What a search for the neighbours of all rows will cost, from some seconds of sampling.

Tasks of Spark find the neighbours of drawn rows among up to a million rows, as the search itself
does among all: that says how many cells and regions a query visits. Others, one a core, run the
functions of the search on some rows and time them. The rest is counting.
"""

import time
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lookalike.search.cell_search import CellSearch
from lookalike.search.cells import (
    MEAN_CELL_ROWS,
    ROTATION_SAMPLE_ROWS,
    SAMPLE_ROWS_PER_CELL,
    Cells,
    Rotation,
    cell_count,
)
from lookalike.search.knn.effort import JoinEffort, choose_effort
from lookalike.search.knn.partitions import MAX_GROUP_ROWS
from lookalike.search.knn.regions import plan_regions, region_rows, rows_in_memory
from lookalike.search.knn.routing import HELD_ROWS_PER_NEIGHBOR, Probing, Routing
from lookalike.search.knn.sample import SampledRows, sample_rows
from lookalike.search.knn.sources import IndexRows
from lookalike.search.knn.survey import MAX_SAMPLE_ROWS, draw_queries, find_true
from lookalike.search.knn.timing import Trial, time_pairs, time_search
from lookalike.search.recall import RECALL_K
from lookalike.search.rows import check_k, check_recall
from lookalike.search.searcher import EXACT_UP_TO
from lookalike.spark import parallelism
from lookalike.storage import EmbeddingTable
from lookalike.system.arrays import Vectors
from lookalike.system.defaults import TARGET_RECALL

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


MAX_SCANNED_ROWS = 2**20
"""Rows that drawn ones are compared with; of larger collections some data files are read."""
TRIAL_ROWS = 8_192
"""Rows on which the tasks of Spark try the search: of more than 512 numbers fewer."""
_MIN_TRIAL_ROWS = 2_048
_USUAL_WIDTH = 512
_MAX_HELD_ROWS = 8 * MEAN_CELL_ROWS  # of a cell: equal rows are thinned out
_MAX_FITTED_ROWS = 2**17  # that cells are fitted to
_VISITING_ROWS = 2_048
_BATCH_BYTES = 2**28  # of queries and candidates in a task, as `region_tasks` bounds them
_ROW_EXTRA_BYTES = 700  # of a row in a region beside its vector: its leading directions, its keys
_PAIR_BYTES = 13  # of a neighbour on its way, beside its key's header
_COPIES = 4.0  # times that Spark packs, sorts, writes and reads what travels
_PAIR_SECONDS = 2.8e-6  # of a pair in the result, sorted and written by Spark
_START_SECONDS = 55.0  # of CPU, in which Python and the JVM start and compile what they run
_TASK_SECONDS = 0.15  # of CPU, to start a task of Python
_TASKS_PER_CORE = 4


@dataclass(frozen=True)
class Cost:
    """What a search for neighbours will cost.

    Attributes
    ----------
    rows, width, k : int
    recall : float
        The target.
    engine : str
        "approximate", or "exact" where that is quicker.
    regions : int
        Groups of rows, one to a task.
    visits : float
        Regions that a row visits, its own among them.
    cells : float
        Cells of 128 rows that it is compared with.
    candidates : int
        Rows that it is compared with in full.
    shuffled_bytes : int
        What travels between tasks.
    task_bytes : int
        Memory of a task.
    cores : int
        Tasks that run at once.
    core_hours, hours : float
        CPU time of all cores, and time on this many of them.
    stages : dict of str to float
        CPU seconds of each stage.
    sampled : int
        Rows that this was found with: of approximate search those that drawn ones were compared
        with.
    """

    rows: int
    width: int
    k: int
    recall: float
    engine: str
    regions: int
    visits: float
    cells: float
    candidates: int
    shuffled_bytes: int
    task_bytes: int
    cores: int
    core_hours: float
    hours: float
    stages: dict[str, float] = field(default_factory=dict)
    sampled: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the figures for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        facts = {
            "rows": f"{self.rows:,} of {self.width:,} numbers",
            "search": f"{self.engine}, k = {self.k}, recall {self.recall:g}",
            "regions": f"{self.regions:,}",
            "visits": f"{self.visits:.1f} regions a row, {self.cells:.0f} cells of 128 rows",
            "shuffled": _size(self.shuffled_bytes),
            "memory": f"{_size(self.task_bytes)} a task",
            "CPU": f"{_time(self.core_hours)} of one core",
            "time": f"{_time(self.hours)} on {self.cores} cores",
        }
        return "\n".join(f"{name:>11}  {value}" for name, value in facts.items())


def _size(count: int) -> str:
    unit, name = (2**30, "GB") if count >= 2**30 else (2**20, "MB")
    return f"{count / unit:,.1f} {name}"


def _time(hours: float) -> str:
    if hours >= 1:
        return f"{hours:,.1f} h"
    return f"{hours * 60:.1f} min" if hours * 3600 >= 100 else f"{hours * 3600:.0f} s"


def estimate(
    spark: "SparkSession", table: EmbeddingTable, k: int = 10, recall: float = TARGET_RECALL
) -> Cost:
    """Say what the search for the k nearest neighbours of each row of an index will cost.

    Raises `LookalikeError` for an invalid k or recall, and for a damaged index.
    """
    check_k(k)
    check_recall(recall)
    source = IndexRows(spark, table)
    rows, width = table.counts()[0], source.width
    cores = parallelism(spark)
    files = max(len(source.segments), 1)
    scanned = source.some(max(MAX_SCANNED_ROWS * files // max(rows, 1), 1))
    known = round(rows * len(scanned.segments) / files)
    sample = sample_rows(scanned, min(rows, max(ROTATION_SAMPLE_ROWS, TRIAL_ROWS)))
    found = None
    if rows > EXACT_UP_TO and recall < 1:
        found = _plan(sample, scanned, known, rows, k, recall, cores)
    if found is None:
        return _exact(sample, rows, k, recall, cores)
    routing, trial, planning = found
    timed = time_search(source, trial, cores)
    visited = routing.visits(trial.rotation(sample.vectors[:_VISITING_ROWS]))
    asked = min(len(sample.vectors), _VISITING_ROWS)
    visits = len(np.unique(visited.rows * routing.regions + visited.regions)) / asked
    # As many cells as among the scanned rows, of which those of all rows hold no more.
    held = routing.counts[visited.cells] / routing.parts[visited.cells] * (known / rows)
    held = np.minimum(held, _MAX_HELD_ROWS)
    cells = float(held.sum()) / asked / MEAN_CELL_ROWS
    tasks = _TASKS_PER_CORE * cores
    routed, pairs = rows * timed.routed_bytes, rows * visits * k
    stages = {
        "survey": rows * (timed.read + timed.inspect) + planning,
        "route": rows * (timed.read + timed.route) + tasks * timed.start,
        "search": rows * (timed.build + visits * timed.ask + cells * timed.probe),
        "merge": pairs * timed.merge,
        "shuffle": (routed + pairs * _PAIR_BYTES) * timed.copy * _COPIES,
        "write": rows * k * _PAIR_SECONDS,
        "tasks": (4 * tasks + routing.regions) * _TASK_SECONDS,
        "start": _START_SECONDS,
    }
    held_rows = -(-rows // routing.regions)
    seconds = sum(stages.values())
    return Cost(
        rows,
        width,
        k,
        recall,
        "approximate",
        routing.regions,
        round(visits, 2),
        round(cells, 1),
        trial.effort.candidates,
        round(routed + pairs * _PAIR_BYTES),
        held_rows * (6 * width + _ROW_EXTRA_BYTES) + 2 * _BATCH_BYTES,
        cores,
        seconds / 3600,
        seconds / 3600 / cores,
        stages,
        known,
    )


def _plan(
    sample: SampledRows,
    scanned: IndexRows,
    known: int,
    rows: int,
    k: int,
    recall: float,
    cores: int,
) -> tuple[Routing, Trial, float] | None:
    """Plan the search among all rows from `known` ones; None where exact search is quicker.

    Returns what the tasks try, too, and the CPU seconds that the same takes for all rows.
    """
    drawn = sample.vectors[:ROTATION_SAMPLE_ROWS]
    rotation, centre = Rotation.fit(drawn), drawn.mean(axis=0)
    queries = draw_queries(drawn)
    share = _MAX_FITTED_ROWS / max(known, 1)
    truth = find_true(scanned, rotation, queries, max(k, RECALL_K), share, True, centre)
    started = time.process_time()
    cells = Cells.fit(rotation, truth.sample, known)
    search = CellSearch(cells)
    effort = choose_effort(truth, search, rows, k, recall)
    if effort is None:
        return None
    search = search.through(effort.probing.parts)
    counts = np.bincount(search.within(truth.sample, 0.0, 1)[0], minlength=len(cells))
    counts = np.ceil(counts * (rows / len(truth.sample))).astype(np.int64)
    wanted = min(SAMPLE_ROWS_PER_CELL * cell_count(rows), MAX_SAMPLE_ROWS)
    seconds = (time.process_time() - started) * max(wanted / len(truth.sample), 1)
    first, parts = plan_regions(cells.centres, counts, region_rows(rows, sample.width, cores))
    least = HELD_ROWS_PER_NEIGHBOR * (k + 1)
    routing = Routing(cells, counts, first, parts, effort.probing, least)
    trial = _trial(sample, rows, queries, k, rotation, centre, routing, effort)
    return routing, trial, seconds


def _trial(
    sample: SampledRows,
    rows: int,
    queries: Vectors,
    k: int,
    rotation: Rotation,
    centre: Vectors,
    routing: Routing,
    effort: JoinEffort,
) -> Trial:
    few = max(TRIAL_ROWS * _USUAL_WIDTH // max(sample.width, _USUAL_WIDTH), _MIN_TRIAL_ROWS)
    some = replace(sample, vectors=sample.vectors[:few])
    cells = Cells.fit(rotation, rotation(some.vectors), len(some.vectors))
    zeros = np.zeros(len(cells), np.int32)
    counts = np.full(len(cells), MEAN_CELL_ROWS, np.int64)
    small = Routing(cells, counts, zeros, zeros + 1, Probing(np.inf, 1), 0)
    return Trial(some, rows, queries, k, rotation, centre, routing, small, effort)


def _exact(sample: SampledRows, rows: int, k: int, recall: float, cores: int) -> Cost:
    """Say what exact search costs: each row is compared with all."""
    width = sample.width
    most = rows_in_memory(MAX_GROUP_ROWS, width)
    groups = max(-(-rows // most), min(cores, -(-rows // 2_048)), 1)
    pairs = rows * groups * k
    routed = rows * groups * (4 * width + 16)
    stages = {
        "start": _START_SECONDS,
        "search": float(rows) * rows * time_pairs(sample, k),
        "write": rows * k * _PAIR_SECONDS,
        "tasks": (3 * _TASKS_PER_CORE * cores + groups) * _TASK_SECONDS,
    }
    seconds = sum(stages.values())
    return Cost(
        rows,
        width,
        k,
        recall,
        "exact",
        groups,
        float(groups),
        rows / MEAN_CELL_ROWS,
        rows,
        routed + pairs * _PAIR_BYTES,
        -(-rows // groups) * 8 * width + 2 * _BATCH_BYTES,
        cores,
        seconds / 3600,
        seconds / 3600 / cores,
        stages,
        len(sample.vectors),
    )
