"""TIFF: the largest of its pages, and its samples where they have more than eight bits.

Pillow reads eight bits a sample, and of more only some kinds, a few of them wrong. Those are read
by OpenCV, whose answer is taken apart here: which value is white, which channel is transparency.
https://www.itu.int/itudoc/itu-t/com16/tiff-fx/docs/tiff6.pdf
"""

import contextlib
import io
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from PIL.ExifTags import Base
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from lookalike.errors import ImageError
from lookalike.images import depth

UNREADABLE = "a TIFF of a kind that cannot be read"
MAX_PAGES = 100
"""Pages looked at for the largest."""

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_STRIPS, _SAMPLES, _STRIP_BYTES, _LARGEST_VALUE, _PLANAR = 273, 277, 279, 281, 284
_TILES, _TILE_BYTES, _EXTRA, _FORMAT, _PROFILE = 324, 325, 338, 339, 34675
_NO_DATA = 42113  # https://gdal.org/en/stable/drivers/raster/gtiff.html
_OF_EACH_PLANE = (_WIDTH, _HEIGHT, _COMPRESSION, 266, 278, 317, 322, 323)  # the same in all
_MASK = 4  # a bit of the kind of page (tag 254)
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3


@dataclass(frozen=True)
class Page:
    """One page: a file that begins with it, and what its directory says."""

    data: bytes | bytearray
    tags: dict[int, Any]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height as they are stored."""
        return int(self.tags.get(_WIDTH, 0)), int(self.tags.get(_HEIGHT, 0))

    @property
    def is_deep(self) -> bool:
        """Tell whether its samples are of a kind that Pillow does not read, or not always right."""
        bits, form = self._bits, self._form
        unusual = bits in (10, 12, 14, 16, 32, 64) or (bits, form) == (8, _SIGNED)
        return unusual and self.tags.get(_PHOTOMETRIC, 0) in (0, 1, 2)

    @property
    def _bits(self) -> int:
        bits = set(_tuple(self.tags.get(_BITS, 1)))
        return int(bits.pop()) if len(bits) == 1 else 0

    @property
    def _form(self) -> int:
        forms = set(_tuple(self.tags.get(_FORMAT, _UNSIGNED)))
        return int(forms.pop()) if len(forms) == 1 else 0

    @property
    def _no_data(self) -> float | None:
        """The value that GDAL's tag says means that there is no data."""
        with contextlib.suppress(ValueError):
            return float(str(self.tags.get(_NO_DATA, "")).strip("\0 "))
        return None

    def read(self) -> Image.Image:
        """Return the picture in 8 bits a sample: L, RGB or RGBA, turned or with what says how.

        Raises `ImageError` for a kind that is not read.
        """
        samples = int(self.tags.get(_SAMPLES, 1))
        colours = 3 if self.tags.get(_PHOTOMETRIC, 0) == 2 else 1
        if samples not in (colours, colours + 1) or (self._bits, self._form) == (16, _FLOAT):
            raise ImageError(UNREADABLE)
        self._check_length()
        turn, (width, height) = self.tags.get(Base.Orientation, 1), self.size
        if samples > 1 and self.tags.get(_PLANAR, 1) == 2:
            planes = [depth.read_samples(plane) for plane in self._planes(samples)]
            if any(plane is None or plane.ndim != 2 for plane in planes):
                raise ImageError(UNREADABLE)
            values = np.dstack(planes)  # type: ignore[arg-type]
        else:
            read = depth.read_samples(self.data)
            if read is None:
                raise ImageError(UNREADABLE)
            values = read if read.ndim == 3 else read[..., None]
            if turn in (5, 6, 7, 8):  # OpenCV turns a TIFF by itself, but not its planes
                width, height = height, width
            turn = 1
        if values.shape != (height, width, samples):
            raise ImageError(UNREADABLE)
        picture = self._picture(values[..., :colours], values[..., colours:])
        if _PROFILE in self.tags:
            picture.info["icc_profile"] = self.tags[_PROFILE]
        picture.getexif()[Base.Orientation] = turn
        return picture

    def _picture(self, colours: depth.Samples, alpha: depth.Samples) -> Image.Image:
        # A negative says that white is zero; of eight bits OpenCV sees to that.
        negative = self.tags.get(_PHOTOMETRIC, 0) == 0 and self._bits > 8
        declared = self._declared(colours)
        levels, white = depth.to_bytes(colours, declared, self._no_data, negative)
        extra = _tuple(self.tags.get(_EXTRA, 2))[0]
        if not alpha.shape[2] or extra == 0:
            return Image.fromarray(levels if levels.shape[2] == 3 else levels[..., 0])
        opaque = white if alpha.max() <= white else depth.limits(alpha)[1]
        levels = np.repeat(levels, 3 // levels.shape[2], axis=2)
        both = np.dstack([levels, depth.scaled(alpha, 0, opaque)])
        size = (both.shape[1], both.shape[0])
        return Image.frombytes("RGBa" if extra == 1 else "RGBA", size, both.tobytes()).convert(
            "RGBA"
        )

    def _declared(self, values: depth.Samples) -> int | None:
        """Return the depth that the file says; the largest value it names may also be just that."""
        if values.dtype != np.uint16 or self._bits != 16:
            return self._bits if self._bits in (10, 12, 14) else None
        named = _tuple(self.tags.get(_LARGEST_VALUE, 0))
        most = max((int(value) for value in named), default=0)
        return most.bit_length() if 2**8 <= most + 1 <= 2**16 and most & (most + 1) == 0 else None

    def _check_length(self) -> None:
        starts = _tuple(self.tags.get(_STRIPS, self.tags.get(_TILES, ())))
        counts = _tuple(self.tags.get(_STRIP_BYTES, self.tags.get(_TILE_BYTES, ())))
        if any(
            start + count > len(self.data) for start, count in zip(starts, counts, strict=False)
        ):
            raise OSError("image file is truncated")

    def _planes(self, count: int) -> list[bytearray]:
        """Give each channel as a file of its own: OpenCV reads them only one beside the other."""
        if bytes(self.data[2:4]) not in (b"*\0", b"\0*"):
            raise ImageError(UNREADABLE)
        order = "<" if self.data[:2] == b"II" else ">"
        common = {tag: self.tags[tag] for tag in _OF_EACH_PLANE if tag in self.tags}
        common |= {_BITS: self._bits, _PHOTOMETRIC: 1, _SAMPLES: 1, _FORMAT: self._form}
        files = []
        for plane in range(count):
            tags = dict(common)
            for tag in (_STRIPS, _STRIP_BYTES, _TILES, _TILE_BYTES):
                if tag in self.tags:
                    all_of = _tuple(self.tags[tag])
                    each = len(all_of) // count
                    tags[tag] = all_of[plane * each : (plane + 1) * each]
            file = bytearray(self.data)
            file += bytes(len(file) % 2)
            struct.pack_into(f"{order}I", file, 4, len(file))
            file += _directory(tags, len(file), order)
            files.append(file)
        return files


def _directory(tags: dict[int, Any], start: int, order: str) -> bytes:
    """Write a directory of whole numbers, each of four bytes, that begins at `start`."""
    head, after = b"", b""
    behind = start + 2 + 12 * len(tags) + 4
    for tag, value in sorted(tags.items()):
        numbers = _tuple(value)
        packed = struct.pack(f"{order}{len(numbers)}I", *numbers)
        if len(packed) > 4:
            packed, after = struct.pack(f"{order}I", behind + len(after)), after + packed
        head += struct.pack(f"{order}HHI", tag, 4, len(numbers)) + packed.ljust(4, b"\0")
    return struct.pack(f"{order}H", len(tags)) + head + bytes(4) + after


def _tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def largest_page(data: bytes) -> Page:
    """Return the page with the most pixels, of several alike the first; masks do not count.

    Raises whatever Pillow does for directories that it cannot read.
    """
    file = io.BytesIO(data)
    is_big = 43 in data[2:4]
    directory = ImageFileDirectory_v2(data[: 16 if is_big else 8])
    at, offsets, best = directory.next, list[int](), None
    while at and at not in offsets and len(offsets) < MAX_PAGES:
        offsets.append(at)
        page = ImageFileDirectory_v2(data[: 16 if is_big else 8])
        file.seek(at)
        try:
            page.load(file)
            tags = dict(page)
            pixels = int(tags.get(_WIDTH, 0)) * int(tags.get(_HEIGHT, 0))
        except Exception:  # of the first page there is nothing else to go by
            if best is None:
                raise
            break
        is_mask = int(tags.get(254, 0)) & _MASK
        if best is None or (pixels > best[0] and not is_mask):
            best = (pixels, at, tags)
        at = page.next
    if best is None:
        raise OSError("no page")
    if best[1] == offsets[0]:
        return Page(data, best[2])
    changed = bytearray(data)
    order = "<" if data[:2] == b"II" else ">"
    struct.pack_into(f"{order}{'Q' if is_big else 'I'}", changed, 8 if is_big else 4, best[1])
    return Page(changed, best[2])
