"""Tell images from other files, by name or first bytes, and count the others by type."""

import os
import stat
from collections import Counter
from contextlib import suppress
from functools import cache

from lookalike.images.decoding.formats import (
    ENDINGS,
    FIRST_BYTES,
    HEIC,
    heic_is_installed,
    readable_endings,
    sniff,
)

_ARCHIVED = ".7z .bz2 .cbr .cbz .gz .iso .rar .tar .tgz .xz .zip .zst"
_OTHERS = (
    # Raw files of cameras: they begin as TIFF does.
    ".3fr .arw .cr2 .cr3 .dng .erf .iiq .kdc .mrw .nef .nrw .orf .pef .raf .raw .rw2 .srw .x3f",
    # Drawings, video, audio.
    ".ai .dcm .eps .exr .hdr .jxl .nii .pdf .ps .psb .psd .svg .svgz .xcf",
    ".3gp .avi .flv .m4v .mkv .mov .mp4 .mpeg .mpg .mts .ts .webm .wmv",
    ".aac .flac .m4a .mp3 .ogg .wav",
    # Text, tables, programs, and companions of photos.
    ".csv .ini .json .jsonl .log .md .rst .toml .tsv .txt .xml .yaml .yml",
    ".css .doc .docx .htm .html .ipynb .js .ppt .pptx .py .sh .xls .xlsx",
    ".arrow .bin .db .h5 .hdf5 .idx .lmdb .mat .mdb .npy .npz .onnx .parquet .pkl .pt .pth",
    ".safetensors .sqlite .tfrecord",
    ".aae .crc .dll .exe .lnk .url .xmp",
    # Partial files and backups.
    ".bak .crdownload .download .old .orig .part .partial .swp .temp .tmp",
)
_ARCHIVES = frozenset(_ARCHIVED.split())
OTHER_ENDINGS = _ARCHIVES | frozenset(ENDINGS["HEIF"]) | frozenset(" ".join(_OTHERS).split())
"""Endings of files that are not opened to look for an image."""

MAX_TYPES = 100
"""Endings that are counted separately; further ones are counted as `OTHER_TYPES`."""
_MAX_SHOWN_TYPES = 8
_MAX_ENDING_LETTERS = 12
NO_ENDING, OTHER_TYPES = "without ending", "others"


@cache
def readable() -> frozenset[str]:
    """Return `readable_endings()` from a cache."""
    return readable_endings()


def ending(name: str) -> str:
    """Return the ending of a file name with its dot, in lower case; "" if it has none."""
    found = os.path.splitext(name)[1].lower()
    return found if 1 < len(found) <= _MAX_ENDING_LETTERS and found.isprintable() else ""


def is_image(name: str) -> bool:
    """Tell by its name whether a file is a readable image."""
    return ending(name) in readable()


def is_archive(name: str) -> bool:
    """Tell by its name whether a file is an archive."""
    return ending(name) in _ARCHIVES


class IgnoredFiles:
    """Counts, by ending, the files that are no readable images.

    Parameters
    ----------
    excluded
        A file that is not counted, such as the label file.

    """

    def __init__(self, excluded: str | os.PathLike[str] | None = None) -> None:
        self._counts: Counter[str] = Counter()
        self.excluded: str | None = None
        if excluded is not None:
            name = os.fspath(excluded)
            self.excluded = name if "://" in name else os.path.abspath(name)

    def add(self, type_: str, count: int = 1) -> None:
        """Count `count` files of a type."""
        type_ = type_ or NO_ENDING
        if type_ not in self._counts and len(self._counts) >= MAX_TYPES:
            type_ = OTHER_TYPES
        self._counts[type_] += count

    def accepts(self, path: str) -> bool:
        """Tell whether a local file is a readable image; count it if it is not.

        Files with an unknown ending are opened, and a few bytes are read.
        """
        name = os.path.basename(path)
        type_ = ending(name)
        if type_ in readable():
            return True
        if type_ not in OTHER_ENDINGS:
            first = _first_bytes(path)
            if begins_as_image(first):
                return True
            type_ = ".heic" if sniff(first) == "HEIF" else type_
        if not self._is_excluded(path, name):
            self.add(type_)
        return False

    def _is_excluded(self, path: str, name: str) -> bool:
        if self.excluded is None or name != os.path.basename(self.excluded):
            return False
        return os.path.realpath(path) == os.path.realpath(self.excluded)

    def counts(self) -> dict[str, int]:
        """Return the number of files of each type, most frequent first, `OTHER_TYPES` last."""
        by_frequency = sorted(
            self._counts.items(), key=lambda item: (item[0] == OTHER_TYPES, -item[1], item[0])
        )
        return dict(by_frequency)


def describe_ignored(counts: dict[str, int]) -> str:
    """Return `3 .mp4, 1 .svg` and advice for counts by type; "" for none."""
    if not counts:
        return ""
    shown = [f"{count:,} {type_}" for type_, count in list(counts.items())[:_MAX_SHOWN_TYPES]]
    if rest := sum(list(counts.values())[_MAX_SHOWN_TYPES:]):
        shown.append(f"{rest:,} of other types")
    advice = []
    if not heic_is_installed() and not counts.keys().isdisjoint(ENDINGS["HEIF"]):
        advice.append(f"for HEIC {HEIC}")
    if not counts.keys().isdisjoint(_ARCHIVES):
        advice.append("unpack archives first, or name tar and zip archives, as in '*.tar'")
    return ", ".join(shown) + (f" ({'; '.join(advice)})" if advice else "")


def begins_as_image(first: bytes) -> bool:
    """Tell by its first bytes whether a file is a readable image.

    TGA is recognised by name only: its first bytes are not distinctive.
    """
    found = sniff(first)
    return found not in (None, "TGA") and (found != "HEIF" or heic_is_installed())


def _first_bytes(path: str) -> bytes:
    """Return the first bytes of a regular file, b"" if it is unreadable."""
    with suppress(OSError):
        # Opening a pipe blocks.
        if stat.S_ISREG(os.stat(path).st_mode):
            with open(path, "rb", buffering=0) as file:
                return file.read(FIRST_BYTES)
    return b""
