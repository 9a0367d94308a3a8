"""A cluster: a master, two workers with disks of their own; executors that are killed."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import lookalike
from helpers.cluster_program import PLACES, ROWS
from helpers.spark_servers import cluster, run_python
from lookalike.images.synthetic import DrawnCollection

pytestmark = pytest.mark.long  # JVMs of a master, workers, executors and drivers
PROGRAM = Path(__file__).parent / "helpers" / "cluster_program.py"
CACHES = "first", "second"


@pytest.fixture(scope="module")
def here(drawn: DrawnCollection, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what a driver made on a cluster of two workers."""
    here = tmp_path_factory.mktemp("cluster")
    shutil.copytree(drawn.photos, here / "photos")
    workers = [
        {"LOOKALIKE_CACHE": str(here / name), "SPARK_LOCAL_DIRS": str(here / f"{name}.disk")}
        for name in CACHES
    ]
    with cluster(here, workers) as address:
        driver = {"SPARK_MASTER": address, "LOOKALIKE_CACHE": str(here / "driver")}
        run_python([PROGRAM, here], here, **driver)
    return here


def rows_of(index: Path) -> dict[str, Any]:
    opened = lookalike.open_index(index)
    table = pa.concat_tables(pq.read_table(file) for file in opened._table.files())
    rows = table.select(["path", "status", "embedding"]).to_pylist()
    found = {row["path"]: (row["status"], row["embedding"]) for row in rows}
    assert len(found) == len(rows) == opened._table.counts()[0]
    return found


def test_no_worker_keeps_a_vector(here: Path) -> None:
    for name in CACHES:
        disk = here / f"{name}.disk"
        assert disk.is_dir()  # on which it shuffled
        assert not [
            path for path in (*disk.rglob("*"), *here.glob(f"{name}/**/*.npy")) if path.is_file()
        ]


def test_all_photos_are_indexed_on_two_workers(here: Path) -> None:
    photos = {photo.name for photo in (here / "photos").iterdir()}
    assert rows_of(here / "nothing.index").keys() == photos


def test_an_executor_killed_while_it_embeds(here: Path) -> None:
    wanted, found = (rows_of(here / f"{name}.index") for name in ("nothing", "index"))
    assert found.keys() == wanted.keys()
    for path, (status, vector) in wanted.items():
        assert found[path][0] == status
        assert np.allclose(found[path][1], vector, atol=1e-6)
    assert lookalike.open_index(here / "index.index").check().ok


@pytest.mark.parametrize("place", [place for place in PLACES if place != "index"])
def test_an_executor_killed_while_it_finds_neighbours(here: Path, place: str) -> None:
    order = [("query_id", "ascending"), ("rank", "ascending")]
    wanted, found = (
        pq.read_table(here / f"{name}.near").sort_by(order) for name in ("nothing", place)
    )
    assert wanted.num_rows == 5 * ROWS
    assert found.equals(wanted)
