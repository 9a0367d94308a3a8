"""Run the tasks that make regions: on Spark, or in this process where rows are few."""

from collections import defaultdict
from typing import TYPE_CHECKING, Protocol

import pyarrow as pa

from lookalike.search.regions.tasks import (
    ROUTED_SCHEMA,
    SAMPLE_SCHEMA,
    WRITTEN_SCHEMA,
    Task,
    spark_schema,
)
from lookalike.spark import (
    bound_batches,
    is_spark_available,
    parallelism,
    progress,
    session,
    setting,
)
from lookalike.system.progress import progress_line
from lookalike.system.resources import cores

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

IN_PROCESS = 50_000
"""Rows up to which this process makes regions, in some seconds."""
_TASKS_PER_CORE = 4
_TITLE = "making regions"


class Runner(Protocol):
    """Runs tasks over the numbers of data files."""

    @property
    def cores(self) -> int:
        """How many tasks run at a time."""

    @property
    def threads(self) -> int:
        """Threads of a task."""

    def sample(self, task: Task, files: int) -> pa.Table:
        """Return what a task gives for the numbers of `files` files."""

    def write(self, route: Task, write: Task, files: int, regions: int) -> pa.Table:
        """Route the rows of files to regions, and return what the task that writes these gives."""


class InProcess:
    """Runs tasks in this process; all routed rows are in memory."""

    cores = 1

    @property
    def threads(self) -> int:
        """All cores."""
        return cores()

    def sample(self, task: Task, files: int) -> pa.Table:
        """Return what a task gives."""
        return pa.Table.from_batches(task(iter([_numbers(files)])), SAMPLE_SCHEMA)

    def write(self, route: Task, write: Task, files: int, regions: int) -> pa.Table:
        """Route rows, then write each region."""
        routed: dict[int, list[pa.RecordBatch]] = defaultdict(list)
        with progress_line(_TITLE) as move:
            for number in range(files):
                move(number, files)
                for batch in route(iter([_numbers(number + 1).slice(number)])):
                    for row, region in enumerate(batch["region"].to_pylist()):
                        routed[region].append(batch.slice(row, 1))
            batches = (one for region in sorted(routed) for one in routed.pop(region))
            return pa.Table.from_batches(write(batches), WRITTEN_SCHEMA)


class OnSpark:
    """Runs tasks on Spark: rows travel once, packed, to the task of their region."""

    def __init__(self, spark: "SparkSession") -> None:
        self._spark = spark
        self.cores = parallelism(spark)
        self.threads = int(setting(spark, "spark.task.cpus", "1"))
        bound_batches(spark)

    def sample(self, task: Task, files: int) -> pa.Table:
        """Return what a task gives."""
        with progress(self._spark, "reading a sample"):
            return self._files(files).mapInArrow(task, spark_schema(SAMPLE_SCHEMA)).toArrow()

    def write(self, route: Task, write: Task, files: int, regions: int) -> pa.Table:
        """Route rows, then write each region in a task."""
        routed = self._files(files).mapInArrow(route, spark_schema(ROUTED_SCHEMA))
        by_number = "repartitionById" if hasattr(type(routed), "repartitionById") else "repartition"
        parted = getattr(routed, by_number)(regions, "region").sortWithinPartitions("region")
        with progress(self._spark, _TITLE):
            return parted.mapInArrow(write, spark_schema(WRITTEN_SCHEMA)).toArrow()

    def _files(self, count: int):  # type: ignore[no-untyped-def]
        """Return the numbers of data files, a few in each task."""
        tasks = max(min(count, _TASKS_PER_CORE * self.cores), 1)
        return self._spark.range(0, count, 1, tasks)


def choose_runner(rows: int, spark: bool | None) -> Runner:
    """Return what runs the tasks: by default Spark for many rows, or where it runs already."""
    if spark is None:
        spark = rows > IN_PROCESS or is_spark_available()
    return OnSpark(session()) if spark else InProcess()


def _numbers(count: int) -> pa.RecordBatch:
    return pa.record_batch({"id": pa.array(range(count), pa.int64())})
