"""Local copies of indexes in stores: damaged, deleted, out of room; a store that allows little."""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import lookalike
from helpers import machine_program
from helpers.disks import fill, mounted, needs_mount
from helpers.machine_program import Rows
from helpers.stores import BUCKET, S3, Answer, proxy
from lookalike import LookalikeError
from lookalike.storage import EmbeddingTable, copy_at
from lookalike.storage.remote import publishing
from lookalike.system import store_backends

ROWS = {f"k{number}": number for number in range(6)}
MORE = {"m1": 1, "m2": 2}
DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOOKALIKE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def uri(request: pytest.FixtureRequest, s3: S3, cache: Path) -> str:
    """The URI of an index of `ROWS`, which this process holds open."""
    made = f"s3://{BUCKET}/{abs(hash(request.node.name)):x}/own.index"
    assert machine_program.create(made, ROWS) == len(ROWS)
    return made


def add(uri: str, rows: Rows = MORE) -> int:
    return machine_program.add(uri, rows, anew=False)


def look(uri: str, rows: Rows, cache: Path) -> list[str]:
    """Compare an index with what it has to be, on another machine."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("LOOKALIKE_CACHE", f"{cache}-{time.monotonic_ns()}")
        return machine_program.compare(uri, rows, 10)


def delete_all(cache: Path) -> None:
    shutil.rmtree(cache)


def delete_origins(cache: Path) -> None:
    for origin in cache.glob("stores/*/origin.json"):
        origin.unlink()


def move_on(cache: Path) -> None:
    os.environ["LOOKALIKE_CACHE"] = f"{cache}-moved"


def damage_log(cache: Path) -> None:
    for commit in cache.glob("stores/*/*/_delta_log/*0.json"):
        commit.write_bytes(commit.read_bytes()[:50])


def lose_commit(cache: Path) -> None:
    for commit in cache.glob("stores/*/*/_delta_log/*0.json"):
        commit.unlink()


def damage_data(cache: Path) -> None:
    for file in cache.glob("stores/*/*/data/*/*.parquet"):
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 255
        file.write_bytes(content)


@pytest.mark.parametrize(
    "harm",
    [
        delete_all,
        move_on,
        damage_log,
        damage_data,
        *(pytest.param(one, marks=pytest.mark.long) for one in (delete_origins, lose_commit)),
    ],  # the long ones are of the same kinds
)
def test_nothing_that_happens_to_a_copy_reaches_the_store(
    uri: str, cache: Path, harm: Callable[[Path], None]
) -> None:
    assert add(uri, {"a": 1}) == 1
    harm(cache)
    try:
        assert add(uri) == 2
    except LookalikeError as error:
        assert "\n" not in str(error)
        assert machine_program.add(uri, MORE, anew=True) == 2
    rows = ROWS | MORE | {"a": 1}
    assert look(uri, rows, cache) == []
    index = lookalike.open_index(uri)
    assert index.check().ok
    assert index.repair().inputs == 0
    assert index.remove(["k1"]).removed == 1
    assert look(uri, {key: rows[key] for key in rows if key != "k1"}, cache) == []


def test_new_data_files_that_the_cache_lost_are_not_committed(
    s3: S3, uri: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = machine_program._held[uri]

    def lose(method: str, path: str) -> None:
        if method == "HEAD" and path.endswith("1.json"):  # right before they are put
            for file in index.path.glob("data/*/*.parquet"):
                file.unlink()

    with proxy(s3.port, lose) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        with pytest.raises(LookalikeError, match=r"the cache lost .*: run the same command again"):
            add(uri)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.address)
    assert look(uri, ROWS, cache) == []
    assert add(uri) == 2
    assert look(uri, ROWS | MORE, cache) == []


def test_a_commit_follows_none_of_another_index(
    s3: S3, uri: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(uri, {"a": 1})
    key = uri.removeprefix(f"s3://{BUCKET}/")

    def replace(method: str, path: str) -> None:
        if method == "HEAD" and path.endswith("2.json"):
            for version in (0, 1):
                s3.client.delete_object(Bucket=BUCKET, Key=f"{key}/_delta_log/{version:020}.json")

    with proxy(s3.port, replace) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        with pytest.raises(LookalikeError, match=f"another index has taken the place of {uri}"):
            add(uri)
    left = s3.keys()
    assert not [one for one in left if one.startswith(f"{key}/_delta_log/")]


@pytest.mark.parametrize("hidden", [pytest.param(1, marks=pytest.mark.long), 3])  # the same kind
def test_a_listing_may_lack_the_newest_objects(
    s3: S3, uri: str, cache: Path, monkeypatch: pytest.MonkeyPatch, hidden: int
) -> None:
    add(uri, {"a": 1})
    before = set(cache.glob("stores/*/*/data/*/*.parquet"))
    with proxy(s3.port, lambda *_: Answer(hidden=hidden)) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        assert add(uri) == 2
    assert before < set(cache.glob("stores/*/*/data/*/*.parquet"))  # the copy stayed
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.address)
    assert look(uri, ROWS | MORE | {"a": 1}, cache) == []


def test_who_may_only_read_searches_and_is_told_so(
    s3: S3, uri: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(method: str, path: str) -> Answer | None:
        return None if method in ("GET", "HEAD") else Answer(403, DENIED)

    with proxy(s3.port, deny) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        assert look(uri, ROWS, cache) == []
        index = lookalike.open_index(uri)
        assert index.search(id="k1", k=2)[0].rank == 1
        assert index.remove(["k1"], dry_run=True).removed == 1
        assert index.vacuum(0, dry_run=True).files == 0
        writes: list[Callable[[], object]] = [
            lambda: add(uri),
            lambda: index.remove(["k1"]),
            lambda: index.vacuum(0),
            lambda: machine_program.create(f"{uri}-2", ROWS),
        ]
        for write in writes:
            with pytest.raises(LookalikeError, match="may not be written to: ask its owner"):
                write()
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.address)
    assert look(uri, ROWS, cache) == []


def test_a_cache_that_cannot_be_written_to(
    uri: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_mount()
    with mounted(tmp_path / "closed", "-t", "tmpfs", "-o", "ro", "tmpfs") as closed:
        monkeypatch.setenv("LOOKALIKE_CACHE", str(closed))
        with pytest.raises(
            LookalikeError, match=r"closed cannot be written to \(.*LOOKALIKE_CACHE"
        ):
            lookalike.open_index(uri)


def test_a_full_cache(
    uri: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_mount()
    with mounted(tmp_path / "full", "-t", "tmpfs", "-o", "size=1m", "tmpfs") as full:
        monkeypatch.setenv("LOOKALIKE_CACHE", str(full))
        index = lookalike.open_index(uri)
        filler = fill(full, left=0)
        with pytest.raises(LookalikeError, match=r"^the disk is full"):
            index.add(machine_program.table(MORE))
        with pytest.raises(LookalikeError, match=r"^the disk is full"):
            index.remove("k1")
        filler.unlink()
        assert index.add(machine_program.table(MORE), spark=False).new == 2
    assert look(uri, ROWS | MORE, cache) == []


def test_a_clock_that_is_days_ahead_deletes_nothing_that_is_new(
    s3: S3, uri: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = lookalike.open_index(uri)
    index.remove(["k1"])
    new = f"{copy_at(index.path).store.prefix}/data/another/machine.parquet"  # type: ignore[union-attr]
    s3.put(new, b"not committed yet")
    now = time.time()
    with monkeypatch.context() as patched:
        patched.setattr(time, "time", lambda: now + 30 * 24 * 3600)
        index.vacuum(1)
    assert s3.client.head_object(Bucket=BUCKET, Key=new)["ContentLength"] == 17
    assert look(uri, {key: ROWS[key] for key in ROWS if key != "k1"}, cache) == []


def test_a_maker_whose_place_was_taken_commits_nothing(
    s3: S3, uri: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = f"{uri}-2"
    name = f"{other.removeprefix(f's3://{BUCKET}/')}/_lookalike.json"

    def take(method: str, path: str) -> None:
        if method == "HEAD" and path.endswith("0.json"):
            s3.put(name, b"of another maker")

    with proxy(s3.port, take) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        with pytest.raises(LookalikeError, match=r"another process has begun to make .*again"):
            machine_program.create(other, ROWS)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.address)
    with pytest.raises(LookalikeError, match="was never finished"):
        lookalike.open_index(other)
    monkeypatch.setattr(publishing, "CLAIM_SECONDS", 0.0)
    assert machine_program.create(other, ROWS) == len(ROWS)
    assert look(other, ROWS, cache) == []


def test_who_takes_a_place_gives_it_back_to_the_maker_that_still_commits(
    s3: S3, uri: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = f"{uri}-2"
    key = other.removeprefix(f"s3://{BUCKET}/")
    s3.put(f"{key}/_lookalike.json", b"of another maker")
    monkeypatch.setattr(publishing, "CLAIM_SECONDS", 0.0)

    puts = []

    def commit(method: str, path: str) -> None:
        if method == "PUT" and path.endswith("/_lookalike.json"):
            puts.append(path)
            if len(puts) == 2:  # the first one must be the only one there
                s3.put(f"{key}/_delta_log/{0:020}.json", b"{}")

    with proxy(s3.port, commit) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        with pytest.raises(LookalikeError, match="has just created"):
            machine_program.create(other, ROWS)
    got = s3.client.get_object(Bucket=BUCKET, Key=f"{key}/_lookalike.json")["Body"].read()
    assert got == b"of another maker"


def test_descriptions_that_two_machines_change_at_once_have_both_changes(
    s3: S3, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = f"{uri.removeprefix(f's3://{BUCKET}/')}/_lookalike.json"
    changed: list[str] = []

    def change(method: str, path: str) -> Answer | None:
        if method != "PUT" or not path.endswith("/_lookalike.json"):
            return None
        changed.append(path)
        if len(changed) > 1:
            return Answer(reset=True, done=True)  # and the answer to the second try is lost
        about = json.loads(s3.client.get_object(Bucket=BUCKET, Key=key)["Body"].read())
        about["source"]["also"] = ["/theirs"]
        s3.put(key, json.dumps(about).encode())
        return None

    with proxy(s3.port, change) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        monkeypatch.setattr(store_backends, "_MAX_RETRIES", 1)
        opened = EmbeddingTable.open(uri).add_folders(["/ours"])
    assert opened.source.also == ("/ours", "/theirs")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.address)
    assert EmbeddingTable.open(uri).source.also == ("/ours", "/theirs")


@pytest.mark.parametrize("name", ["a%20b [1].index", "lock", f"{'ü' * 200}.index"])
def test_names_that_no_folder_has(s3: S3, cache: Path, name: str) -> None:
    uri = f"s3://{BUCKET}/odd/{name}"
    assert machine_program.create(uri, ROWS) == len(ROWS)
    assert add(uri) == 2
    assert look(uri, ROWS | MORE, cache) == []
