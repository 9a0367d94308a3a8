"""The server: what it answers, to whom, and what it survives."""

import io
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
import numpy as np
import pytest
import schemathesis
from fastapi import HTTPException
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis.errors import Unsatisfiable
from PIL import Image
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    negative_data_rejection,
    positive_data_acceptance,
)

import lookalike
from helpers.hostile import CRASH, let_decoders_be_hostile
from lookalike import Index, LookalikeError
from lookalike.analysis.map import Layout
from lookalike.cli import main
from lookalike.images.synthetic import DrawnCollection
from lookalike.models.embedder import ImageEmbedder
from lookalike.server import Access, Limits, create_app
from lookalike.server.maps import MapCache
from lookalike.server.snapshot import Snapshot
from lookalike.server.thumbnails import Thumbnails

COMMAND = str(Path(sys.executable).with_name("lookalike"))
LIMITS = Limits(bytes=200_000, pixels=4_000_000, seconds=2)


@contextmanager
def client_of(index: Index | Path, **options: Any) -> Iterator[TestClient]:
    app = create_app(index, **{"limits": LIMITS, **options})
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def client(index: Index) -> Iterator[TestClient]:
    with client_of(index) as client:
        yield client


@pytest.fixture
def copy(index: Index, drawn: DrawnCollection, tmp_path: Path) -> Index:
    """A copy of the index and its photos, to be changed."""
    shutil.copytree(index.path, tmp_path / "copy.index")
    shutil.copytree(drawn.photos, tmp_path / "photos")
    copied = lookalike.open_index(tmp_path / "copy.index")
    copied.relocate(tmp_path / "photos")
    return lookalike.open_index(tmp_path / "copy.index")


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    data = io.BytesIO()
    picture.save(data, kind, **options)
    return data.getvalue()


def new_photo(drawn: DrawnCollection) -> bytes:
    return min(drawn.new.iterdir()).read_bytes()


def error_of(answer: httpx2.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    text: str = answer.json()["error"]
    assert text and "\n" not in text
    return text


# Searches.


def test_a_search_by_id_finds_what_the_index_finds(client: TestClient, index: Index) -> None:
    answer = client.get("/api/search", params={"image": 3, "k": 7}).json()
    rows = index._searcher.rows
    query = lookalike.search.results.Query(rows.vectors(rows.ids[3:4])[0], id=3)
    hits = index.search(query, 7)
    assert [one["id"] for one in answer["neighbors"]] == [hit.id for hit in hits]
    assert [one["rank"] for one in answer["neighbors"]] == list(range(1, 8))
    assert answer["neighbors"][0]["distance"] == pytest.approx(hits[0].distance)
    assert answer["query"]["id"] == 3 and answer["query"]["label"] == rows.labels[3].as_py()
    assert (answer["engine"], answer["compared"], answer["recall"]) == ("exact", len(index), 1.0)


def test_filters(client: TestClient) -> None:
    label = client.get("/api/labels").json()["labels"][0]
    asked = {"image": 0, "k": 200, "label": label["label"]}
    found = client.get("/api/search", params=asked).json()
    own = client.get("/api/images/0").json()["label"] == label["label"]
    assert {one["label"] for one in found["neighbors"]} == {label["label"]}
    assert len(found["neighbors"]) == label["images"] - own
    assert found["compared"] == label["images"]
    others = client.get("/api/search", params={"image": 0, "k": 200}).json()["neighbors"]
    within = (others[9]["distance"] + others[10]["distance"]) / 2
    near = client.get("/api/search", params={"image": 0, "k": 200, "within": within}).json()
    assert [one["id"] for one in near["neighbors"]] == [one["id"] for one in others[:10]]
    assert max(one["distance"] for one in near["neighbors"]) <= within
    glob = client.get("/api/search", params={"image": 0, "k": 200, "path": "*1.jpg"}).json()
    assert glob["neighbors"] and all(one["path"].endswith("1.jpg") for one in glob["neighbors"])
    none = client.get("/api/search", params={"image": 0, "label": "no such label"}).json()
    assert none["neighbors"] == []


@pytest.mark.parametrize(
    ("asked", "status", "said"),
    [
        ({}, 400, "give one of image=ID"),
        ({"image": 1, "upload": "x"}, 400, "give one of image=ID"),
        ({"image": 10**9}, 404, "no image 1000000000"),
        ({"image": 2**63}, 422, "image: "),
        ({"image": -1}, 422, "image: "),
        ({"image": "../../etc/passwd"}, 422, "image: "),
        ({"upload": "never heard of"}, 404, "send the image again"),
        ({"image": 1, "k": 0}, 422, "k: "),
        ({"image": 1, "k": 201}, 422, "k: "),
        ({"image": 1, "within": 3}, 422, "within: "),
        ({"image": 1, "within": "nan"}, 422, "within: "),
        ({"image": 1, "label": ["x"] * 101}, 422, "label: "),
        ({"image": 1, "path": "[z-a]"}, 422, "no glob"),
    ],
)
def test_what_cannot_be_searched(
    client: TestClient, asked: dict[str, Any], status: int, said: str
) -> None:
    assert said in error_of(client.get("/api/search", params=asked), status)


# Uploads.


def test_an_upload_finds_what_the_index_finds(
    client: TestClient, index: Index, drawn: DrawnCollection
) -> None:
    data = new_photo(drawn)
    wanted = [hit.id for hit in index.search(data, 5)]
    raw = client.post("/api/search?k=5", content=data, headers={"content-type": "image/jpeg"})
    form = client.post("/api/search?k=5", files={"anything": ("x.jpg", data)})
    for answer in (raw, form):
        assert [one["id"] for one in answer.json()["neighbors"]] == wanted
    query = raw.json()["query"]
    again = client.get("/api/search", params={"upload": query["upload"], "k": 3}).json()
    assert [one["id"] for one in again["neighbors"]] == wanted[:3]
    assert again["query"] == query
    picture = client.get("/" + query["picture"])
    with Image.open(io.BytesIO(picture.content)) as small:
        assert small.format == "JPEG" and max(small.size) <= 640


def test_uploads_that_arrive_together_share_batches(
    client: TestClient, drawn: DrawnCollection
) -> None:
    data = new_photo(drawn)

    def batches() -> tuple[float, float]:
        lines = client.get("/metrics").text.splitlines()
        figures = dict(line.rsplit(" ", 1) for line in lines if line[0] != "#")
        count, total = (
            float(figures[f"lookalike_embedding_batch_{what}"]) for what in ("count", "sum")
        )
        return count, total

    before = batches()
    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda _: client.post("/api/search?k=5", content=data), range(24)))
    after = batches()
    assert {answer.status_code for answer in answers} == {200}
    assert len({json.dumps(answer.json()["neighbors"]) for answer in answers}) == 1
    assert after[1] - before[1] == 24
    assert after[0] - before[0] < 24


