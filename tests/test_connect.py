"""Spark Connect: a real server in another process; the same results as without Spark."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.spark_servers import connect_server, run_python
from lookalike.images.synthetic import DrawnCollection

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
        bool(np.isclose(one, other, TOLERANCE, TOLERANCE))
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
    assert local["folder"] and local["duplicates"]["groups"] == 2
