"""A tile with a name, where there is no picture."""

import io

from PIL import Image, ImageDraw

from lookalike.rendering.contact_sheet import GREY, font
from lookalike.rendering.tile import printable, shortened

SIDE = 320
_PAPER = (246, 246, 244)
_TEXT_SIZE, _LINE_HEIGHT, _MARGIN = 26, 34, 24  # pixels
_MAX_LINES = (SIDE - 2 * _MARGIN) // _LINE_HEIGHT


def name_tile(name: str) -> Image.Image:
    """Draw a name on a square tile, in lines; a very long one is shortened in its middle."""
    tile = Image.new("RGB", (SIDE, SIDE), _PAPER)
    text = shortened(printable(name), lambda some: len(_lines(some)) <= _MAX_LINES)
    lines = _lines(text)
    draw = ImageDraw.Draw(tile)
    top = (SIDE - len(lines) * _LINE_HEIGHT) // 2
    for number, line in enumerate(lines):
        left = (SIDE - round(font(_TEXT_SIZE).getlength(line))) // 2
        draw.text((left, top + number * _LINE_HEIGHT), line, font=font(_TEXT_SIZE), fill=GREY)
    return tile


def name_jpeg(name: str) -> bytes:
    """Return the tile with a name as a JPEG."""
    made = io.BytesIO()
    name_tile(name).save(made, "JPEG", quality=85)
    return made.getvalue()


def _lines(text: str) -> list[str]:
    """Break a text into lines that fit on a tile, at any letter: keys have few spaces."""
    lines = [""]
    for letter in text:
        if font(_TEXT_SIZE).getlength(lines[-1] + letter) > SIDE - 2 * _MARGIN:
            lines.append("")
        lines[-1] += letter
    return lines
