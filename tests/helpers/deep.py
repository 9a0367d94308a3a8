"""Pictures of more than eight bits a sample."""

import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from helpers import damage

Samples = npt.NDArray[Any]


def of_bits(picture: Samples, bits: int, kind: Any = np.uint16) -> Samples:
    """The picture in so many bits."""
    values: Samples = np.rint(picture / 255 * (2**bits - 1)).astype(kind)
    return values


def png(values: Samples, significant: int | None = None) -> bytes:
    """Write 16 bits a sample, of one to four channels, which Pillow writes for grey alone."""
    values = values[..., None] if values.ndim == 2 else values
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0))]
    if significant:
        chunks.append((b"sBIT", bytes([significant] * channels)))
    chunks += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(damage.png_chunk(*chunk) for chunk in chunks)
