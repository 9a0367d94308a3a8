"""What only a classic Spark session has: its context, and the JVM behind it.

Spark Connect has neither. The other modules of this room have what replaces each function there.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


_POLL_SECONDS = 0.3


def default_parallelism(spark: "SparkSession") -> int:
    """Return how many tasks run at a time. On Spark Connect a query counts them."""
    return spark.sparkContext.defaultParallelism


@contextmanager
def tagged(spark: "SparkSession", tag: str) -> Iterator[None]:
    """Tag the jobs that this thread starts while the block runs."""
    spark.sparkContext.addJobTag(tag)
    try:
        yield
    finally:
        spark.sparkContext.removeJobTag(tag)


def stop_tagged_jobs(spark: "SparkSession", tag: str) -> None:
    """Stop the jobs with a tag. `interruptTag` of a session stops those of its own thread only."""
    spark.sparkContext.cancelJobsWithTag(tag)


def stop_all_jobs(spark: "SparkSession") -> None:
    """Stop all jobs, those of streams too. Streams that call Python here are classic only."""
    spark.sparkContext.cancelAllJobs()


@contextmanager
def watch_tasks(spark: "SparkSession", move: Callable[[int, int], None]) -> Iterator[None]:
    """Report completed and all tasks while the block runs. Spark Connect reports by itself."""
    over = threading.Event()

    def watch() -> None:
        status = spark.sparkContext.statusTracker()
        while not over.wait(_POLL_SECONDS):
            stages = [status.getStageInfo(stage) for stage in status.getActiveStageIds()]
            running = [stage for stage in stages if stage is not None]
            if total := sum(stage.numTasks for stage in running):
                move(sum(stage.numCompletedTasks for stage in running), total)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
