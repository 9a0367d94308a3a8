"""The map of a large collection: pictures come as one zooms, and no view is empty."""

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from helpers.servers import CHROMIUM, serving
from helpers.web_page import Visit, map_of
from lookalike import Index
from lookalike.server import create_app

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium here to look at the page with")
POINTS = 100_000


@pytest.fixture(scope="module")
def address(index: Index) -> Iterator[str]:
    with serving(create_app(index)) as address:
        yield address


def heaps(info: dict[str, Any], points: int) -> str:
    """A map of many points in heaps; each has one of the few pictures that there are."""
    rng = random.Random(0)
    centres = [(rng.uniform(-0.8, 0.8), rng.uniform(-0.8, 0.8)) for _ in range(40)]
    places = [
        (x + rng.gauss(0, 0.05), y + rng.gauss(0, 0.05))
        for x, y in (centres[i % 40] for i in range(points))
    ]
    # As different ids, but of pictures that are there.
    columns = {
        "identity": info["identity"],
        "version": info["version"],
        "images": points,
        "ids": [i * 1000 + i % 96 for i in range(points)],
        "x": [round(max(-1, min(1, x)), 4) for x, _ in places],
        "y": [round(max(-1, min(1, y)), 4) for _, y in places],
        "label": [i % 40 for i in range(points)],
        "labels": [f"heap {i}" for i in range(40)],
    }
    return json.dumps(columns)


def pictures_of(page: Page, at_least: int = 1) -> list[str]:
    """The pictures on the map, once it stands still."""
    pictures = page.locator("#map-over img")
    expect(pictures.nth(at_least - 1)).to_be_visible()
    return [str(one) for one in pictures.evaluate_all("all => all.map((one) => one.src)")]


def of(route: Route) -> int:
    """The id of a picture that is there, for that of a point."""
    return int(route.request.url.split("/")[-2]) % 1000


@pytest.mark.parametrize("points", [2000, pytest.param(POINTS, marks=pytest.mark.long)])
def test_pictures_come_as_one_zooms(visit: Visit, address: str, points: int) -> None:
    page = visit("", wrong="404")
    info = page.request.get(f"{address}api/info").json()
    page.route("**/api/map", lambda route: route.fulfill(body=heaps(info, points)))
    page.route(
        "**/api/images/*/picture?size=160",
        lambda route: route.continue_(url=f"{address}api/images/{of(route)}/picture?size=160"),
    )
    page.keyboard.press("m")
    canvas = map_of(page)
    expect(page.locator("#map-state")).to_have_text(f"{points:,} of {points:,} pictures in view")
    assert page.locator("#map-over img").count() == 0
    for _ in range(2):
        page.get_by_role("button", name="Zoom in").click()
    far = pictures_of(page)
    assert 3 < len(far) < 120
    for _ in range(3):
        page.get_by_role("button", name="Zoom in").click()
    near = pictures_of(page)
    assert len(near) < 120 and page.evaluate(
        "document.querySelector('#map-over img').decode().then(() => true)"
    )
    assert set(near) != set(far)
    # However far one goes, something is in view.
    box = canvas.bounding_box()
    assert box
    for _ in range(6):
        page.mouse.move(box["x"] + 40, box["y"] + 40)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] - 40, box["y"] + box["height"] - 40, steps=3)
        page.mouse.up()
    page.mouse.wheel(0, -2000)
    page.wait_for_timeout(400)
    expect(page.locator("#map-state")).not_to_have_text("")
    state = page.locator("#map-state").text_content() or ""
    assert not state.startswith("0 ")
    pictures_of(page)
