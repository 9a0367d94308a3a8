"""Read TIFF (https://www.itu.int/itudoc/itu-t/com16/tiff-fx/docs/tiff6.pdf): page and deep samples.

Pillow reads eight bits a sample, but only some kinds of deeper samples, and a few of these wrongly.
OpenCV reads those, and the tags then tell which value is white and which channel is alpha.
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
from lookalike.images.decoding import depth

UNREADABLE = "unsupported kind of TIFF"
MAX_PAGES = 100
"""Pages among which the largest is chosen."""

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_STRIPS, _SAMPLES, _STRIP_BYTES, _LARGEST_VALUE, _PLANAR = 273, 277, 279, 281, 284
_TILES, _TILE_BYTES, _EXTRA, _FORMAT, _PROFILE = 324, 325, 338, 339, 34675
_NO_DATA = 42113  # https://gdal.org/en/stable/drivers/raster/gtiff.html
_PLANE_TAGS = (_WIDTH, _HEIGHT, _COMPRESSION, 266, 278, 317, 322, 323)  # shared by all planes
_SUBFILE_TYPE = 254
_MASK = 4  # a bit of the subfile type
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3


@dataclass(frozen=True)
class Page:
    """One page: a file whose first page it is, and the tags of its directory."""

    data: bytes | bytearray
    tags: dict[int, Any]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height as stored."""
        return int(self.tags.get(_WIDTH, 0)), int(self.tags.get(_HEIGHT, 0))

    @property
    def is_deep(self) -> bool:
        """Whether Pillow cannot read its samples, or may read them wrongly."""
        bits, sample_format = self._bits, self._sample_format
        unusual = bits in (10, 12, 14, 16, 32, 64) or (bits, sample_format) == (8, _SIGNED)
        return unusual and self.tags.get(_PHOTOMETRIC, 0) in (0, 1, 2)

    @property
    def _bits(self) -> int:
        bits = set(_tuple(self.tags.get(_BITS, 1)))
        return int(bits.pop()) if len(bits) == 1 else 0

    @property
    def _sample_format(self) -> int:
        formats = set(_tuple(self.tags.get(_FORMAT, _UNSIGNED)))
        return int(formats.pop()) if len(formats) == 1 else 0

    @property
    def _no_data(self) -> float | None:
        """The value of GDAL's tag for no data."""
        with contextlib.suppress(ValueError):
            return float(str(self.tags.get(_NO_DATA, "")).strip("\0 "))
        return None

    def read(self) -> Image.Image:
        """Return the image with 8 bits a sample in mode L, RGB or RGBA, and its orientation.

        Raises
        ------
        ImageError
            If the kind of TIFF is not supported.

        """
        samples = int(self.tags.get(_SAMPLES, 1))
        colours = 3 if self.tags.get(_PHOTOMETRIC, 0) == 2 else 1
        if samples not in (colours, colours + 1) or (self._bits, self._sample_format) == (
            16,
            _FLOAT,
        ):
            raise ImageError(UNREADABLE)
        self._check_length()
        orientation, (width, height) = self.tags.get(Base.Orientation, 1), self.size
        if samples > 1 and self.tags.get(_PLANAR, 1) == 2:
            planes = [depth.read_samples(plane) for plane in self._split_planes(samples)]
            if any(plane is None or plane.ndim != 2 for plane in planes):
                raise ImageError(UNREADABLE)
            values = np.dstack(planes)  # type: ignore[arg-type]
        else:
            read = depth.read_samples(self.data)
            if read is None:
                raise ImageError(UNREADABLE)
            values = read if read.ndim == 3 else read[..., None]
            if orientation in (5, 6, 7, 8):  # OpenCV applies it, but not to single planes
                width, height = height, width
            orientation = 1
        if values.shape != (height, width, samples):
            raise ImageError(UNREADABLE)
        image = self._to_image(values[..., :colours], values[..., colours:])
        if _PROFILE in self.tags:
            image.info["icc_profile"] = self.tags[_PROFILE]
        image.getexif()[Base.Orientation] = orientation
        return image

    def _to_image(self, colours: depth.Samples, alpha: depth.Samples) -> Image.Image:
        # In a negative, white is zero. OpenCV inverts those of eight bits.
        negative = self.tags.get(_PHOTOMETRIC, 0) == 0 and self._bits > 8
        declared = self._declared_bits(colours)
        levels, white = depth.to_bytes(colours, declared, self._no_data, negative)
        extra = _tuple(self.tags.get(_EXTRA, 2))[0]
        if not alpha.shape[2] or extra == 0:
            return Image.fromarray(levels if levels.shape[2] == 3 else levels[..., 0])
        opaque = white if alpha.max() <= white else depth.find_limits(alpha)[1]
        levels = np.repeat(levels, 3 // levels.shape[2], axis=2)
        rgba = np.dstack([levels, depth.scale(alpha, 0, opaque)])
        mode = "RGBa" if extra == 1 else "RGBA"
        return Image.frombytes(mode, rgba.shape[1::-1], rgba.tobytes()).convert("RGBA")

    def _declared_bits(self, values: depth.Samples) -> int | None:
        """Return the declared depth. A `MaxSampleValue` counts only if it fills whole bits."""
        if values.dtype != np.uint16 or self._bits != 16:
            return self._bits if self._bits in (10, 12, 14) else None
        declared = _tuple(self.tags.get(_LARGEST_VALUE, 0))
        white = max((int(value) for value in declared), default=0)
        fills_bits = 2**8 <= white + 1 <= 2**16 and white & (white + 1) == 0
        return white.bit_length() if fills_bits else None

    def _check_length(self) -> None:
        starts = _tuple(self.tags.get(_STRIPS, self.tags.get(_TILES, ())))
        counts = _tuple(self.tags.get(_STRIP_BYTES, self.tags.get(_TILE_BYTES, ())))
        if any(
            start + count > len(self.data) for start, count in zip(starts, counts, strict=False)
        ):
            raise OSError("image file is truncated")

    def _split_planes(self, count: int) -> list[bytearray]:
        """Return each channel as a file of its own: OpenCV reads no planar TIFF."""
        if bytes(self.data[2:4]) not in (b"*\0", b"\0*"):
            raise ImageError(UNREADABLE)
        order = "<" if self.data[:2] == b"II" else ">"
        common = {tag: self.tags[tag] for tag in _PLANE_TAGS if tag in self.tags}
        common |= {_BITS: self._bits, _PHOTOMETRIC: 1, _SAMPLES: 1, _FORMAT: self._sample_format}
        files = []
        for plane in range(count):
            tags = dict(common)
            for tag in (_STRIPS, _STRIP_BYTES, _TILES, _TILE_BYTES):
                if tag in self.tags:
                    values = _tuple(self.tags[tag])
                    each = len(values) // count
                    tags[tag] = values[plane * each : (plane + 1) * each]
            file = bytearray(self.data)
            file += bytes(len(file) % 2)
            struct.pack_into(f"{order}I", file, 4, len(file))
            file += _pack_directory(tags, len(file), order)
            files.append(file)
        return files


def _pack_directory(tags: dict[int, Any], start: int, order: str) -> bytes:
    """Return a directory of 4-byte integers for the offset `start`."""
    entries, values = b"", b""
    values_start = start + 2 + 12 * len(tags) + 4
    for tag, value in sorted(tags.items()):
        numbers = _tuple(value)
        packed = struct.pack(f"{order}{len(numbers)}I", *numbers)
        if len(packed) > 4:
            offset = struct.pack(f"{order}I", values_start + len(values))
            packed, values = offset, values + packed
        entries += struct.pack(f"{order}HHI", tag, 4, len(numbers)) + packed.ljust(4, b"\0")
    return struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + values


def _tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def largest_page(data: bytes) -> Page:
    """Return the page with the most pixels, the first of several; ignore masks.

    Raises what Pillow raises for an unreadable directory.
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
        except Exception:  # without a first page there is nothing to return
            if best is None:
                raise
            break
        is_mask = int(tags.get(_SUBFILE_TYPE, 0)) & _MASK
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
