"""The page of `lookalike serve`, in a real browser."""

import io
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, Route, expect

from helpers.servers import CHROMIUM, serving
from helpers.web_page import (
    PHONE,
    Visit,
    give,
    map_of,
    neighbors,
    new_photo,
    query_of,
    violations,
    wall,
)
from lookalike import Index
from lookalike.images.synthetic import DrawnCollection
from lookalike.server import Limits, create_app

LIMITS = Limits(bytes=2_000_000)

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium here to look at the page with")


@pytest.fixture(scope="module")
def address(index: Index) -> Iterator[str]:
    """Where the server listens."""
    with serving(create_app(index, limits=LIMITS)) as address:
        yield address


def test_a_wall_of_the_collection_invites(visit: Visit, screenshots: Path) -> None:
    page = visit()
    first = wall(page)
    assert first.count() == 48
    expect(page.locator("h1:visible")).to_have_text("Find pictures that look alike")
    expect(page.locator("#collection")).to_have_text("cars.index · 96 images")
    before = first.evaluate_all("links => links.map((link) => link.href)")
    page.reload()
    assert wall(page).evaluate_all("links => links.map((link) => link.href)") == before
    page.get_by_role("button", name="Other pictures").click()
    expect(page).to_have_url(re.compile("seed="))
    assert wall(page).evaluate_all("links => links.map((link) => link.href)") != before
    page.go_back()
    expect(wall(page).first).to_have_attribute("href", before[0].replace(page.url, ""))
    wall(page).first.click()
    neighbors(page)
    page.locator(".brand").click()
    after = wall(page).evaluate_all("links => links.map((link) => link.href)")
    page.reload()
    assert wall(page).evaluate_all("links => links.map((link) => link.href)") == after
    page.screenshot(path=screenshots / "start.png")


def test_a_click_leads_on_and_back_leads_back(visit: Visit, screenshots: Path) -> None:
    page = visit("?image=5")
    cards = neighbors(page, "00006.jpg")
    expect(page.locator("#how")).to_contain_text("Compared with all 96 images: nothing is missed")
    expect(page.locator("#summary")).to_have_text(re.compile(r"^\d+ of 24 with this label$"))
    band = "((same photo|close|similar|weak), )?"  # as soon as the limits are measured
    expect(page.locator("#said")).to_have_text(
        re.compile(rf"^24 look-alikes of 00006\.jpg, nearest {band}0\.\d{{3}}$")
    )
    same = page.locator("#neighbors .same").count()
    assert page.locator("#summary").text_content() == f"{same} of 24 with this label"
    far = [text.split()[-1] for text in page.locator("#neighbors .far").all_text_contents()]
    assert len(far) == 24 and far == sorted(far)
    page.screenshot(path=screenshots / "results.png")

    page.evaluate("window.same = true")
    last = cards.nth(23)
    last.scroll_into_view_if_needed()
    down = page.evaluate("scrollY")
    name = last.locator("img").get_attribute("alt")
    assert down > 100 and name
    last.click()
    neighbors(page, name)
    assert page.evaluate("[scrollY, document.activeElement.id]") == [0, "results-title"]
    expect(page.locator("#trail img")).to_have_attribute("alt", "Back to 00006.jpg")
    page.go_back()
    neighbors(page, "00006.jpg")
    assert query_of(page) == "image=5" and page.evaluate("scrollY") == down
    page.go_forward()
    neighbors(page, name)
    assert page.evaluate("window.same")  # the page was never loaded anew

    with page.context.expect_page() as opened:
        cards.first.click(modifiers=["Control"])
    neighbors(opened.value)


def test_a_photo_dropped_pasted_or_picked(visit: Visit, drawn: DrawnCollection) -> None:
    photo = new_photo(drawn)
    page = visit()
    wall(page)
    give(page, "dragover", photo.read_bytes(), photo.name, "image/jpeg")
    expect(page.locator("#drop")).to_be_visible()
    give(page, "drop", photo.read_bytes(), photo.name, "image/jpeg")
    expect(page.locator("#drop")).to_be_hidden()
    dropped = neighbors(page, "your photo").evaluate_all("links => links.map((link) => link.title)")
    key = query_of(page)
    assert key.startswith("upload=")

    page.reload()  # the server remembers it
    found = neighbors(page, "your photo").evaluate_all("links => links.map((link) => link.title)")
    assert found == dropped and query_of(page) == key
    page.locator("#k").select_option("12")
    neighbors(page, "your photo", 12)
    assert query_of(page) == f"{key}&k=12"

    give(page, "paste", photo.read_bytes(), "image.png", "image/png")
    expect(page).not_to_have_url(re.compile(key))
    neighbors(page, "your photo", 12)
    pasted = query_of(page)
    page.locator("#file").set_input_files(photo)
    expect(page).not_to_have_url(re.compile(re.escape(pasted)))
    neighbors(page, "your photo", 12)


