"""Jobs of Spark: how many tasks run at a time, settings, progress, stopping them."""

import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from lookalike.spark import classic
from lookalike.spark.errors import is_spark_error
from lookalike.spark.sessions import ARROW_SETTINGS, is_connect
from lookalike.system.progress import progress_line

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


MAX_BATCH_BYTES = 64 * 2**20
"""Bytes that Spark sends to a task at a time, unless the session says fewer."""
_BATCH_BYTES = "spark.sql.execution.arrow.maxBytesPerBatch"
_BYTES = re.compile(r"(\d+)([kmgt]?)b?")
_UNITS = {"b": 1, "": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_MAX_PARALLELISM = 65_536


def setting(spark: "SparkSession", key: str, default: str = "") -> str:
    """Return a setting of a session; the default where it has none, or does not tell."""
    try:
        return spark.conf.get(key, default) or default
    except Exception as error:
        if is_spark_error(error):  # some platforms tell few settings
            return default
        raise


def parallelism(spark: "SparkSession") -> int:
    """Return how many tasks run at a time, as far as Spark knows its executors."""
    if not is_connect(spark):
        return classic.default_parallelism(spark)
    from pyspark.sql import functions as F

    # Spark divides a range into this number of parts.
    parts = spark.range(_MAX_PARALLELISM).select(F.spark_partition_id().alias("part"))
    ((last,),) = parts.agg(F.max("part")).collect()
    return int(last) + 1


def retries_tasks(spark: "SparkSession") -> bool:
    """Tell whether Spark retries a task whose process has died: plain `local[N]` does not."""
    master = setting(spark, "spark.master")
    if master.startswith("local") and not master.startswith("local-cluster"):
        attempts = re.search(r",\s*(\d+)\s*\]", master)
        return attempts is not None and int(attempts[1]) > 1
    return setting(spark, "spark.task.maxFailures") != "1"


class Interruptible:
    """Jobs that can be stopped, and no others of the session.

    Tags belong to a thread: use `running` in the thread that starts the jobs.
    """

    def __init__(self, spark: "SparkSession") -> None:
        self._spark, self._tag = spark, f"lookalike-{uuid.uuid4().hex}"

    @contextmanager
    def running(self) -> Iterator[None]:
        """Tag the jobs that this thread starts within the block."""
        if not is_connect(self._spark):
            with classic.tagged(self._spark, self._tag):
                yield
            return
        self._spark.addTag(self._tag)
        try:
            yield
        finally:
            self._spark.removeTag(self._tag)

    def stop(self) -> None:
        """Stop the jobs, from any thread."""
        if is_connect(self._spark):
            self._spark.interruptTag(self._tag)
        else:
            classic.stop_tagged_jobs(self._spark, self._tag)


def is_retry() -> bool:
    """Tell, within a task, whether an earlier attempt has failed."""
    from pyspark import TaskContext

    context = TaskContext.get()
    return context is not None and context.attemptNumber() > 0


@contextmanager
def small_arrow_batches(spark: "SparkSession") -> Iterator[None]:
    """Set the Arrow settings of `session` in any session while the block runs."""
    from pyspark.errors import PySparkException

    before: dict[str, str | None] = {}
    for key, value in ARROW_SETTINGS.items():
        try:
            earlier = spark.conf.get(key, None)
            spark.conf.set(key, value)
        except PySparkException:  # some platforms do not let users choose
            continue
        before[key] = earlier
    try:
        yield
    finally:
        with suppress(PySparkException):  # of a server that is gone: the block has said why
            for key, earlier in before.items():
                spark.conf.unset(key) if earlier is None else spark.conf.set(key, earlier)


def bound_batches(spark: "SparkSession") -> None:
    """Bound the bytes that Spark sends to Python at a time, where a session allows it."""
    from pyspark.errors import PySparkException

    found = _BYTES.fullmatch(setting(spark, _BATCH_BYTES, "-1").strip().lower())
    size = int(found[1]) * _UNITS[found[2] or "b"] if found else 0
    if not 0 < size <= MAX_BATCH_BYTES:
        with suppress(PySparkException):  # some platforms do not let users choose
            spark.conf.set(_BATCH_BYTES, str(MAX_BATCH_BYTES))


@contextmanager
def progress(spark: "SparkSession", text: str) -> Iterator[None]:
    """Show the share of completed Spark tasks in a progress line while the block runs."""
    watch = _watch_connect if is_connect(spark) else classic.watch_tasks
    with progress_line(text) as move, watch(spark, move):
        yield


@contextmanager
def _watch_connect(spark: "SparkSession", move: Callable[[int, int], None]) -> Iterator[None]:
    def show(stages: Any, **_: Any) -> None:
        running = [stage for stage in stages or () if not stage.done]
        if total := sum(stage.num_tasks for stage in running):
            move(sum(stage.num_completed_tasks for stage in running), total)

    handler: Any = show  # any function will do
    spark.registerProgressHandler(handler)
    try:
        yield
    finally:
        spark.removeProgressHandler(handler)
