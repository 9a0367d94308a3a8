"""Change a picture mildly, as copies usually are, to measure how far its embedding moves."""

import io
import random
from collections.abc import Callable

from PIL import Image, ImageDraw, ImageEnhance, ImageOps

Change = Callable[[Image.Image, random.Random], Image.Image]
_JPEG_QUALITY = 90
_RECOMPRESSED_QUALITY = 30


def _resized(picture: Image.Image, rng: random.Random) -> Image.Image:
    share = rng.uniform(0.5, 0.8)
    width, height = picture.size
    return picture.resize((max(round(width * share), 16), max(round(height * share), 16)))


def _cropped(share: float) -> Change:
    def crop(picture: Image.Image, rng: random.Random) -> Image.Image:
        width, height = picture.size
        left, top = rng.uniform(0, share) * width, rng.uniform(0, share) * height
        return picture.crop(
            (int(left), int(top), int(left + width * (1 - share)), int(top + height * (1 - share)))
        )

    return crop


def _brightness(picture: Image.Image, rng: random.Random) -> Image.Image:
    return ImageEnhance.Brightness(picture).enhance(rng.choice((0.7, 1.3)))


def _watermark(picture: Image.Image, rng: random.Random) -> Image.Image:
    marked = picture.copy()
    draw = ImageDraw.Draw(marked, "RGBA")
    width, height = picture.size
    at = (rng.uniform(0.05, 0.4) * width, rng.uniform(0.1, 0.8) * height)
    draw.text(at, "sample photo", fill=(255, 255, 255, 180), font_size=max(height // 10, 10))
    return marked


def _rotated(picture: Image.Image, rng: random.Random) -> Image.Image:
    return picture.rotate(rng.choice((-3, 3)), Image.Resampling.BICUBIC)


CHANGES: dict[str, Change] = {
    "recompressed": lambda picture, rng: picture,  # `variant` saves it at low quality
    "resized": _resized,
    "cropped by 5 %": _cropped(0.05),
    "cropped by 10 %": _cropped(0.10),
    "cropped by 15 %": _cropped(0.15),
    "brightness": _brightness,
    "mirrored": lambda picture, rng: ImageOps.mirror(picture),
    "watermark": _watermark,
    "rotated by 3 degrees": _rotated,
}
"""The changes of an RGB picture, by name."""


def variant(picture: Image.Image, change: str, seed: int = 0) -> bytes:
    """Return a changed picture as JPEG bytes, equal for equal seeds; `change` is of `CHANGES`."""
    file = io.BytesIO()
    changed = CHANGES[change](picture.convert("RGB"), random.Random(f"{change} {seed}"))
    changed.save(
        file, "JPEG", quality=_RECOMPRESSED_QUALITY if change == "recompressed" else _JPEG_QUALITY
    )
    return file.getvalue()
