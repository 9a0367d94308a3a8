"""Objects of a store: S3 over real HTTP, this process's memory, a disk; and what fails there."""

import pickle
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from helpers.stores import BUCKET, S3, Answer, proxy
from lookalike import LookalikeError
from lookalike.system import store as module
from lookalike.system import store_backends
from lookalike.system.store import ObjectTooLarge, Store, StoreError, open_object, open_store
from lookalike.system.store_backends import ArrowStore
from lookalike.system.uris import same_place, split_uri

NAMES = [
    "#1.jpg",
    "100%.jpg",
    "[x].jpg",
    "a b.jpg",
    "q?x=1&y.jpg",
    "sub/z.jpg",
    "x%20y.jpg",
    "ü.jpg",
]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Stores opened in a test try once more, and not for minutes."""
    monkeypatch.setattr(store_backends, "_MAX_RETRIES", 1)
    monkeypatch.setattr(store_backends, "_ANSWER_SECONDS", 1)
    store_backends._connect.cache_clear()
    yield
    store_backends._connect.cache_clear()


@pytest.fixture(params=["s3", "memory", "file", "arrow"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty store of each kind."""
    name = f"{tmp_path.name}/below"
    if request.param == "s3":
        request.getfixturevalue("s3")
        return open_store(f"s3a://{BUCKET}/{name}")
    if request.param == "memory":
        return open_store(f"memory://tests/{name}/")
    if request.param == "file":
        return open_store(f"file://{tmp_path}/below")
    from pyarrow import fs

    files = ArrowStore(fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem()))
    monkeypatch.setattr(module, "backend", lambda _: files)
    return Store("hdfs://tests", "below")


def listed(store: Store, threads: int = 4) -> dict[str, int]:
    rows = [row for batch in store.list(threads) for row in batch.to_pylist()]
    assert len({row["name"] for row in rows}) == len(rows)
    return {row["name"]: row["size"] for row in sorted(rows, key=lambda row: str(row["name"]))}


def test_objects_are_written_listed_and_read(store: Store) -> None:
    before = time.time() - 2
    names = [name for name in NAMES if store.root != "hdfs://tests" or "?" not in name]
    for name in names:
        store.put(name, name.encode() * 2)
    assert listed(store) == {name: 2 * len(name.encode()) for name in names}
    assert listed(store.below("sub")) == {"z.jpg": 18}
    for name in names:
        assert store.get(name) == name.encode() * 2
        assert store.get_range(name, 1, 4) == (name.encode() * 2)[1:4]
        assert store.get_ranges(name, [0, 3], [2, 5]) == [
            (name.encode() * 2)[part] for part in (slice(0, 2), slice(3, 5))
        ]
        with store.open(name) as file:
            assert (file.size(), file.read(3)) == (2 * len(name.encode()), name.encode()[:3])
            file.seek(1)
            assert file.read() == (name.encode() * 2)[1:]
    about = store.head("a b.jpg")
    (row,) = [
        row for batch in store.list() for row in batch.to_pylist() if row["name"] == "a b.jpg"
    ]
    assert tuple(about) == (row["size"], row["modified"], row["etag"])
    assert before <= about.modified / 1e9 <= time.time() + 2
    assert about.modified % 1_000_000 == 0
    with pytest.raises(ObjectTooLarge):
        store.get("a b.jpg", at_most=3)
    store.put("empty", b"")
    assert [store.get_range("empty", 0, 9), store.get_range("a b.jpg", 99, 100)] == [b"", b""]
    store.delete(["nothing", "a b.jpg", "sub/nothing", "empty"])
    assert not {"a b.jpg", "empty"} & listed(store).keys()
    for lost in (store.get, store.head, store.open):
        with pytest.raises(FileNotFoundError, match="no such object"):
            lost("a b.jpg")
    assert listed(pickle.loads(pickle.dumps(store))) == listed(store)


def test_a_range_after_the_end_is_an_error_like_others(store: Store) -> None:
    store.put("short", b"123")
    if store.root != "hdfs://tests":
        with pytest.raises(StoreError, match="short cannot be read"):
            store.get_ranges("short", [0, 5], [2, 60])


