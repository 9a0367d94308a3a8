"""A sheet of pairs of pictures, which shows how alike images at a distance are."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from lookalike.rendering.contact_sheet import (
    BIG,
    GREY,
    INK,
    MARGIN,
    MEDIUM,
    NEIGHBOR,
    PAPER,
    RULE,
    SMALL,
    Size,
    drawable,
    fits,
    font,
    frame_of,
    well,
    write,
)
from lookalike.rendering.tile import Tile, shortened

# In pixels. Three pairs a line make it about 1,600 wide.
_SEAM, _PAIR_GAP, _LINE_GAP, _ROW_GAP = 6, 40, 32, 44
_HEAD_LINE, _CAPTION_LINE, _TEXT_LINE, _PAD = 56, 38, 28, 12


@dataclass(frozen=True)
class Pairs:
    """A row of a sheet: pairs of pictures under one heading."""

    title: str
    """The heading, such as "within 0.30"."""
    pairs: Sequence[tuple[Tile, Tile]]
    captions: Sequence[str] = ()
    """One for each pair; if empty, the distance of the second picture of each."""
    note: str = ""


def pair_sheet(rows: Sequence[Pairs], columns: int = 3) -> Image.Image:
    """Draw pairs side by side with a caption, in rows under headings.

    Parameters
    ----------
    rows
        The rows, from top to bottom.
    columns
        Number of pairs in a line.

    Returns
    -------
    Image.Image
        The sheet, in RGB; about 1600 pixels wide with three columns.

    Raises
    ------
    ValueError
        `columns` is below 1.

    """
    if columns < 1:
        raise ValueError(f"columns must be at least 1, not {columns}")
    frame = frame_of([tile for row in rows for pair in row.pairs for tile in pair])
    drawn = [[_pair(row, at, frame) for at in range(len(row.pairs))] for row in rows]
    wide = max(1, min(columns, max(map(len, drawn), default=1)))
    step = 2 * NEIGHBOR[0] + _SEAM + _PAIR_GAP
    width = 2 * MARGIN + wide * step - _PAIR_GAP
    lines = [[cards[at : at + wide] for at in range(0, len(cards), wide)] for cards in drawn]
    heights = [
        _HEAD_LINE + sum(line[0].height + _LINE_GAP for line in row) - _LINE_GAP * bool(row)
        for row in lines
    ]
    height = 2 * MARGIN + sum(heights) + _ROW_GAP * max(len(rows) - 1, 0)
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    top = MARGIN
    for row, row_lines, row_height in zip(rows, lines, heights, strict=True):
        _write_heading(draw, top, row, width)
        y = top + _HEAD_LINE
        for line in row_lines:
            for at, card in enumerate(line):
                sheet.paste(card, (MARGIN + at * step, y))
            y += line[0].height + _LINE_GAP
        top += row_height + _ROW_GAP
    return sheet


def _write_heading(draw: ImageDraw.ImageDraw, top: int, row: Pairs, width: int) -> None:
    room = width - 2 * MARGIN
    title = shortened(drawable(row.title), fits(BIG, room))
    write(draw, (MARGIN, top), title, BIG, INK, bold=True)
    end = MARGIN + round(font(BIG).getlength(title)) + 16
    note = drawable(row.note)
    if note and fits(MEDIUM, width - MARGIN - end)(note):
        write(draw, (end, top + BIG - MEDIUM), note, MEDIUM, GREY)
    draw.line((MARGIN, top + 42, width - MARGIN, top + 42), fill=RULE, width=2)


def _pair(row: Pairs, at: int, frame: Size) -> Image.Image:
    """Draw one pair: two pictures, their caption, and the label and name of each."""
    tiles = row.pairs[at]
    distance = tiles[1].distance
    caption = row.captions[at] if row.captions else "" if distance is None else f"{distance:.3f}"
    each, tall = frame
    height = tall + _PAD + _CAPTION_LINE + 2 * _TEXT_LINE
    card = Image.new("RGB", (2 * each + _SEAM, height), PAPER)
    draw = ImageDraw.Draw(card)
    y = tall + _PAD
    text = shortened(drawable(caption), fits(MEDIUM, card.width))
    write(draw, (0, y), text, MEDIUM, INK, bold=True)
    labelled = any(tile.label for tile in tiles)
    for tile, left in zip(tiles, (0, each + _SEAM), strict=True):
        card.paste(well(frame, tile.picture), (left, 0))
        below = y + _CAPTION_LINE
        for line, ink in ((tile.label or "", INK), (tile.name, GREY))[not labelled :]:
            write(draw, (left, below), _short(line, each - 8), SMALL, ink)
            below += _TEXT_LINE
    return card


def _short(text: str, width: int) -> str:
    return shortened(drawable(text), fits(SMALL, width))
