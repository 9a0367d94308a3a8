"""Contact sheets: search results, or a sample of images, as one picture."""

import statistics
import unicodedata
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import cache

from PIL import Image, ImageDraw, ImageFont

from lookalike.rendering.tile import (
    GONE,
    Tile,
    alike,
    alike_note,
    copies_of,
    distance_of,
    heading_of,
    printable,
    shortened,
)

Point = tuple[int, int]
Size = tuple[int, int]
Color = tuple[int, int, int]

# All in pixels. Five columns make a sheet 1780 wide; the smallest text is legible at half of that.
MARGIN, GAP, ROW_GAP, GUTTER, PAD = 40, 24, 36, 64, 14
QUERY: Size = (400, 400)
QUERY_COLUMN, QUERY_HEIGHT = 260, 300  # at least
NEIGHBOR: Size = (228, 171)
NEIGHBOR_HEIGHTS = (128, 304)  # of wide pictures and of tall ones
BIG, MEDIUM, SMALL, TINY, CHECK = 28, 24, 22, 18, 26
HEADING_LINE, RANK_LINE, LABEL_LINE, NAME_LINE, SHARED_LINE = 52, 40, 36, 30, 42
PAPER: Color = (255, 255, 255)
WELL: Color = (242, 242, 239)
RULE: Color = (222, 222, 218)
INK: Color = (26, 26, 28)
GREY: Color = (110, 110, 114)
GREEN: Color = (21, 128, 61)


def contact_sheet(query: Tile, neighbors: Sequence[Tile], columns: int = 5) -> Image.Image:
    """Draw a query at left and its neighbors at right.

    Parameters
    ----------
    query
        The picture that was searched with.
    neighbors
        Its neighbors, nearest first, each with its distance.
    columns
        Number of neighbors in a row.

    Returns
    -------
    Image.Image
        The sheet, in RGB; at most 1780 pixels wide with five columns.

    Raises
    ------
    ValueError
        `columns` is below 1.

    Examples
    --------
    >>> query = Tile(None, "red sedan", "00001.jpg")
    >>> contact_sheet(query, [Tile(None, "red sedan", "00002.jpg", 0.25)] * 5).width
    1780

    """
    if columns < 1:
        raise ValueError(f"columns must be at least 1, not {columns}")
    frame = frame_of(neighbors)
    cards = [
        _neighbor_card(rank, tile, alike(query, tile), frame)
        for rank, tile in enumerate(neighbors, 1)
    ]
    grid = _grid(cards, columns)
    large = _query_card(query, alike_note(query, neighbors), grid.height)
    left, top = MARGIN + large.width + GUTTER, MARGIN + HEADING_LINE
    width = left + grid.width + MARGIN
    height = top + max(large.height, grid.height) + MARGIN
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    divider = left - GUTTER // 2
    draw.line((divider, MARGIN, divider, height - MARGIN), fill=RULE, width=2)
    write(draw, (MARGIN, MARGIN), "query", MEDIUM, GREY)
    write(draw, (left, MARGIN), heading_of(neighbors), MEDIUM, GREY)
    sheet.paste(large, (MARGIN, top))
    sheet.paste(grid, (left, top))
    return sheet


def tile_sheet(tiles: Sequence[Tile], columns: int = 5) -> Image.Image:
    """Draw pictures in rows, each with its label and name.

    Parameters
    ----------
    tiles
        The pictures.
    columns
        Number of pictures in a row.

    Returns
    -------
    Image.Image
        The sheet, in RGB.

    Raises
    ------
    ValueError
        `columns` is below 1.

    """
    if columns < 1:
        raise ValueError(f"columns must be at least 1, not {columns}")
    frame = frame_of(tiles)
    grid = _grid([_card(tile, frame) for tile in tiles], columns)
    sheet = Image.new("RGB", (grid.width + 2 * MARGIN, grid.height + 2 * MARGIN), PAPER)
    sheet.paste(grid, (MARGIN, MARGIN))
    return sheet