@pytest.mark.parametrize(
    ("content", "status", "said"),
    [
        (b"", 415, "no image"),
        (b"a text file", 415, "not an image"),
        (encoded(Image.new("RGB", (60, 60)), "JPEG")[:400], 415, "damaged image"),
        (encoded(Image.new("L", (2500, 2500))), 415, "too many pixels: 2500 x 2500"),
        (encoded(Image.new("RGB", (4, 4))), 415, "smaller than 8 pixels"),
        (b"\xff" * 200_001, 413, "larger than 200,000 bytes"),
    ],
)
def test_bad_uploads(client: TestClient, content: bytes, status: int, said: str) -> None:
    assert said in error_of(client.post("/api/search", content=content), status)
    if len(content) < 200_000:
        assert said in error_of(client.post("/api/search", files={"image": content}), status)


def test_an_upload_without_a_length_is_cut_off(client: TestClient) -> None:
    parts = iter([b"\xff" * 50_000] * 8)
    assert "larger than" in error_of(client.post("/api/search", content=parts), 413)
    assert len(list(parts)) < 8


def test_forms_that_are_none(client: TestClient) -> None:
    kind = {"content-type": "multipart/form-data; boundary=x"}
    assert "cannot search with this image" in error_of(
        client.post("/api/search", data={"image": "text"}), 415
    )
    for content in (b"", b"--x\r\n", b"--x--", b"nonsense"):
        assert client.post("/api/search", content=content, headers=kind).status_code in (400, 415)
    bare = {"content-type": "multipart/form-data"}
    assert "form" in error_of(client.post("/api/search", content=b"x", headers=bare), 400)
    two = {"a": b"x", "b": b"y"}
    assert "files is 1" in error_of(client.post("/api/search", files=two), 400)


@pytest.mark.parametrize("charset", ["punycode", "undefined", "nonsense"])
def test_a_form_has_no_charset_of_its_own(
    client: TestClient, drawn: DrawnCollection, deadline: None, charset: str
) -> None:
    kind = {"content-type": f"multipart/form-data; charset={charset}; boundary=x"}
    part = b'--x\r\ncontent-disposition: form-data; name="%b"\r\n\r\n%b\r\n'
    photo = new_photo(drawn)

    def send(text: bytes) -> httpx2.Response:
        parts = part % (b"text", text) + part % (b'image"; filename="x', photo) + b"--x--\r\n"
        return client.post("/api/search?k=1", content=parts, headers=kind)

    assert send(b"a-\xff").status_code == 200
    assert "4KB" in error_of(send(b"a-" + b"z" * 90_000), 400)