@pytest.mark.long  # 5 CPU seconds of a browser
def test_large_photos_are_made_small_before_they_are_sent(visit: Visit, address: str) -> None:
    noise = Image.frombytes("RGB", (2000, 1000), os.urandom(6_000_000))
    sideways = Image.Exif()
    sideways[0x0112] = 6
    large = io.BytesIO()
    noise.save(large, "JPEG", exif=sideways)
    page = visit()
    wall(page)
    with page.expect_request(lambda sent: sent.method == "POST") as sent:
        give(page, "drop", large.getvalue(), "large.jpg", "image/jpeg")
    assert int(sent.value.all_headers()["content-length"]) < len(large.getvalue()) / 2
    neighbors(page, "your photo")
    key = query_of(page).removeprefix("upload=")
    kept = page.request.get(f"{address}api/uploads/{key}/picture?size=640").body()
    with Image.open(io.BytesIO(kept)) as small:
        assert small.size == (320, 640)  # upright
    page.evaluate("CanvasRenderingContext2D.prototype.getImageData = () => ({data: [7, 7, 7, 7]})")
    with page.expect_request(lambda sent: sent.method == "POST") as sent:
        give(page, "drop", large.getvalue(), "large.jpg", "image/jpeg")
    # A canvas that gives noise is not believed.
    assert int(sent.value.all_headers()["content-length"]) == len(large.getvalue())


def test_what_is_no_photo_is_answered_and_the_results_stay(visit: Visit) -> None:
    page = visit("?image=5", wrong="415")
    neighbors(page, "00006.jpg")
    alert = page.get_by_role("alert")
    give(page, "drop", b"no picture", "notes.jpg", "image/jpeg")
    expect(alert).to_contain_text("Cannot search with this image")
    neighbors(page, "00006.jpg")
    expect(page.locator("#query-link")).not_to_have_class(re.compile("gone"))
    assert query_of(page) == "image=5"
    give(page, "drop", bytes(3_000_000), "film.raw", "")
    expect(alert).to_contain_text("film.raw is 3.0 MB, at most 2.0 MB can be sent")
    neighbors(page, "00006.jpg")
    page.get_by_role("button", name="Close the message").click()
    expect(alert).to_be_empty()


@pytest.mark.long  # 5 CPU seconds of a browser
def test_an_upload_that_is_forgotten_is_asked_for_again(visit: Visit) -> None:
    page = visit("?upload=long-ago", wrong="404")
    expect(page.get_by_role("alert")).to_contain_text("send the image again")
    wall(page).first.click()
    neighbors(page)
    expect(page.get_by_role("alert")).to_be_empty()


@pytest.mark.long  # 5 CPU seconds of a browser
def test_a_server_that_is_gone_is_said_and_tried_again(visit: Visit) -> None:
    page = visit("?image=5", wrong="ERR_INTERNET_DISCONNECTED")
    cards = neighbors(page, "00006.jpg")
    page.context.set_offline(True)
    cards.first.click()
    expect(page.get_by_role("alert")).to_contain_text("The server does not answer")
    neighbors(page, "00006.jpg")
    page.context.set_offline(False)
    page.get_by_role("button", name="Try again").click()
    expect(page).not_to_have_url(re.compile("image=5$"))
    neighbors(page)


