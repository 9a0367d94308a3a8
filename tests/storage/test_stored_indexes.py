"""Indexes in a store: made, searched, changed by several machines, and cleaned up."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import lookalike
from helpers.stores import BUCKET, S3, Answer, proxy
from lookalike import Index, LookalikeError
from lookalike.lsh.search import vectors_and_hasher
from lookalike.server.refresher import Refresher
from lookalike.spark import session
from lookalike.storage import EmbeddingTable, commits, pull
from lookalike.storage.maintenance import Vacuumed
from lookalike.storage.remote import cache_limit, copy_at, outdated, publishing
from lookalike.system.arrays import Floats

WIDTH = 8
Machine = Callable[[str], None]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Go to another machine: one with a cache of its own."""

    def go(name: str) -> None:
        monkeypatch.setenv("LOOKALIKE_CACHE", str(tmp_path / name))

    go("first")
    return go


@pytest.fixture
def uri(request: pytest.FixtureRequest) -> str:
    """The URI of a new index."""
    return f"s3://{BUCKET}/{abs(hash(request.node.name)):x}/own.index"


def rows(first: int, last: int) -> pa.Table:
    drawn: Floats = np.random.default_rng(7).normal(size=(last, WIDTH)).astype(np.float32)
    names = [f"row {number}" for number in range(first, last)]
    return pa.table({"name": names, "v": list(drawn[first:last])})


def make(out: str | Path, count: int = 40) -> Index:
    return lookalike.create_index(
        rows(0, count), out, embedding_column="v", id_column="name", spark=False
    )


def objects(s3: S3) -> list[str]:
    return s3.keys()


def names(index: Index) -> list[str]:
    return sorted(index.to_arrow(["id"]).read_all()["id"].to_pylist())


def nearest(index: Index, key: str = "row 3") -> list[tuple[int | str, float]]:
    return [(one.id, one.distance) for one in index.search(id=key, k=5)]


def test_it_answers_as_one_on_a_disk(s3: S3, uri: str, machine: Machine, tmp_path: Path) -> None:
    made, local = make(uri), make(tmp_path / "own.index")
    assert repr(made) == f"Index({uri!r}, 40 vectors, vectors)"
    machine("second")
    for name in (uri, uri.replace("s3:", "s3a:"), Path(uri)):
        assert nearest(lookalike.open_index(name)) == nearest(local)
    opened = lookalike.open_index(uri)
    found = opened.search(id="row 3", where="id <> 'row 9' and size is null", k=39)
    assert len(found) == 38
    assert opened.to_arrow().read_all().equals(local.to_arrow().read_all())
    assert opened.check().ok
    assert opened.info()["images"] == 40


def test_files_with_and_without_vectors_are_read_together(
    s3: S3, uri: str, machine: Machine
) -> None:
    make(uri)
    machine("second")
    index = lookalike.open_index(uri)
    assert index.remove("row 1", dry_run=True).removed == 1  # reads rows without vectors
    index.add(rows(40, 45), spark=False)  # one with
    assert index.remove(["row 1", "row 44"]).removed == 2
    assert names(index) == sorted(f"row {number}" for number in range(44) if number != 1)


def test_machines_see_what_the_others_did(s3: S3, uri: str, machine: Machine) -> None:
    first = make(uri)
    machine("second")
    second = lookalike.open_index(uri)
    assert second.add(rows(30, 50), spark=False).new == 10
    assert second.remove(["row 1", "row 2"]).removed == 2
    machine("first")
    assert first.refresh()
    wanted = [f"row {number}" for number in range(50) if number not in (1, 2)]
    assert names(first) == sorted(wanted)
    assert first.sync(rows(0, 20), spark=False).removed == 30
    machine("second")
    assert second.refresh()
    assert names(second) == sorted(f"row {number}" for number in range(20))
    assert second.check().ok
    assert not second.refresh()
    before = lookalike.open_index(uri, version=0)
    assert names(before) == sorted(f"row {number}" for number in range(40))


def test_of_two_writers_both_come_in(s3: S3, uri: str, machine: Machine) -> None:
    first = make(uri)
    machine("second")
    second = lookalike.open_index(uri)
    machine("first")
    assert first.add(rows(40, 45), spark=False).new == 5
    machine("second")  # which has not seen that version
    assert second._table.version == 0
    changed = commits.remove(second._table, lambda _: np.array([0]), "remove")
    assert (changed.version, changed.counts()) == (2, (44, 0))
    assert len(names(lookalike.open_index(uri))) == 44


def test_a_commit_whose_answer_is_lost_is_made_once(
    s3: S3, uri: str, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = make(uri)
    lost: list[str] = []

    def fault(method: str, path: str) -> Answer | None:
        if method == "PUT" and path.endswith("1.json") and not lost:
            lost.append(path)
            return Answer(cut=True)
        return None

    with proxy(s3.port, fault) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        assert index.add(rows(40, 45), spark=False).new == 5
    assert lost
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.address)
    machine("second")
    opened = lookalike.open_index(uri)
    assert len(names(opened)) == len(set(names(opened))) == 45
    assert [one["what"] for one in opened.versions()].count("add") == 1


