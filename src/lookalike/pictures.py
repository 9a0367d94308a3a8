"""Search results to look at: a contact sheet, a row for notebooks, a self-contained web page."""

import base64
import io
import re
import unicodedata
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape

from PIL import Image, ImageDraw, ImageFont

Point = tuple[int, int]
Size = tuple[int, int]
Color = tuple[int, int, int]

# The sheet, in pixels. Five columns make it 1780 wide; its smallest text is legible at half that.
MARGIN, GAP, ROW_GAP, GUTTER, PAD = 40, 24, 36, 64, 14
QUERY: Size = (400, 400)
NEIGHBOR: Size = (228, 171)
BIG, MEDIUM, SMALL, CHECK = 28, 24, 22, 26
HEADING_LINE, RANK_LINE, LABEL_LINE, NAME_LINE, SHARED_LINE = 52, 40, 36, 30, 42
PAPER: Color = (255, 255, 255)
WELL: Color = (242, 242, 239)
RULE: Color = (222, 222, 218)
INK: Color = (26, 26, 28)
GREY: Color = (110, 110, 114)
GREEN: Color = (21, 128, 61)

GONE = "file is gone"

# The row takes its ink from its surroundings and its tints are translucent, so that it suits a
# notebook of any theme; the longer selectors outweigh the notebook's own for lists and images.
ROW_STYLE = """
.lookalike { display: flex; flex-wrap: wrap; gap: 2rem; line-height: 1.4; }
.lookalike .query { flex: 1 1 18rem; max-width: 24rem; }
.lookalike .found { flex: 999 1 20rem; }
.lookalike .heading { margin: 0 0 .75rem; opacity: .7; }
.lookalike ol.neighbors { display: grid; gap: 1.5rem 1rem; margin: 0; padding: 0;
  grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); list-style: none; }
.lookalike figure { margin: 0; }
.lookalike figure .well { display: block; width: 100%; max-width: none; height: auto; margin: 0;
  aspect-ratio: 4 / 3; object-fit: contain; background: rgb(128 128 128 / .14); }
.lookalike .query img.well { aspect-ratio: auto; max-height: 24rem; }
.lookalike figure div.well { display: grid; place-items: center; font-size: .875rem; }
.lookalike figcaption { padding-top: .5rem; overflow-wrap: anywhere; }
.lookalike strong, .lookalike small { display: block; }
.lookalike small { opacity: .7; }
.lookalike .rank { display: flex; gap: .5rem; align-items: baseline; }
.lookalike .rank span { margin-left: auto; font-variant-numeric: tabular-nums; }
.lookalike mark { padding: 0 .375rem; border-radius: 4px; font-size: .8125rem; color: inherit;
  background: rgb(22 163 74 / .2); }
"""