def test_filters_and_numbers(visit: Visit, screenshots: Path) -> None:
    page = visit("?image=5")
    neighbors(page, "00006.jpg")
    box = page.get_by_role("combobox", name="Only with label")
    box.click()
    options = page.get_by_role("option")
    expect(options.first).to_be_visible()
    label = options.nth(1).get_attribute("data-label")
    assert label
    box.fill(label[1:].upper())
    expect(options.filter(has_text=label)).to_have_count(1)
    box.fill(label)
    expect(options.first).to_have_attribute("aria-selected", "true")
    page.screenshot(path=screenshots / "filter.png")
    box.press("Enter")
    chip = page.get_by_role("button", name=f"Remove the filter {label}")
    expect(chip).to_be_visible()
    expect(page.locator("#how")).to_contain_text("that the filters leave in: nothing is missed")
    labels = page.locator("#neighbors .label").all_text_contents()
    assert labels and all(text.startswith(f"label {label}") for text in labels)
    assert "label=" in query_of(page)
    expect(box).to_be_focused()
    box.press("Backspace")
    expect(chip).to_be_hidden()
    neighbors(page, "00006.jpg")
    page.locator("#k").select_option("48")
    neighbors(page, "00006.jpg", 48)
    page.goto(page.url.partition("?")[0] + f"?label={label}")
    shown = wall(page).count()
    labels = page.locator("#wall .label").all_text_contents()
    assert 0 < shown < 48 and set(labels) == {f"label {label}"}


def slowly(route: Route) -> None:
    time.sleep(0.3)
    route.continue_()


@pytest.mark.long  # 5 CPU seconds of a browser
def test_the_second_of_two_clicks_is_for_nothing(visit: Visit) -> None:
    page = visit()
    wanted = wall(page).nth(7).get_attribute("href")
    wall(page).nth(7).dblclick(delay=120)
    neighbors(page)
    assert wanted == f"?{query_of(page)}"


@pytest.mark.long  # 5 CPU seconds of a browser
def test_places_are_kept_and_messages_seen_wherever_one_is(visit: Visit) -> None:
    page = visit("", wrong="415|ERR_FAILED")
    last = wall(page).nth(47)
    last.scroll_into_view_if_needed()
    down = page.evaluate("scrollY")
    give(page, "drop", b"no picture", "notes.jpg", "image/jpeg")
    expect(page.get_by_role("alert")).to_contain_text("notes.jpg: Cannot search with this image")
    expect(page.get_by_role("alert").locator("p")).to_be_in_viewport()
    assert page.evaluate("scrollY") == pytest.approx(down, abs=100)  # the message takes its room
    page.get_by_role("button", name="Close the message").click()
    down = page.evaluate("scrollY")
    page.route("**/api/search?*", slowly)
    last.click()
    neighbors(page)
    page.go_back()
    wall(page)
    assert page.evaluate("scrollY") == down


def test_who_types_fast_gets_what_was_typed(visit: Visit) -> None:
    page = visit("?image=5")
    neighbors(page, "00006.jpg")
    page.route("**/api/labels?*", slowly)
    box = page.get_by_role("combobox", name="Only with label")
    box.click()
    label = page.locator("#filter-list li").nth(2).get_attribute("data-label")
    assert label
    box.fill(label)
    box.dispatch_event("keydown", {"key": "Enter", "isComposing": True})  # it ends a word
    page.wait_for_timeout(500)
    assert query_of(page) == "image=5"
    box.fill(label)
    box.press("Enter")  # before the list is there
    expect(page.get_by_role("button", name=f"Remove the filter {label}")).to_be_visible()


@pytest.mark.long  # 5 CPU seconds of a browser
def test_two_pictures_side_by_side(visit: Visit, screenshots: Path) -> None:
    page = visit("?image=5")
    cards = neighbors(page, "00006.jpg")
    cards.nth(2).hover()
    page.get_by_role("button", name="Compare with number 3").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("heading")).to_have_text(
        re.compile(r"Number 3 of 24, (?:[a-z ]+, )?distance \d\.\d{3}")
    )
    page.keyboard.press("ArrowRight")
    expect(dialog.get_by_role("heading")).to_contain_text("Number 4 of 24")
    page.screenshot(path=screenshots / "compare.png")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(cards.nth(3)).to_be_focused()
    page.keyboard.press("c")
    expect(dialog.get_by_role("heading")).to_contain_text("Number 4 of 24")
    name = cards.nth(3).locator("img").get_attribute("alt")
    dialog.get_by_role("link", name="Search with this one").click()
    neighbors(page, name or "none")


