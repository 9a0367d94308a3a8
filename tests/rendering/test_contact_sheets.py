"""The pictures of a search: what a sheet shows, and that its page is whole and safe."""

import base64
import dataclasses
import io
import itertools
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image

import lookalike
from helpers.pages import Page, extent, pixels
from lookalike.rendering import Tile, contact_sheet, html_page, html_row
from lookalike.rendering.contact_sheet import (
    GREEN,
    NEIGHBOR,
    NEIGHBOR_HEIGHTS,
    PAPER,
    QUERY,
    WELL,
    _name_lines,
)

BLANK = Image.new("RGB", NEIGHBOR, WELL)
PURPLE, ORANGE = (120, 40, 200), (250, 140, 20)


def tile(
    color: tuple[int, int, int] = ORANGE,
    label: str | None = "red sedan",
    name: str = "00001.jpg",
    distance: float | None = 0.25,
    size: tuple[int, int] = (320, 240),
) -> Tile:
    """Make a tile whose picture has one color."""
    return Tile(Image.new("RGB", size, color), label, name, distance)


QUERY_TILE = tile(PURPLE, distance=None)


def test_query_is_at_left_and_larger_than_its_neighbors() -> None:
    sheet = contact_sheet(QUERY_TILE, [tile()] * 5)
    query, found = extent(sheet, PURPLE), extent(sheet, ORANGE)
    assert 1600 <= sheet.width <= 1800
    assert query[2] - query[0] == QUERY[0] > NEIGHBOR[0]
    assert query[2] < found[0]
    assert found[3] - found[1] == NEIGHBOR[1], "five neighbors are one row"


@pytest.mark.parametrize(
    ("size", "height"),
    [((100, 400), 304), ((300, 400), 304), ((100, 100), 228), ((320, 240), 171), ((912, 40), 10)],
)
def test_a_picture_keeps_its_aspect(size: tuple[int, int], height: int) -> None:
    sheet = contact_sheet(QUERY_TILE, [tile(size=size)] * 3)
    found = extent(sheet, ORANGE)
    assert found[3] - found[1] == height
    width = min(NEIGHBOR[0], round(height * size[0] / size[1]))
    assert pixels(sheet, ORANGE) == 3 * height * width


def test_most_pictures_decide_the_frame() -> None:
    """One portrait among landscapes is framed, and the other way round."""
    wide, tall = tile(size=(400, 300)), tile(PURPLE, size=(300, 400))
    few, many = (contact_sheet(tile((9, 9, 9)), some) for some in ([wide] * 4 + [tall], [tall] * 5))
    assert extent(few, PURPLE)[3] - extent(few, PURPLE)[1] == NEIGHBOR[1]
    assert extent(many, PURPLE)[3] - extent(many, PURPLE)[1] == NEIGHBOR_HEIGHTS[1]


@pytest.mark.parametrize("size", [(300, 400), (100, 400), (400, 400), (400, 300), (400, 100)])
@pytest.mark.parametrize("other", [(300, 400), (400, 300)])
def test_a_tall_query_leaves_no_sheet_half_empty(
    size: tuple[int, int], other: tuple[int, int]
) -> None:
    """Below its neighbours less than a third of a sheet is empty."""
    sheet = contact_sheet(tile(PURPLE, size=size, label=None), [tile(size=other, label=None)] * 5)
    left = extent(sheet, ORANGE)[0]
    rows = [sheet.crop((left, y, sheet.width, y + 1)) for y in range(sheet.height)]
    used = max(y for y, row in enumerate(rows) if row.getcolors() != [(row.width, PAPER)])
    assert used > sheet.height * 2 / 3


def test_a_long_name_takes_two_lines_and_keeps_its_end() -> None:
    def height(name: str) -> int:
        return contact_sheet(tile(size=(400, 20)), [tile(name=name)] * 5).height

    one, two, more = (
        height("photo.jpg"),
        height("a_rather_long_name_of_a_photo.jpg"),
        height("w" * 99),
    )
    assert one < two == more
    assert _name_lines("photo.jpg", 228) == ["photo.jpg"]
    assert _name_lines("holiday_in_the_alps_0042.jpg", 228) == ["holiday_in_the_alps_", "0042.jpg"]
    first, last = _name_lines(f"{'holiday_' * 20}0042.jpg", 228)
    assert first.startswith("holiday_holiday_")
    assert last.endswith("0042.jpg")
    assert "…" in first + last


