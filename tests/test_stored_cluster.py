"""Photos and index in a store, embedded by two workers that share no disk with the driver."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import lookalike
from helpers.spark_servers import cluster, run_python
from helpers.stores import BUCKET, s3_server
from lookalike.images.synthetic import draw_collection

pytestmark = pytest.mark.long  # JVMs of a master, workers, executors and two drivers
PROGRAM = """
import sys
from pathlib import Path
import lookalike
from lookalike.spark import session
from lookalike.system.store import open_store

here, photos, more, address = sys.argv[1:]
options = dict(model="resnet18", precision="f32", spark=True, wave=64)
index = lookalike.create_index(photos, address, **options)
store = open_store(photos if "://" in photos else f"file://{photos}")
for photo in Path(more).iterdir():
    store.put(f"more/{photo.name}", photo.read_bytes())
index.add(photos, spark=True, wave=64)
index.remove(f"{photos}/more/00001.jpg")
index.kneighbors(k=5).write(f"{here}/near")
index.duplicates(f"{here}/duplicates", within=0.2, spark=True, verify=False)
rows = index.to_spark(session()).select("path", "status", "embedding")
rows.write.parquet(f"{here}/rows")
"""


def rows_of(folder: Path) -> dict[str, Any]:
    table = pq.read_table(folder)
    rows = {row["path"].removeprefix(f"s3://{BUCKET}/cars/"): row for row in table.to_pylist()}
    assert len(rows) == table.num_rows
    return rows


def test_workers_that_share_no_disk(tmp_path: Path) -> None:
    photos = draw_collection(tmp_path / "photos", images=120, held_out=1).photos
    more = draw_collection(tmp_path / "more", images=40, held_out=1, seed=9).photos
    (photos / "broken.jpg").write_bytes(b"no picture")
    disk, there = tmp_path / "disk", tmp_path / "store"
    disk.mkdir()
    there.mkdir()
    uri = f"s3://{BUCKET}/cars.index"
    with s3_server() as s3:
        for photo in photos.iterdir():
            s3.put(f"cars/{photo.name}", photo.read_bytes())
        run_python(["-c", PROGRAM, disk, photos, more, disk / "cars.index"], disk)
        workers = [{"LOOKALIKE_CACHE": str(there / name)} for name in ("one", "two")]
        with cluster(there, workers) as master:
            program = ["-c", PROGRAM, there, f"s3://{BUCKET}/cars", more, uri]
            driver = {"SPARK_MASTER": master, "LOOKALIKE_CACHE": str(there / "driver")}
            run_python(program, there, **driver)
        assert all((there / name / "stores").is_dir() for name in ("one", "two"))
        opened = lookalike.open_index(uri)
        assert opened.check().ok
        assert opened._table.counts() == (159, 1)
        names = s3.keys()
        assert not [name for name in names if name.endswith(".receipt") or "/_work/" in name]
    wanted, found = rows_of(disk / "rows"), rows_of(there / "rows")
    assert found.keys() == wanted.keys()
    for path, row in wanted.items():
        assert found[path]["status"] == row["status"]
        if row["embedding"] is not None:
            assert np.allclose(found[path]["embedding"], row["embedding"], atol=1e-5)
    near, on_disk = (pq.read_table(folder / "near") for folder in (there, disk))
    assert near.num_rows == on_disk.num_rows == 5 * 159
