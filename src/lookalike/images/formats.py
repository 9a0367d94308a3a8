"""Which formats can be read here: their names, the endings of their files, their first bytes.

HEIC needs a package of its own, an extra; all else comes with Pillow.
"""

import importlib
import re
from typing import Any

from PIL import Image

from lookalike.extras import install, is_installed, require

ENDINGS: dict[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "AVIF": (".avif", ".avifs"),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "TGA": (".tga",),
    "ICO": (".ico",),
    "HEIF": (".heic", ".heif", ".hif"),
}
"""Formats by Pillow's names, with the endings of their files."""

HEIC = install("pillow_heif")
"""What to do about HEIC where it cannot be read."""

FIRST_BYTES = 64
"""Bytes that `sniff` wants to see of a file."""

_MODULES = {"WEBP": "WebP", "JPEG2000": "Jpeg2K"}  # of Pillow, where not just capitalized
_BRANDS_OF_AVIF = (b"avif", b"avis")
_BRANDS_OF_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")
_MAGIC = re.compile(
    rb"(?P<JPEG>\xff\xd8\xff)|(?P<PNG>\x89PNG\r\n\x1a\n)|(?P<WEBP>RIFF....WEBP)"
    rb"|(?P<GIF>GIF8[79]a)|(?P<BMP>BM)|(?P<TIFF>II[*+]\0|MM\0[*+]|MM\*\0|II\0\*)"
    rb"|(?P<JPEG2000>\xff\x4f\xff\x51|\0\0\0\x0cjP  \r\n\x87\n)|(?P<ICO>\0\0\x01\0)"
    rb"|(?P<PPM>P[1-6f][\s#])",
    re.DOTALL,
)


def heic_is_installed() -> bool:
    """Tell whether HEIC can be read here."""
    return is_installed("pillow_heif")


def readable_endings() -> frozenset[str]:
    """Return the endings of files that can be read here, each with its dot, in lower case."""
    known = dict(ENDINGS)
    if not heic_is_installed():
        del known["HEIF"]
    return frozenset(ending for endings in known.values() for ending in endings)


def sniff(first: bytes) -> str | None:
    """Return the format that the first bytes of a file are of (64 suffice), None if of no known.

    It is one of `ENDINGS`, HEIF also where that cannot be read here.
    """
    if match := _MAGIC.match(first):
        return match.lastgroup
    if first[4:8] == b"ftyp":
        return _of_brands(first)
    return "TGA" if _is_tga(first) else None


def _of_brands(first: bytes) -> str | None:
    """Tell AVIF from HEIC, which share a container with films, by the brands that a file names."""
    end = min(int.from_bytes(first[:4], "big"), len(first))
    brands = [first[8:12], *(first[at : at + 4] for at in range(16, end, 4))]
    for brand in brands:
        if brand in _BRANDS_OF_AVIF:
            return "AVIF"
        if brand in _BRANDS_OF_HEIC:
            return "HEIF"
    return "HEIF" if brands[0] in (b"mif1", b"msf1") else None


def _is_tga(first: bytes) -> bool:
    """Tell whether a header makes sense as that of a TGA, which begins with no name of its own."""
    if len(first) < 18:
        return False
    palette, kind, depth = first[1], first[2] & ~8, first[16]
    depths = {1: (8,), 2: (16, 24, 32), 3: (1, 8, 16)}
    known = first[2] in (1, 2, 3, 9, 10, 11) and depth in depths[kind]
    sides = first[12:14] != b"\0\0" and first[14:16] != b"\0\0"
    return known and sides and palette == (kind == 1) and first[17] & 0xC0 == 0


def load_plugin(name: str) -> None:
    """Let Pillow know a format, which takes it a moment; `MissingExtra` where it needs one."""
    if name in Image.OPEN:
        return
    if name != "HEIF":
        importlib.import_module(f"PIL.{_MODULES.get(name, name.title())}ImagePlugin")
    else:
        require("HEIC", "pillow_heif")
        heif = importlib.import_module("pillow_heif")
        heif.options.DECODE_THREADS = 1  # as many images as cores are decoded at a time
        heif.options.THUMBNAILS = heif.options.DEPTH_IMAGES = heif.options.AUX_IMAGES = False
        heif.register_heif_opener()
    if name == "AVIF":
        plugin: Any = importlib.import_module("PIL.AvifImagePlugin")
        plugin.DEFAULT_MAX_THREADS = 1