def test_twelve_neighbors_wrap_into_rows() -> None:
    one, three = (contact_sheet(QUERY_TILE, [tile()] * count) for count in (5, 12))
    found = extent(three, ORANGE)
    assert one.width == three.width
    middle = found[0] + NEIGHBOR[0] // 2
    column = [three.getpixel((middle, y)) == ORANGE for y in range(three.height)]
    starts = sum(here and not above for above, here in itertools.pairwise(column))
    assert starts == 3
    assert pixels(three, ORANGE) == 12 * NEIGHBOR[0] * NEIGHBOR[1]


@pytest.mark.parametrize("count", [1, 3])
def test_few_neighbors_make_a_narrow_sheet(count: int) -> None:
    sheet = contact_sheet(QUERY_TILE, [tile()] * count)
    assert sheet.width < contact_sheet(QUERY_TILE, [tile()] * (count + 1)).width
    assert pixels(sheet, ORANGE) == count * NEIGHBOR[0] * NEIGHBOR[1]


def test_columns_must_be_positive() -> None:
    with pytest.raises(ValueError, match="columns must be at least 1, not 0"):
        contact_sheet(QUERY_TILE, [tile()], columns=0)


def test_no_neighbors() -> None:
    sheet = contact_sheet(QUERY_TILE, [])
    assert pixels(sheet, PURPLE) == 400 * 300
    assert "no neighbours" in Page(html_page(QUERY_TILE, [])).texts


@pytest.mark.parametrize(
    ("mine", "theirs", "marked"),
    [("red", "red", True), ("red", "blue", False), (None, None, False), ("red", None, False)],
)
def test_the_same_label_is_marked(mine: str | None, theirs: str | None, marked: bool) -> None:
    query, neighbors = tile(PURPLE, mine), [tile(label=theirs), tile(label="other")]
    assert (pixels(contact_sheet(query, neighbors), GREEN) > 0) == marked
    texts = Page(html_row(query, neighbors)).texts
    assert ("✓ same" in texts) == marked
    assert ("✓ 1 of 2 with this label" in texts) == marked


def test_a_missing_picture_is_said_to_be_gone() -> None:
    gone = Tile(None, "red sedan", "gone.jpg", 0.5)
    nothing, well = (contact_sheet(QUERY_TILE, [Tile(of, "", "")]) for of in (None, BLANK))
    assert nothing.tobytes() != well.tobytes(), "something is written where the picture was"
    assert contact_sheet(gone, [gone]).size == contact_sheet(QUERY_TILE, [tile()]).size
    page = Page(html_page(gone, [gone]))
    assert page.all("img") == []
    assert page.texts.count("file is gone") == 2
    assert [well["aria-label"] for well in page.all("div") if "aria-label" in well] == [
        "query: red sedan, file is gone",
        "neighbour 1: red sedan, file is gone",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\t ",
        "日本 😀 Citroën",
        "\x00\udcff\ud83d",
        "word " * 500,
        "w" * 5000,
        "ش\u202eب",
        "&<>'\"",
    ],
)
def test_any_text_can_be_drawn_and_written(text: str) -> None:
    odd = tile(label=text, name=text)
    sheet = contact_sheet(odd, [odd, tile()])
    assert sheet.size[0] == contact_sheet(QUERY_TILE, [tile()] * 2).size[0]
    Page(html_page(odd, [odd, tile()], note=text)).close()
    html_page(odd, [odd], note=text).encode("utf-8")


def test_the_longest_label_sets_the_height_of_a_row() -> None:
    low = tile(size=(400, 20))
    short, long, longer = (
        contact_sheet(low, [tile(), tile(label="word " * count)]).height for count in (1, 9, 999)
    )
    assert short < long == longer, "a label takes two lines at most"


def test_accents_fall_back_to_their_letters() -> None:
    sheets = [
        contact_sheet(tile(label=text), []) for text in ("Citroën", "Citroe\u0308n", "Citroen")
    ]
    assert sheets[0].tobytes() == sheets[1].tobytes() == sheets[2].tobytes()


@pytest.mark.parametrize("size", [(1, 1), (5000, 1), (1, 5000)])
def test_extreme_pictures(size: tuple[int, int]) -> None:
    odd = tile(size=size)
    assert pixels(contact_sheet(odd, [odd]), ORANGE) > 0
    assert len(Page(html_row(odd, [odd])).all("img")) == 2


