"""Open an image: read its header, choose its page, load its pixels.

A JPEG that lacks only its end marker counts as whole. Other files that were cut short are loaded
only on demand, up to where they end.
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
from lookalike.images.decoding import depth, tiff
from lookalike.images.decoding.formats import load_plugin, sniff
from lookalike.images.decoding.reasons import MIN_SIDE, NO_IMAGE

END_OF_JPEG = b"\xff\xd9"

# Bytes of inflated text and profiles. Some good images exceed Pillow's own limits; the sandbox
# limits the memory.
PngImagePlugin.MAX_TEXT_CHUNK = 64 * 2**20
PngImagePlugin.MAX_TEXT_MEMORY = 256 * 2**20

_truncated_lock = threading.Lock()  # Pillow has one switch for all threads


@dataclass
class Opened:
    """An image whose header was read.

    Attributes
    ----------
    data
        The bytes of the file.
    format
        One of `formats.ENDINGS`.
    max_pixels
        `load` raises `ImageError` for more.
    header
        A Pillow image that is not loaded, or a page of a TIFF that Pillow cannot read.

    """

    data: bytes
    format: str
    max_pixels: int
    header: Image.Image | tiff.Page
    _draft: tuple[int, int] | None = field(default=None, init=False)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height as stored, before the orientation is applied."""
        return self.header.size

    @property
    def pixels(self) -> int:
        """The number of pixels."""
        return self.size[0] * self.size[1]

    @property
    def is_plain_jpeg(self) -> bool:
        """Whether libjpeg-turbo can decode it to RGB."""
        return self.format == "JPEG" and getattr(self.header, "mode", None) in ("RGB", "L")

    def draft(self, side: int) -> None:
        """Let `load` scale a JPEG down while decoding, to no less than `side` pixels a side."""
        self._draft = (side, side)

    def load(self, truncated: bool = False) -> Image.Image:
        """Decode to a Pillow image with eight bits a sample.

        `truncated` also decodes the readable part of a file that was cut short.
        """
        try:
            return self._load()
        except OSError as error:
            if "truncated" not in str(error).lower():
                raise
            if self.format == "JPEG" and self._lacks_only_end_marker():
                return self._reload(self.data + END_OF_JPEG)
            if not truncated:
                raise
        with _load_truncated():
            return self._reload(self.data)

    def _reload(self, data: bytes) -> Image.Image:
        opened = open_image(data, self.max_pixels)
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
        check_size(image.size, self.max_pixels)  # an icon may contain a larger image
        if image.mode.startswith("I") or image.mode == "F":
            # Pillow stretches a PGM's `maxval` to sixteen bits.
            stretched = self.format == "PPM" and not self._has_sixteen_bits(tile)
            declared = 16 if stretched else depth.declared_bits(self.data, self.format)
            return _with_info(depth.to_bytes(np.asarray(image), declared)[0], image)
        if image.mode in ("RGB", "RGBA") and self._has_sixteen_bits(tile):
            return self._use_low_bytes(image)
        return image

    def _has_sixteen_bits(self, tile: Any) -> bool:
        """Tell whether a PNG has sixteen bits a sample, or a PPM or PGM a `maxval` of 65,535."""
        raw_mode = tile[0].args if tile else ""
        if self.format == "PPM":
            is_full = isinstance(raw_mode, tuple) and raw_mode[-1] == 2**16 - 1
            return raw_mode == "I;16B" or is_full
        return self.format == "PNG" and ";16" in str(raw_mode)

    def _use_low_bytes(self, image: Image.Image) -> Image.Image:
        """Return a 16-bit image that is dark in its high bytes, scaled by all its bits."""
        colours = np.reshape(image.histogram()[: 3 * 256], (3, 256))
        if colours[:, 65:255].sum() > 0.001 * colours.sum():  # neither dark nor without data
            return image
        # OpenCV expects a byte after the last number of a text file.
        values = depth.read_samples(self.data + b"\n" if self.format == "PPM" else self.data)
        if values is None or values.ndim != 3 or values.shape[2] not in (3, 4):
            return image
        declared = depth.declared_bits(self.data, self.format)
        levels, white = depth.to_bytes(values[..., :3], declared)
        alpha = values[..., 3:]
        opaque = white if alpha.size and alpha.max() <= white else 2**16 - 1
        return _with_info(np.dstack([levels, depth.scale(alpha, 0, opaque)]), image)

    def _lacks_only_end_marker(self) -> bool:
        colours = "CMYK" if getattr(self.header, "mode", None) == "CMYK" else "RGB"
        with contextlib.suppress(ValueError):  # libjpeg-turbo raises it for missing data
            simplejpeg.decode_jpeg(self.data + END_OF_JPEG, colours, min_factor=8)
            return True
        return False


def open_image(data: bytes, max_pixels: int) -> Opened:
    """Read the header of an image.

    Raises
    ------
    ImageError
        If it is no image, has more than `max_pixels`, or under `reasons.MIN_SIDE` pixels a side.

    """
    if not data:
        raise ImageError("empty file")
    name = sniff(data)
    if name is None:
        raise ImageError(NO_IMAGE)
    load_plugin(name)
    header = _open_tiff(data) if name == "TIFF" else Image.open(io.BytesIO(data), formats=[name])
    check_size(header.size, max_pixels)
    return Opened(data, name, max_pixels, header)


def _open_tiff(data: bytes) -> Image.Image | tiff.Page:
    try:
        page = tiff.largest_page(data)
    except Exception:  # Pillow may still read it
        return Image.open(io.BytesIO(data), formats=["TIFF"])
    if page.is_deep:
        return page
    try:
        return Image.open(io.BytesIO(page.data), formats=["TIFF"])
    except UnidentifiedImageError:
        raise ImageError(tiff.UNREADABLE if all(page.size) else NO_IMAGE) from None


def check_size(size: tuple[int, int], max_pixels: int) -> None:
    """Raise `ImageError` for more than `max_pixels`, or under `MIN_SIDE` pixels a side."""
    width, height = size
    if width * height > max_pixels:
        raise ImageError(f"too many pixels: {width} x {height}")
    if min(width, height) < MIN_SIDE:
        raise ImageError(f"smaller than {MIN_SIDE} pixels on a side: {width} x {height}")


def _with_info(levels: depth.Samples, image: Image.Image) -> Image.Image:
    result = Image.fromarray(levels)
    result.info = {key: value for key, value in image.info.items() if key != "transparency"}
    return result


@contextlib.contextmanager
def _load_truncated() -> Iterator[None]:
    with _truncated_lock:
        before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, True
        try:
            yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = before
