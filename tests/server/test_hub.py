"""Several indexes behind one server, and a server below a prefix of a proxy."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from playwright.sync_api import expect
from starlette.types import ASGIApp, Receive, Scope, Send

from helpers.servers import CHROMIUM, serving
from helpers.web_page import Visit, map_of, neighbors, violations, wall
from lookalike import Index
from lookalike.server import Access, create_app

with_browser = pytest.mark.skipif(not CHROMIUM, reason="no Chromium here to look at the page with")


@pytest.fixture(scope="module")
def both(index: Index, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two indexes of the same name in different folders."""
    other = tmp_path_factory.mktemp("other") / "cars.index"
    shutil.copytree(index.path, other)
    return [index.path, other]


def below(prefix: str, app: ASGIApp) -> ASGIApp:
    """A proxy that removes a prefix, as nginx does with `proxy_pass http://.../`."""

    async def proxy(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if not scope["path"].startswith(prefix):
                scope = {**scope, "path": "/outside"}
            else:
                scope = {**scope, "path": "/" + scope["path"].removeprefix(prefix)}
        await app(scope, receive, send)

    return proxy


@pytest.fixture(scope="module")
def address(both: list[Path]) -> Iterator[str]:
    with serving(below("/pictures/", create_app(both, access=Access(originals=True)))) as address:
        yield f"{address}pictures/"


def test_each_index_has_its_addresses(both: list[Path]) -> None:
    app = create_app(both, token="s3cret")
    with TestClient(app, base_url="http://localhost") as client:
        assert client.get("/").status_code == 401
        assert client.get("/healthz").json() == {"status": "ok"}
        client.headers["authorization"] = "Bearer s3cret"
        listed = client.get("/api/indexes").json()["indexes"]
        assert [one["address"] for one in listed] == ["cars.index/", "cars.index-2/"]
        assert [one["images"] for one in listed] == [96, 96]
        for one in listed:
            info = client.get(f"/{one['address']}api/info").json()
            assert [other["name"] for other in info["indexes"]] == ["cars.index", "cars.index-2"]
            assert info["indexes"][1]["address"] == "../cars.index-2/"
            found = client.get(f"/{one['address']}api/search?image=5&k=3").json()
            picture = client.get(f"/{one['address']}{found['neighbors'][0]['thumbnail']}")
            assert picture.headers["content-type"] == "image/jpeg"
            assert "default-src 'none'" in picture.headers["content-security-policy"]
            assert "lookalike_images 96.0" in client.get(f"/{one['address']}metrics").text
        moved = client.get("/cars.index", follow_redirects=False)
        assert moved.status_code == 308 and moved.headers["location"] == "cars.index/"
        assert client.get("/nowhere/api/info").status_code == 404
        assert client.get("/api/info").status_code == 404
        assert 'status="401"' in client.get("/metrics").text


def test_one_index_names_no_others(index: Index) -> None:
    with TestClient(create_app([index]), base_url="http://localhost") as client:
        assert client.get("/api/info").json()["indexes"] == []


@with_browser
def test_two_indexes_below_a_prefix(visit: Visit, address: str) -> None:
    page = visit()
    links = page.locator("#indexes a")
    expect(links).to_have_count(2)
    expect(links.first.locator("img")).to_have_count(4)
    assert violations(page, {}) == []
    links.nth(1).click()
    wall(page).first.click()
    cards = neighbors(page)
    assert page.url.startswith(f"{address}cars.index-2/?image=")
    assert cards.first.locator("img").evaluate("img => img.decode().then(() => img.naturalWidth)")
    page.keyboard.press("m")
    map_of(page)
    page.locator("#indexes").select_option("cars.index")
    wall(page)
    assert page.url == f"{address}cars.index/"
    expect(page.locator("#trail")).to_be_hidden()  # the queries were to the other one
    assert violations(page, {}) == []
