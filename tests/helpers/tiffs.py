"""TIFFs of kinds that Pillow does not write: any samples, planes apart, white as zero."""

import struct
import zlib
from collections.abc import Mapping
from typing import Any, Literal

import numpy.typing as npt

ROWS = 40  # of a strip
Order = Literal["<", ">"]
Directory = tuple[dict[int, tuple[int, ...] | str], list[bytes]]
"""The tags of a page, numbers or text, and its strips."""

FORMS = {"u": 1, "i": 2, "f": 3}


def tiff(
    values: npt.NDArray[Any],
    *,
    photometric: int | None = None,
    planar: bool = False,
    deflate: bool = False,
    order: Order = "<",
    bits: int | None = None,
    more: Mapping[int, int | str] | None = None,
) -> bytes:
    """Write samples of shape (height, width[, channels]) as one page; `more` are further tags."""
    return pages([directory_of(values, photometric, planar, deflate, order, bits, more)], order)


def directory_of(
    values: npt.NDArray[Any],
    photometric: int | None = None,
    planar: bool = False,
    deflate: bool = False,
    order: Order = "<",
    bits: int | None = None,
    more: Mapping[int, int | str] | None = None,
) -> Directory:
    """Return the tags of a page and its strips."""
    values = values[..., None] if values.ndim == 2 else values
    height, width, channels = values.shape
    planes = [values[..., at : at + 1] for at in range(channels)] if planar else [values]
    strips = []
    for plane in planes:
        for top in range(0, height, ROWS):
            part = plane[top : top + ROWS].astype(values.dtype.newbyteorder(order)).tobytes()
            strips.append(zlib.compress(part) if deflate else part)
    tags: dict[int, tuple[int, ...] | str] = {
        256: (width,),
        257: (height,),
        258: (bits or values.dtype.itemsize * 8,) * channels,
        259: (8 if deflate else 1,),
        262: (photometric if photometric is not None else 2 if channels > 2 else 1,),
        277: (channels,),
        278: (ROWS,),
        279: tuple(map(len, strips)),
        284: (2 if planar else 1,),
        339: (FORMS[values.dtype.kind],) * channels,
    }
    if channels in (2, 4):
        tags[338] = (2,)
    for tag, value in (more or {}).items():
        tags[tag] = value if isinstance(value, str) else (value,)
    return tags, strips


def pages(directories: list[Directory], order: Order = "<") -> bytes:
    """Write pages one after another."""
    data = bytearray(b"II*\0" if order == "<" else b"MM\0*") + bytes(4)
    link = 4
    for tags, strips in directories:
        starts = []
        for strip in strips:
            starts.append(len(data))
            data += strip + bytes(len(strip) % 2)
        struct.pack_into(f"{order}I", data, link, len(data))
        entries = sorted({**tags, 273: tuple(starts)}.items())
        after = len(data) + 2 + 12 * len(entries) + 4
        data += struct.pack(f"{order}H", len(entries))
        lists = b""
        for tag, value in entries:
            is_text = isinstance(value, str)
            if isinstance(value, str):
                packed = value.encode() + b"\0"
                count = len(packed)
                packed += bytes(-count % 4)
            else:
                count = len(value)
                packed = struct.pack(f"{order}{count}I", *value)
            if len(packed) > 4:
                packed, lists = struct.pack(f"{order}I", after + len(lists)), lists + packed
            data += struct.pack(f"{order}HHI", tag, 2 if is_text else 4, count) + packed
        link = len(data)
        data += bytes(4) + lists
    return bytes(data)