def test_all_of_it_by_keyboard(visit: Visit) -> None:
    page = visit()
    wall(page)
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.matches('#wall a')"):
            break
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    name = page.evaluate("document.activeElement.querySelector('img').alt")
    page.keyboard.press("Enter")
    neighbors(page, name)
    expect(page.locator("#results-title")).to_be_focused()
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.matches('#neighbors a')"):
            break
    page.keyboard.press("ArrowRight")
    second = page.evaluate("document.activeElement.querySelector('img').alt")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    neighbors(page, second)
    page.keyboard.press("r")
    expect(page.locator("#results-title")).not_to_contain_text(second)
    neighbors(page)
    page.keyboard.press("/")
    expect(page.get_by_role("combobox", name="Only with label")).to_be_focused()
    page.keyboard.press("Escape")
    page.locator("#results-title").focus()
    page.keyboard.press("?")
    page.get_by_label("Enable single-letter keys").press("Space")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    page.keyboard.press("/")
    expect(page.get_by_role("combobox", name="Only with label")).not_to_be_focused()


@pytest.mark.long  # 5 CPU seconds of a browser
def test_it_says_what_a_search_may_have_missed(visit: Visit) -> None:
    page = visit()
    wall(page)

    def estimated(route: Route) -> None:
        answer = route.fetch().json()
        told = {"engine": "approximate", "compared": 2310, "images": 1_000_000, "recall": recall}
        route.fulfill(json={**answer, **told})

    page.route("**/api/search?*", estimated)
    recall: float | None = 0.984
    wall(page).first.click()
    neighbors(page)
    expect(page.locator("#how")).to_contain_text(
        "Compared with 2,310 of 1,000,000 images, those whose signatures are near; "
        "finds 98.4 % of the ten nearest, measured on this collection"
    )
    recall = None
    page.locator("#neighbors a.card").first.click()
    expect(page.locator("#how")).to_contain_text("has not been measured yet")


def test_the_map(visit: Visit, screenshots: Path) -> None:
    page = visit("?image=5")
    neighbors(page, "00006.jpg")
    page.get_by_role("link", name="Show on map").click()
    canvas = map_of(page)
    expect(page.locator("#map-state")).to_have_text("96 of 96 pictures in view")
    expect(page.locator("#legend")).to_contain_text("24 neighbours")
    box = canvas.bounding_box()
    assert box
    drawn = canvas.screenshot()
    assert len(Image.open(io.BytesIO(drawn)).convert("RGB").getcolors(1_000_000) or []) > 20
    page.screenshot(path=screenshots / "map.png")

    # Where the query is marked there is a picture.
    ring = page.locator("#map-over .marker").bounding_box()
    assert ring
    page.mouse.move(ring["x"] + ring["width"] / 2, ring["y"] + ring["height"] / 2)
    expect(page.locator("#map-tip")).to_contain_text(".jpg")
    assert page.locator("#map-tip img").evaluate("img => img.decode().then(() => img.naturalWidth)")

    page.locator("#legend button").first.click()
    expect(page.locator("#legend button").first).to_have_attribute("aria-pressed", "true")
    assert "label=" in query_of(page)
    page.locator("#legend button").first.click()
    for _ in range(4):
        page.get_by_role("button", name="Zoom in").click()
    expect(page.locator("#map-over img").first).to_be_visible()
    page.screenshot(path=screenshots / "map-near.png")
    page.get_by_role("button", name="Whole map").click()

    canvas.focus()
    page.keyboard.press("+")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#map-state")).to_contain_text("the cross")
    page.keyboard.press("0")
    page.mouse.wheel(0, -300)
    page.get_by_role("button", name="Go to the query").click()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(page.locator("#map-tip")).to_contain_text("00006.jpg")
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    neighbors(page, "00006.jpg")
    assert query_of(page) == "image=5"


@pytest.mark.long  # 5 CPU seconds of a browser
def test_the_start_page_says_what_there_is_now(visit: Visit) -> None:
    page = visit()
    wall(page)

    def grown(route: Route) -> None:
        route.fulfill(json={**route.fetch().json(), "version": 10**6, "images": 97})

    page.route("**/api/info", grown)
    page.get_by_role("button", name="Other pictures").click()
    expect(page.locator("#collection")).to_have_text("cars.index · 97 images")


