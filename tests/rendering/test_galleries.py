"""Galleries of groups and sheets of pairs: what they show, and that they are whole and safe."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from helpers.pages import Page, extent, pixels
from helpers.rights import without_rights
from lookalike import Index, LookalikeError, images
from lookalike.images.synthetic import DrawnCollection
from lookalike.rendering import (
    SAME_LABEL,
    Card,
    Group,
    Pairs,
    Part,
    pair_sheet,
    write_gallery,
    write_parts,
)
from lookalike.rendering.contact_sheet import NEIGHBOR, RULE, WELL
from lookalike.rendering.gallery import THUMBNAILS_AHEAD
from lookalike.rendering.thumbnails import MAX_SIDE
from lookalike.rendering.tile import GONE, Tile

PURPLE, ORANGE = (120, 40, 200), (250, 140, 20)
EVIL = "<script>alert(1)</script>"


@pytest.fixture
def source(drawn: DrawnCollection) -> images.Source:
    return images.locate(drawn.photos)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no browser is at hand: install chromium")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield started
        started.close()


def page_of(folder: Path) -> Page:
    return Page((folder / "index.html").read_text(encoding="utf-8"))


def attributes(page: Page, tag: str, name: str) -> list[str | None]:
    return [found[name] for kind, found in page.found if kind == tag and name in found]


def test_a_gallery_shows_groups_with_their_pictures(source: images.Source, tmp_path: Path) -> None:
    groups = [
        Group(
            "Group 1",
            "0.12 apart at most",
            [Card("00001.jpg", mark="keep", label="red sedan"), Card("00002.jpg", "0.120", "drop")],
        ),
        Group("Group 2", "", [Card("00001.jpg"), Card("00003.jpg", "0.300", "same bytes")], 1234),
    ]
    folder = tmp_path / "new" / "gallery"
    assert write_gallery(folder, "Duplicates", "4 images", iter(groups), source) == 2
    page = page_of(folder)
    for text in ("Duplicates", "4 images", "Group 1", "0.12 apart at most", "✓ keep", "drop"):
        assert text in page.texts
    for text in ("red sedan", "0.120", "Group 2", "same bytes", "0.300", "and 1,234 more"):
        assert text in page.texts
    # An image with two cards has one picture.
    shown = attributes(page, "img", "src")
    assert len(shown) == 4 and shown[0] == shown[2]
    assert sorted(set(map(str, shown))) == [f"pictures/{path.name}" for path in thumbnails(folder)]
    for path in thumbnails(folder):
        with Image.open(path) as picture:
            assert picture.format == "JPEG" and max(picture.size) <= MAX_SIDE
    assert attributes(page, "img", "loading") == ["lazy"] * 4
    assert attributes(page, "img", "alt")[:2] == ["keep: red sedan", "drop: 00002.jpg"]


def thumbnails(folder: Path) -> list[Path]:
    return sorted((folder / "pictures").iterdir())


def test_a_gallery_needs_nothing_but_its_folder(source: images.Source, tmp_path: Path) -> None:
    write_gallery(tmp_path / "out", "T", "", [Group("G", "", [Card("00001.jpg")])], source)
    text = (tmp_path / "out" / "index.html").read_text()
    assert not re.search(r"https?:|<script|<link|@import|url\(|file:", text)
    assert "prefers-color-scheme: dark" in text
    page = page_of(tmp_path / "out")
    assert [tag for tag, _ in page.found if tag in ("h1", "h2", "main", "header")] == [
        "header",
        "h1",
        "main",
        "h2",
    ]
    # Each group is named by its heading, and each heading by an anchor that leads there.
    (named,) = attributes(page, "div", "aria-labelledby")
    assert named in attributes(page, "h2", "id")
    assert attributes(page, "a", "href") == [f"#{attributes(page, 'div', 'id')[0]}"]


def test_names_and_texts_stay_texts(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    names = [f"a {EVIL[:8]}.jpg".encode(), b"q\"u'o&te.png", b"new\nline.png", b"\xff\xfe.png"]
    for name in names:
        Image.new("RGB", (40, 30), ORANGE).save(tmp_path / "one.png")
        os.rename(tmp_path / "one.png", os.fsencode(photos) + b"/" + name)
    source = images.locate(photos)
    paths = [found.path for found in images.walk(source)]
    assert len(paths) == 4
    cards = [Card(path, EVIL, f'"{EVIL}', "Citroën \u202e & \ud800\n<b>") for path in paths]
    folder = tmp_path / "gallery"
    write_gallery(folder, EVIL, EVIL, [Group(EVIL, "\x00" + EVIL, cards)], source)
    page = page_of(folder)  # insists that all tags close in turn
    assert not {tag for tag, _ in page.found} & {"script", "b"}
    assert len(thumbnails(folder)) == 4  # all of them were read
    assert all(re.fullmatch(r"\d+\.jpg", path.name) for path in thumbnails(folder))
    assert "\x00" not in (folder / "index.html").read_text()
    assert "new%0Aline.png" in page.texts and "%FF%FE.png" in page.texts


def test_what_is_gone_or_no_picture_has_a_well(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "text.jpg").write_text("no picture")
    Image.new("RGB", (40, 30)).save(tmp_path / "secret.png")
    cards = [Card("gone.jpg"), Card("text.jpg"), Card("../secret.png"), Card("a/../../secret.png")]
    source = images.locate(photos)
    write_gallery(tmp_path / "out", "T", "", [Group("G", "", cards)], source)
    page = page_of(tmp_path / "out")
    assert page.texts.count(GONE) == 4
    assert "image: gone.jpg, file is gone" in attributes(page, "div", "aria-label")
    assert "no such file" in attributes(page, "div", "title")
    assert thumbnails(tmp_path / "out") == []


def test_groups_are_taken_as_they_are_written(source: images.Source, tmp_path: Path) -> None:
    asked: list[Card] = []

    def groups() -> Iterator[Group]:
        for number in range(3):
            written = (tmp_path / "out" / "index.html").read_text()
            assert len(asked) - written.count("<li>") <= 2 * THUMBNAILS_AHEAD
            cards = [Card(f"{number + 1:05}.jpg")] * 1000
            asked.extend(cards)
            yield Group("G", "", cards)

    assert write_gallery(tmp_path / "out", "T", "", groups(), source) == 3
    assert len(thumbnails(tmp_path / "out")) == 3


def test_parts_have_links_to_them_and_what_is_in_them_belongs_to_it(
    source: images.Source, tmp_path: Path
) -> None:
    line = Group("like 1", "", [Card("00001.jpg"), Card("00002.jpg", "0.123", SAME_LABEL, "sedan")])
    parts = [
        Part("lines", "Some lines", "a note", [line, line], "lines"),
        Part("heap", "A heap", "", [Group("", "", [Card("00001.jpg")])], "heap"),
    ]
    assert write_parts(tmp_path / "out", "T", "N", parts, source) == 3
    page = page_of(tmp_path / "out")
    assert attributes(page, "a", "href")[:2] == ["#lines", "#heap"]
    assert attributes(page, "section", "id") == ["lines", "heap"]
    assert attributes(page, "section", "aria-labelledby") == attributes(page, "h2", "id")
    assert attributes(page, "div", "aria-labelledby") == attributes(page, "h3", "id")
    for text in ("Lines", "Heap", "Some lines", "A heap", "a note", "like 1", "✓", "0.123"):
        assert text in page.texts
    assert "same label: sedan" in attributes(page, "img", "alt")
    assert len(thumbnails(tmp_path / "out")) == 2


@pytest.fixture(scope="module")
def gallery(index: Index, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("gallery") / "out"
    return index.gallery(out, shown=8, spark=False).folder


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (360, "dark"),
        (1280, "light"),
        *(pytest.param(*one, marks=pytest.mark.long) for one in [(360, "light"), (1280, "dark")]),
    ],
)
def test_a_browser_shows_a_gallery_from_the_disk(
    width: int, scheme: Literal["light", "dark"], browser: Browser, gallery: Path
) -> None:
    context = browser.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme, offline=True
    )
    page = context.new_page()
    failed: list[str] = []
    page.on("requestfailed", lambda request: failed.append(request.url))
    page.goto((gallery / "index.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == width
    links = page.locator("nav a")
    assert links.count() == 5
    for at in range(5):
        links.nth(at).click()
        name = links.nth(at).get_attribute("href")
        assert page.locator(f"{name} h2").bounding_box()["y"] > 0  # type: ignore[index]
    assert failed == []
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 22, 24)"}[scheme]
    assert [one["id"] for one in Axe().run(page).response["violations"]] == []
    context.close()


def test_no_groups_are_said_to_be_none(source: images.Source, tmp_path: Path) -> None:
    assert write_gallery(tmp_path / "out", "T", "", [], source) == 0
    assert "There is nothing to show." in page_of(tmp_path / "out").texts


def test_a_folder_that_is_read_only_is_one_line(source: images.Source, folder_of_all: Path) -> None:
    with without_rights(), pytest.raises(LookalikeError, match="cannot be written to"):
        write_gallery(folder_of_all / "out", "T", "", [], source)


def test_a_sheet_shows_pairs_side_by_side() -> None:
    def tile(color: tuple[int, int, int], distance: float | None = None) -> Tile:
        return Tile(Image.new("RGB", (320, 240), color), "red sedan", "1.jpg", distance)

    pair = (tile(PURPLE), tile(ORANGE, 0.25))
    one = pair_sheet([Pairs("within 0.30", [pair])])
    left, right = extent(one, PURPLE), extent(one, ORANGE)
    assert left[2] - left[0] == right[2] - right[0] == NEIGHBOR[0]
    assert left[1] == right[1] and 0 < right[0] - left[2] < 20
    four = pair_sheet([Pairs("within 0.30", [pair] * 3), Pairs("within 0.40", [pair])])
    assert pixels(four, PURPLE) == 4 * pixels(one, PURPLE)
    # A rule under each heading, as wide as the sheet; the texts change with the captions.
    assert len(np.unique(np.nonzero((np.asarray(four) == RULE).all(axis=2))[0])) == 2 * 2
    other = pair_sheet([Pairs("within 0.30", [pair], ["0.999"])])
    assert other.size == one.size and other.tobytes() != one.tobytes()


def test_a_sheet_takes_what_is_gone_long_or_nothing() -> None:
    gone = Tile(None, None, "a very long name " * 20)
    sheet = pair_sheet([Pairs("head " * 100, [(gone, gone)], ["caption " * 100], "note " * 100)])
    assert pixels(sheet, WELL) > NEIGHBOR[0] * NEIGHBOR[1]
    assert pair_sheet([]).size > (0, 0)
    assert pair_sheet([Pairs("nothing", [])]).width > 100
    with pytest.raises(ValueError, match="columns"):
        pair_sheet([], columns=0)