def _grid(cards: Sequence[Image.Image], columns: int) -> Image.Image:
    # A label takes up to two lines: the tallest card decides how far rows are apart.
    step_x = NEIGHBOR[0] + GAP
    step_y = max((card.height for card in cards), default=0) + ROW_GAP
    across, down = max(1, min(columns, len(cards))), max(1, -(-len(cards) // columns))
    grid = Image.new("RGB", (across * step_x - GAP, down * step_y - ROW_GAP), PAPER)
    for index, card in enumerate(cards):
        row, column = divmod(index, columns)
        grid.paste(card, (column * step_x, row * step_y))
    return grid


def frame_of(tiles: Sequence[Tile]) -> Size:
    """Return the frame that pictures of a sheet share: as tall as most of them need."""
    shapes = [tile.picture.height / tile.picture.width for tile in tiles if tile.picture]
    if not shapes:
        return NEIGHBOR
    least, most = NEIGHBOR_HEIGHTS
    return NEIGHBOR[0], min(max(round(NEIGHBOR[0] * statistics.median(shapes)), least), most)


def _card(tile: Tile, frame: Size) -> Image.Image:
    card, draw = _blank(well(frame, tile.picture), frame[0])
    return card.crop((0, 0, card.width, _write_caption(draw, frame[1] + PAD, tile, card.width)))


def _query_card(query: Tile, shared: str, height: int) -> Image.Image:
    """Draw the query as tall as `height`, that of its neighbours, if it is large enough then.

    It stands alone: it needs no frame to line up with others.
    """
    caption = PAD + LABEL_LINE * bool(query.label) + NAME_LINE + SHARED_LINE * bool(shared)
    room = QUERY[0], min(max(QUERY_HEIGHT, height - caption), QUERY[1])
    photo = _fitted(query.picture, room) if query.picture else well((QUERY[0], QUERY_HEIGHT), None)
    width = max(photo.width, QUERY_COLUMN)
    card, draw = _blank(photo, width)
    end = _write_caption(draw, photo.height + PAD, query, width)
    if shared:
        _draw_check(card, (0, end + 10))
        write(draw, (CHECK + 10, end + 8), shared, MEDIUM, GREEN)
        end += SHARED_LINE
    return card.crop((0, 0, width, end))


def _neighbor_card(rank: int, tile: Tile, alike: bool, frame: Size) -> Image.Image:
    width, y = frame[0], frame[1] + PAD
    card, draw = _blank(well(frame, tile.picture), width)
    write(draw, (0, y), str(rank), BIG, INK, bold=True)
    if alike:
        _draw_check(card, (round(font(BIG).getlength(str(rank))) + 12, y + 5))
    distance = distance_of(tile)
    if tile.band is None:
        right = width - round(font(MEDIUM).getlength(distance))
        write(draw, (right, y + BIG - MEDIUM), distance, MEDIUM, INK)
    else:
        right = width - round(font(TINY).getlength(distance))
        write(draw, (right, y + BIG - TINY), distance, TINY, GREY)
        right -= round(font(SMALL).getlength(tile.band)) + 8
        write(draw, (right, y + BIG - SMALL), tile.band, SMALL, INK)
    end = _write_caption(draw, y + RANK_LINE, tile, width)
    if tile.copies:
        write(draw, (0, end), copies_of(tile), SMALL, GREY)
        end += NAME_LINE
    return card.crop((0, 0, width, end))


def _blank(photo: Image.Image, width: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """Start a card with the photo on top and more room below than a caption needs."""
    card = Image.new("RGB", (width, photo.height + 280), PAPER)
    card.paste(photo)
    return card, ImageDraw.Draw(card)


def well(size: Size, picture: Image.Image | None) -> Image.Image:
    """Centre a picture in a frame of a size; without a picture, write there that it is gone."""
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
    # A picture of any shape keeps at least one pixel a side.
    fitted = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(fitted, Image.Resampling.LANCZOS, reducing_gap=3.0)


def _write_caption(draw: ImageDraw.ImageDraw, y: int, tile: Tile, width: int) -> int:
    """Write label and name one under the other, from `y` on, and return where they end."""
    for line in _label_lines(tile, width):
        write(draw, (0, y), line, BIG, INK, bold=True)
        y += LABEL_LINE
    for line in _name_lines(tile.name, width):
        write(draw, (0, y), line, SMALL, GREY)
        y += NAME_LINE
    return y


def _name_lines(name: str, width: int) -> list[str]:
    """Break a name into at most two lines, after a mark if possible; shorten a longer one."""
    short = fits(SMALL, width)

    def lines(text: str) -> list[str]:
        if short(text):
            return [text]
        end = bisect_left(range(len(text)), True, key=lambda at: not short(text[: at + 1]))
        mark = max(text.rfind(one, 0, end) for one in " _-.") + 1
        end = mark if mark > end // 2 and short(text[mark:]) else end
        return [text[:end], text[end:]]

    return lines(shortened(drawable(name), lambda text: short(lines(text)[-1])))


def _label_lines(tile: Tile, width: int) -> list[str]:
    """Break a label into at most two lines: as many words as fit, then the shortened rest."""
    short = fits(BIG, width)
    rest = drawable(tile.label or "").split()
    first = [rest.pop(0)] if rest else []
    while rest and short(" ".join([*first, rest[0]])):
        first.append(rest.pop(0))
    return [shortened(" ".join(words), short) for words in (first, rest) if words]


def drawable(text: str) -> str:
    """Drop the accents of Latin letters that the built-in font lacks: Citroën, Škoda."""
    composed = unicodedata.normalize("NFC", printable(text))
    bases = ((char, unicodedata.normalize("NFD", char)[0]) for char in composed)
    return "".join(base if base.isascii() else char for char, base in bases)


@cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return the built-in font; `size` in pixels."""
    return ImageFont.load_default(size)


def fits(size: int, width: int) -> Callable[[str], bool]:
    """Return a function that says whether a text of `size` fits into `width`, both in pixels."""
    return lambda text: font(size).getlength(text) < width


def write(
    draw: ImageDraw.ImageDraw, corner: Point, text: str, size: int, ink: Color, bold: bool = False
) -> None:
    """Write one line. The built-in font has one weight: bold is the text twice, a pixel apart."""
    for shift in range(1 + bold):
        draw.text((corner[0] + shift, corner[1]), text, font=font(size), fill=ink)


def _draw_check(card: Image.Image, corner: Point) -> None:
    """Draw a check mark on a green disc, which is recognised without colours too."""
    # Pillow draws hard edges. Drawing at eight times the size and scaling down smooths them.
    side = 8 * CHECK
    large = Image.new("RGB", (side, side), PAPER)
    draw = ImageDraw.Draw(large)
    draw.ellipse((0, 0, side - 1, side - 1), fill=GREEN)
    tick = [(side * x, side * y) for x, y in ((0.26, 0.52), (0.43, 0.69), (0.74, 0.34))]
    draw.line(tick, fill=PAPER, width=CHECK, joint="curve")
    card.paste(large.resize((CHECK, CHECK), Image.Resampling.LANCZOS), corner)