def test_of_two_writers_one_creates_an_object(store: Store) -> None:
    if store.root == "hdfs://tests":
        with pytest.raises(StoreError, match="conditional puts"):
            store.create("log/1.json", b"first")
        return
    store.create("log/1.json", b"first")
    with pytest.raises(FileExistsError):
        store.create("log/1.json", b"second")
    assert store.get("log/1.json") == b"first"


def test_marks_of_folders_are_empty_objects(s3: S3) -> None:
    for key in ("", "-x.jpg", "2012/", "2012/a.jpg", "2012-b.jpg"):
        s3.put(f"marks/{key}", b"content" if key.endswith("g") else b"")
    s3.put("only/", b"")
    assert listed(open_store(f"s3://{BUCKET}/marks")) == {
        **dict.fromkeys(["-x.jpg", "2012/a.jpg", "2012-b.jpg"], 7),
        "2012": 0,
    }
    assert listed(open_store(f"s3://{BUCKET}/only")) == {}


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("ordered", [True, False])
def test_folders_are_listed_at_once(
    s3: S3, monkeypatch: pytest.MonkeyPatch, threads: int, ordered: bool
) -> None:
    monkeypatch.setattr(module, "_LISTED_AT_ONCE", 10)
    monkeypatch.setattr(module, "_PAGE_OBJECTS", 10)
    monkeypatch.setattr(module, "_ORDERED", ("s3",) if ordered else ())
    names = [f"f{folder}/{number:02}.jpg" for folder in range(5) for number in range(13)]
    store = open_store(f"s3://{BUCKET}/many-{threads}-{ordered}")
    for name in names:
        store.put(name, b"x")
    assert list(listed(store, threads)) == sorted(names)
    store.put("zz.jpg", b"x")  # beside the folders
    assert list(listed(store, threads)) == sorted([*names, "zz.jpg"])
    (first, *_) = store.list(threads)
    assert first.num_rows <= 13, "and a listing that is left early ends"
    monkeypatch.setattr(module, "_MAX_FOLDERS", 4)
    assert list(listed(store, threads)) == sorted([*names, "zz.jpg"])


def xml(code: str) -> bytes:
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>".encode()


