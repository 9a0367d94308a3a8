"""Which files are taken for images, by name or first bytes; those that are not, counted by type."""

import os
import stat
from collections import Counter
from contextlib import suppress
from functools import cache

from lookalike.images.formats import (
    ENDINGS,
    FIRST_BYTES,
    HEIC,
    heic_is_installed,
    readable_endings,
    sniff,
)

_ARCHIVED = ".7z .bz2 .cbr .cbz .gz .iso .rar .tar .tgz .xz .zip .zst"
_KNOWN = (
    # Of cameras: they begin as TIFF does, and hold something else.
    ".3fr .arw .cr2 .cr3 .dng .erf .iiq .kdc .mrw .nef .nrw .orf .pef .raf .raw .rw2 .srw .x3f",
    # Drawings, films, sounds.
    ".ai .dcm .eps .exr .hdr .jxl .nii .pdf .ps .psb .psd .svg .svgz .xcf",
    ".3gp .avi .flv .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ts .webm .wmv",
    ".aac .flac .m4a .mp3 .ogg .wav",
    # Texts, tables, programs, and what lies beside photos.
    ".csv .ini .json .jsonl .log .md .rst .toml .tsv .txt .xml .yaml .yml",
    ".css .doc .docx .htm .html .ipynb .js .ppt .pptx .py .sh .xls .xlsx",
    ".arrow .bin .db .h5 .hdf5 .idx .lmdb .mat .mdb .npy .npz .onnx .parquet .pkl .pt .pth",
    ".safetensors .sqlite .tfrecord",
    ".aae .crc .dll .exe .lnk .url .xmp",
    # What is half written, or put away.
    ".bak .crdownload .download .old .orig .part .partial .swp .temp .tmp",
)
_ARCHIVES = frozenset(_ARCHIVED.split())
OTHERS = _ARCHIVES | frozenset(ENDINGS["HEIF"]) | frozenset(" ".join(_KNOWN).split())
"""Endings of files that are no images, so that nobody looks into them."""

TYPES = 100
"""Endings that are counted apart; what there is beyond them are others."""
_SHOWN = 8  # of them that are told
_LENGTH = 12  # letters of an ending, more are none
NONE, REST = "without ending", "others"


@cache
def readable() -> frozenset[str]:
    """Return the endings of files that can be read here, asked for once."""
    return readable_endings()


def ending(name: str) -> str:
    """Return the ending of a file's name with its dot, in small letters, "" if it has none."""
    found = os.path.splitext(name)[1].lower()
    return found if 1 < len(found) <= _LENGTH and found.isprintable() else ""


def is_image(name: str) -> bool:
    """Tell by its name alone whether a file is taken for an image."""
    return ending(name) in readable()


def is_archive(name: str) -> bool:
    """Tell by its name whether a file holds others, which nobody looks at."""
    return ending(name) in _ARCHIVES


class LeftOut:
    """Files that are no images, or cannot be read here, counted by their endings.

    `apart` is a file that is known to be something else, and not counted.
    """

    def __init__(self, apart: str | os.PathLike[str] | None = None) -> None:
        self._counts: Counter[str] = Counter()
        self.apart = None if apart is None else os.path.abspath(apart)

    def add(self, type_: str, count: int = 1) -> None:
        """Count some of an ending."""
        type_ = type_ or NONE
        if type_ not in self._counts and len(self._counts) >= TYPES:
            type_ = REST
        self._counts[type_] += count

    def takes(self, path: str) -> bool:
        """Tell whether a local file is taken for an image; count it if it is not.

        One of an ending that nobody knows is opened, and a few bytes are read.
        """
        name = os.path.basename(path)
        type_ = ending(name)
        if type_ in readable():
            return True
        if type_ not in OTHERS:
            first = _first_bytes(path)
            if shows_image(first):
                return True
            type_ = ".heic" if sniff(first) == "HEIF" else type_
        if not self._is_apart(path, name):
            self.add(type_)
        return False

    def _is_apart(self, path: str, name: str) -> bool:
        if self.apart is None or name != os.path.basename(self.apart):
            return False
        return os.path.realpath(path) == os.path.realpath(self.apart)

    def counts(self) -> dict[str, int]:
        """Return how many there are of each type, the most first, `others` last."""
        found = sorted(self._counts.items(), key=lambda item: (item[0] == REST, -item[1], item[0]))
        return dict(found)


def in_words(counts: dict[str, int]) -> str:
    """Say what was not looked at: `3 .mp4, 1 .svg`, and what to do about it; "" if nothing."""
    if not counts:
        return ""
    shown = [f"{count:,} {type_}" for type_, count in list(counts.items())[:_SHOWN]]
    if rest := sum(list(counts.values())[_SHOWN:]):
        shown.append(f"{rest:,} of other types")
    advice = []
    if not heic_is_installed() and not counts.keys().isdisjoint(ENDINGS["HEIF"]):
        advice.append(f"for HEIC {HEIC}")
    if not counts.keys().isdisjoint(_ARCHIVES):
        advice.append("unpack archives first")
    return ", ".join(shown) + (f" ({'; '.join(advice)})" if advice else "")


def shows_image(first: bytes) -> bool:
    """Tell whether the first bytes of a file are those of an image that can be read here.

    Those of TGA are no sign of it: there a name has to say it.
    """
    found = sniff(first)
    return found not in (None, "TGA") and (found != "HEIF" or heic_is_installed())


def _first_bytes(path: str) -> bytes:
    """Return the first bytes of a regular file; none where they cannot be had."""
    with suppress(OSError):
        # A pipe would keep whoever opens it waiting.
        if stat.S_ISREG(os.stat(path).st_mode):
            with open(path, "rb", buffering=0) as file:
                return file.read(FIRST_BYTES)
    return b""
