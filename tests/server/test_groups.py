"""Duplicates, clusters and outliers over HTTP; images set aside and put back."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from fastapi.testclient import TestClient

from helpers.twice import EQUAL, with_copies
from lookalike import Index
from lookalike.analysis.groups import Groups
from lookalike.images.synthetic import DrawnCollection
from lookalike.server import Access, create_app


@pytest.fixture(scope="module")
def twice(index: Index, drawn: DrawnCollection, tmp_path_factory: pytest.TempPathFactory) -> Index:
    return with_copies(index, drawn, tmp_path_factory.mktemp("twice"))


@pytest.fixture(scope="module")
def client(twice: Index) -> Iterator[TestClient]:
    app = create_app(twice, access=Access(changes=True))
    with TestClient(app, base_url="http://localhost") as client:
        yield client


def found(client: TestClient, path: str) -> dict[str, Any]:
    """The answer, once it is there."""
    deadline = time.monotonic() + 400
    while (answer := client.get(path)).status_code == 202:
        assert 0 <= answer.json()["progress"] <= 1 and answer.json()["doing"]
        assert time.monotonic() < deadline, "it never ends"
        time.sleep(0.2)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def ids_of(client: TestClient) -> dict[str, int]:
    images = client.get("/api/images?limit=200").json()["images"]
    return {one["path"]: one["id"] for one in images}


def test_pages_of_groups(client: TestClient, twice: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = ids_of(client)
    pairs = [(ids[name], ids[f"copies/{name}"]) for name in EQUAL]
    rows = [
        {
            "group": group,
            "id": number,
            "keep": number == pair[0],
            "distance": 0.0,
            "agreement": 1.0,
            "same_bytes": True,
            "size": 1234,
            "modified": 1_700_000_000 * 10**9,
            "keep_id": pair[0],
        }
        for group, pair in enumerate(pairs)
        for number in pair
    ]
    rows[-1]["id"] = 10**6  # it has been removed since
    figures = {"drop": 2, "bytes": 2468, "within": 0.3, "keep": "largest"}
    groups = Groups(figures, pa.Table.from_pylist(rows))
    monkeypatch.setattr("lookalike.server.groups.read_groups", lambda *_: groups)
    with TestClient(create_app(twice), base_url="http://localhost") as another:
        first = another.get("/api/duplicates?limit=1").json()
        assert [one["id"] for one in first["groups"][0]["images"]] == list(pairs[0])
        assert first["groups"][0]["images"][0]["modified"] == "2023-11-14T22:13:20Z"
        assert (first["total"], first["next"], first["drop"], first["bytes"]) == (2, 0, 2, 2468)
        second = another.get("/api/duplicates?limit=1&after=0").json()
        assert [one["id"] for one in second["groups"][0]["images"]] == [pairs[1][0]]
        assert second["next"] is None
        assert another.get("/api/duplicates?after=7").json()["groups"] == []


@pytest.mark.long  # a minute: pixels are compared
def test_duplicates_clusters_and_outliers(client: TestClient, twice: Index) -> None:
    assert client.get("/api/duplicates").status_code == 202
    waiting = client.get("/api/clusters")
    assert waiting.status_code == 202 and "waiting" in waiting.json()["doing"]
    groups = found(client, "/api/duplicates")
    assert groups["total"] == len(groups["groups"]) >= 3 and groups["next"] is None
    for group in groups["groups"]:
        assert [one["keep"] for one in group["images"]] == [True] + [False] * (
            len(group["images"]) - 1
        )
        assert {one["keep_id"] for one in group["images"]} == {group["images"][0]["id"]}
    names = {tuple(sorted(one["path"] for one in g["images"])) for g in groups["groups"]}
    assert {(name, f"copies/{name}") for name in EQUAL} <= names
    one = groups["groups"][0]["images"][0]
    assert one["size"] > 0 and one["modified"].endswith("Z") and not one["aside"]
    first = client.get("/api/duplicates?limit=1").json()
    second = client.get(f"/api/duplicates?limit=1&after={first['next']}").json()
    assert [first["groups"][0], second["groups"][0]] == groups["groups"][:2]
    drop = groups["groups"][0]["images"][1]
    chosen = [{"id": drop["id"], "keep": drop["keep_id"]}]
    name = client.post("/api/aside", json={"images": chosen}).json()["name"]
    shown = client.get("/api/duplicates").json()["groups"][0]["images"]
    assert [one["aside"] for one in shown[:2]] == [False, True]
    assert client.post(f"/api/aside/{name}/undo").json() == {"restored": 1}

    clusters = found(client, "/api/clusters?shown=3")
    assert sum(one["count"] for one in clusters["groups"]) + clusters["alone"] == len(twice)
    assert all(one["images"][0]["representative"] for one in clusters["groups"])
    assert all(len(one["images"]) <= 3 for one in clusters["groups"])
    outliers = found(client, "/api/outliers?limit=10")
    assert len(outliers["images"]) == 10 and outliers["total"] == len(twice)
    scores = [one["score"] for one in outliers["images"]]
    assert scores == sorted(scores, reverse=True)
    # Kept: another server has them at once.
    with TestClient(create_app(twice), base_url="http://localhost") as another:
        assert another.get("/api/duplicates").status_code == 200


def test_images_are_set_aside_and_put_back(client: TestClient, twice: Index) -> None:
    photos = Path(twice._table.source.root)
    ids = ids_of(client)
    pairs = [{"id": ids[f"copies/{name}"], "keep": ids[name]} for name in EQUAL]
    dropped = {f"copies/{name}" for name in EQUAL}
    before = {file.relative_to(photos) for file in photos.rglob("*.jpg")}
    done = client.post("/api/aside", json={"images": pairs}).json()
    assert done["done"] == len(pairs) and done["changed"] == done["alone"] == 0
    left = {str(file.relative_to(photos)) for file in photos.rglob("*.jpg")}
    assert left == {str(one) for one in before} - dropped
    again = client.post("/api/aside", json={"images": pairs}).json()
    assert again["done"] == 0 and again["gone"] == len(pairs) and again["name"] is None
    listed = client.get("/api/aside").json()
    assert listed == {
        "allows_changes": True,
        "aside": [{"name": done["name"], "images": len(pairs)}],
    }
    back = client.post(f"/api/aside/{done['name']}/undo")
    assert back.json() == {"restored": len(pairs)}
    assert {file.relative_to(photos) for file in photos.rglob("*.jpg")} == before
    assert client.get("/api/aside").json()["aside"] == []
    assert client.post(f"/api/aside/{done['name']}/undo").status_code == 404
    assert not twice.path.with_name("cars.index.aside").exists()


def test_one_image_without_another_to_keep(client: TestClient, twice: Index) -> None:
    photos = Path(twice._table.source.root)
    image = client.get("/api/images/50").json()
    done = client.post("/api/aside", json={"images": [{"id": 50}]}).json()
    assert done["done"] == 1 and not (photos / image["path"]).exists()
    client.post(f"/api/aside/{done['name']}/undo")
    file = photos / image["path"]
    content, status = file.read_bytes(), file.stat()
    file.write_bytes(b"another picture")
    changed = client.post("/api/aside", json={"images": [{"id": 50}]}).json()
    assert changed["done"] == 0 and changed["changed"] == 1 and file.exists()
    file.write_bytes(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "none"}, 403),
        ({"origin": "http://localhost:81"}, 403),
        ({"origin": "null"}, 403),
        ({"content-type": "text/plain"}, 415),
    ],
)
def test_pages_of_others_change_nothing(
    client: TestClient, headers: dict[str, str], status: int
) -> None:
    body = b'{"images": [{"id": 50}]}'
    sent = {"content-type": "application/json", **headers}
    answer = client.post("/api/aside", content=body, headers=sent)
    assert answer.status_code in (status, 422) and "error" in answer.json()
    if status == 403:
        assert client.post("/api/aside/20260101-000000/undo", headers=headers).status_code == 403
    assert client.get("/api/aside").json()["aside"] == []


def test_nothing_changes_without_the_option(twice: Index) -> None:
    with TestClient(create_app(twice), base_url="http://localhost") as client:
        assert not client.get("/api/info").json()["allows_changes"]
        for path in ("/api/aside", "/api/aside/20260101-000000/undo"):
            answer = client.post(path, json={"images": [{"id": 50}]})
            assert answer.status_code == 403 and "--allow-changes" in answer.json()["error"]


def test_a_large_index_is_left_to_the_command_line(
    twice: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lookalike.server.groups.MAX_ROWS", 10)
    with TestClient(create_app(twice), base_url="http://localhost") as client:
        answer = client.get("/api/clusters")
        assert answer.status_code == 409 and "lookalike clusters INDEX" in answer.json()["error"]


def test_a_body_that_is_no_text(client: TestClient) -> None:
    sent = {"content-type": "application/json"}
    answer = client.post("/api/aside", content=b"r\x1a@IL\xbd\x1e]", headers=sent)
    assert answer.status_code == 400
    assert answer.json() == {"error": "the body is no JSON: send an object, in UTF-8"}
