"""Every kind of input that is no picture, and pictures that only look as if they were none."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


def write_bad_inputs(folder: Path) -> dict[str, str]:
    """Write one input of every bad kind; return a word of the reason for each encoded path."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "empty.jpg").touch()
    (folder / "truncated.jpg").write_bytes(_encoded(_picture(0, (640, 480)), "JPEG")[:2000])
    (folder / "text.jpg").write_text("This is no picture.\n")
    (folder / "bomb.png").write_bytes(_png_of_zeros(16_000, 16_000))
    Image.new("RGB", (1, 1)).save(folder / "dot.png")
    Image.new("RGB", (1, 5000)).save(folder / "line.png")
    # Tests may run as root, whom no mode keeps out; reading address 0 fails for everybody.
    (folder / "unreadable.jpg").symlink_to("/proc/self/mem")
    os.mkfifo(folder / "pipe.jpg")
    (folder / "broken.jpg").symlink_to("nowhere.jpg")
    (folder / "self.jpg").symlink_to("self.jpg")
    (folder / "loop").mkdir()
    (folder / "loop" / "again").symlink_to(folder.absolute(), target_is_directory=True)
    # A folder is walked, whatever it is called.
    (folder / "folder.jpg").mkdir()
    (folder / "folder.jpg" / "notes.txt").write_text("Nothing to look at.\n")
    return {
        "empty.jpg": "empty file",
        "truncated.jpg": "damaged",
        "text.jpg": "not an image",
        "bomb.png": "too many pixels",
        "dot.png": "smaller than",
        "line.png": "smaller than",
        "unreadable.jpg": "unreadable",
        "pipe.jpg": "not a regular file",
        "broken.jpg": "broken link",
        "self.jpg": "link to itself",
        "loop/again": "link back",
    }


def write_odd_but_good(folder: Path) -> list[str]:
    """Write pictures with odd names and of odd kinds, no two alike; return their encoded paths."""
    folder.mkdir(parents=True, exist_ok=True)
    names = {
        b"with spaces.jpg": "with spaces.jpg",
        b'it\'s "quoted", twice.jpg': 'it\'s "quoted", twice.jpg',
        b"line\nbreak.jpg": "line%0Abreak.jpg",
        b"not-utf8-\xff\xfe.jpg": "not-utf8-%FF%FE.jpg",
        b"100%41 percent.jpg": "100%2541 percent.jpg",
        b"one/same.jpg": "one/same.jpg",
        b"two/same.jpg": "two/same.jpg",
    }
    for seed, name in enumerate(names, 1):
        path = Path(os.fsdecode(os.path.join(os.fsencode(folder), name)))
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(_encoded(_picture(seed), "JPEG"))

    frames = [_picture(seed) for seed in (20, 21, 22)]
    frames[0].save(folder / "animated.gif", save_all=True, append_images=frames[1:])
    _picture(23).convert("CMYK").save(folder / "cmyk.jpg")
    deep = np.asarray(_picture(24).convert("L")).astype(np.uint16) * 257
    Image.fromarray(deep).save(folder / "deep.png")
    _picture(25).quantize(16).save(folder / "palette.png", transparency=3)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    _picture(26).save(folder / "rotated.jpg", exif=exif)
    for seed, suffix in enumerate(("webp", "tiff", "bmp"), 27):
        _picture(seed).save(folder / f"picture.{suffix}")
    kinds = ["animated.gif", "cmyk.jpg", "deep.png", "palette.png", "rotated.jpg"]
    return [*names.values(), *kinds, "picture.webp", "picture.tiff", "picture.bmp"]


def _picture(seed: int, size: tuple[int, int] = (96, 64)) -> Image.Image:
    """Draw something that is smooth enough for JPEG and different for every seed."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def _encoded(picture: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return buffer.getvalue()


def _png_of_zeros(width: int, height: int) -> bytes:
    """Make a black PNG of one bit a pixel, by hand: Pillow would hold all of it in memory."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    squeeze = zlib.compressobj(9)
    row = bytes(1 + width // 8)
    body = b"".join(squeeze.compress(row) for _ in range(height)) + squeeze.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", body), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
