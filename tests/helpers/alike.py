"""Pictures that are alike and yet different ones, kind by kind: none of them may be dropped.

`KINDS` has a function for each kind: from a number to the bytes of a file. Equal numbers give equal
bytes, others another picture. `photo` stands for a photo, with structure of all sizes.
"""

import io
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Maker = Callable[[int], bytes]
Levels = npt.NDArray[np.float32]
_WORDS = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "haven", "inlet", "knoll")


def _rng(kind: str, number: int) -> np.random.Generator:
    return np.random.default_rng([number, *kind.encode()])


def _bytes(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def _paper(width: int, height: int, level: int = 250) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    picture = Image.new("RGB", (width, height), (level, level, level))
    return picture, ImageDraw.Draw(picture)


@cache
def scene(number: int, width: int = 480, height: int = 360) -> Levels:
    """Levels 0 to 1 of shapes and texture of all sizes, (height, width, 3)."""
    rng = _rng("scene", number)
    total = np.zeros((height, width, 3), np.float32)
    for side in (3, 6, 12, 24, 48, 96):
        small = rng.random((side * height // width + 2, side, 3), np.float32)
        small = 0.7 * small.mean(axis=2, keepdims=True) + 0.3 * small
        layers = [
            np.asarray(Image.fromarray(small[..., one]).resize((width, height), 3), np.float32)
            for one in range(3)
        ]
        total += np.stack(layers, axis=2) / side**0.7
    picture = Image.fromarray(np.uint8(255 * (total - total.min()) / np.ptp(total)))
    draw = ImageDraw.Draw(picture)
    for _ in range(12):
        x, y = int(rng.integers(width)), int(rng.integers(height))
        wide, high = int(rng.integers(20, width // 3)), int(rng.integers(20, height // 3))
        shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
        shape(
            (x, y, x + wide, y + high),
            fill=(int(rng.integers(256)), int(rng.integers(256)), int(rng.integers(256))),
        )
    mixed: Levels = 0.5 * np.asarray(picture, np.float32) / 255 + 0.5 * (total / total.max())
    return mixed


def photo(number: int) -> Image.Image:
    """Return a picture that is as full of structure as a photo."""
    return Image.fromarray(np.uint8(255 * scene(number)))


def _icon(draw: ImageDraw.ImageDraw, side: int, rng: np.random.Generator, fill: Any) -> None:
    for _ in range(3):
        x, y = rng.uniform(0.1, 0.6, 2) * side
        wide, high = rng.uniform(0.15, 0.35, 2) * side
        shape = (draw.ellipse, draw.rectangle)[int(rng.integers(2))]
        shape((x, y, x + wide, y + high), fill=fill)


def white_icon(number: int) -> bytes:
    """A white icon on transparency."""
    picture = Image.new("RGBA", (128, 128), (255, 255, 255, 0))
    _icon(ImageDraw.Draw(picture), 128, _rng("icon", number), (255, 255, 255, 255))
    return _bytes(picture)


def black_icon(number: int) -> bytes:
    """A black icon on black transparency."""
    picture = Image.new("RGBA", (128, 128), (0, 0, 0, 0))
    _icon(ImageDraw.Draw(picture), 128, _rng("icon", number), (0, 0, 0, 255))
    return _bytes(picture)


def tiny_icon(number: int) -> bytes:
    """An icon of 16 pixels, which share a frame."""
    picture = Image.new("RGB", (16, 16), (200, 210, 220))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((1, 1, 14, 14), outline=(40, 40, 60))
    dots = _rng("tiny", number).permutation(100)[:4]
    for dot in dots.tolist():
        draw.point((3 + dot % 10, 3 + dot // 10), fill=(180, 30, 30))
    return _bytes(picture)


def fading_gif(number: int) -> bytes:
    """An animation that fades in from black."""
    levels = scene(number, 160, 120)
    frames = [Image.fromarray(np.uint8(255 * levels * share)) for share in (0, 0, 0.3, 0.6, 1)]
    return _bytes(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=40)


def last_frame(number: int) -> bytes:
    """Two frames, of which only the last is another."""
    frames = [photo(0).resize((160, 120)), photo(number + 1).resize((160, 120))]
    return _bytes(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=40)


def pages(number: int) -> bytes:
    """A TIFF of two pages, of which only the second is another."""
    cover, inside = _paper(400, 500)[0], _page(f"second page, {_WORDS[number % 10]} {number}")
    ImageDraw.Draw(cover).text((60, 80), "Annual report", fill=(0, 0, 0), font_size=40)
    return _bytes(cover, "TIFF", save_all=True, append_images=[inside])


def _dark(number: int, stops: int) -> Image.Image:
    return Image.fromarray(np.uint8(np.round(255 * scene(number) / 2**stops)))


def underexposed(number: int) -> bytes:
    """A photo five stops under-exposed."""
    return _bytes(_dark(number, 5))


def underexposed_jpeg(number: int) -> bytes:
    """The same as a camera writes it."""
    return _bytes(_dark(number, 5), "JPEG", quality=90)


def nearly_black(number: int) -> bytes:
    """A photo six stops under-exposed."""
    return _bytes(_dark(number, 6))


def nearly_white(number: int) -> bytes:
    """A photo at a 32nd of its contrast, near white."""
    return _bytes(Image.fromarray(np.uint8(np.round(247 + 8 * scene(number)))))


def scan_12_bit(number: int) -> bytes:
    """A grey scan whose 12 bits stand low in 16."""
    grey = scene(number).mean(axis=2)
    return _bytes(Image.fromarray(np.uint16(4095 * grey)))


def form(number: int) -> bytes:
    """One form, filled in by different hands."""
    picture, draw = _paper(620, 800)
    draw.text((40, 30), "APPLICATION FOR MEMBERSHIP", fill=(0, 0, 0), font_size=28)
    labels = ("Name", "Street", "Town", "Date", "Signature", "Remarks", "Number", "Guardian")
    for line, label in enumerate(labels):
        y = 110 + 80 * line
        draw.text((40, y), label, fill=(0, 0, 0), font_size=22)
        draw.rectangle((180, y - 12, 580, y + 40), outline=(0, 0, 0), width=2)
    rng = _rng("form", number)
    for line in range(len(labels)):
        words = " ".join(rng.choice(_WORDS, 2).tolist())
        draw.text((195, 108 + 80 * line), words, fill=(30, 40, 120), font_size=24)
    return _bytes(picture, "JPEG", quality=85)


def form_of_one_word(number: int) -> bytes:
    """One form, of which one short word is another."""
    picture = Image.open(io.BytesIO(form(0))).convert("RGB")
    draw = ImageDraw.Draw(picture)
    draw.rectangle((184, 580, 576, 626), fill=(250, 250, 250))
    draw.text((195, 588), f"{1000 + 37 * number}", fill=(30, 40, 120), font_size=24)
    return _bytes(picture, "JPEG", quality=85)


def _page(text: str) -> Image.Image:
    picture, draw = _paper(600, 800)
    draw.text((60, 100), text, fill=(20, 20, 20), font_size=20)
    return picture


def one_line(number: int) -> bytes:
    """White paper with one line of text."""
    words = " ".join(_rng("line", number).choice(_WORDS, 5).tolist())
    return _bytes(_page(words), "JPEG", quality=90)


def page_number(number: int) -> bytes:
    """A blank page with its number."""
    picture, draw = _paper(600, 800)
    draw.text((295, 760), str(number + 10), fill=(60, 60, 60), font_size=16)
    return _bytes(picture, "JPEG", quality=90)


def page_of_text(number: int) -> bytes:
    """A page full of text under the same head."""
    picture, draw = _paper(620, 800)
    draw.text((60, 30), "THE WEEKLY COURIER", fill=(0, 0, 0), font_size=36)
    rng = _rng("text", number)
    for line in range(32):
        words = " ".join(rng.choice(_WORDS, 9).tolist())
        draw.text((60, 100 + 21 * line), words, fill=(20, 20, 20), font_size=14)
    return _bytes(picture, "JPEG", quality=85)


def dialog(number: int) -> bytes:
    """A screenshot of one dialog with another message."""
    picture = Image.new("RGB", (640, 400), (0, 90, 120))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((120, 90, 520, 310), fill=(240, 240, 240), outline=(90, 90, 90), width=2)
    draw.rectangle((120, 90, 520, 120), fill=(40, 60, 140))
    draw.text((130, 95), "Message", fill=(255, 255, 255), font_size=18)
    words = " ".join(_rng("dialog", number).choice(_WORDS, 4).tolist())
    draw.text((150, 170), f"Cannot open {words}", fill=(0, 0, 0), font_size=15)
    draw.rectangle((280, 255, 360, 285), fill=(220, 220, 220), outline=(60, 60, 60))
    draw.text((307, 261), "OK", fill=(0, 0, 0), font_size=16)
    return _bytes(picture)


def square_code(number: int) -> bytes:
    """A square code, as goods carry them."""
    cells = _rng("code", number).integers(0, 2, (29, 29))
    for y, x in ((0, 0), (0, 22), (22, 0)):
        cells[y : y + 7, x : x + 7] = 0
        cells[y + 1 : y + 6, x + 1 : x + 6] = 1
        cells[y + 2 : y + 5, x + 2 : x + 5] = 0
    grey = np.kron(np.pad(cells, 4, constant_values=1), np.full((10, 10), 255)).astype(np.uint8)
    return _bytes(Image.fromarray(grey))


def bar_code(number: int) -> bytes:
    """Bars of which only the last few are other ones."""
    bars = _rng("bars", 0).integers(0, 2, 95)
    bars[60:88] = _rng("bars", number + 1).integers(0, 2, 28)
    grey = np.pad(np.kron(bars, [255] * 4), 40, constant_values=255)
    return _bytes(Image.fromarray(np.tile(grey.astype(np.uint8), (200, 1))))


def night_sky(number: int) -> bytes:
    """Stars above a glow that all share."""
    rng = _rng("sky", number)
    glow = np.linspace(2, 40, 400)[:, None] * np.ones((1, 600))
    sky = glow + rng.normal(0, 1.5, glow.shape)
    for y, x in zip(rng.integers(1, 380, 60), rng.integers(1, 599, 60), strict=True):
        sky[y : y + 2, x : x + 2] += rng.uniform(40, 200)
    return _bytes(Image.fromarray(np.uint8(sky.clip(0, 255))).convert("RGB"), "JPEG", quality=90)


def plain_sky(number: int) -> bytes:
    """Nothing but a gradient and the noise of a sensor."""
    glow = np.linspace(120, 220, 400)[:, None] * np.ones((1, 600))
    grey = glow + _rng("plain", number).normal(0, 2, glow.shape)
    return _bytes(Image.fromarray(np.uint8(grey.clip(0, 255))).convert("RGB"), "JPEG", quality=90)


def flat_colour(number: int) -> bytes:
    """One colour, a few levels from the next."""
    return _bytes(Image.new("RGB", (200, 200), (120 + number % 6, 130 + number // 6, 140)))


def map_tile(number: int) -> bytes:
    """One tile of a map with a marker elsewhere."""
    picture = Image.new("RGB", (256, 256), (242, 239, 233))
    draw, rng = ImageDraw.Draw(picture), _rng("map", 0)
    draw.polygon([(0, 180), (90, 140), (160, 256), (0, 256)], fill=(170, 211, 223))
    for _ in range(24):
        (x, y), (wide, high) = rng.integers(0, 240, 2), rng.integers(6, 24, 2)
        draw.rectangle((x, y, x + wide, y + high), fill=(217, 208, 201), outline=(190, 175, 165))
    for _ in range(9):
        draw.line(rng.integers(0, 256, 4).tolist(), fill=(255, 255, 255), width=6)
    x, y = _rng("marker", number).integers(12, 244, 2)
    draw.ellipse((x - 6, y - 6, x + 6, y + 6), fill=(210, 40, 40), outline=(90, 0, 0))
    return _bytes(picture)


def chess_board(number: int) -> bytes:
    """A board after another move."""
    picture = Image.new("RGB", (400, 400), (240, 217, 181))
    draw = ImageDraw.Draw(picture)
    for square in range(64):
        x, y = 50 * (square % 8), 50 * (square // 8)
        if (square // 8 + square) % 2:
            draw.rectangle((x, y, x + 49, y + 49), fill=(181, 136, 99))
    places = {*range(16), *range(48, 64)}
    moved = sorted(places)[16 + number % 8]
    places = places - {moved} | {moved - 8 * (1 + number // 8)}
    for square in places:
        x, y = 50 * (square % 8) + 25, 50 * (square // 8) + 25
        fill = (250, 250, 250) if square > 24 else (30, 30, 30)
        draw.ellipse((x - 15, y - 15, x + 15, y + 15), fill=fill, outline=(0, 0, 0), width=2)
    return _bytes(picture)


def floor_plan(number: int) -> bytes:
    """One floor of which one door and one wall are elsewhere."""
    picture, draw = _paper(640, 480, 255)
    draw.rectangle((20, 20, 620, 460), outline=(0, 0, 0), width=6)
    for line in ((220, 20, 220, 460), (420, 20, 420, 300), (220, 240, 620, 240)):
        draw.line(line, fill=(0, 0, 0), width=5)
    for room, (x, y) in enumerate(((60, 60), (260, 60), (460, 60), (260, 340))):
        draw.text((x, y), f"Room {room + 1}", fill=(0, 0, 0), font_size=18)
    x = 250 + 14 * (number % 10)
    draw.line((x, 240, x + 24, 240), fill=(255, 255, 255), width=7)
    y = 60 + 30 * (number // 10)
    draw.line((20, y + 200, 90, y + 200), fill=(0, 0, 0), width=4)
    return _bytes(picture)


def line_chart(number: int) -> bytes:
    """The same axes with another line."""
    picture, draw = _paper(640, 400, 255)
    draw.text((220, 10), "Sales by month", fill=(0, 0, 0), font_size=22)
    for line in range(7):
        y = 60 + 45 * line
        draw.line((70, y, 610, y), fill=(215, 215, 215), width=1)
        draw.text((25, y - 9), str(600 - 100 * line), fill=(60, 60, 60), font_size=15)
    draw.line((70, 330, 610, 330), fill=(0, 0, 0), width=2)
    draw.line((70, 60, 70, 330), fill=(0, 0, 0), width=2)
    heights = 195 + np.cumsum(_rng("chart", number).normal(0, 16, 19)).clip(-120, 120)
    points = [(70 + 30 * step, float(y)) for step, y in enumerate(heights)]
    draw.line(points, fill=(30, 90, 200), width=3)
    return _bytes(picture)


def camera_trap(number: int) -> bytes:
    """One place before a fixed camera, with another small visitor elsewhere."""
    rng = _rng("trap", number)
    levels = 255 * scene(0) + rng.normal(0, 2, scene(0).shape)
    x, y = rng.integers(20, 400), rng.integers(20, 290)
    levels[y : y + 40, x : x + 50] = np.asarray(photo(number + 50).resize((50, 40)))
    return _bytes(Image.fromarray(np.uint8(levels.clip(0, 255))), "JPEG", quality=88)


KINDS: dict[str, Maker] = {
    maker.__name__: maker
    for maker in (
        white_icon, black_icon, tiny_icon, fading_gif, last_frame, pages,
        underexposed, underexposed_jpeg, nearly_black, nearly_white, scan_12_bit,
        form, form_of_one_word, one_line, page_number, page_of_text, dialog, square_code,
        bar_code, night_sky, plain_sky, flat_colour, map_tile, chess_board, floor_plan,
        line_chart, camera_trap,
    )
}  # fmt: skip
"""From the name of a kind to what makes its pictures."""