def test_a_store_without_conditional_puts_is_refused(
    s3: S3, uri: str, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(method: str, path: str) -> Answer | None:
        if method == "PUT" and "_lookalike.json" in path:
            return Answer(501, b"<Error><Code>NotImplemented</Code></Error>")
        return None

    with proxy(s3.port, fault) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        with pytest.raises(LookalikeError, match=r"use a store that can, .* conditional") as error:
            make(uri)
    assert "\n" not in str(error.value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.address)
    with pytest.raises(LookalikeError, match=rf"{uri} (does not exist|is not an index)"):
        lookalike.open_index(uri)


def test_what_a_killed_maker_left_is_replaced(
    s3: S3, uri: str, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = uri.removeprefix(f"s3://{BUCKET}/")
    for name in ("_lookalike.json", "data/0/0.parquet", "_model/model.json"):
        s3.put(f"{key}/{name}", b"{}")
    with pytest.raises(LookalikeError, match=f"{uri} was never finished"):
        lookalike.open_index(uri)
    monkeypatch.setattr(publishing, "CLAIM_SECONDS", 0.0)
    make(uri)
    machine("second")
    assert lookalike.open_index(uri).check().ok


@pytest.mark.parametrize(
    "there, said", [("x.jpg", "not an index, it has x.jpg"), ("index", "already exists")]
)
def test_nothing_is_replaced(s3: S3, uri: str, machine: Machine, there: str, said: str) -> None:
    if there == "index":
        make(uri)
    else:
        s3.put(f"{uri.removeprefix(f's3://{BUCKET}/')}/{there}", b"x")
    before = objects(s3)
    with pytest.raises(LookalikeError, match=f"{uri}.*{said}"):
        lookalike.create_index(
            rows(0, 3), uri, embedding_column="v", id_column="name", overwrite=True
        )
    assert objects(s3) == before


@pytest.mark.parametrize(
    "name, said",
    [
        ("s3://", "names no bucket"),
        (f"s3://{BUCKET}", "is a whole bucket: give a folder in it"),
        (f"s3://{BUCKET}/nothing.index", "nothing.index (does not exist|is not an index)"),
        ("s3://elsewhere/x.index", "no such bucket"),
        ("ftp://host/x.index", "unknown store ftp://"),
        ("file:///x.index", "is a URI: give the path"),
    ],
)
def test_what_cannot_be_opened_is_said(s3: S3, machine: Machine, name: str, said: str) -> None:
    with pytest.raises(LookalikeError, match=said) as error:
        lookalike.open_index(name)
    assert "\n" not in str(error.value)


def test_an_index_that_takes_the_place_of_another(s3: S3, uri: str, machine: Machine) -> None:
    make(uri)
    machine("second")
    opened = lookalike.open_index(uri)
    machine("first")
    key = uri.removeprefix(f"s3://{BUCKET}/")
    for name in objects(s3):
        if name.startswith(key):
            s3.client.delete_object(Bucket=BUCKET, Key=name)
    other = make(uri, 12)
    machine("second")
    assert opened.refresh()
    assert names(opened) == names(other)


def test_a_data_file_that_is_not_what_was_written(s3: S3, uri: str, machine: Machine) -> None:
    index = make(uri)
    index.add(rows(40, 50), spark=False)
    name = copy_at(index.path).name(index._table.files()[0])  # type: ignore[union-attr]
    s3.put(f"{uri.removeprefix(f's3://{BUCKET}/')}/{name}", b"PAR1 other PAR1")
    machine("second")
    opened = lookalike.open_index(uri)
    with pytest.raises(LookalikeError, match=f"{uri}/{name} is not what was written"):
        opened.search(id="row 3")
    assert opened.check().counts == {"damaged file": 1}
    repaired = opened.repair()
    assert (repaired.ok, repaired.inputs) == (True, 40)
    assert names(opened) == [f"row {number}" for number in range(40, 50)]


def test_a_data_file_that_is_gone(s3: S3, uri: str, machine: Machine) -> None:
    index = make(uri)
    index.add(rows(40, 50), spark=False)
    name = copy_at(index.path).name(index._table.files()[0])  # type: ignore[union-attr]
    s3.client.delete_object(Bucket=BUCKET, Key=f"{uri.removeprefix(f's3://{BUCKET}/')}/{name}")
    machine("second")
    opened = lookalike.open_index(uri)
    with pytest.raises(LookalikeError, match=f"{uri}/{name} is missing"):
        opened.search(id="row 3")
    assert opened.check().counts == {"missing file": 1}
    assert opened.repair().inputs == 40


def test_a_vacuum_deletes_by_age(
    s3: S3, uri: str, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = make(uri)
    index.remove("row 1")
    key = uri.removeprefix(f"s3://{BUCKET}/")
    s3.put(f"{key}/data/another/machine.parquet", b"not committed yet")
    s3.put(f"{key}/_work/another/job.npy", b"of a job")
    assert index.vacuum(keep_days=7).files == 0
    would = index.vacuum(keep_days=0, dry_run=True)
    done = index.vacuum(keep_days=0)
    assert (would.files, done.files) == (1, 1)  # of the version before; the others are too young
    assert f"{key}/data/another/machine.parquet" in objects(s3)
    machine("second")
    assert len(names(lookalike.open_index(uri))) == 39
    with pytest.raises(LookalikeError, match=r"version 0 of .* is no longer kept"):
        lookalike.open_index(uri, version=0)
    assert [one["kept"] for one in lookalike.open_index(uri).versions()] == [True, False]
    a_day_later = time.time() + 1.5 * outdated.SECONDS_PER_DAY
    monkeypatch.setattr(sys.modules[Vacuumed.__module__], "ask_time", lambda _: a_day_later)
    assert lookalike.open_index(uri).vacuum(keep_days=0).files == 1
    assert not [one for one in objects(s3) if one.startswith(key) and "another" in one]
    assert len(names(lookalike.open_index(uri))) == 39


def test_the_cache_is_bounded(
    s3: S3, uri: str, machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = make(uri)
    wanted = nearest(index)
    index.add(rows(40, 60), spark=False)
    machine("second")
    opened = lookalike.open_index(uri)
    near = nearest(opened)
    assert near[:3] != wanted[:3] or near == wanted
    files = [*(tmp_path / "second").glob("*/*/*/data/*/*.parquet")]
    arrays = [*(tmp_path / "second").glob("segments/*/vectors.npy")]
    assert len(files) == len(arrays) == 2
    assert cache_limit.shrink(0) > 0  # they were used just now
    monkeypatch.setattr(cache_limit, "MIN_UNUSED_SECONDS", -1)
    kept = cache_limit.shrink(cache_limit.shrink(10**9) - 1)  # data files go before the arrays
    assert sum(file.exists() for file in files) == 1
    assert all(file.exists() for file in arrays)
    assert cache_limit.shrink(0) == 0 < kept
    assert not any(file.exists() for file in [*files, *arrays])
    assert nearest(opened) == near  # what is mapped stays
    assert nearest(lookalike.open_index(uri)) == near


@pytest.mark.parametrize(
    "given, size", [("500 MB", 5e8), ("2gb", 2e9), ("1.5 T", 1.5e12), ("7", 7)]
)
def test_sizes_of_the_cache(given: str, size: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOOKALIKE_CACHE_SIZE", given)
    assert cache_limit.cache_bytes() == size


@pytest.mark.parametrize("given", ["much", "-1", "20 GiB"])
def test_what_is_no_size_is_an_error(
    s3: S3, uri: str, machine: Machine, given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(uri)
    machine("second")
    monkeypatch.setenv("LOOKALIKE_CACHE_SIZE", given)
    with pytest.raises(LookalikeError, match=f"LOOKALIKE_CACHE_SIZE is '{given}': give a size"):
        nearest(lookalike.open_index(uri))


def test_a_server_follows(s3: S3, uri: str, machine: Machine) -> None:
    followed = Refresher(make(uri)._table)
    followed._refresh()
    machine("second")
    lookalike.open_index(uri).add(rows(40, 45), spark=False)
    machine("first")
    followed._refresh()
    assert followed.snapshot.table.counts() == (45, 0)


def test_errors_name_the_uri(s3: S3, uri: str, machine: Machine) -> None:
    index = make(uri)
    with pytest.raises(LookalikeError, match=f"^{uri} has no key row 99; none was removed$"):
        index.remove("row 99")


def test_signatures_and_hashes_are_shared(
    s3: S3, workers: None, uri: str, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lookalike.search.searcher._MIN_APPROXIMATE_ROWS", 100)
    index = make(uri, 400)
    index._searcher.get_ready()
    vectors_and_hasher(index._table)
    machine("second")
    opened = lookalike.open_index(uri)
    assert opened._searcher.known_recall() == index._searcher.known_recall() is not None
    assert (opened._table.hash_folder / "parameters.json").exists()
    assert session().createDataFrame(index.to_pandas()).count() == opened.to_spark().count() == 400
    frame = opened.to_spark().where("id = 'row 7'").select("embedding").collect()
    drawn = rows(0, 400)["v"][7].as_py()
    assert np.allclose(frame[0][0], np.array(drawn) / np.linalg.norm(drawn), atol=1e-6)


def test_a_deleted_copy_comes_back(s3: S3, uri: str, machine: Machine, tmp_path: Path) -> None:
    index = make(uri)
    for folder, _, files in os.walk(tmp_path / "first"):
        for file in files:
            os.unlink(os.path.join(folder, file))
    pull(index.path)
    assert nearest(lookalike.open_index(uri))
    assert EmbeddingTable.open(uri).counts() == (40, 0)
