"""Damaged pictures: files of every format and kind, drawn here, and then changed at random.

    python tests/damage.py FOLDER COUNT [SEED]

writes COUNT of them; the same seed gives the same files.
"""

import contextlib
import io
import struct
import sys
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from helpers import profiles, tiffs

Bytes = npt.NDArray[np.uint8]
Random = np.random.Generator
SIZE = (96, 64)
PHOTO = (720, 600)  # large enough that a JPEG of it is made smaller as it is decoded
# What counters and bounds are most often wrong at; canvases of these sizes are refused or large.
EDGES = (0, 1, 7, 8, 255, 256, 4000, 13_377, 2**15, 2**16 - 1, 2**24 - 1, 2**31 - 1, 2**32 - 1)


def write_fuzzed(folder: Path, count: int, seed: int = 0) -> None:
    """Write `count` files, about one in twenty of them whole, in a new folder."""
    folder.mkdir(parents=True)
    whole = pictures()
    names = sorted(whole)
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        name = names[number % len(names)]
        data = whole[name]
        for _ in range(rng.integers(0, 4) if rng.random() < 0.8 else 1):
            mutate = MUTATIONS[rng.integers(len(MUTATIONS))]
            data = mutate(data, rng)
        (folder / f"{number:05}-{name}").write_bytes(data)


# --- whole pictures -----------------------------------------------------------------------------


