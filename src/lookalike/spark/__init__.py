"""Spark, classic or through Spark Connect: its session, its jobs and their progress, its errors."""

from lookalike.spark.classic import stop_all_jobs
from lookalike.spark.errors import is_spark_error, short_error
from lookalike.spark.jobs import (
    MAX_BATCH_BYTES,
    Interruptible,
    bound_batches,
    is_retry,
    parallelism,
    progress,
    retries_tasks,
    setting,
    small_arrow_batches,
)
from lookalike.spark.sessions import is_connect, is_spark_available, require_classic, session
from lookalike.spark.tables import is_frame, local_uri, read_parquet

__all__ = [
    "MAX_BATCH_BYTES",
    "Interruptible",
    "bound_batches",
    "is_connect",
    "is_frame",
    "is_retry",
    "is_spark_available",
    "is_spark_error",
    "local_uri",
    "parallelism",
    "progress",
    "read_parquet",
    "require_classic",
    "retries_tasks",
    "session",
    "setting",
    "short_error",
    "small_arrow_batches",
    "stop_all_jobs",
]
