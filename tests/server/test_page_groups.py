"""Duplicates, clusters and outliers on the page; images set aside and put back."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from helpers.servers import CHROMIUM, serving
from helpers.twice import with_copies
from helpers.web_page import PHONE, Visit, neighbors, violations, wall
from lookalike import Index
from lookalike.analysis.groups import make_groups
from lookalike.images.synthetic import DrawnCollection
from lookalike.server import Access, create_app

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium here to look at the page with")


@pytest.fixture(scope="module")
def twice(index: Index, drawn: DrawnCollection, tmp_path_factory: pytest.TempPathFactory) -> Index:
    return with_copies(index, drawn, tmp_path_factory.mktemp("twice"))


@pytest.fixture(scope="module")
def address(twice: Index) -> Iterator[str]:
    with serving(create_app(twice, access=Access(changes=True))) as address:
        yield address


def test_what_is_being_found_says_how_far_it_is(visit: Visit) -> None:
    page = visit("?view=clusters", wrong="503")
    wait = page.locator("#groups-wait")
    page.route(
        "**/api/outliers",
        lambda route: route.fulfill(
            status=202, json={"progress": 0.4, "doing": "comparing images"}
        ),
    )
    page.get_by_role("link", name="Outliers").click()
    expect(wait).to_contain_text("Finding outliers: comparing images 40 %")
    expect(page.get_by_role("link", name="Outliers")).to_have_attribute("aria-current", "page")
    page.unroute("**/api/outliers")
    page.route(
        "**/api/outliers",
        lambda route: route.fulfill(
            status=503, json={"error": "no outliers could be found: see the log"}
        ),
    )
    expect(wait).to_contain_text("No outliers could be found")
    page.go_back()
    expect(page.locator("#groups-title")).to_contain_text("Clusters")


@pytest.mark.long  # half a minute: pixels are compared
def test_duplicates_are_set_aside_and_put_back(visit: Visit, twice: Index) -> None:
    make_groups(twice._table, "duplicates")
    photos = Path(twice._table.source.root)
    before = {file.relative_to(photos) for file in photos.rglob("*.jpg")}
    page = visit("?view=duplicates")
    groups = page.locator("#groups-list .group")
    expect(groups.first).to_be_visible()
    number = page.locator("[data-drop]:checked").count()
    bar = page.get_by_role("region", name="Clean up")
    expect(bar).to_contain_text(f"{number} pictures to set aside")
    assert violations(page, {}) == []
    # Another one of a group is kept instead.
    group = groups.filter(has_text="00003.jpg")
    other = group.get_by_role("radio", checked=False).first
    other.check()
    expect(bar).to_contain_text(f"{number} pictures to set aside")
    kept = group.locator("li", has=page.get_by_role("radio", checked=True)).locator("a.card")
    path = kept.get_attribute("title") or "none"
    page.get_by_role("button", name="Set aside", exact=True).click()
    expect(page.locator("#toast")).to_contain_text(f"{number} pictures set aside")
    after = {file.relative_to(photos) for file in photos.rglob("*.jpg")}
    assert len(before - after) == number and Path(path) in after
    expect(bar).to_contain_text("0 pictures to set aside")
    page.reload()
    expect(page.locator(".group li.aside")).to_have_count(number)
    page.get_by_role("button", name=f"Put {number} pictures back").click()
    expect(page.locator("#toast")).to_contain_text(f"{number} pictures put back")
    assert {file.relative_to(photos) for file in photos.rglob("*.jpg")} == before
    expect(page.locator(".group li.aside")).to_have_count(0)


@pytest.mark.long  # a quarter of a minute: clusters and outliers are found
def test_clusters_and_outliers(visit: Visit, twice: Index) -> None:
    make_groups(twice._table, "clusters")
    make_groups(twice._table, "outliers")
    page = visit("?view=clusters")
    first = page.locator("#groups-list .group a.card").first
    expect(first).to_be_visible()
    expect(page.locator("#groups-summary")).to_contain_text("cluster")
    assert violations(page, {}) == []
    name = first.locator("img").get_attribute("alt") or "none"
    first.click()
    neighbors(page, name)
    page.go_back()
    expect(first).to_be_visible()
    page.get_by_role("link", name="Outliers").click()
    cards = page.locator("#groups-list a.card")
    expect(cards).to_have_count(60)
    page.get_by_role("button", name="Show more").click()
    expect(cards).to_have_count(99)
    assert violations(page, {}) == []
    phone = visit("?view=clusters", viewport=PHONE, is_mobile=True, has_touch=True)
    expect(phone.locator("#groups-list .group").first).to_be_visible()
    assert phone.evaluate("document.documentElement.scrollWidth") == 360


@pytest.mark.long  # 5 CPU seconds of a browser
def test_selected_pictures_are_set_aside(visit: Visit, twice: Index) -> None:
    page = visit()
    wall(page)
    photos = Path(twice._table.source.root)
    before = sum(1 for _ in photos.rglob("*.jpg"))
    page.locator("#wall [data-pick]").first.check(force=True)
    page.get_by_role("button", name="Set aside …").click()
    expect(page.locator("#toast")).to_contain_text("1 picture set aside")
    expect(page.get_by_role("region", name="Selected pictures")).to_be_hidden()
    assert sum(1 for _ in photos.rglob("*.jpg")) == before - 1
    name = page.request.get(f"{page.url.partition('?')[0]}api/aside").json()["aside"][0]["name"]
    page.request.post(f"{page.url.partition('?')[0]}api/aside/{name}/undo")
    assert sum(1 for _ in photos.rglob("*.jpg")) == before
