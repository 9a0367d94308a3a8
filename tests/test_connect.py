"""Spark Connect: a real server in another process; the same results as without Spark."""

import json
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.spark_servers import connect_server, environment, free_port, run_python
from lookalike import Index, LookalikeError
from lookalike.images.synthetic import DrawnCollection
from lookalike.spark import sessions
from lookalike.system.extras import MissingExtra

PROGRAM = Path(__file__).parent / "helpers" / "connect_program.py"
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def images(drawn: DrawnCollection, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of photos, two of them twice, with labels; new ones; a table of some."""
    here = tmp_path_factory.mktemp("images")
    shutil.copytree(drawn.photos.parent, here, dirs_exist_ok=True)
    photos = sorted((here / "cars_train").iterdir())
    for photo in photos[:2]:
        shutil.copy(photo, photo.with_name(f"again-{photo.name}"))
    (here / "cars_train" / "no.jpg").write_bytes(b"no picture")
    (here / "shards").mkdir()
    for start in (0, 8):
        content = [photo.read_bytes() for photo in photos[start : start + 8]]
        pq.write_table(pa.table({"image": content}), here / "shards" / f"{start}.parquet")
    return here


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with connect_server(tmp_path_factory.mktemp("server")) as address:
        yield address


def same(one: Any, other: Any) -> bool:
    """Tell whether two results are equal, numbers up to rounding."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return (
        bool(np.isclose(one, other, TOLERANCE, TOLERANCE, True))
        if isinstance(one, float)
        else (one == other)
    )


@pytest.mark.long  # a server, and two processes that index
def test_connect_finds_what_is_found_without_spark(
    server: str, images: Path, tmp_path: Path
) -> None:
    outs = [tmp_path / name for name in ("remote", "local")]
    for out in outs:
        out.mkdir()
    remote = json.loads(run_python([PROGRAM, images, outs[0]], tmp_path, SPARK_REMOTE=server))
    local = json.loads(run_python([PROGRAM, images, outs[1]], tmp_path, SPARK="no"))
    assert remote.pop("connect") is True
    exact, found = local["neighbors"], remote.pop("approximate")
    shared = [len({a for a, _ in found[key]} & {b for b, _ in exact[key]}) for key in exact]
    assert np.mean(shared) > 0.85 * 5
    for name, wanted in local.items():
        assert same(remote[name], wanted), name
    assert remote.keys() == local.keys()
    assert local["folder"] and local["duplicates"]["same_bytes"] == 2


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("sc://127.0.0.1:PORT", "no Spark Connect server answers at sc://127.0.0.1:PORT: start"),
        ("sc://127.0.0.1:PORT/;token=secret", "server answers at sc://127.0.0.1:PORT: start it"),
        ("spark://127.0.0.1:PORT", "no address of Spark Connect: set SPARK_REMOTE to sc://"),
        ("sc://127.0.0.1:PORT/path", "no address of Spark Connect: set SPARK_REMOTE to sc://"),
    ],
)
def test_an_address_without_a_server_is_one_line(
    monkeypatch: pytest.MonkeyPatch, address: str, said: str
) -> None:
    port = str(free_port())
    monkeypatch.setattr(sessions, "_CONNECT_SECONDS", 0.5)
    with pytest.raises(LookalikeError, match=said.replace("PORT", port)) as caught:
        sessions._connect(address.replace("PORT", port))
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)


def test_spark_connect_needs_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "grpc", None)
    message = 'Spark Connect needs grpcio: pip install "lookalike[connect]"'
    with pytest.raises(MissingExtra, match=f"^{re.escape(message)}$"):
        sessions._connect("sc://127.0.0.1:15002")


def run_command(*arguments: object, folder: Path, **more: str) -> str:
    """Run a command that has to fail; return what it says on stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "lookalike", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment(**more),
        timeout=300,
    )
    assert done.returncode == 1, done.stderr
    return done.stderr


@pytest.mark.long  # 15 seconds to wait for a server
def test_a_command_without_its_server_writes_nothing(
    drawn: DrawnCollection, tmp_path: Path
) -> None:
    address = f"sc://127.0.0.1:{free_port()}"
    command = "index", drawn.photos, "--out", "cars.index", "--precision", "f32", "--spark"
    said = run_command(*command, folder=tmp_path, SPARK_REMOTE=address)
    assert said == (
        f"error: no Spark Connect server answers at {address}: start it, or correct SPARK_REMOTE\n"
    )
    assert not (tmp_path / "cars.index").exists()


@pytest.mark.long  # a server more
@pytest.mark.parametrize("kind", ["classic", "connect"])
def test_workers_without_lookalike_are_one_line(
    drawn: DrawnCollection, tmp_path: Path, kind: str
) -> None:
    packages = sysconfig.get_path("purelib")  # -S: nothing that a .pth file adds to it
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={packages} exec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    command = "index", drawn.photos, "--out", "cars.index", "--precision", "f32", "--spark"
    with ExitStack() as stack:
        more = {"PYSPARK_PYTHON": str(python), "SPARK_MASTER": "local[2]"}
        if kind == "connect":
            server = connect_server(tmp_path, PYSPARK_PYTHON=str(python))
            more = {"SPARK_REMOTE": stack.enter_context(server)}
        last = run_command(*command, folder=tmp_path, **more).splitlines()[-1]
    assert last.startswith("error: Spark failed: the Python of Spark's workers has no package")
    assert "'lookalike': install lookalike[spark] there" in last
    assert not (tmp_path / "cars.index").exists()


@pytest.mark.long  # a server
@pytest.mark.parametrize(
    "command",
    [
        ["search", "INDEX", "--random", "--engine", "spark-lsh"],
        ["hash", "INDEX", "--out", "hashes"],
        ["watch", "INDEX", "--spark", "--once"],
    ],
)
def test_what_connect_cannot_do_is_one_line(
    server: str, index: Index, tmp_path: Path, command: list[str]
) -> None:
    command[1] = str(index.path)
    said = run_command(*command, folder=tmp_path, SPARK_REMOTE=server)
    assert "does not run on Spark Connect" in said and said.count("\n") == 1