def test_the_page_holds_its_pictures() -> None:
    page = Page(html_page(QUERY_TILE, [tile(size=(1200, 900)), tile(size=(90, 90))]))
    images = page.all("img")
    assert [image["alt"] for image in images] == [
        "query: red sedan",
        "neighbour 1: red sedan",
        "neighbour 2: red sedan",
    ]
    for image, size, color in zip(
        images, [(320, 240), (360, 270), (90, 90)], [PURPLE, ORANGE, ORANGE], strict=True
    ):
        head, data = (image["src"] or "").split(",")
        assert head == "data:image/jpeg;base64"
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True))) as thumbnail:
            assert (thumbnail.format, thumbnail.size) == ("JPEG", size)
            near = thumbnail.getpixel((size[0] // 2, size[1] // 2))
            assert isinstance(near, tuple)
            assert all(abs(a - b) < 8 for a, b in zip(near, color, strict=True))
        assert (image["width"], image["height"]) == tuple(map(str, size))


def test_the_page_is_a_document_that_asks_for_nothing() -> None:
    source = html_page(QUERY_TILE, [tile(distance=0.12345)], "exact search over 4,052 images, 3 ms")
    page = Page(source)
    assert source.startswith("<!DOCTYPE html>")
    assert page.all("html") == [{"lang": "en"}]
    assert {"charset": "utf-8"} in page.all("meta")
    assert any(meta.get("name") == "viewport" for meta in page.all("meta"))
    assert "prefers-color-scheme: dark" in source
    assert {"Look-alikes of 00001.jpg", "exact search over 4,052 images, 3 ms"} < set(page.texts)
    assert {"1", "0.123", "red sedan"} < set(page.texts)
    assert not re.search(r"https?:|url\(|@import|<script|<link", source)
    assert all((image["src"] or "").startswith("data:") for image in page.all("img"))


def test_everything_is_escaped() -> None:
    attack = '<script>alert("1")</script>'
    odd = tile(label=attack, name=f'" onerror="{attack}', distance=0.1)
    source = html_page(odd, [odd], note=attack)
    page = Page(source)
    assert page.all("script") == []
    assert page.texts.count(attack) == 3, "both labels and the note, as text"
    assert all("onerror" not in attributes for _, attributes in page.found)
    assert page.all("small")[0]["title"] == odd.name


def test_names_are_shortened_in_the_middle_and_whole_in_the_title() -> None:
    name = "a-very-long-name-of-a-photo-\udcff-from-2012.jpeg"
    page = Page(html_row(QUERY_TILE, [tile(name=name)]))
    assert "a-very-long-…m-2012.jpeg" in page.texts
    assert page.all("small")[1]["title"] == name.replace("\udcff", "\ufffd")


def test_the_row_is_a_fragment_with_styles_of_its_own() -> None:
    source = html_row(QUERY_TILE, [tile()])
    page = Page(source)
    assert not page.all("html") and not page.all("body")
    (style,) = re.findall(r"<style>(.*?)</style>", source, re.DOTALL)
    rules = re.findall(r"([^{}]+)\{[^{}]*\}", style)
    selectors = [selector.strip() for rule in rules for selector in rule.split(",")]
    assert selectors and all(selector.startswith(".lookalike") for selector in selectors)


def test_templates_are_read_from_a_zip_file_too(tmp_path: Path) -> None:
    package, archive = Path(lookalike.__file__).parent, tmp_path / "lookalike.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for file in package.rglob("*"):
            if file.suffix in (".py", ".html", ".css"):
                packed.write(file, file.relative_to(package.parent))
    code = (
        "from lookalike.rendering import Tile, html_page; import lookalike; "
        "print(lookalike.__file__, html_page(Tile(None, None, '<1>.jpg'), []))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(archive)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(str(archive))
    assert "Look-alikes of &lt;1&gt;.jpg" in done.stdout and "no neighbours" in done.stdout


def test_a_band_and_copies_stand_with_the_distance() -> None:
    one = dataclasses.replace(tile(distance=0.12345), band="same photo", copies=3)
    source = html_page(QUERY_TILE, [one])
    assert 'same photo <small class="far">0.123</small>' in source and "+ 3 copies" in source
    plain, banded = contact_sheet(QUERY_TILE, [tile()]), contact_sheet(QUERY_TILE, [one])
    assert plain.width == banded.width and plain.tobytes() != banded.tobytes()
    assert "copies" not in html_page(QUERY_TILE, [tile()])