@cache
def pictures() -> dict[str, bytes]:
    """Return a small file of every kind by name, whose ending says the format."""
    one, photo, others = picture(1), picture(2, PHOTO), [picture(n) for n in (3, 4, 5)]
    deep = np.asarray(one.convert("L")).astype(np.uint16) * 257
    frames: dict[str, Any] = {"save_all": True, "append_images": others, "duration": 40}
    heic = {}
    with contextlib.suppress(ImportError):  # an extra
        from pillow_heif import register_heif_opener

        register_heif_opener()
        heic = {"still.heic": encoded(one, "HEIF"), "deep.heic": encoded(photo, "HEIF")}
    profile = profiles.of_primaries(profiles.PROPHOTO, 1.8)
    colours = np.asarray(one).astype(np.uint16) * 16
    return {
        **heic,
        "profile.jpg": encoded(one, "JPEG", icc_profile=profile),
        "profile.png": encoded(one.convert("RGBA"), "PNG", icc_profile=profile),
        "ink.jpg": encoded(one.convert("CMYK"), "JPEG", icc_profile=profiles.of_grey_inks()),
        "grey.png": encoded(one.convert("L"), "PNG", icc_profile=profiles.of_grey(1.8)),
        "still.avif": encoded(one, "AVIF"),
        "animated.avif": encoded(one, "AVIF", **frames),
        "fade.gif": encoded(Image.new("RGB", SIZE), "GIF", **frames),
        "fade.png": encoded(Image.new("RGB", SIZE), "PNG", **frames),
        "boxed.jp2": encoded(one, "JPEG2000"),
        "bare.j2k": encoded(Image.fromarray(deep), "JPEG2000", no_jp2=True),
        "rgb.ppm": encoded(one, "PPM"),
        "deep.pgm": b"P5 96 64 4095\n" + (deep // 16).astype(">u2").tobytes(),
        "plain.pbm": b"P1\n16 16\n" + b"0 1 " * 128,
        "float.pfm": encoded(one.convert("F"), "PPM"),
        "rgba.tga": encoded(one.convert("RGBA"), "TGA"),
        "packed.tga": encoded(one, "TGA", compression="tga_rle"),
        "sizes.ico": encoded(one, "ICO", sizes=[(16, 16), (64, 42)]),
        "bitmap.ico": encoded(one, "ICO", sizes=[(32, 32)], bitmap_format="bmp"),
        "both.mpo": encoded(one.copy(), "MPO", save_all=True, append_images=[photo.copy()]),
        "deep.tif": tiffs.tiff(colours, deflate=True),
        "planes.tif": tiffs.tiff(colours, planar=True),
        "signed.tif": tiffs.tiff(colours.astype(np.int32), order=">"),
        "doubles.tif": tiffs.tiff(np.asarray(one) / 255, planar=True, deflate=True),
        "white-is-zero.tif": tiffs.tiff(deep, photometric=0),
        "baseline.jpg": encoded(one, "JPEG"),
        "photo.jpg": encoded(photo, "JPEG", quality=60),
        "progressive.jpg": encoded(photo, "JPEG", quality=60, progressive=True),
        "restarts.jpg": encoded(one, "JPEG", restart_marker_blocks=4),
        "cmyk.jpg": encoded(one.convert("CMYK"), "JPEG"),
        "grey.jpg": encoded(one.convert("L"), "JPEG"),
        "turned.jpg": encoded(one, "JPEG", exif=turned()),
        "rgb.png": encoded(one, "PNG"),
        "rgba.png": encoded(one.convert("RGBA"), "PNG"),
        "palette.png": encoded(one.quantize(16), "PNG", transparency=3),
        "deep.png": encoded(Image.fromarray(deep), "PNG"),
        "interlaced.png": interlaced_png(np.asarray(one)),
        "animated.png": encoded(one, "PNG", **frames),
        "lossy.webp": encoded(one, "WEBP"),
        "lossless.webp": encoded(one, "WEBP", lossless=True),
        "alpha.webp": encoded(one.convert("RGBA"), "WEBP", exif=turned()),
        "animated.webp": encoded(one, "WEBP", **frames),
        "still.gif": encoded(one, "GIF"),
        "animated.gif": encoded(one, "GIF", **frames),
        "rgb.bmp": encoded(one, "BMP"),
        "palette.bmp": encoded(one.quantize(16), "BMP"),
        "plain.tif": encoded(one, "TIFF"),
        "lzw.tif": encoded(one, "TIFF", compression="tiff_lzw"),
        "deflate.tif": encoded(one, "TIFF", compression="tiff_adobe_deflate"),
        "jpeg.tif": encoded(one, "TIFF", compression="jpeg"),
        "fax.tif": encoded(one.convert("1"), "TIFF", compression="group4"),
        "float.tif": encoded(one.convert("F"), "TIFF"),
        "pages.tif": encoded(one, "TIFF", save_all=True, append_images=others),
        "tiled.tif": tiled_tiff(np.asarray(one)),
    }


def picture(seed: int, size: tuple[int, int] = SIZE) -> Image.Image:
    """Draw something smooth with a little noise, different for every seed."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 6, 3), np.uint8))
    smooth = np.asarray(small.resize(size, Image.Resampling.BICUBIC)).astype(int)
    noisy = smooth + rng.integers(-4, 5, smooth.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def interlaced_png(pixels: Bytes) -> bytes:
    """Write RGB in the seven passes of Adam7, which Pillow reads but does not write.

    https://www.w3.org/TR/png-3/#8Interlace
    """
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2)]
    rows = b""
    for top, left, down, across in [*passes, (1, 0, 2, 1)]:
        for row in pixels[top::down, left::across]:
            rows += b"\0" + row.tobytes()
    height, width, _ = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 1)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def tiled_tiff(pixels: Bytes, side: int = 32) -> bytes:
    """Write RGB in tiles, each deflated, which Pillow reads but does not write."""
    height, width, _ = pixels.shape
    assert height % side == width % side == 0
    tiles = [
        zlib.compress(pixels[y : y + side, x : x + side].tobytes())
        for y in range(0, height, side)
        for x in range(0, width, side)
    ]
    short, long, count = 3, 4, len(tiles)
    first = 8 + 2 + 11 * 12 + 4  # after the header and a directory of eleven entries
    bits, offsets, sizes = first, first + 6, first + 6 + 4 * count
    data = sizes + 4 * count
    starts = [data + sum(map(len, tiles[:n])) for n in range(count)]
    entries = [
        (256, short, 1, width),
        (257, short, 1, height),
        (258, short, 3, bits),
        (259, short, 1, 8),  # deflate
        (262, short, 1, 2),  # RGB
        (277, short, 1, 3),
        (284, short, 1, 1),
        (322, short, 1, side),
        (323, short, 1, side),
        (324, long, count, offsets),
        (325, long, count, sizes),
    ]
    directory = struct.pack("<H", len(entries))
    directory += b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    lists = struct.pack(f"<3H{2 * count}I", 8, 8, 8, *starts, *map(len, tiles))
    return b"II*\0" + struct.pack("<I", 8) + directory + lists + b"".join(tiles)


# --- what is done to them -----------------------------------------------------------------------


def flip_bits(data: bytes, rng: Random) -> bytes:
    changed = bytearray(data)
    for at in places(data, rng, 8):
        changed[at] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def overwrite_bytes(data: bytes, rng: Random) -> bytes:
    changed = bytearray(data)
    for at in places(data, rng, 16):
        changed[at] = int(rng.integers(256))
    return bytes(changed)


def overwrite_a_number(data: bytes, rng: Random) -> bytes:
    """Put a number at the edge of what fits somewhere into the first 200 bytes."""
    form = (">H", "<H", ">I", "<I")[rng.integers(4)]
    width = struct.calcsize(form)
    number = struct.pack(form, int(rng.choice(EDGES)) % 2 ** (8 * width))
    at = int(rng.integers(max(min(len(data), 200) - width, 1)))
    return data[:at] + number + data[at + width :]


def truncate(data: bytes, rng: Random) -> bytes:
    return data[: int(rng.integers(len(data) + 1))]


def splice(data: bytes, rng: Random) -> bytes:
    """Go on with the second half of another file, of this or any other format."""
    other = list(pictures().values())[rng.integers(len(pictures()))]
    return data[: int(rng.integers(len(data) + 1))] + other[int(rng.integers(len(other))) :]


def repeat(data: bytes, rng: Random) -> bytes:
    start = int(rng.integers(len(data) + 1))
    stop = start + int(rng.integers(1, 500))
    return data[:start] + data[start:stop] * int(rng.integers(2, 20)) + data[stop:]


def zero(data: bytes, rng: Random) -> bytes:
    start = int(rng.integers(len(data) + 1))
    gone = data[start : start + int(rng.integers(1, 200))]
    return data[:start] + bytes(len(gone)) + data[start + len(gone) :]


def resize(data: bytes, rng: Random) -> bytes:
    """Say another width or height, or both, where the format has them."""
    changed = bytearray(data)
    found = dimensions(data)
    for at, form in found if rng.random() < 0.3 else found[int(rng.integers(2)) :][:1]:
        width = struct.calcsize(form)
        if at + width <= len(data):
            near = int.from_bytes(data[at : at + width], "big" if form[0] == ">" else "little")
            wanted = int(rng.choice([near + int(rng.integers(-9, 200)), *EDGES]))
            struct.pack_into(form, changed, at, wanted % 2 ** (8 * width))
    if data.startswith(b"\x89PNG") and len(data) > 33:  # else its checksum says it was changed
        struct.pack_into(">I", changed, 29, zlib.crc32(changed[12:29]))
    return bytes(changed)


def dimensions(data: bytes) -> list[tuple[int, str]]:
    """Return where width and height are and how they are written."""
    if data.startswith(b"\x89PNG"):
        return [(16, ">I"), (20, ">I")]
    if data.startswith(b"GIF"):
        inner = data.find(b"\x2c", 13)  # the first frame, if it is not a byte of the palette
        return [(6, "<H"), (8, "<H"), (inner + 5, "<H"), (inner + 7, "<H")]
    if data.startswith(b"BM"):
        return [(18, "<I"), (22, "<I")]
    if data.startswith(b"\xff\xd8"):
        frame = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"), 0)
        return [(frame + 7, ">H"), (frame + 5, ">H")]
    if data.startswith(b"RIFF"):
        if data[12:16] == b"VP8L":
            return [(21, "<H"), (23, "<H")]
        return [(24, "<H"), (27, "<H")] if data[12:16] == b"VP8X" else [(26, "<H"), (28, "<H")]
    if data.startswith(b"\0\0\1\0"):
        return [(6, "<H"), (4, "<H")]
    if data.startswith(b"\xff\x4f"):
        return [(8, ">I"), (12, ">I")]
    if (extents := data.find(b"ispe")) > 0:  # of AVIF and HEIC
        return [(extents + 8, ">I"), (extents + 12, ">I")]
    if (header := data.find(b"ihdr")) > 0:  # of JPEG 2000
        return [(header + 8, ">I"), (header + 4, ">I")]
    if data.startswith(b"II*\0") and len(data) > 8:
        directory = int.from_bytes(data[4:8], "little") + 2
        entries = [directory + 12 * n for n in range(20)]
        wanted = (b"\x00\x01", b"\x01\x01", b"\x42\x01", b"\x43\x01")  # also of tiles
        found = [(at + 8, "<H") for at in entries if data[at : at + 2] in wanted]
        return found or [(10, "<H"), (22, "<H")]
    return [(0, "<H"), (2, "<H")]


def places(data: bytes, rng: Random, most: int) -> list[int]:
    """Draw some places, half of the time among the first hundred bytes, where headers are."""
    if not data:
        return []
    end = min(len(data), 100) if rng.random() < 0.5 else len(data)
    return [int(at) for at in rng.integers(0, end, rng.integers(1, most + 1))]


MUTATIONS: tuple[Callable[[bytes, Random], bytes], ...] = (
    flip_bits,
    overwrite_bytes,
    overwrite_a_number,
    truncate,
    splice,
    repeat,
    zero,
    resize,
)


if __name__ == "__main__":
    write_fuzzed(Path(sys.argv[1]), int(sys.argv[2]), int((sys.argv[3:] or ["0"])[0]))