PAGE_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1a1a1c; }
@media (prefers-color-scheme: dark) { :root { --paper: #161618; --ink: #ececee; } }
body { max-width: 90rem; margin: 0 auto; padding: clamp(1rem, 4vw, 3rem);
  background: var(--paper); color: var(--ink); font: 1rem/1.4 system-ui, sans-serif; }
header { margin-bottom: 2rem; }
h1 { margin: 0; font-size: 1.5rem; overflow-wrap: anywhere; }
header p { margin: .25rem 0 0; opacity: .7; }
"""


@dataclass(frozen=True)
class Tile:
    """One picture with what is written under it."""

    picture: Image.Image | None
    """In RGB; None where the file is gone."""
    label: str | None
    name: str
    """The name of the file."""
    distance: float | None = None
    """How far it is from the query; None for the query itself."""


def contact_sheet(query: Tile, neighbors: Sequence[Tile], columns: int = 5) -> Image.Image:
    """Draw the query at left and its neighbors, nearest first, in rows of `columns` at right."""
    if columns < 1:
        raise ValueError(f"columns must be at least 1, not {columns}")
    large = _query_card(query, _shared(query, neighbors))
    cards = [
        _neighbor_card(rank, tile, _alike(query, tile)) for rank, tile in enumerate(neighbors, 1)
    ]
    # Labels take no, one or two lines: the tallest card sets the pace of the grid.
    step_x = NEIGHBOR[0] + GAP
    step_y = max((card.height for card in cards), default=0) + ROW_GAP
    across, down = max(1, min(columns, len(cards))), -(-len(cards) // columns)

    left, top = MARGIN + QUERY[0] + GUTTER, MARGIN + HEADING_LINE
    width = left + across * step_x - GAP + MARGIN
    height = top + max(large.height, down * step_y - ROW_GAP) + MARGIN
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    divider = left - GUTTER // 2
    draw.line((divider, MARGIN, divider, height - MARGIN), fill=RULE, width=2)
    write(draw, (MARGIN, MARGIN), "query", MEDIUM, GREY)
    write(draw, (left, MARGIN), _heading(neighbors), MEDIUM, GREY)
    sheet.paste(large, (MARGIN, top))
    for index, card in enumerate(cards):
        row, column = divmod(index, columns)
        sheet.paste(card, (left + column * step_x, top + row * step_y))
    return sheet


def html_row(query: Tile, neighbors: Sequence[Tile]) -> str:
    """Return the query and its neighbors as a fragment of HTML, for a notebook."""
    shared = _shared(query, neighbors)
    items = "\n".join(
        f"<li>{_figure(tile, f'neighbour {rank}', 360, _rank_line(rank, query, tile))}</li>"
        for rank, tile in enumerate(neighbors, 1)
    )
    return (
        f'<div class="lookalike">\n<style>{ROW_STYLE}</style>\n'
        f'<section class="query"><p class="heading">query</p>\n{_figure(query, "query", 768)}\n'
        f"{f'<p><mark>✓ {shared}</mark></p>' if shared else ''}</section>\n"
        f'<section class="found"><p class="heading">{_heading(neighbors)}</p>\n'
        f'<ol class="neighbors">\n{items}\n</ol></section>\n</div>\n'
    )


def html_page(query: Tile, neighbors: Sequence[Tile], note: str = "") -> str:
    """Return the query and its neighbors as one HTML document that needs no other file."""
    title = escape(printable(f"Look-alikes of {query.name}"))
    subtitle = f"<p>{escape(printable(note))}</p>" if note else ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{PAGE_STYLE}</style>\n</head>\n<body>\n"
        f"<header><h1>{title}</h1>{subtitle}</header>\n"
        f"<main>\n{html_row(query, neighbors)}</main>\n</body>\n</html>\n"
    )


# What the sheet and the page have in common.


def _alike(query: Tile, tile: Tile) -> bool:
    """Tell whether a neighbor is known to have the label of the query."""
    return query.label is not None and query.label == tile.label


def _shared(query: Tile, neighbors: Sequence[Tile]) -> str:
    """Say how many neighbors have the label of the query, or nothing if none has."""
    count = sum(_alike(query, tile) for tile in neighbors)
    return f"{count} of {len(neighbors)} with this label" if count else ""


def _heading(neighbors: Sequence[Tile]) -> str:
    return {0: "no neighbours", 1: "nearest neighbour"}.get(len(neighbors), "nearest neighbours")


def _distance(tile: Tile) -> str:
    return "" if tile.distance is None else f"{tile.distance:.3f}"


def printable(text: str) -> str:
    """Put text on one line, with U+FFFD for control characters and what UTF-8 cannot hold."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", "\ufffd", " ".join(text.split()))


def shortened(text: str, fits: Callable[[str], bool]) -> str:
    """Cut as little as makes the text fit out of its middle: names differ most at their ends."""

    def without(cut: int) -> str:
        kept = len(text) - cut
        return f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}" if cut else text

    return without(bisect_left(range(len(text)), True, key=lambda cut: fits(without(cut))))


# The contact sheet.


