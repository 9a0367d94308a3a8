"""What a file shows in full: what tells a copy of a picture from another one that is like it.

`decoding` makes small pictures for a network; here are a `view`, as large as it is worth comparing,
and a `digest` of every pixel that a file has.
"""

import contextlib
import hashlib
import io
import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from lookalike.images import decoding
from lookalike.images.opening import Opened
from lookalike.images.reasons import reasons

MOST = 2**20
"""Pixels of a view at most: print on a page of paper is still legible."""
_STRIP = 2**22  # pixels that are brought to a form in which they can be compared, at a time
_PACKED = struct.Struct("=IIII")  # height, width, channels; frames


@dataclass(frozen=True)
class View:
    """A picture of at most `MOST` pixels, and how many frames or pages its file has.

    `pixels` are uint8 (height, width, 3), upright and never enlarged; of a picture with transparent
    parts (height, width, 4): the colours, darkened by how transparent they are, and the opacity.
    Of more frames, or of 0, which is where they cannot be counted, there are none, (0, 0, 3).
    """

    pixels: npt.NDArray[np.uint8]
    frames: int

    def packed(self) -> bytes:
        """Return it as bytes."""
        return _PACKED.pack(*self.pixels.shape, self.frames) + self.pixels.tobytes()

    @classmethod
    def unpacked(cls, data: bytes | memoryview) -> "View":
        """Return what `packed` made bytes of; `ValueError` for others."""
        *shape, frames = _PACKED.unpack_from(data)
        return cls(np.frombuffer(data, np.uint8, offset=_PACKED.size).reshape(shape), frames)


def view(data: bytes, truncated: bool = False) -> View:
    """Decode what there is to see of a file. Raises `ImageError` as `decoding.decode` does."""
    with reasons():
        opened = decoding._open(data)
        if (frames := _frames(opened)) != 1:
            return View(np.zeros((0, 0, 3), np.uint8), frames)
        share = min(1.0, (MOST / opened.pixels) ** 0.5)
        opened.draft(round(min(opened.size) * share))
        with _turn(opened):
            image = decoding._turned(opened.load(truncated))
            image, profile = _with_opacity(image) or decoding._to_rgb(image)
            share = min(1.0, (MOST / (image.width * image.height)) ** 0.5)
            if share < 1:
                size = max(int(image.width * share), 1), max(int(image.height * share), 1)
                image = image.resize(size, Image.Resampling.BILINEAR)
        return View(np.asarray(decoding._converted(image, profile)), 1)


def digest(data: bytes, truncated: bool = False) -> bytes:
    """Return a SHA-256 of all that a file shows: every frame, opacity, depth, the colour profile.

    Files of equal pixels have equal ones, whatever their formats. Of a file that was cut short, and
    of pixels that Pillow gives less deep than they are, it is that of the file. Raises `ImageError`
    as `decoding.decode` does.
    """
    with reasons():
        opened = decoding._open(data)
        with _turn(opened):
            if isinstance(opened.header, Image.Image) and not _loses_depth(opened.header):
                with contextlib.suppress(OSError):
                    return _of_pixels(_again(opened))
            opened.load(truncated)
    return hashlib.sha256(data).digest()


def _again(opened: Opened) -> Image.Image:
    """Open a file as Pillow does: with all of its frames or pages, from the first."""
    return Image.open(io.BytesIO(opened.data), formats=[opened.format])


def _frames(opened: Opened) -> int:
    """Count frames or pages, 0 where that cannot be. What a camera adds to a JPEG are previews."""
    if opened.format == "JPEG":
        return 1
    try:
        return int(getattr(_again(opened), "n_frames", 1))
    except Exception:
        return 0


def _turn(opened: Opened) -> contextlib.AbstractContextManager[object]:
    return decoding.large if opened.pixels > decoding.LARGE else contextlib.nullcontext()


def _with_opacity(image: Image.Image) -> tuple[Image.Image, None] | None:
    """Return a picture with its opacity, None where all of it is opaque."""
    if not image.has_transparency_data:
        return None
    image = image.convert("RGBA")
    opaque = image.getchannel("A").getextrema() == (255, 255)
    return None if opaque else (image.convert("RGBa"), None)


def _loses_depth(image: Image.Image) -> bool:
    """Say whether Pillow may leave out bits of the pixels: of colours of over eight bits each."""
    tiles = getattr(image, "tile", None) or []
    deep = any(";16" in str(tile[3]) for tile in tiles) or image.format in ("JPEG2000", "PPM")
    return deep and not image.mode.startswith(("I", "F"))


def _of_pixels(image: Image.Image) -> bytes:
    found = hashlib.sha256(image.info.get("icc_profile") or b"")
    for number in range(1 if image.format == "MPO" else getattr(image, "n_frames", 1)):
        if number:
            image.seek(number)
        image.load()
        frame = decoding._turned(image)
        plain = frame.mode in ("1", "L", "P", "LA", "PA", "La", "RGB", "RGBA", "RGBa")
        found.update(f"{'RGBA' if plain else frame.mode} {frame.width} {frame.height}".encode())
        rows = max(_STRIP // frame.width, 1)  # a large picture is not there twice
        for top in range(0, frame.height, rows):
            strip = frame.crop((0, top, frame.width, min(top + rows, frame.height)))
            found.update((strip.convert("RGBA") if plain else strip).tobytes())
    return found.digest()
