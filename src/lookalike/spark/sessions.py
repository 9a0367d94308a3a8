"""The Spark session, classic or of Spark Connect."""

import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lookalike.errors import LookalikeError
from lookalike.spark.errors import MAX_ERROR_CHARS, is_spark_error, short_error
from lookalike.system.extras import require
from lookalike.system.java import java_home
from lookalike.system.resources import cores, memory

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


logger = logging.getLogger(__name__)

ARROW_SETTINGS = {
    # Batches have a size limit, so that large images do not fill the memory.
    "spark.sql.execution.arrow.maxRecordsPerBatch": "1024",
    "spark.sql.execution.arrow.maxBytesPerBatch": str(32 * 2**20),
    "spark.sql.execution.arrow.pyspark.enabled": "true",
}
_CLASSIC_SETTINGS = {"spark.log.level": "ERROR", "spark.ui.showConsoleProgress": "false"}
_MAX_TASK_ATTEMPTS = 4  # plain local[N] never retries a task
_CONNECT_SECONDS = 15.0  # to reach a server


def session(master: str | None = None) -> "SparkSession":
    """Return the active Spark session, or create one.

    It uses the Spark Connect server (`sc://HOST:PORT`) of `master` or of the environment variable
    `SPARK_REMOTE`; or else the cluster of `spark-submit`, of `master`, or of `SPARK_MASTER`.
    Otherwise Spark runs on all cores of this machine. Raises `LookalikeError` without PySpark,
    without Java where this machine needs it, and if the server does not answer.
    """
    require("running on Spark", "pyspark")
    from pyspark.sql import SparkSession

    if (active := _active_session()) is not None:
        return active
    if (address := _remote_address(master)) is not None:
        return _connect(address)
    master = master or os.environ.get("SPARK_MASTER")
    builder = SparkSession.builder.appName("lookalike")
    submitted = "PYSPARK_GATEWAY_PORT" in os.environ  # spark-submit has set up Java and the master
    settings = ARROW_SETTINGS | _CLASSIC_SETTINGS
    if not submitted:
        _choose_java_and_python()
        is_local = master is None or master.startswith("local")
        settings |= _local_settings() if is_local else {}
        settings["spark.master"] = master or f"local[{cores()},{_MAX_TASK_ATTEMPTS}]"
    for key, value in settings.items():
        builder = builder.config(key, value)
    with _java_output_hidden():
        return builder.getOrCreate()


def is_connect(spark: "SparkSession | None" = None) -> bool:
    """Tell whether a session is one of Spark Connect; by default the one of `session()`."""
    spark = _active_session() if spark is None else spark
    if spark is None:
        return _remote_address(None) is not None
    return any(one.__module__.startswith("pyspark.sql.connect") for one in type(spark).__mro__)


def require_classic(feature: str, instead: str) -> None:
    """Raise `LookalikeError` under Spark Connect: it lacks a feature, and says what to do."""
    if is_connect():
        raise LookalikeError(f"{feature} does not run on Spark Connect: {instead}")


def _active_session() -> "SparkSession | None":
    """Return the active session of this thread, or the one of the process."""
    if "pyspark" not in sys.modules:
        return None
    from pyspark.errors import PySparkException
    from pyspark.sql import SparkSession, is_remote

    if not is_remote():
        from pyspark import SparkContext

        if SparkContext._active_spark_context is None:  # stopped: its session is still known
            return None
    try:
        return SparkSession.active()
    except PySparkException:
        return None


def _remote_address(master: str | None) -> str | None:
    """Return the address of a Spark Connect server, if one is chosen."""
    if master is not None and master.startswith("sc://"):
        return master
    if remote := os.environ.get("SPARK_REMOTE"):
        return remote
    of_environment = os.environ.get("SPARK_MASTER", "")
    return of_environment if master is None and of_environment.startswith("sc://") else None


def _connect(address: str) -> "SparkSession":
    """Return a session of Spark Connect; `local[N]` starts a server in this process."""
    require("Spark Connect", "grpc", "grpc_status", "zstandard")
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.remote(address)
    if address.startswith("local"):
        _choose_java_and_python()
        for key, value in (_local_settings() | _CLASSIC_SETTINGS | ARROW_SETTINGS).items():
            builder = builder.config(key, value)
        with _java_output_hidden():
            return builder.getOrCreate()
    shown = address.partition(";")[0].rstrip("/")  # without its token
    _check_answers(address, shown)
    for key, value in ARROW_SETTINGS.items():
        builder = builder.config(key, value)
    try:
        return builder.getOrCreate()
    except Exception as error:
        if not is_spark_error(error):
            raise
        raise LookalikeError(
            f"the Spark Connect server {shown} gives no session: {short_error(error)}"
        ) from None


def _check_answers(address: str, shown: str) -> None:
    """Raise `LookalikeError` unless a server answers: PySpark would try for ten minutes."""
    import grpc
    from pyspark.errors import PySparkException
    from pyspark.sql.connect.client import DefaultChannelBuilder

    try:
        channel = DefaultChannelBuilder(address).toChannel()
    except PySparkException:
        raise LookalikeError(
            f"{shown!r} is no address of Spark Connect: set SPARK_REMOTE to sc://HOST:PORT"
        ) from None
    try:
        grpc.channel_ready_future(channel).result(timeout=_CONNECT_SECONDS)
    except grpc.FutureTimeoutError:
        raise LookalikeError(
            f"no Spark Connect server answers at {shown}: start it, or correct SPARK_REMOTE"
        ) from None
    finally:
        channel.close()


def _choose_java_and_python() -> None:
    """Choose the Java of a JVM that this process starts, and the Python of its workers."""
    os.environ["JAVA_HOME"] = str(java_home())
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)


def is_spark_available() -> bool:
    """Tell whether a session is active, or the environment names a cluster or a server."""
    if os.environ.keys() & {"SPARK_MASTER", "SPARK_REMOTE", "PYSPARK_GATEWAY_PORT"}:
        return True
    return _active_session() is not None


def _local_settings() -> dict[str, str]:
    # Fewer shuffle partitions than the default of 200 on a laptop, and no UI port.
    return {
        "spark.driver.memory": f"{_driver_memory_mb()}m",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.sql.shuffle.partitions": str(4 * cores()),
        "spark.ui.enabled": "false",
    }


def _driver_memory_mb() -> int:
    """Return megabytes for the JVM: an eighth of the memory, as Python workers need the rest."""
    try:
        total = memory() // 2**20
    except (AttributeError, ValueError, OSError):
        total = 8192
    return min(max(total // 8, 1024), 8192)


@contextmanager
def _java_output_hidden() -> Iterator[None]:
    """Hide the output of the JVM, unless debugging messages are logged.

    The JVM writes to the file descriptor of stderr directly. If it does not start, its output is
    part of the error.
    """
    if logger.isEnabledFor(logging.DEBUG):
        yield
        return
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as log:
        try:
            os.dup2(log.fileno(), 2)
            yield
        except Exception as error:
            log.seek(0)
            output = " ".join(log.read().decode(errors="replace").split()) or str(error)
            raise LookalikeError(
                f"Spark did not start: {output[:MAX_ERROR_CHARS]} (`-v` shows all)"
            ) from error
        finally:
            os.dup2(saved, 2)
            os.close(saved)