def _query_card(query: Tile, shared: str) -> Image.Image:
    # The query stands alone, so it needs no well to line up with others.
    width = QUERY[0]
    photo = _fitted(query.picture, QUERY) if query.picture else well((width, width * 3 // 4), None)
    card, draw = _blank(photo, width)
    end = _write_caption(draw, photo.height + PAD, query, width)
    if shared:
        _draw_check(card, (0, end + 10))
        write(draw, (CHECK + 10, end + 8), shared, MEDIUM, GREEN)
        end += SHARED_LINE
    return card.crop((0, 0, width, end))


def _neighbor_card(rank: int, tile: Tile, alike: bool) -> Image.Image:
    width, y = NEIGHBOR[0], NEIGHBOR[1] + PAD
    card, draw = _blank(well(NEIGHBOR, tile.picture), width)
    write(draw, (0, y), str(rank), BIG, INK, bold=True)
    if alike:
        _draw_check(card, (round(font(BIG).getlength(str(rank))) + 12, y + 5))
    distance = _distance(tile)
    right = width - round(font(MEDIUM).getlength(distance))
    write(draw, (right, y + BIG - MEDIUM), distance, MEDIUM, INK)
    return card.crop((0, 0, width, _write_caption(draw, y + RANK_LINE, tile, width)))


def _blank(photo: Image.Image, width: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """Start a card with the photo on top and more than enough room for a caption."""
    card = Image.new("RGB", (width, photo.height + 250), PAPER)
    card.paste(photo)
    return card, ImageDraw.Draw(card)


def well(size: Size, picture: Image.Image | None) -> Image.Image:
    """Centre a picture in a well of the given size, or say there that it is gone."""
    well = Image.new("RGB", size, WELL)
    if picture is None:
        left = (size[0] - round(font(SMALL).getlength(GONE))) // 2
        write(ImageDraw.Draw(well), (left, (size[1] - SMALL) // 2), GONE, SMALL, GREY)
    else:
        fitted = _fitted(picture, size)
        well.paste(fitted, ((size[0] - fitted.width) // 2, (size[1] - fitted.height) // 2))
    return well


def _fitted(picture: Image.Image, size: Size) -> Image.Image:
    """Scale a picture, up or down, to the largest size within `size` that keeps its aspect."""
    scale = min(size[0] / picture.width, size[1] / picture.height)
    # However long and thin the picture, a pixel of it stays.
    fitted = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(fitted, Image.Resampling.LANCZOS, reducing_gap=3.0)


def _write_caption(draw: ImageDraw.ImageDraw, y: int, tile: Tile, width: int) -> int:
    """Write label and name one under the other, from `y` on, and return where they end."""
    for line in _label_lines(tile, width):
        write(draw, (0, y), line, BIG, INK, bold=True)
        y += LABEL_LINE
    write(draw, (0, y), shortened(drawable(tile.name), fits(SMALL, width)), SMALL, GREY)
    return y + NAME_LINE


def _label_lines(tile: Tile, width: int) -> list[str]:
    """Break a label into at most two lines: as many words as fit, then the shortened rest."""
    short = fits(BIG, width)
    rest = drawable(tile.label or "").split()
    first = [rest.pop(0)] if rest else []
    while rest and short(" ".join([*first, rest[0]])):
        first.append(rest.pop(0))
    return [shortened(" ".join(words), short) for words in (first, rest) if words]


def drawable(text: str) -> str:
    """Drop the accents of Latin letters, which the built-in font lacks: Citroën, Škoda."""
    composed = unicodedata.normalize("NFC", printable(text))
    bases = ((char, unicodedata.normalize("NFD", char)[0]) for char in composed)
    return "".join(base if base.isascii() else char for char, base in bases)


@cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return the built-in font; `size` in pixels."""
    return ImageFont.load_default(size)


def fits(size: int, width: int) -> Callable[[str], bool]:
    """Return what says whether a text of that size has room, both in pixels."""
    return lambda text: font(size).getlength(text) < width


def write(
    draw: ImageDraw.ImageDraw, corner: Point, text: str, size: int, ink: Color, bold: bool = False
) -> None:
    """Write one line. The built-in font has one weight: bold is the text twice, a pixel apart."""
    for shift in range(1 + bold):
        draw.text((corner[0] + shift, corner[1]), text, font=font(size), fill=ink)


def _draw_check(card: Image.Image, corner: Point) -> None:
    """Draw a check mark on a green disc: its shape tells as much as its colour."""
    # Pillow draws with hard edges: drawn eight times too large and scaled down, they are smooth.
    side = 8 * CHECK
    large = Image.new("RGB", (side, side), PAPER)
    draw = ImageDraw.Draw(large)
    draw.ellipse((0, 0, side - 1, side - 1), fill=GREEN)
    tick = [(side * x, side * y) for x, y in ((0.26, 0.52), (0.43, 0.69), (0.74, 0.34))]
    draw.line(tick, fill=PAPER, width=CHECK, joint="curve")
    card.paste(large.resize((CHECK, CHECK), Image.Resampling.LANCZOS), corner)


# The page.


def _figure(tile: Tile, role: str, pixels: int, heading: str = "") -> str:
    """Return a picture of at most `pixels` a side, with its caption."""
    label, name = printable(tile.label or ""), printable(tile.name)
    described = escape(f"{role}: {label or name}")
    if tile.picture is None:
        shown = f'<div class="well" role="img" aria-label="{described}, {GONE}">{GONE}</div>'
    else:
        small, jpeg = tile.picture.copy(), io.BytesIO()
        small.thumbnail((pixels, pixels))
        small.save(jpeg, "JPEG", quality=85)
        shown = (
            f'<img class="well" width="{small.width}" height="{small.height}" alt="{described}"'
            f' src="data:image/jpeg;base64,{base64.b64encode(jpeg.getvalue()).decode()}">'
        )
    strong = f"<strong>{escape(label)}</strong>" if label else ""
    short = escape(shortened(name, lambda text: len(text) <= 24))
    return (
        f"<figure>{shown}<figcaption>{heading}{strong}"
        f'<small title="{escape(name)}">{short}</small></figcaption></figure>'
    )


def _rank_line(rank: int, query: Tile, tile: Tile) -> str:
    mark = '<mark title="same label as the query">✓ same</mark>' if _alike(query, tile) else ""
    return f'<div class="rank"><b>{rank}</b>{mark}<span>{_distance(tile)}</span></div>'