def test_a_network_that_does_not_start_keeps_nobody_waiting(
    index: Index, drawn: DrawnCollection, deadline: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = True

    def batch(_: ImageEmbedder) -> int:
        if broken:
            raise LookalikeError("/a/secret/place is no network")
        return 16

    monkeypatch.setattr(ImageEmbedder, "batch", property(batch))
    with client_of(index) as client:
        said = error_of(client.post("/api/search", content=new_photo(drawn)), 503)
        assert "the network does not run" in said and "secret" not in said
        broken = False
        assert client.post("/api/search", content=new_photo(drawn)).status_code == 200


def test_a_picture_that_crashes_the_decoder_is_one_answer(
    index: Index, drawn: DrawnCollection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_decoders_be_hostile(tmp_path, monkeypatch)
    with client_of(index) as client:
        crash = client.post("/api/search", content=new_photo(drawn) + CRASH)
        assert "the decoder crashed" in error_of(crash, 415)
        assert client.post("/api/search", content=new_photo(drawn)).status_code == 200


def test_only_so_many_uploads_are_remembered(
    index: Index, drawn: DrawnCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lookalike.server.uploads.MAX_REMEMBERED_UPLOADS", 2)
    with client_of(index) as client:
        keys = [
            client.post("/api/search?k=1", content=new_photo(drawn)).json()["query"]["upload"]
            for _ in range(3)
        ]
        found = [client.get("/api/search", params={"upload": key}).status_code for key in keys]
    assert found == [404, 200, 200] and len(set(keys)) == 3


# Images.


def test_all_images_come_page_by_page(client: TestClient, index: Index) -> None:
    ids: list[int] = []
    after: dict[str, Any] = {}
    while True:
        page = client.get("/api/images", params={"limit": 40, **after}).json()
        ids += [one["id"] for one in page["images"]]
        assert page["total"] == len(index)
        if page["next"] is None:
            break
        after = {"after": page["next"]}
    assert ids == sorted(index._searcher.rows.ids.tolist())


def test_ids_that_do_not_rise_through_the_segments(copy: Index, drawn: DrawnCollection) -> None:
    copy.remove("00002.jpg")
    copy.sync()  # comes back, with an id of its own
    rows = copy._searcher.rows
    rows.ids[:] = rows.ids[::-1].copy()
    assert rows.find(rows.ids).tolist() == list(range(len(rows)))
    assert rows.find(np.array([10**6, -1])).tolist() == [-1, -1]


def test_draws(client: TestClient) -> None:
    first, again, other = (
        [one["id"] for one in client.get(f"/api/random?count=20&seed={seed}").json()["images"]]
        for seed in (1, 1, 2)
    )
    assert first == again != other and len(set(first)) == 20
    label = client.get("/api/labels").json()["labels"][1]
    some = client.get("/api/random", params={"count": 200, "label": label["label"]}).json()
    assert [one["label"] for one in some["images"]] == [label["label"]] * label["images"]
    ones = client.get("/api/random?count=3&path=*1.jpg").json()["images"]
    assert len(ones) == 3 and all(one["name"].endswith("1.jpg") for one in ones)
    assert client.get("/api/random?label=none").json() == {"images": []}


def test_labels(client: TestClient, index: Index) -> None:
    every = client.get("/api/labels").json()
    counts = [one["images"] for one in every["labels"]]
    assert sum(counts) == len(index) and counts == sorted(counts, reverse=True)
    assert every["total"] == len(counts) == client.get("/api/info").json()["labels"]
    word = every["labels"][0]["label"].split()[0]
    some = client.get("/api/labels", params={"containing": word.upper(), "limit": 1}).json()
    assert len(some["labels"]) == 1 <= some["total"]
    assert word in some["labels"][0]["label"]
    for one in every["labels"]:
        exact = client.get("/api/labels", params={"containing": one["label"]}).json()
        assert exact["labels"][0] == one


def test_info(client: TestClient, index: Index) -> None:
    info = client.get("/api/info").json()
    assert (info["images"], info["version"]) == (len(index), index._table.version)
    assert info["name"] == "cars.index" and info["model"]["backbone"] == "efficientnet-lite0"
    assert info["recall"]["engine"] == "exact" and info["recall"]["measured"] == 1.0
    assert info["limits"] == {"k": 200, "upload_bytes": 200_000, "upload_pixels": 4_000_000}
    assert str(index.path) not in json.dumps(info)


# Pictures.


def test_pictures_are_small_and_kept_by_browsers(client: TestClient) -> None:
    one = client.get("/api/images/5").json()
    small = client.get("/" + one["thumbnail"])
    assert "immutable" in small.headers["cache-control"]
    assert small.headers["content-type"] == "image/jpeg"
    with Image.open(io.BytesIO(small.content)) as picture:
        assert max(picture.size) <= 320
    etag = {"if-none-match": small.headers["etag"]}
    assert client.get("/" + one["thumbnail"], headers=etag).status_code == 304
    unnamed = client.get("/api/images/5/picture")
    assert unnamed.content == small.content and "no-cache" in unnamed.headers["cache-control"]
    assert "size: choose one of" in error_of(client.get("/api/images/5/picture?size=321"), 422)
    error_of(client.get("/api/images/99999/picture"), 404)


def test_a_photo_that_has_changed_or_gone(
    copy: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOOKALIKE_CACHE", str(tmp_path / "cache"))  # no other test's pictures
    with client_of(copy, cap=0) as client:
        file = tmp_path / "photos" / client.get("/api/images/5").json()["path"]
        address = "/api/images/5/picture"
        file.write_bytes(encoded(Image.new("RGB", (90, 90), "red"), "JPEG"))
        changed = client.get(address)
        assert changed.headers["cache-control"] == "no-store"
        with Image.open(io.BytesIO(changed.content)) as picture:
            assert picture.size == (90, 90)
        file.unlink()
        assert "no such file" in error_of(client.get(address), 404)
        file.write_text("no picture any more")
        assert "not an image" in error_of(client.get(address), 404)
        assert client.get("/api/search?image=5").status_code == 200  # the vector is still there


def test_a_disk_that_does_not_answer(
    index: Index, tmp_path: Path, deadline: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOOKALIKE_CACHE", str(tmp_path / "cache"))  # no picture is there yet
    monkeypatch.setattr("lookalike.server.state.THUMBNAIL_TIMEOUT_SECONDS", 0.3)
    monkeypatch.setattr("lookalike.server.maps.MapCache.get", lambda *_: (0.5, "comparing"))
    mounted, read = threading.Event(), Snapshot.read

    def hangs(snapshot: Snapshot, row: int) -> bytes:
        mounted.wait()
        return read(snapshot, row)

    monkeypatch.setattr(Snapshot, "read", hangs)
    with client_of(index) as client:
        try:
            addresses = [f"/api/images/{number}/picture" for number in range(8)]
            with ThreadPoolExecutor(8) as pool:
                answers = pool.map(client.get, addresses)
                assert client.get("/api/map").status_code == 202
                assert all("mounted" in error_of(answer, 503) for answer in answers)
        finally:
            mounted.set()
        monkeypatch.setattr("lookalike.server.state.THUMBNAIL_TIMEOUT_SECONDS", 20)
        assert client.get(addresses[0]).status_code == 200


def test_small_pictures_stay_within_their_cap(index: Index, tmp_path: Path) -> None:
    from lookalike.images import IsolatedDecoder

    snapshot = Snapshot(index._table)
    with IsolatedDecoder() as decoder:
        first = Thumbnails(decoder, 10**9, tmp_path)
        assert first.find(snapshot, 0, 160) is None
        sizes = [len(first.make(snapshot, row, 160)[0]) for row in range(12)]
        old = [*tmp_path.glob("*/*.jpg")]
        assert (first.made, first.hits) == (12, 0)
        assert sum(sizes) < first.size == sum(file.stat().st_size for file in old)
        for at, file in enumerate(old):
            os.utime(file, (at, at))
        cap = sum(sizes) // 2
        second = Thumbnails(decoder, cap, tmp_path)
        jpeg, _ = second.make(snapshot, 20, 160)
        left = [*tmp_path.glob("*/*.jpg")]
        assert 0 < second.size == sum(file.stat().st_size for file in left) <= cap
        assert old[0] not in left and old[-1] in left
        assert second.find(snapshot, 20, 160) == jpeg
        assert (second.made, second.hits) == (1, 1)
        (file,) = (file for file in left if file.read_bytes().startswith(jpeg))
        whole = file.read_bytes()
        for damaged in (b"", whole[:100], whole[:100] + bytes(50) + whole[150:]):
            file.write_bytes(damaged)  # as after a loss of power
            assert second.find(snapshot, 20, 160) is None
        shutil.rmtree(tmp_path)
        tmp_path.write_text("in the way")  # nothing can be kept: it costs only time
        third = Thumbnails(decoder, cap, tmp_path)
        assert third.find(snapshot, 3, 160) is None and third.make(snapshot, 3, 160)[1]
        tmp_path.unlink()


@pytest.mark.long
def test_ten_thousand_ids(index: Index) -> None:
    rng = random.Random(0)
    kinds: list[Callable[[], object]] = [
        lambda: rng.randrange(-(2**70), 2**70),
        lambda: rng.randrange(2**63),
        lambda: rng.randrange(1000),
        lambda: rng.random(),
        lambda: "".join(chr(rng.randrange(1, 0xD800)) for _ in range(rng.randrange(1, 60))),
    ]
    known = set(index._searcher.rows.ids.tolist())
    with served(index.path) as (_, address), httpx2.Client(base_url=address) as client:
        for number in range(10_000):
            asked = kinds[number % len(kinds)]()
            found = client.get("api/search", params={"image": str(asked), "k": 1})
            if asked in known:
                assert found.status_code == 200
            else:
                assert error_of(found, found.status_code) and found.status_code in (404, 422)
            if number % 10 == 0:
                path = f"api/images/{quote(str(asked), safe='')}/picture"
                assert (client.get(path).status_code == 200) == (asked in known)
        assert client.get("healthz").json()["status"] == "ok"


# Who may ask.

TRICKS = (
    "/page/../app.py",
    "/page/%2e%2e/app.py",
    "/page/..%2fapp.py",
    "/page/%2e%2e%2f%2e%2e%2f__init__.py",
    "/page//etc/passwd",
    "/page/..\\app.py",
    "/api/images/../../etc/passwd",
    "/api/images/..%2f..%2f..%2fetc%2fpasswd/picture",
    "/api/images/1%00/picture",
    "/page/\xff",
    "*",
    "/api/images/1.5",
    "/api/images/99999999999999999999999999",
    "/api/uploads/..%2f..%2fx/picture",
    "/.git/config",
    "//etc/passwd",
    "/docs",
    "/%ff%fe",
)


def test_nothing_but_the_index_is_served(index: Index) -> None:
    with served(index.path) as (_, address):
        place = ("127.0.0.1", httpx2.URL(address).port or 0)
        for path in TRICKS:
            # As it stands: what programs send is tidied up before.
            ask = f"GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
            with socket.create_connection(place) as one:
                one.sendall(ask.encode("latin-1"))
                with one.makefile("rb") as answer:
                    status, text = int(answer.readline().split()[1]), answer.read()
            assert 400 <= status < 500, path
            assert b"root:" not in text and b"import" not in text, path


def test_every_answer_says_what_a_page_may_do(client: TestClient) -> None:
    for path in ("/", "/api/info", "/api/images/5/picture", "/nowhere", "/api/search?k=x"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
    assert client.post("/healthz").status_code == 405
    assert client.head("/healthz").status_code == client.head("/").status_code == 200
    assert client.get("/api/info/").status_code == 404  # not led away, to whatever host was named


def test_a_fault_of_the_server_is_an_answer_too(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise ZeroDivisionError("where things are")

    monkeypatch.setattr("lookalike.server.snapshot.Snapshot.labels_with", fails)
    failed = client.get("/api/labels")
    assert "log" in error_of(failed, 500) and "things" not in failed.text
    assert "default-src 'none'" in failed.headers["content-security-policy"]

    def refuses(*_: object) -> None:
        raise LookalikeError("/a/secret/place is damaged")

    monkeypatch.setattr("lookalike.server.snapshot.Snapshot.labels_with", refuses)
    assert "secret" not in error_of(client.get("/api/labels"), 503)


def test_paths_outside_the_root_do_not_say_where_it_is(
    copy: Index, drawn: DrawnCollection, tmp_path: Path
) -> None:
    shutil.copytree(drawn.new, tmp_path / "elsewhere" / "inner")
    copy.add(tmp_path / "elsewhere")
    with client_of(copy) as client:
        found = client.get("/api/images?limit=200&after=95").json()["images"]
    assert len(found) == 4
    assert {Path(one["path"]).parts[0] for one in found} == {"inner"}


def test_names_and_pages_of_others_are_refused(client: TestClient) -> None:
    for host in ("evil.example", "evil.example:80", "localhost.evil.example", ""):
        error_of(client.get("/api/info", headers={"host": host}), 403)
    for host in ("localhost:8000", "127.0.0.1:8000", "[::1]:8000", "LOCALHOST"):
        assert client.get("/api/info", headers={"host": host}).status_code == 200
    cross = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}
    error_of(client.get("/api/images/5/picture", headers=cross), 403)
    error_of(client.post("/api/search", content=b"x", headers=cross), 403)
    assert client.get("/", headers={**cross, "sec-fetch-mode": "navigate"}).status_code == 200


def test_a_token_is_asked_for(index: Index) -> None:
    with client_of(index, token="s3cret") as client:
        assert client.get("/healthz").status_code == 200
        for path in ("/", "/api/info", "/metrics", "/api/images/5/picture", "/page/app.js"):
            assert "token" in error_of(client.get(path), 401)
        wrong = {"authorization": "Bearer s3cre"}
        error_of(client.get("/api/info", headers=wrong), 401)
        error_of(client.get("/api/info?token="), 401)
        error_of(client.get("/api/info?token=\xff"), 401)
        error_of(client.get("/api/info", headers={"cookie": "a=b; ;;=\x01"}), 401)
        right = {"authorization": "Bearer s3cret", "host": "any.example"}
        assert client.get("/api/info", headers=right).status_code == 200
        moved = client.get("/?image=5&token=s3cret", follow_redirects=False)
        assert moved.status_code == 303 and moved.headers["location"] == "./?image=5"
        cookie = moved.headers["set-cookie"]
        assert "HttpOnly" in cookie and "SameSite=lax" in cookie
        assert client.get("/api/info").status_code == 200  # by the cookie
        client.cookies.clear()
        for others in ('a={"x":1}', "a=b c", "flag", "path=/x", "a=b; ;;=\x01"):
            with_ours = {"cookie": f"{others}; {cookie.partition(';')[0]}"}
            assert client.get("/api/info", headers=with_ours).status_code == 200, others
        client.cookies.set(*cookie.partition(";")[0].split("="))
        again = client.get("/api/info?token=s3cret", follow_redirects=False)
        assert again.headers["location"] == "./info"
        refused = client.get("/metrics").text
        assert 'status="401"' in refused and "process_resident_memory_bytes" in refused


# What others do meanwhile.


def until(true: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never was"
        time.sleep(0.05)


def test_the_newest_version_is_served(copy: Index, drawn: DrawnCollection, tmp_path: Path) -> None:
    with client_of(copy.path) as client:
        before = client.get("/api/info").json()
        new = min(drawn.new.iterdir())
        copy.add(new)
        until(lambda: client.get("/api/info").json()["version"] > before["version"])
        after = client.get("/api/info").json()
        assert after["images"] == before["images"] + 1
        found = client.post("/api/search?k=1", content=new.read_bytes()).json()["neighbors"][0]
        assert found["name"] == new.name and found["distance"] < 1e-3
        assert client.get("/" + found["thumbnail"]).status_code == 200
        copy.remove("*")
        until(lambda: client.get("/api/info").json()["images"] == 0)
        assert client.post("/api/search", content=new.read_bytes()).json()["neighbors"] == []
        assert client.get("/api/random").json() == {"images": []}
        assert client.get("/api/images").json() == {"images": [], "next": None, "total": 0}
        error_of(client.get("/api/search?image=5"), 404)
        shutil.rmtree(copy.path)
        until(lambda: client.get("/healthz").json()["status"] != "ok")
        assert client.get("/api/info").status_code == 200


def test_a_map_is_of_the_newest_version(copy: Index, drawn: DrawnCollection) -> None:
    with client_of(copy) as client:
        copy.remove("00005.jpg")
        until(lambda: client.get("/api/info").json()["images"] == 95)
        assert client.get("/api/map").status_code == 202
        copy.add(min(drawn.new.iterdir()))  # while it is being made
        until(lambda: client.get("/api/info").json()["images"] == 96)
        newest = client.get("/api/info").json()["version"]
        until(lambda: client.get("/api/map").json().get("version") == newest, 60)
        found = client.get("/api/map").json()
        rows = client.get("/api/images?limit=200").json()["images"]
        labels = {one["id"]: one["label"] for one in rows}
        names = [found["labels"][at] if at >= 0 else None for at in found["label"]]
        assert dict(zip(found["ids"], names, strict=True)) == labels
        assert max(map(abs, found["x"] + found["y"])) <= 1


class MapJob:
    """Stands in for `analysis.map.Job`: it has ended, well where `good`."""

    good = True
    began = 0

    def __init__(self, collection: Any) -> None:
        type(self).began += 1
        self._ids = lookalike.search.rows.Rows(collection.segments).ids

    def ended(self) -> bool:
        return True

    def failed(self) -> str | None:
        return None if self.good else "/a/secret/place has no room"

    def result(self) -> Layout | None:
        return Layout(self._ids, np.zeros((len(self._ids), 2), np.float32)) if self.good else None

    def progress(self) -> tuple[float, str]:
        return 0.5, "comparing images"

    def stop(self) -> None:
        pass


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> type[MapJob]:
    """What `MapCache` begins, of which none is kept."""
    job = type("Job", (MapJob,), {})
    monkeypatch.setattr("lookalike.server.maps.Job", job)
    monkeypatch.setattr("lookalike.server.maps.load_layout", lambda _: None)
    return job


def test_a_map_that_fails_is_left_for_a_while(
    copy: Index, job: type[MapJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    job.good, maps, snapshot = False, MapCache(), Snapshot(copy._table)
    assert maps.get(snapshot) == (0.5, "comparing images")
    for _ in range(3):
        with pytest.raises(HTTPException, match="503: no map could be made") as said:
            maps.get(snapshot)
        assert "secret" not in str(said.value)
    assert job.began == 1
    job.good = True
    copy.remove("00005.jpg")
    maps.get(second := Snapshot(copy._table))  # of which none has failed
    made = maps.get(second)
    assert isinstance(made, bytes) and json.loads(made)["images"] == 95
    job.good = False
    copy.remove("00006.jpg")
    assert [maps.get(Snapshot(copy._table)) for _ in range(3)] == [made] * 3  # the older one
    assert job.began == 3
    monkeypatch.setattr("lookalike.server.maps.RETRY_SECONDS", 0)
    maps.get(Snapshot(copy._table))
    assert job.began == 4


def test_an_index_in_the_place_of_another(
    copy: Index, drawn: DrawnCollection, job: type[MapJob]
) -> None:
    with client_of(copy.path) as client:
        before = client.get("/api/info").json()
        assert client.get("/api/map").status_code == 202
        assert client.get("/api/map").json()["identity"] == before["identity"]
        lookalike.create_index(drawn.new, copy.path, overwrite=True, spark=False)
        until(lambda: client.get("/api/info").json()["identity"] != before["identity"])
        after = client.get("/api/info").json()
        assert (after["version"], after["images"]) == (before["version"], 4)
        assert client.get("/api/map").status_code == 202  # not that of the other one
        assert client.get("/api/map").json()["images"] == 4
        assert client.get("/api/search?image=0").json()["identity"] == after["identity"]


def test_an_index_without_labels(drawn: DrawnCollection, tmp_path: Path) -> None:
    index = lookalike.create_index(drawn.new, tmp_path / "few.index", spark=False)
    with client_of(index) as client:
        assert client.get("/api/labels").json() == {"labels": [], "total": 0}
        assert client.get("/api/search?image=0").json()["neighbors"][0]["label"] is None


# A process of its own.


@contextmanager
def served(index: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = subprocess.Popen(
        [COMMAND, "serve", str(index), "--port", "0", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stderr is not None
        yield process, process.stderr.readline().split()[0]
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def group_of(process: subprocess.Popen[str]) -> list[str]:
    found = subprocess.run(["ps", "-o", "pid=", "-g", str(process.pid)], capture_output=True)
    return found.stdout.decode().split()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_nothing_behind(
    index: Index, drawn: DrawnCollection, how: signal.Signals
) -> None:
    with served(index.path) as (process, address):
        assert httpx2.post(f"{address}api/search", content=new_photo(drawn)).status_code == 200
        assert httpx2.get(f"{address}api/images/1/picture").status_code == 200
        assert len(group_of(process)) > 1
        with httpx2.Client() as waiting:
            waiting.get(f"{address}healthz")  # stays connected
            half = socket.create_connection(("127.0.0.1", httpx2.URL(address).port or 0))
            half.sendall(
                b"POST /api/search HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9000\r\n\r\nhalf"
            )
            time.sleep(0.2)  # until that has arrived
            process.send_signal(how)
            assert process.wait(10) == (130 if how == signal.SIGINT else -signal.SIGTERM)
        half.close()
        until(lambda: not group_of(process))
        assert process.stderr is not None
        said = process.stderr.read().split("\n")
        assert [line for line in said if line] == (["stopped"] if how == signal.SIGINT else [])


def test_slow_and_endless_clients(
    index: Index, monkeypatch: pytest.MonkeyPatch, deadline: None
) -> None:
    import uvicorn

    from lookalike.server import run
    from lookalike.server import run as running

    monkeypatch.setattr(running, "HEAD_TIMEOUT_SECONDS", 0.5)
    monkeypatch.setattr(running, "READ_TIMEOUT_SECONDS", 0.5)
    listening = run._listen("127.0.0.1", 0)
    limits = Limits(bytes=200_000, pixels=10**6, seconds=0.5)
    app = create_app(index, limits=limits)
    config = uvicorn.Config(app, http=run.TimeoutProtocol, log_level="critical")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    place = listening.getsockname()

    def said(*parts: bytes) -> bytes:
        with socket.create_connection(place) as one:
            with suppress(ConnectionError):
                for part in parts:
                    one.sendall(part)
            got = b""
            with suppress(ConnectionError):
                while more := one.recv(4096):
                    got += more
            return got

    head = b"POST /api/search HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n"
    try:
        assert b" 408 " in said(b"")
        assert b" 408 " in said(b"GET /heal")
        assert b" 431 " in said(b"GET /healthz HTTP/1.1\r\n", *[b"x: " + b"y" * 9000 + b"\r\n"] * 9)
        assert b" 431 " in said(b"GET /", *[b"y" * 9000] * 9)
        assert b" 400 " in said(b"nonsense\r\n\r\n")
        huge = head.replace(b"1000", b"1000000000000")
        assert b" 413 " in said(huge + b"connection: close\r\n\r\n")
        for kind in (b"", b"content-type: application/json\r\n"):
            assert b" 408 " in said(head + kind + b"connection: close\r\n\r\nonly this")
        refused = b"POST /nowhere HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
        with socket.create_connection(place) as late:
            late.sendall(refused + b"1\r\n")
            with late.makefile("rb") as answer:
                while b"Not Found" not in (line := answer.read1()):
                    assert line
                late.sendall(b"x")  # after the answer
                assert b" 408 " in answer.read()
        trailers = [b"a: b\r\n" * 2000] * 20
        assert b" 431 " in said(refused + b"0\r\n", *trailers)
        page = b"GET /page/style.css HTTP/1.1\r\nhost: localhost\r\n\r\n"
        with socket.create_connection(place) as deaf, pytest.raises(ConnectionError):
            for _ in range(2000):  # who takes no answer is cut off
                deaf.sendall(page * 10)
                time.sleep(0.005)
        ask = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n"
        twice = said(ask + b"\r\n", ask + b"connection: close\r\n\r\n")
        assert twice.count(b" 200 OK") == 2
        gone = [socket.create_connection(place) for _ in range(50)]
        for one in gone:
            one.sendall(head + b"\r\nhalf")
            one.close()
        assert b" 200 OK" in said(ask + b"connection: close\r\n\r\n")
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


def test_a_port_that_is_taken(index: Index) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [COMMAND, "serve", str(index.path), "--port", port], capture_output=True, text=True
        )
    assert done.returncode == 1
    assert f"port {port}" in done.stderr and "--port" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_other_machines_need_the_token(index: Index) -> None:
    with served(index.path, "--host", "0.0.0.0", "--access-log") as (process, address):
        base, _, token = address.partition("?token=")
        assert len(token) > 20
        local = f"http://127.0.0.1:{httpx2.URL(base).port}/"
        assert httpx2.get(f"{local}api/info").status_code == 401
        bearer = {"authorization": f"Bearer {token}"}
        assert httpx2.get(f"{local}api/info", headers=bearer).status_code == 200
        assert httpx2.get(f"{local}?image=5&token={token}").status_code == 303
        process.send_signal(signal.SIGINT)
        logged = process.communicate(timeout=10)[0]
        assert "image=5&token=..." in logged and token not in logged


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--upload-mb", "0"], 2),
        (["--upload-mpixels", "nan"], 2),
        (["--cache-mb", "-1"], 2),
        (["--port", "99999"], 2),
        (["--token", "two words"], 1),
    ],
)
def test_options_that_are_none(
    index: Index, options: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended, pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", ["lookalike", "serve", str(index.path), *options])
        main()
    assert ended.value.code == code
    assert capsys.readouterr().err


# Everything that the description allows.


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_the_description_is_kept(index: Index, mode: GenerationMode) -> None:
    with served(index.path) as (_, address):
        described = schemathesis.openapi.from_url(f"{address}api/openapi.json")
        operations: list[Any] = [found.ok() for found in described.get_all_operations()]  # type: ignore[union-attr]
        assert len(operations) == 20
        for operation in operations:
            with suppress(Unsatisfiable):  # nothing is wrong for what takes anything

                @settings(max_examples=12, deadline=None, database=None, derandomize=True)
                @given(operation.as_strategy(generation_mode=mode))
                def is_kept(case: Any) -> None:
                    # A picture is more than its schema says, and `label=false` is a label.
                    case.call_and_validate(
                        excluded_checks=[positive_data_acceptance, negative_data_rejection]
                    )

                is_kept()
        assert httpx2.get(f"{address}healthz").json()["status"] == "ok"


def test_bands_and_copies_over_http(client: TestClient, index: Index) -> None:
    asked: dict[str, Any] = {"image": 3, "k": 20}
    limits = index.bands.limits
    assert limits is not None
    deadline = time.monotonic() + 60
    while not (answer := client.get("/api/search", params=asked).json())["bands"]["measured"]:
        assert time.monotonic() < deadline, "bands are measured in the background"
        time.sleep(0.1)
    assert list(answer["bands"]["limits"].values()) == list(limits)
    names = index.bands.names(one["distance"] for one in answer["neighbors"])
    assert [one["band"] for one in answer["neighbors"]] == names
    assert answer["looked"] is None and answer["neighbors"][0]["copies"] is None
    near = client.get("/api/search", params={**asked, "min_band": "similar"}).json()
    assert near["neighbors"] == [one for one in answer["neighbors"] if one["band"] != "weak"]
    single = client.get("/api/search", params={**asked, "all_copies": False}).json()
    assert single["looked"] >= 20 and len(single["neighbors"]) == 20
    hits = index.search(id=3, k=20, all_copies=False)
    assert [one["copies"] for one in single["neighbors"]] == [one.copies for one in hits]
    error_of(client.get("/api/search", params={**asked, "min_band": "near"}), 422)


# Files as they are.


def test_originals_are_given_out_where_that_is_allowed(
    copy: Index, client: TestClient, tmp_path: Path
) -> None:
    assert not client.get("/api/info").json()["has_originals"]
    assert "--originals" in error_of(client.get("/api/images/5/original"), 403)
    with client_of(copy, access=Access(originals=True)) as allowed:
        path = allowed.get("/api/images/5").json()["path"]
        file = tmp_path / "photos" / path
        answer = allowed.get("/api/images/5/original")
        assert answer.content == file.read_bytes()
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["content-disposition"] == f"attachment; filename*=UTF-8''{path}"
        assert answer.headers["x-content-type-options"] == "nosniff"
        error_of(allowed.get("/api/images/1000000/original"), 404)
        file.write_text("<script>alert(1)</script>")
        assert "changed" in error_of(allowed.get("/api/images/5/original"), 404)
        file.unlink()
        for _ in range(6):  # each frees its place
            assert "no longer" in error_of(allowed.get("/api/images/5/original"), 404)


def test_images_have_their_sizes(client: TestClient, drawn: DrawnCollection) -> None:
    until(lambda: client.get("/api/images/5").json()["width"] is not None)
    image = client.get("/api/images/5").json()
    with Image.open(drawn.photos / image["path"]) as photo:
        assert (image["width"], image["height"]) == photo.size


# Parts of pictures.


def test_a_part_finds_what_that_part_alone_finds(
    client: TestClient, index: Index, drawn: DrawnCollection
) -> None:
    path = client.get("/api/images/7").json()["path"]
    with Image.open(drawn.photos / path) as photo:
        width, height = photo.size
        part = photo.crop((0, 0, width // 2, height))
    wanted = [hit.id for hit in index.search(part, 12) if hit.id != 7]
    answer = client.get("/api/search", params={"image": 7, "box": "0,0,0.5,1", "k": 5}).json()
    found = [one["id"] for one in answer["neighbors"]]
    assert len(set(found) & set(wanted[:7])) >= 4 and 7 not in found
    assert answer["query"]["box"] == [0, 0, 0.5, 1] and answer["query"]["id"] == 7
    plain = client.get("/api/search", params={"image": 7, "k": 5}).json()
    assert plain["query"]["box"] is None and plain["neighbors"] != answer["neighbors"]
    data = (drawn.photos / path).read_bytes()
    key = client.post("/api/search?k=1", content=data).json()["query"]["upload"]
    again = client.get("/api/search", params={"upload": key, "box": "0,0,0.5,1", "k": 6}).json()
    assert again["query"]["box"] == [0, 0, 0.5, 1]
    assert set(found) & {one["id"] for one in again["neighbors"]}


@pytest.mark.parametrize("box", ["", "0,0,1", "0,0,2,1", "0.5,0,0.5,1", "0.9,0,0.1,1", "nan,0,1,1"])
def test_boxes_that_are_none(client: TestClient, box: str) -> None:
    assert "box: " in error_of(client.get("/api/search", params={"image": 7, "box": box}), 422)
