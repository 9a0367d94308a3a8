"""Readable image formats: their names, file endings and first bytes.

HEIC needs an extra. Pillow brings all others.
"""

import importlib
import re
from typing import Any

from PIL import Image

from lookalike.system.extras import install, is_installed, require

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
"""The file endings of each format, by Pillow's name."""

HEIC = install("pillow_heif")
"""The command that makes HEIC readable."""

FIRST_BYTES = 64
"""Bytes of a file that `sniff` needs."""

_PLUGINS = {"WEBP": "WebP", "JPEG2000": "Jpeg2K"}  # names that are not just capitalised
_AVIF_BRANDS = (b"avif", b"avis")
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs")
_MAGIC = re.compile(
    rb"(?P<JPEG>\xff\xd8\xff)|(?P<PNG>\x89PNG\r\n\x1a\n)|(?P<WEBP>RIFF....WEBP)"
    rb"|(?P<GIF>GIF8[79]a)|(?P<BMP>BM)|(?P<TIFF>II[*+]\0|MM\0[*+]|MM\*\0|II\0\*)"
    rb"|(?P<JPEG2000>\xff\x4f\xff\x51|\0\0\0\x0cjP  \r\n\x87\n)|(?P<ICO>\0\0\x01\0)"
    rb"|(?P<PPM>P[1-6f][\s#])",
    re.DOTALL,
)


def heic_is_installed() -> bool:
    """Tell whether HEIC is readable here."""
    return is_installed("pillow_heif")


def readable_endings() -> frozenset[str]:
    """Return the endings of readable files, with their dots, in lower case."""
    hidden = () if heic_is_installed() else ("HEIF",)
    return frozenset(
        ending for name, endings in ENDINGS.items() if name not in hidden for ending in endings
    )


def sniff(first: bytes) -> str | None:
    """Return the format of a file by its first `FIRST_BYTES`; None if it is unknown.

    The format is a key of `ENDINGS`. HEIF is recognised even if it is not readable here.
    """
    if match := _MAGIC.match(first):
        return match.lastgroup
    if first[4:8] == b"ftyp":
        return _sniff_brands(first)
    return "TGA" if _is_tga(first) else None


def _sniff_brands(first: bytes) -> str | None:
    """Tell AVIF, HEIC and video, which share a container, by the brands of a file."""
    end = min(int.from_bytes(first[:4], "big"), len(first))
    brands = [first[8:12], *(first[at : at + 4] for at in range(16, end, 4))]
    for brand in brands:
        if brand in _AVIF_BRANDS:
            return "AVIF"
        if brand in _HEIC_BRANDS:
            return "HEIF"
    return "HEIF" if brands[0] in (b"mif1", b"msf1") else None


def _is_tga(first: bytes) -> bool:
    """Tell whether the bytes are a plausible TGA header: TGA has no magic number."""
    if len(first) < 18:
        return False
    palette, kind, depth = first[1], first[2] & ~8, first[16]
    depths = {1: (8,), 2: (16, 24, 32), 3: (1, 8, 16)}
    known = first[2] in (1, 2, 3, 9, 10, 11) and depth in depths[kind]
    sides = first[12:14] != b"\0\0" and first[14:16] != b"\0\0"
    return known and sides and palette == (kind == 1) and first[17] & 0xC0 == 0


def load_plugin(name: str) -> None:
    """Load Pillow's plugin for a format; raise `MissingExtra` if it is not installed."""
    if name in Image.OPEN:
        return
    if name != "HEIF":
        importlib.import_module(f"PIL.{_PLUGINS.get(name, name.title())}ImagePlugin")
    else:
        require("HEIC", "pillow_heif")
        heif = importlib.import_module("pillow_heif")
        heif.options.DECODE_THREADS = 1  # each core decodes another image
        heif.options.THUMBNAILS = heif.options.DEPTH_IMAGES = heif.options.AUX_IMAGES = False
        heif.register_heif_opener()
    if name == "AVIF":
        plugin: Any = importlib.import_module("PIL.AvifImagePlugin")
        plugin.DEFAULT_MAX_THREADS = 1