def camera_of(page: Page) -> dict[str, float]:
    """Which part of the map is on the canvas."""
    found: dict[str, float] = page.evaluate("import('./page/camera.js').then((of) => of.camera)")
    return found


@pytest.mark.long  # 5 CPU seconds of a browser
def test_a_map_that_comes_slowly_is_listened_to_once(visit: Visit) -> None:
    page = visit()
    wall(page)
    page.route("**/page/map.js", slowly)
    for _ in range(3):
        page.keyboard.press("m")
    canvas = map_of(page)
    page.keyboard.down("m")  # and held
    page.keyboard.down("m")
    wall(page)
    page.keyboard.up("m")
    page.keyboard.press("m")
    map_of(page)
    page.get_by_role("button", name="Zoom in").click()
    assert camera_of(page)["zoom"] == pytest.approx(1.5)
    gesture = """canvas => {
        for (const [type, scale] of [["gesturestart", 1], ["gesturechange", 2]]) {
            const event = new Event(type, {cancelable: true});
            canvas.dispatchEvent(Object.assign(event, {scale, clientX: 500, clientY: 400}));
        }
    }"""
    canvas.evaluate(gesture)
    before = camera_of(page)
    assert before["zoom"] == pytest.approx(3)
    page.mouse.move(500, 400)
    page.mouse.down()
    canvas.dispatch_event("pointermove", {"pointerId": 1, "buttons": 0})  # it went up elsewhere
    page.mouse.move(600, 400)
    assert camera_of(page) == before
    page.mouse.up()


@pytest.mark.long  # 5 CPU seconds of a browser
def test_no_map_without_webgl(visit: Visit) -> None:
    page = visit()
    wall(page)
    page.evaluate("HTMLCanvasElement.prototype.getContext = () => null")
    page.keyboard.press("m")
    expect(page.locator("#map-wait")).to_contain_text("WebGL2, which this browser lacks")
    page.keyboard.press("m")
    wall(page)


@pytest.mark.long  # 5 CPU seconds of a browser
def test_light_dark_and_narrow(visit: Visit, screenshots: Path) -> None:
    back = "getComputedStyle(document.documentElement).backgroundColor"
    assert visit("?image=5", color_scheme="light").evaluate(back) == "rgb(250, 250, 248)"
    page = visit("?image=5", color_scheme="dark", viewport=PHONE, is_mobile=True, has_touch=True)
    assert page.evaluate(back) == "rgb(19, 19, 18)"
    neighbors(page, "00006.jpg")
    wide = "document.documentElement.scrollWidth"
    assert page.evaluate(wide) == 360
    page.screenshot(path=screenshots / "phone.png")
    expect(page.get_by_role("button", name="Take a photo").first).to_be_visible()
    page.locator("#neighbors .more").first.tap()
    page.get_by_role("menuitem", name="Compare with the query").tap()
    expect(page.get_by_role("dialog")).to_be_visible()
    page.screenshot(path=screenshots / "phone-compare.png")
    assert page.evaluate(wide) == 360
    page.keyboard.press("Escape")
    page.get_by_role("link", name="Map", exact=True).tap()
    map_of(page)
    assert page.evaluate(wide) == 360
    page.screenshot(path=screenshots / "phone-map.png")
    page.locator(".brand").tap()
    wall(page)
    assert page.evaluate(wide) == 360
    page.screenshot(path=screenshots / "phone-start.png")


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.long)])
def test_nobody_is_kept_out(visit: Visit, scheme: str) -> None:
    rules = {"runOnly": ["color-contrast"]} if scheme == "dark" else {}  # all else is the same
    page = visit("", color_scheme=scheme)
    wall(page)
    assert violations(page, rules) == []
    page.goto(page.url + "?image=5")
    cards = neighbors(page, "00006.jpg")
    page.locator(".honest summary").click()
    assert violations(page, rules) == []
    page.get_by_role("combobox", name="Only with label").click()
    expect(page.get_by_role("option").first).to_be_visible()
    assert violations(page, rules) == []
    cards.first.focus()
    page.keyboard.press("c")
    expect(page.get_by_role("dialog")).to_be_visible()
    assert violations(page, rules) == []
    page.keyboard.press("Escape")
    page.keyboard.press("m")
    map_of(page)
    assert violations(page, rules) == []
