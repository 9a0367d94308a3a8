"""An image opened, as far as its header, and loaded: which format, which page, how much of it.

A JPEG that lacks nothing but its end marker is whole. Other files that were cut short are loaded,
as far as they go, only for who asks for it.
"""

import contextlib
import io
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import simplejpeg
from PIL import Image, ImageFile, PngImagePlugin, UnidentifiedImageError

from lookalike.errors import ImageError
from lookalike.images import depth, tiff
from lookalike.images.formats import load_plugin, sniff
from lookalike.images.reasons import MIN_SIDE, NO_IMAGE

END_OF_JPEG = b"\xff\xd9"

# Of text and profiles once they are inflated: Pillow's limits are small enough to be met by whole
# pictures. What a decoder may take is bounded by the process that it runs in.
PngImagePlugin.MAX_TEXT_CHUNK = 64 * 2**20
PngImagePlugin.MAX_TEXT_MEMORY = 256 * 2**20

_tolerance = threading.Lock()  # Pillow has one switch for all threads


@dataclass
class Opened:
    """An image whose header was read: a Pillow image, or a page of a TIFF that Pillow cannot read.

    `most` is how many pixels it may have.
    """

    data: bytes
    format: str
    most: int
    header: Image.Image | tiff.Page
    _draft: tuple[int, int] | None = field(default=None, init=False)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height as they are stored."""
        return self.header.size

    @property
    def pixels(self) -> int:
        """How many there are."""
        return self.size[0] * self.size[1]

    @property
    def is_plain_jpeg(self) -> bool:
        """Tell whether libjpeg-turbo makes it RGB."""
        return self.format == "JPEG" and getattr(self.header, "mode", None) in ("RGB", "L")

    def draft(self, side: int) -> None:
        """Have a JPEG made smaller as it is decoded, to no less than `side` pixels a side."""
        self._draft = (side, side)

    def load(self, truncated: bool = False) -> Image.Image:
        """Decode it: a Pillow image, of eight bits a sample where it had more.

        `truncated` takes a file that was cut short as well, as far as it goes.
        """
        try:
            return self._load()
        except OSError as error:
            if "truncated" not in str(error).lower():
                raise
            if self.format == "JPEG" and self._lacks_only_its_end():
                return self._again(self.data + END_OF_JPEG)
            if not truncated:
                raise
        with _tolerant():
            return self._again(self.data)

    def _again(self, data: bytes) -> Image.Image:
        opened = open_image(data, self.most)
        opened._draft = self._draft
        return opened._load()

    def _load(self) -> Image.Image:
        if isinstance(self.header, tiff.Page):
            return self.header.read()
        image = self.header
        if self._draft:
            image.draft("RGB", self._draft)
        tile: Any = image.tile[:1] if isinstance(image, ImageFile.ImageFile) else []
        image.load()
        check_size(image.size, self.most)  # an icon's says less than the picture in it has
        if image.mode.startswith("I") or image.mode == "F":
            # Pillow stretches what a PGM says it has to sixteen bits.
            stretched = self.format == "PPM" and not self._is_of_sixteen_bits(tile)
            declared = 16 if stretched else depth.declared_bits(self.data, self.format)
            return _with_info(depth.to_bytes(np.asarray(image), declared)[0], image)
        if image.mode in ("RGB", "RGBA") and self._is_of_sixteen_bits(tile):
            return self._all_bits(image)
        return image

    def _is_of_sixteen_bits(self, tile: Any) -> bool:
        """Tell whether a PNG has sixteen bits a sample, or a PPM or PGM says that it uses all."""
        how = tile[0].args if tile else ""
        if self.format == "PPM":
            return how == "I;16B" or (isinstance(how, tuple) and how[-1] == 2**16 - 1)
        return self.format == "PNG" and ";16" in str(how)

    def _all_bits(self, image: Image.Image) -> Image.Image:
        """Look at the low bytes too, where a picture of 16 bits is dark in the high ones."""
        colours = np.reshape(image.histogram()[: 3 * 256], (3, 256))
        if colours[:, 65:255].sum() > 0.001 * colours.sum():  # neither dark nor without data
            return image
        # Of numbers written as text, OpenCV wants something behind the last one.
        values = depth.read_samples(self.data + b"\n" if self.format == "PPM" else self.data)
        if values is None or values.ndim != 3 or values.shape[2] not in (3, 4):
            return image
        declared = depth.declared_bits(self.data, self.format)
        levels, white = depth.to_bytes(values[..., :3], declared)
        alpha = values[..., 3:]
        opaque = white if alpha.size and alpha.max() <= white else 2**16 - 1
        return _with_info(np.dstack([levels, depth.scaled(alpha, 0, opaque)]), image)

    def _lacks_only_its_end(self) -> bool:
        colours = "CMYK" if getattr(self.header, "mode", None) == "CMYK" else "RGB"
        with contextlib.suppress(ValueError):  # which libjpeg-turbo raises for all that is missing
            simplejpeg.decode_jpeg(self.data + END_OF_JPEG, colours, min_factor=8)
            return True
        return False


def open_image(data: bytes, most: int) -> Opened:
    """Read the header of an image; `ImageError` for what is none, or not of a size to look at."""
    if not data:
        raise ImageError("empty file")
    name = sniff(data)
    if name is None:
        raise ImageError(NO_IMAGE)
    load_plugin(name)
    header = _open_tiff(data) if name == "TIFF" else Image.open(io.BytesIO(data), formats=[name])
    check_size(header.size, most)
    return Opened(data, name, most, header)


def _open_tiff(data: bytes) -> Image.Image | tiff.Page:
    try:
        page = tiff.largest_page(data)
    except Exception:  # Pillow has the last word on what is no image
        return Image.open(io.BytesIO(data), formats=["TIFF"])
    if page.is_deep:
        return page
    try:
        return Image.open(io.BytesIO(page.data), formats=["TIFF"])
    except UnidentifiedImageError:
        raise ImageError(tiff.UNREADABLE if all(page.size) else NO_IMAGE) from None


def check_size(size: tuple[int, int], most: int) -> None:
    """Raise `ImageError` for more pixels than `most`, or too few on a side."""
    width, height = size
    if width * height > most:
        raise ImageError(f"too many pixels: {width} x {height}")
    if min(width, height) < MIN_SIDE:
        raise ImageError(f"smaller than {MIN_SIDE} pixels on a side: {width} x {height}")


def _with_info(levels: depth.Samples, image: Image.Image) -> Image.Image:
    picture = Image.fromarray(levels)
    picture.info = {key: value for key, value in image.info.items() if key != "transparency"}
    return picture


@contextlib.contextmanager
def _tolerant() -> Iterator[None]:
    with _tolerance:
        before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, True
        try:
            yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = before
