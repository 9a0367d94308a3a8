"""How an image becomes the input of a network: resize it, then crop or pad it around its centre.

A network says what it was trained with. The name of a `Preprocessing` contains all of it, so that
an index can store the name alone.
"""

import math
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, Self, cast, get_args

from PIL import Image

Resize = Literal["squash", "shortest", "longest"]
Filter = Literal["nearest", "box", "bilinear", "bicubic", "lanczos"]
FILTERS: tuple[Filter, ...] = get_args(Filter)

VERSION = 4
"""Version of the decoding before it: colours, depth, transparency. Others give other pixels."""
MAX_SIDE = 2048
"""Most pixels a side of a network's input."""
MAX_SURPLUS = 8
"""A resized image has at most this many times the pixels of its crop; of others only a part is
resized."""

_NAME = re.compile(
    r"(squash|shortest|longest)-(\d{1,5})(?:x(\d{1,5}))?-([a-z]+)"
    r"(?:-crop-(\d{1,5})(?:x(\d{1,5}))?)?(?:-fill-([0-9a-f]{6}))?-(\d{1,5})"
)


@dataclass(frozen=True)
class Preprocessing:
    """What is done with a decoded image before a network, apart from its mean and deviation.

    Attributes
    ----------
    resize
        `squash` to `size`; `shortest`: keep the shape and cover `size`; `longest`: keep the shape
        and stay within `size`.
    size
        Height and width in pixels.
    filter
        The filter of the resize, one of `FILTERS`, which averages where it makes smaller.
    crop
        Height and width of the network's input, cut out of the centre.
    fill
        Red, green and blue, 0 to 255, where the resized image is smaller than the crop.
    version
        `VERSION` of the decoding.
    """

    resize: Resize
    size: tuple[int, int]
    filter: Filter
    crop: tuple[int, int]
    fill: tuple[int, int, int] = (0, 0, 0)
    version: int = VERSION

    def __post_init__(self) -> None:
        if self.filter not in FILTERS:
            raise ValueError(f"a resize by {self.filter!r}")
        if not all(0 < side <= MAX_SIDE for side in (*self.size, *self.crop)):
            raise ValueError(f"an input of {self.crop[0]} x {self.crop[1]} pixels")

    @property
    def name(self) -> str:
        """The name, such as `squash-224-bilinear-4` or `shortest-256-bicubic-crop-224-4`.

        >>> Preprocessing("shortest", (256, 256), "bicubic", (224, 224)).name
        'shortest-256-bicubic-crop-224-4'
        """
        crop = f"-crop-{_sides(self.crop)}" if self.crop != self.size else ""
        fill = f"-fill-{bytes(self.fill).hex()}" if any(self.fill) else ""
        return f"{self.resize}-{_sides(self.size)}-{self.filter}{crop}{fill}-{self.version}"

    @classmethod
    @lru_cache(64)
    def parse(cls, name: str) -> Self:
        """Return what `name` was made from. Raises `ValueError` for another text."""
        found = _NAME.fullmatch(name)
        if not found:
            raise ValueError(f"the preprocessing {name[:40]!r}")
        resize, high, wide, filter_, crop_high, crop_wide, fill, version = found.groups()
        size = int(high), int(wide or high)
        crop = (int(crop_high), int(crop_wide or crop_high)) if crop_high else size
        colour = cast("tuple[int, int, int]", tuple(bytes.fromhex(fill or "000000")))
        return cls(
            cast("Resize", resize), size, cast("Filter", filter_), crop, colour, int(version)
        )

    def current(self) -> Self:
        """Return the same for the decoding of this version."""
        return replace(self, version=VERSION)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the pixels: height, width, 3."""
        return (*self.crop, 3)

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """Return width and height of an image after the resize, before the crop."""
        high, wide = self.size
        if self.resize == "squash":
            return wide, high
        if (self.resize == "shortest") == (width * high <= height * wide):  # as torchvision rounds
            return wide, max(int(wide * height / width), 1)
        return max(int(high * width / height), 1), high

    def is_long(self, width: int, height: int) -> bool:
        """Tell whether an image is so long that only a part of it is resized."""
        wide, high = self.resized(width, height)
        return wide * high > MAX_SURPLUS * max(math.prod(self.crop), math.prod(self.size))

    def apply(self, image: Image.Image) -> Image.Image:
        """Resize and crop an RGB image."""
        size = self.resized(*image.size)
        filter_ = Image.Resampling[self.filter.upper()]
        if not self.is_long(*image.size):
            return self.centre(image.resize(size, filter_))
        # Else an image of 8 x 60,000 pixels would become one of gigabytes.
        kept = min(size[0], self.crop[1]), min(size[1], self.crop[0])
        box = [
            side * (whole + sign * part) / (2 * whole)
            for sign in (-1, 1)
            for side, whole, part in zip(image.size, size, kept, strict=True)
        ]
        return self.centre(image.resize(kept, filter_, (box[0], box[1], box[2], box[3])))

    def centre(self, image: Image.Image) -> Image.Image:
        """Crop a resized image around its centre, or pad it."""
        high, wide = self.crop
        if image.size == (wide, high):
            return image
        if image.width < wide or image.height < high:
            small, size = image, (max(image.width, wide), max(image.height, high))
            image = Image.new("RGB", size, self.fill)
            image.paste(small, ((size[0] - small.width) // 2, (size[1] - small.height) // 2))
        left, top = round((image.width - wide) / 2), round((image.height - high) / 2)
        return image.crop((left, top, left + wide, top + high))


def _sides(size: tuple[int, int]) -> str:
    return str(size[0]) if size[0] == size[1] else f"{size[0]}x{size[1]}"


DEFAULT = Preprocessing("squash", (224, 224), "bilinear", (224, 224))
"""That of the bundled networks and of torchvision's."""
