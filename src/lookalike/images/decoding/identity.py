"""Decode images for the comparison of copies: a large `view`, and a `digest` of every pixel."""

import contextlib
import hashlib
import io
import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from lookalike.images.decoding import raster
from lookalike.images.decoding.colour import to_srgb
from lookalike.images.decoding.opening import Opened
from lookalike.images.decoding.reasons import reasons

MAX_VIEW_PIXELS = 2**20
"""Print on a page of paper is still legible at this size."""
_STRIP_PIXELS = 2**22  # digested at a time
_HEADER = struct.Struct("=IIII")  # height, width, channels, frames


@dataclass(frozen=True)
class View:
    """An image of at most `MAX_VIEW_PIXELS`, and the number of frames or pages of its file.

    Attributes
    ----------
    pixels
        uint8 (height, width, 3), upright and never enlarged; (height, width, 4) with premultiplied
        alpha if parts are transparent; (0, 0, 3) unless there is one frame.
    frames
        The number of frames or pages, 0 if they cannot be counted.

    """

    pixels: npt.NDArray[np.uint8]
    frames: int

    def packed(self) -> bytes:
        """Serialise the view."""
        return _HEADER.pack(*self.pixels.shape, self.frames) + self.pixels.tobytes()

    @classmethod
    def unpacked(cls, data: bytes | memoryview) -> "View":
        """Undo `packed`; raise `ValueError` for other bytes."""
        *shape, frames = _HEADER.unpack_from(data)
        return cls(np.frombuffer(data, np.uint8, offset=_HEADER.size).reshape(shape), frames)


def view(data: bytes, truncated: bool = False) -> View:
    """Decode a file to a view; `data`, `truncated` and errors are those of `raster.decode`."""
    with reasons():
        opened = raster.open_limited(data)
        if (frames := _count_frames(opened)) != 1:
            return View(np.zeros((0, 0, 3), np.uint8), frames)
        scale = min(1.0, (MAX_VIEW_PIXELS / opened.pixels) ** 0.5)
        opened.draft(round(min(opened.size) * scale))
        with raster.lock_if_large(opened):
            image = raster.apply_orientation(opened.load(truncated))
            image, profile = _premultiply_alpha(image) or raster.to_rgb(image)
            scale = min(1.0, (MAX_VIEW_PIXELS / (image.width * image.height)) ** 0.5)
            if scale < 1:
                size = max(int(image.width * scale), 1), max(int(image.height * scale), 1)
                image = image.resize(size, Image.Resampling.BILINEAR)
        return View(np.asarray(to_srgb(image, profile)), 1)


def digest(data: bytes, truncated: bool = False) -> bytes:
    """Return the SHA-256 of a file's frames, opacity, depth and colour profile.

    Files with equal pixels have equal digests, whatever their formats. The digest is that of the
    file's bytes if it was cut short, or if Pillow reads its pixels with fewer bits than they have.
    `data`, `truncated` and errors are those of `raster.decode`.
    """
    with reasons():
        opened = raster.open_limited(data)
        with raster.lock_if_large(opened):
            if isinstance(opened.header, Image.Image) and not _loses_depth(opened.header):
                with contextlib.suppress(OSError):
                    return _digest_pixels(_open_all_frames(opened))
            opened.load(truncated)
    return hashlib.sha256(data).digest()


def _open_all_frames(opened: Opened) -> Image.Image:
    return Image.open(io.BytesIO(opened.data), formats=[opened.format])


def _count_frames(opened: Opened) -> int:
    """Count frames or pages, 0 if that fails. Further images in a JPEG are previews."""
    if opened.format == "JPEG":
        return 1
    try:
        return int(getattr(_open_all_frames(opened), "n_frames", 1))
    except Exception:
        return 0


def _premultiply_alpha(image: Image.Image) -> tuple[Image.Image, None] | None:
    """Return a transparent image in mode RGBa, None for an opaque one."""
    if not image.has_transparency_data:
        return None
    image = image.convert("RGBA")
    opaque = image.getchannel("A").getextrema() == (255, 255)
    return None if opaque else (image.convert("RGBa"), None)


def _loses_depth(image: Image.Image) -> bool:
    """Tell whether Pillow may drop bits: it reads colours with eight bits a sample."""
    tiles = getattr(image, "tile", None) or []
    deep = any(";16" in str(tile[3]) for tile in tiles) or image.format in ("JPEG2000", "PPM")
    return deep and not image.mode.startswith(("I", "F"))


def _digest_pixels(image: Image.Image) -> bytes:
    digest = hashlib.sha256(image.info.get("icc_profile") or b"")
    for number in range(1 if image.format == "MPO" else getattr(image, "n_frames", 1)):
        if number:
            image.seek(number)
        image.load()
        frame = raster.apply_orientation(image)
        plain = frame.mode in ("1", "L", "P", "LA", "PA", "La", "RGB", "RGBA", "RGBa")
        digest.update(f"{'RGBA' if plain else frame.mode} {frame.width} {frame.height}".encode())
        rows = max(_STRIP_PIXELS // frame.width, 1)  # saves a second copy of a large image
        for top in range(0, frame.height, rows):
            strip = frame.crop((0, top, frame.width, min(top + rows, frame.height)))
            digest.update((strip.convert("RGBA") if plain else strip).tobytes())
    return digest.digest()
