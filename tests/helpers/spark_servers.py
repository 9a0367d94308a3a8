"""Spark in other processes, as clusters have it: a Spark Connect server; a master with workers."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pyspark

import lookalike
from lookalike.system.java import java_home

HOME = Path(pyspark.__file__).parent
START_SECONDS = 90.0
_CONNECT = "org.apache.spark.sql.connect.service.SparkConnectServer"
_DEPLOY = "org.apache.spark.deploy"
_QUICK = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"


def environment(**more: str) -> dict[str, str]:
    """Return the environment of Spark's own scripts, and of the Python that they start."""
    return os.environ | {
        "JAVA_HOME": str(java_home()),
        "SPARK_HOME": str(HOME),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "PYSPARK_PYTHON": sys.executable,
        "PYTHONPATH": str(Path(lookalike.__file__).parents[1]),
        **more,
    }


@contextmanager
def connect_server(folder: Path, master: str = "local[2,4]", **more: str) -> Iterator[str]:
    """Run a Spark Connect server; give its address."""
    port = free_port()
    settings = {
        "spark.connect.grpc.binding.port": port,
        "spark.driver.memory": "1g",
        "spark.ui.enabled": "false",
        "spark.sql.shuffle.partitions": 4,
    }
    options = [part for pair in settings.items() for part in ("--conf", "=".join(map(str, pair)))]
    command = [HOME / "bin" / "spark-submit", "--class", _CONNECT, "--master", master, *options]
    with running([*command, "spark-internal"], folder / "connect.log", port, environment(**more)):
        yield f"sc://127.0.0.1:{port}"


@contextmanager
def cluster(folder: Path, workers: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """Run a standalone master with workers of one core, each with its own environment."""
    port, spark = free_port(), HOME / "bin" / "spark-class"
    with ExitStack() as stack:
        master = [spark, f"{_DEPLOY}.master.Master", "--host", "127.0.0.1", "--port", port]
        master += ["--webui-port", free_port()]
        own = environment(SPARK_DAEMON_JAVA_OPTS=_QUICK)
        stack.enter_context(running(master, folder / "master.log", port, own))
        address = f"spark://127.0.0.1:{port}"
        for number, more in enumerate(workers):
            own = environment(SPARK_DAEMON_JAVA_OPTS=_QUICK, **more)
            worker = [spark, f"{_DEPLOY}.worker.Worker", address, "--cores", 1, "--memory", "1g"]
            worker += ["--host", "127.0.0.1", "--webui-port", free_port()]
            worker += ["--work-dir", folder / f"work-{number}"]
            log = folder / f"worker-{number}.log"
            stack.enter_context(running(worker, log, None, own))
        yield address


@contextmanager
def running(
    command: Sequence[object], log: Path, port: int | None, environment: Mapping[str, str]
) -> Iterator[None]:
    """Run a server and what it starts until the block ends; wait until it listens to its port."""
    with log.open("wb") as said:
        server = subprocess.Popen(
            list(map(str, command)),
            stdout=said,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=log.parent,
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )
    try:
        until = time.monotonic() + START_SECONDS
        while port is not None and not listens(port):
            if server.poll() is not None or time.monotonic() > until:
                raise AssertionError(f"it did not start: {log.read_text()[-2000:]}")
            time.sleep(0.2)
        yield
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _end_with_parent() -> None:
    """Let this process end with the one that started it, even if that is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def listens(port: int) -> bool:
    """Tell whether somebody listens to a port of this machine."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    """Return a port of this machine that nobody uses."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def run_python(program: Sequence[object], folder: Path, **more: str) -> str:
    """Run a program in a process of its own; return what it prints. It has to succeed."""
    done = subprocess.run(
        [sys.executable, *map(str, program)],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment(**more),
        timeout=550,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout
