"""Regions made on Spark, in a store, by a process that is killed; served and asked by command."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from fastapi.testclient import TestClient

import lookalike
from helpers.clusters import clustered
from helpers.command import run
from helpers.segments import Floats, collection_of
from helpers.stores import BUCKET, S3
from lookalike import Index, LookalikeError, SearchResult
from lookalike.search import row_lookup, searcher
from lookalike.search.regions import build_regions, open_regions
from lookalike.search.regions.files import PAGE_BYTES
from lookalike.server import create_app, snapshot
from lookalike.storage import EmbeddingTable
from lookalike.storage.region_folders import REGIONS, region_folders

ROWS, QUERIES = 3000, 40
Machine = Callable[[str], None]


@pytest.fixture(scope="module")
def vectors() -> Floats:
    return clustered(ROWS + QUERIES)


@pytest.fixture(autouse=True)
def used_for_few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (searcher, row_lookup, snapshot):
        monkeypatch.setattr(module, "EXACT_UP_TO", 100)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Go to another machine: one with a cache of its own."""

    def go(name: str) -> None:
        monkeypatch.setenv("LOOKALIKE_CACHE", str(tmp_path / name))

    go("first")
    return go


@pytest.fixture
def uri(request: pytest.FixtureRequest) -> str:
    return f"s3://{BUCKET}/{abs(hash(request.node.name)):x}/own.index"


def rows(vectors: Floats, first: int = 0) -> pa.Table:
    names = [f"row {number}" for number in range(first, first + len(vectors))]
    return pa.table({"name": names, "label": [f"kind {n[-1]}" for n in names], "v": list(vectors)})


def make(out: str, vectors: Floats) -> Index:
    return lookalike.create_index(
        rows(vectors),
        out,
        embedding_column="v",
        id_column="name",
        label_column="label",
        spark=False,
    )


def told(found: SearchResult) -> list[tuple[int | str, str | None, float]]:
    return [(one.id, one.label, one.distance) for one in found]


def shared(index: Index, queries: Floats) -> float:
    """Return how many neighbours search by ranges shares with exact search."""
    shares = []
    for query in queries:
        found, wanted = index.search(query, 10), index.search(query, 10, engine="exact")
        assert found.engine == "approximate"
        shares.append(len({one.id for one in found} & {one.id for one in wanted}) / 10)
    return float(np.mean(shares))


def test_spark_writes_what_this_process_writes(tmp_path: Path, vectors: Floats) -> None:
    table = collection_of(vectors[:ROWS], tmp_path / "cars.index", [700, 1, 1299, 1000])
    for spark in (False, True):
        built = build_regions(table, spark=spark, anew=True, max_region_rows=300)
        assert (built.rows, built.added) == (ROWS, ROWS)
    made = [{f.name for f in p.iterdir()} for p in (table.path / REGIONS).iterdir()]
    assert len(made) == 2 and made[0] == made[1], "files are named by their content"
    assert shared(Index(table), vectors[ROWS : ROWS + 10]) > 0.95


def test_a_killed_build_leaves_nothing_to_be_seen(tmp_path: Path, vectors: Floats) -> None:
    table = collection_of(vectors[:ROWS], tmp_path / "cars.index", [ROWS])
    program = (
        "from lookalike.storage import EmbeddingTable\n"
        "from lookalike.search.regions import build_regions\n"
        f"table = EmbeddingTable.open({str(table.path)!r})\n"
        "build_regions(table, spark=False, max_region_rows=50)\n"
    )
    killed = subprocess.Popen([sys.executable, "-c", program])
    until = time.monotonic() + 60
    while not list(table.path.glob(f"{REGIONS}/*/*.region")) and time.monotonic() < until:
        time.sleep(0.001)
    killed.kill()
    killed.wait()
    assert list(table.path.glob(f"{REGIONS}/*/*.region"))
    assert len(region_folders(table.path)) == len(list(table.path.glob(f"{REGIONS}/*/header.json")))
    if not region_folders(table.path):
        assert open_regions(table) is None
        assert Index(table).search(vectors[ROWS], k=3).engine in ("exact", "approximate")
        assert Index(table).check().ok
    build_regions(table, spark=False)
    Index(table).vacuum(0)
    assert len(os.listdir(table.path / REGIONS)) == 1
    assert shared(Index(table), vectors[ROWS : ROWS + 10]) > 0.95


def test_an_index_in_a_store(
    s3: S3, uri: str, machine: Machine, vectors: Floats, tmp_path: Path
) -> None:
    make(uri, vectors[:ROWS])
    machine("second")
    index = lookalike.open_index(uri)
    built = index.build_regions(spark=False)
    assert built.rows == ROWS
    assert not list((tmp_path / "second").glob("stores/*/*/data/*/*.parquet")), "nothing is kept"
    machine("third")
    index = lookalike.open_index(uri)
    by_vector = [index.search(query, 10) for query in vectors[ROWS:]]
    by_id = index.search(id="row 17", k=3)
    assert by_id[0].id != "row 17" and by_id.query.id == "row 17"
    cache = tmp_path / "third"
    assert not list(cache.glob("segments/*")) and not list(cache.glob("stores/*/*/data/*/*"))
    pages = list(cache.glob("stores/*/pages/*/*"))
    assert pages and all(page.stat().st_size <= PAGE_BYTES for page in pages)
    for page in pages:  # what is damaged there is fetched again
        page.write_bytes(bytes(page.stat().st_size))
    again = lookalike.open_index(uri)
    assert [told(again.search(query, 10)) for query in vectors[ROWS:]] == list(map(told, by_vector))
    assert shared(again, vectors[ROWS : ROWS + 10]) > 0.95
    assert again.check().ok

    machine("fourth")
    index = lookalike.open_index(uri)
    index.add(rows(vectors[ROWS:], ROWS), spark=False)
    index.remove("row 3")
    assert index.search(vectors[ROWS], 1)[0].id == f"row {ROWS}"
    assert "row 3" not in [one.id for one in index.search(vectors[3], 40)]
    assert index.build_regions(spark=False).added == QUERIES
    machine("fifth")
    index = lookalike.open_index(uri)
    assert index.search(vectors[ROWS], 1)[0].id == f"row {ROWS}"
    assert "row 3" not in [one.id for one in index.search(vectors[3], 40)]
    index.vacuum(0)
    assert shared(lookalike.open_index(uri), vectors[ROWS : ROWS + 10]) > 0.95

    key = uri.removeprefix(f"s3://{BUCKET}/")
    stored = s3.keys()
    for name in stored:
        if name.startswith(f"{key}/{REGIONS}/") and name.endswith(".region"):
            s3.client.delete_object(Bucket=BUCKET, Key=name)
    machine("sixth")
    index = lookalike.open_index(uri)
    with pytest.raises(LookalikeError, match=r"is missing.*`lookalike regions INDEX --anew`"):
        index.search(vectors[0], 3)
    assert index.check().counts == {"signatures": 2}


@pytest.mark.usefixtures("workers")
def test_spark_makes_those_of_an_index_in_a_store(
    s3: S3, uri: str, machine: Machine, vectors: Floats
) -> None:
    index = make(uri, vectors[:ROWS])
    assert index.build_regions(spark=True).rows == ROWS
    machine("second")
    assert shared(lookalike.open_index(uri), vectors[ROWS : ROWS + 10]) > 0.95


def test_the_server_answers_from_them(tmp_path: Path, vectors: Floats) -> None:
    table = collection_of(vectors[:ROWS], tmp_path / "cars.index", [ROWS])
    build_regions(table, spark=False)
    index = Index(table)
    with TestClient(create_app(index), base_url="http://localhost") as client:
        answer = client.get("/api/search", params={"image": 3, "k": 7}).json()
        found = index.search(id=3, k=7)
        assert [one["id"] for one in answer["neighbors"]] == [one.number for one in found]
        assert [one["path"] for one in answer["neighbors"]] == [one.path for one in found]
        assert (answer["engine"], answer["images"]) == ("approximate", ROWS)
        assert answer["compared"] == found.candidates and 0.9 < answer["recall"] <= 1
        plain = client.get(f"/api/images/{found[0].number}").json()
        assert plain == {k: v for k, v in answer["neighbors"][0].items() if k in plain}
        some = client.get("/api/search", params={"image": 3, "label": "make 7"}).json()
        assert {one["label"] for one in some["neighbors"]} == {"make 7"}


def test_the_command(tmp_path: Path, vectors: Floats) -> None:
    table = collection_of(vectors[:ROWS], tmp_path / "cars.index", [ROWS])
    done = json.loads(run("regions", table.path, "--no-spark", "--json").out)
    assert (done["rows"], done["added"], done["version"]) == (ROWS, ROWS, 0)
    assert json.loads(run("regions", table.path, "--json").out)["added"] == 0
    again = run("regions", table.path, "--anew", "--no-spark")
    assert again.code == 0 and "wrote 3,000 rows" in again.err


def test_a_copy_of_an_index_has_its_regions(tmp_path: Path, vectors: Floats) -> None:
    table = collection_of(vectors[:ROWS], tmp_path / "cars.index", [ROWS])
    build_regions(table, spark=False)
    shutil.copytree(table.path, tmp_path / "copy.index")
    copied = Index(EmbeddingTable.open(tmp_path / "copy.index"))
    assert told(copied.search(vectors[ROWS], 5)) == told(Index(table).search(vectors[ROWS], 5))