FAULTS: dict[str, tuple[Answer, str]] = {
    "expired token": (Answer(400, xml("ExpiredToken")), "have expired: renew them"),
    "wrong key": (Answer(403, xml("InvalidAccessKeyId")), "refuses the credentials: check AWS_"),
    "wrong secret": (Answer(403, xml("SignatureDoesNotMatch")), "refuses the credentials"),
    "overload": (Answer(503, xml("SlowDown")), "overloaded or broken .*run the same command"),
    "no bucket": (Answer(404, xml("NoSuchBucket")), "no such bucket: s3://photos: check"),
    "other region": (Answer(301, xml("PermanentRedirect")), "set AWS_REGION"),
    "cut body": (Answer(cut=True), "cannot be reached"),
    "slow": (Answer(seconds=3), "does not answer in time|cannot be reached"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_fails_at_a_store_is_said_in_a_line(
    s3: S3, impatient: None, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    s3.put("faults/a.jpg", b"content")
    answer, words = FAULTS[fault]
    with proxy(s3.port, lambda *_: answer) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        store = open_store(f"s3://{BUCKET}/faults")
        for ask in (lambda: store.get("a.jpg"), lambda: list(store.list())):
            with pytest.raises(StoreError, match=words) as caught:
                ask()
            assert str(caught.value).isprintable()
            assert len(str(caught.value)) < 600
            if fault == "slow":
                break


def test_a_store_that_fails_now_and_then_is_asked_again(
    s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.put("again/a.jpg", b"content")
    asked: list[str] = []

    def every_other(method: str, path: str) -> Answer | None:
        asked.append(path)
        return Answer(503, xml("SlowDown")) if len(asked) % 2 else None

    with proxy(s3.port, every_other) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        store = open_store(f"s3://{BUCKET}/again")
        assert listed(store) == {"a.jpg": 7}
        assert store.get("a.jpg") == b"content"
    assert len(asked) >= 4


def test_an_object_that_may_not_be_read_is_no_fault_of_the_store(
    s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    with proxy(s3.port, lambda *_: Answer(403, xml("AccessDenied"))) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        store = open_store(f"s3://{BUCKET}/photos")
        with pytest.raises(PermissionError, match="access denied"):
            store.get("a.jpg")
        with pytest.raises(StoreError, match="may not be listed: ask"):
            list(store.list())


def test_names_that_obstore_cannot_hold(s3: S3) -> None:
    s3.put("odd//x.jpg", b"1")
    with pytest.raises(StoreError, match=r"holds a name with an empty part .*odd//x\.jpg"):
        list(open_store(f"s3://{BUCKET}/odd").list())
    with pytest.raises(FileNotFoundError):
        open_store(f"s3://{BUCKET}/odd").get("a//b.jpg")


def settings(monkeypatch: pytest.MonkeyPatch, home: Path, address: str = "") -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def test_no_credentials(
    s3: S3, impatient: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings(monkeypatch, tmp_path)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9/169.254.169.254")
    with pytest.raises(StoreError, match=r"no credentials for s3://photos: set AWS_ACCESS_KEY_ID"):
        list(open_store(f"s3://{BUCKET}").list())


@pytest.mark.parametrize("with_boto3", [True, False])
def test_a_profile_of_the_tools_of_aws(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_boto3: bool
) -> None:
    settings(monkeypatch, tmp_path)
    (tmp_path / ".aws").mkdir()
    keys = "aws_access_key_id = a\naws_secret_access_key = b\n"
    (tmp_path / ".aws" / "credentials").write_text(f"[default]\n[other]\n{keys}")
    (tmp_path / ".aws" / "config").write_text("[profile other]\nregion = eu-west-1\n")
    monkeypatch.setenv("AWS_PROFILE", "other")
    monkeypatch.setattr(store_backends, "is_installed", lambda _: with_boto3)
    options = store_backends._profile()
    assert options if with_boto3 else options == {"access_key_id": "a", "secret_access_key": "b"}
    assert [batch.num_rows for batch in open_store(f"s3://{BUCKET}/nothing").list()] == []


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("ftp://host/x", "unknown store ftp://: choose file://, s3://, "),
        ("s3://", "names no bucket: give s3://BUCKET/FOLDER"),
        ("s3:/x", "names no bucket"),
        ("photos", "is no URI"),
        ("hdfs://host/x", "hdfs://host cannot be opened .*: set HADOOP_HOME"),
        ("az://container/x", "no credentials for az://container/x: set AZURE_STORAGE_ACCOUNT_NAME"),
    ],
)
def test_uris_that_no_store_has(uri: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HADOOP_HOME", "AZURE_STORAGE_ACCOUNT_NAME"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(LookalikeError, match=words) as caught:
        open_store(uri)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        ("S3A://b/x y", ("s3", "b", "/x y")),
        ("s3n://b", ("s3", "b", "")),
        ("gcs://b/", ("gs", "b", "/")),
        ("abfs://c@a.net/x", ("abfss", "c@a.net", "/x")),
        ("file:///x//y", ("file", "", "/x/y")),
        ("file:/x", ("file", "", "/x")),
        ("hdfs:///x", ("hdfs", "", "/x")),
    ],
)
def test_parts_of_uris(uri: str, parts: Sequence[str]) -> None:
    assert split_uri(uri) == parts


def test_schemes_that_mean_the_same() -> None:
    assert same_place("s3a://b/x/", "s3://b/x")
    assert not same_place("s3a://b/x", "s3://b/y")
    assert not same_place("s3a://b/x", "gs://b/x")
    assert same_place("viewfs://b/x/", "viewfs://b/x")
    assert open_object("s3a://b/x/y.jpg") == (Store("s3://b"), "x/y.jpg")


@pytest.mark.parametrize("uri", ["gs://bucket/x", "abfss://c@account.dfs.core.windows.net/x"])
def test_other_clouds_are_opened_without_asking_them(uri: str) -> None:
    assert open_store(uri).uri == uri


def test_a_listing_is_of_one_schema(store: Store) -> None:
    store.put("x", b"")
    (batch,) = store.list()
    assert isinstance(batch, pa.RecordBatch)
    assert batch.schema == module.OBJECT
