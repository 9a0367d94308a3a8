"""What can be done with pictures on the page: names, files, paths, lists, parts."""

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from helpers.servers import CHROMIUM, serving
from helpers.web_page import PHONE, Visit, neighbors, violations, wall
from lookalike import Index
from lookalike.images.synthetic import DrawnCollection
from lookalike.server import Access, create_app

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium here to look at the page with")


@pytest.fixture(scope="module")
def address(index: Index) -> Iterator[str]:
    with serving(create_app(index, access=Access(originals=True))) as address:
        yield address


def saved(page: Page, button: str) -> tuple[str, bytes]:
    """The name and the content of what a button saves."""
    with page.expect_download() as waiting:
        page.get_by_role("button", name=button).click()
    return waiting.value.suggested_filename, Path(waiting.value.path()).read_bytes()


def test_tiles_fill_their_rows_and_say_names(visit: Visit) -> None:
    page = visit("?image=5", viewport={"width": 1440, "height": 900})
    cards = neighbors(page, "00006.jpg")
    assert cards.first.locator(".file").text_content() == cards.first.locator("img").get_attribute(
        "alt"
    )
    boxes = page.locator("#neighbors > li .well").evaluate_all(
        "wells => wells.map((well) => well.getBoundingClientRect().toJSON())"
    )
    top = [box for box in boxes if abs(box["top"] - boxes[0]["top"]) < 2]
    assert 2 <= len(top) < len(boxes)
    assert max(box["height"] for box in top) - min(box["height"] for box in top) < 2
    right = page.locator("#neighbors").evaluate("list => list.getBoundingClientRect().right")
    assert top[-1]["right"] == pytest.approx(right, abs=2)
    assert boxes[-1]["height"] < 1.5 * top[0]["height"]  # the last row too


def test_open_download_and_copy_the_path(
    visit: Visit, drawn: DrawnCollection, address: str
) -> None:
    page = visit("?image=5", permissions=["clipboard-read", "clipboard-write"])
    cards = neighbors(page, "00006.jpg")
    path = cards.nth(1).get_attribute("title") or "none"
    more = page.get_by_role("button", name=f"More for {Path(path).name}")
    cards.nth(1).hover()
    more.click()
    items = page.get_by_role("menu").get_by_role("menuitem")
    expect(items.first).to_be_focused()
    assert violations(page, {}) == []
    page.keyboard.press("Escape")
    expect(more).to_be_focused()
    page.keyboard.press("Enter")
    with page.expect_download() as waiting:
        page.get_by_role("menuitem", name="Download the original").click()
    assert waiting.value.suggested_filename == Path(path).name
    assert Path(waiting.value.path()).read_bytes() == (drawn.photos / path).read_bytes()
    more.click()
    page.get_by_role("menuitem", name="Copy the path").click()
    expect(page.locator("#toast")).to_have_text("The path is copied")
    assert page.evaluate("navigator.clipboard.readText()") == path
    page.get_by_role("button", name="More for the query").click()
    with page.context.expect_page() as opened:
        page.get_by_role("menuitem", name="Open large").click()
    assert re.search(r"/api/images/5/picture\?size=1280", opened.value.url)


def test_select_many_and_save_the_list(visit: Visit) -> None:
    page = visit()
    names = wall(page).evaluate_all("links => links.map((link) => link.title)")
    bar = page.get_by_role("region", name="Selected pictures")
    expect(bar).to_be_hidden()
    boxes = page.locator("#wall [data-pick]")
    boxes.nth(1).check(force=True)
    boxes.nth(4).click(modifiers=["Shift"], force=True)
    expect(bar).to_contain_text("4 pictures selected")
    assert violations(page, {}) == []
    name, content = saved(page, "Save as CSV")
    rows = list(csv.DictReader(io.StringIO(content.decode())))
    assert name == "cars-selection.csv" and [row["path"] for row in rows] == names[1:5]
    page.locator("#wall a.card").nth(2).focus()
    page.keyboard.press("x")
    expect(bar).to_contain_text("3 pictures selected")
    page.reload()  # the tab remembers them
    expect(bar).to_contain_text("3 pictures selected")
    name, content = saved(page, "Save as JSON")
    images = json.loads(content)["images"]
    assert [image["path"] for image in images] == [names[1], names[3], names[4]]
    assert all(image["label"] for image in images)
    page.get_by_role("button", name="Clear").click()
    expect(bar).to_be_hidden()
    text = (
        "import('./page/select.js').then(({csvOf}) => csvOf([{id: 1, key: null, path: '=1+1,x'}]))"
    )
    assert page.evaluate(text) == 'id,path,label,width,height\r\n1,"\'=1+1,x",,,\r\n'


@pytest.mark.long  # 5 CPU seconds of a browser
def test_a_phone_is_spoken_to_of_fingers(visit: Visit) -> None:
    page = visit("", viewport=PHONE, is_mobile=True, has_touch=True)
    wall(page)
    expect(page.get_by_text("tap any picture below")).to_be_visible()
    expect(page.get_by_text("Drop a photo anywhere")).to_be_hidden()
    page.locator("#wall .pick").first.tap()
    expect(page.locator("#selected")).to_have_text("1 picture selected")
    page.locator("#wall .more").first.tap()
    expect(page.get_by_role("menu")).to_be_in_viewport()
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_a_box_searches_for_a_part(visit: Visit) -> None:
    page = visit("?image=5")
    whole = [card.get_attribute("title") for card in neighbors(page, "00006.jpg").all()]
    page.get_by_role("button", name="More for the query").click()
    page.get_by_role("menuitem", name="Search for a part").click()
    dialog = page.get_by_role("dialog")
    box = page.locator("#part-box")
    expect(box).to_be_focused()
    expect(box).to_have_attribute("aria-label", re.compile("25 % from the left"))
    area = page.locator("#part-area").bounding_box()
    assert area
    middle = area["x"] + area["width"] / 2, area["y"] + area["height"] / 2
    page.mouse.move(middle[0] - 20, area["y"] + 6)  # above the box: draws another
    page.mouse.down()
    page.mouse.move(middle[0] + 60, area["y"] + 60)
    page.mouse.move(*middle)
    page.mouse.up()
    before = box.get_attribute("aria-label")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowDown")
    assert box.get_attribute("aria-label") != before
    assert violations(page, {}) == []
    page.keyboard.press("Enter")
    expect(dialog).to_be_hidden()
    cards = neighbors(page, "a part of 00006.jpg")
    assert re.search(r"image=5&box=0\.\d+(%2C|,)", page.url)
    assert [card.get_attribute("title") for card in cards.all()] != whole
    expect(page.locator("#query-box")).to_be_visible()
    page.reload()  # the address says it all
    neighbors(page, "a part of 00006.jpg")
    page.go_back()
    neighbors(page, "00006.jpg")
    expect(page.locator("#query-box")).to_be_hidden()
