"""A standalone cluster: a master and two workers whose caches differ; executors that are killed."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import lookalike
from helpers.cluster_program import PLACES
from helpers.spark_servers import cluster, run_python
from lookalike.images.synthetic import DrawnCollection

pytestmark = pytest.mark.long  # JVMs of a master, workers, executors and drivers
PROGRAM = Path(__file__).parent / "helpers" / "cluster_program.py"
CACHES = "first", "second"


class Cluster:
    """A cluster, and what its undisturbed run made."""

    def __init__(self, address: str, here: Path) -> None:
        self.address, self.here = address, here

    def run(self, killed: str) -> Path:
        """Run the program of a driver; return the folder of its results."""
        more = {"SPARK_MASTER": self.address, "LOOKALIKE_CACHE": str(self.here / "driver")}
        run_python([PROGRAM, self.here, killed], self.here, **more)
        return self.here / killed


@pytest.fixture(scope="module")
def started(drawn: DrawnCollection, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    here = tmp_path_factory.mktemp("cluster")
    shutil.copytree(drawn.photos, here / "photos")
    workers = [{"LOOKALIKE_CACHE": str(here / name)} for name in CACHES]
    with cluster(here, workers) as address:
        yield Cluster(address, here)


@pytest.fixture(scope="module")
def undisturbed(started: Cluster) -> Path:
    return started.run("nothing")


def rows_of(index: Path) -> dict[str, Any]:
    opened = lookalike.open_index(index)
    table = pa.concat_tables(pq.read_table(file) for file in opened._table.files())
    rows = table.select(["path", "status", "embedding"]).to_pylist()
    found = {row["path"]: (row["status"], row["embedding"]) for row in rows}
    assert len(found) == len(rows) == opened._table.counts()[0]
    return found


def test_each_worker_has_a_cache_of_its_own(started: Cluster, undisturbed: Path) -> None:
    assert all(any((started.here / name).rglob("vectors.npy")) for name in CACHES)
    assert rows_of(undisturbed / "cars.index").keys() == {
        photo.name for photo in (started.here / "photos").iterdir()
    }


def test_an_executor_killed_while_it_embeds(started: Cluster, undisturbed: Path) -> None:
    wanted, found = (rows_of(out / "cars.index") for out in (undisturbed, started.run("index")))
    assert found.keys() == wanted.keys()
    for path, (status, vector) in wanted.items():
        assert found[path][0] == status
        assert np.allclose(found[path][1], vector, atol=1e-6)
    lookalike.open_index(started.here / "index" / "cars.index").check()


@pytest.mark.parametrize("place", [place for place in PLACES if place != "index"])
def test_an_executor_killed_while_it_finds_neighbours(
    started: Cluster, undisturbed: Path, place: str
) -> None:
    order = [("query_id", "ascending"), ("rank", "ascending")]
    wanted, found = (
        pq.read_table(out / "near").sort_by(order) for out in (undisturbed, started.run(place))
    )
    assert found.num_rows == wanted.num_rows == 5 * 6_000
    assert found.equals(wanted)
