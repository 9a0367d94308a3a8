"""Colour profiles made here: of any primaries and gamma, of grey, of inks.

https://www.color.org/specification/ICC.1-2022-05.pdf, as of version 2, which everything reads.
"""

import struct

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]

# Red, green and blue in XYZ at D50, a column each, as their makers publish them.
SRGB = np.array([[0.4361, 0.3851, 0.1431], [0.2225, 0.7169, 0.0606], [0.0139, 0.0971, 0.7141]])
P3 = np.array([[0.5151, 0.2920, 0.1571], [0.2412, 0.6922, 0.0666], [-0.0011, 0.0419, 0.7841]])
ADOBE = np.array([[0.6097, 0.2053, 0.1492], [0.3111, 0.6257, 0.0632], [0.0195, 0.0609, 0.7446]])
PROPHOTO = np.array([[0.7977, 0.1352, 0.0313], [0.2880, 0.7119, 0.0001], [0.0, 0.0, 0.8249]])
WHITE = (0.9642, 1.0, 0.8249)


def of_primaries(primaries: Matrix, gamma: float) -> bytes:
    """A profile of RGB, whose numbers to the power of `gamma` are light."""
    curve = _curve(gamma)
    tags = {b"rTRC": curve, b"gTRC": curve, b"bTRC": curve}
    for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries.T, strict=True):
        tags[name] = _xyz(*column)
    return _profile(b"mntr", b"RGB ", b"XYZ ", tags)


def of_grey(gamma: float) -> bytes:
    """A profile of grey."""
    return _profile(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": _curve(gamma)})


def of_inks(corners: dict[tuple[int, ...], tuple[float, float, float]]) -> bytes:
    """A profile of CMYK: the colour in Lab of all, none or some of each ink, by their corners."""
    grid = b""
    for cyan, magenta, yellow, black in np.ndindex(2, 2, 2, 2):
        light, a, b = corners[cyan, magenta, yellow, black]
        grid += bytes([round(light * 2.55), round(a + 128), round(b + 128)])
    ramp = bytes(range(256))
    matrix = struct.pack(">9i", *(65536 * (n % 4 == 0) for n in range(9)))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + ramp * 4 + grid + ramp * 3
    return _profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": table})


def of_grey_inks() -> bytes:
    """A profile of CMYK whose inks are all grey."""
    return of_inks({ink: (96.0 - 24 * sum(ink), 0.0, 0.0) for ink in np.ndindex(2, 2, 2, 2)})


def encode(linear: Matrix, gamma: float) -> npt.NDArray[np.uint8]:
    """Light in 0 to 1 as bytes."""
    return np.rint(255 * linear.clip(0, 1) ** (1 / gamma)).astype(np.uint8)


def light_of(srgb: npt.NDArray[np.uint8]) -> Matrix:
    """The light of sRGB's numbers, by the standard (IEC 61966-2-1)."""
    share = srgb / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def in_space(srgb: npt.NDArray[np.uint8], primaries: Matrix, gamma: float) -> npt.NDArray[np.uint8]:
    """Say the colours of sRGB in another space."""
    to_other = np.linalg.inv(primaries) @ SRGB
    return encode(light_of(srgb) @ to_other.T, gamma)


def _curve(gamma: float) -> bytes:
    return b"curv" + struct.pack(">4xIH2x", 1, round(gamma * 256))


def _xyz(*values: float) -> bytes:
    return b"XYZ " + struct.pack(">4x3i", *(round(value * 65536) for value in values))


def _profile(kind: bytes, space: bytes, between: bytes, tags: dict[bytes, bytes]) -> bytes:
    tags = {b"desc": b"desc" + struct.pack(">4xI", 2) + b"x\0" + bytes(78), **tags}
    tags |= {b"wtpt": _xyz(*WHITE), b"cprt": b"text" + bytes(4) + b"none"}
    at = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, value in tags.items():
        value += bytes(-len(value) % 4)
        table += name + struct.pack(">II", at + len(body), len(value))
        body += value
    head = struct.pack(">I4xI4s4s4s", at + len(body), 0x02100000, kind, space, between)
    head += struct.pack(">6H", 2020, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    head += struct.pack(">3i", *(round(value * 65536) for value in WHITE))
    return head.ljust(128, b"\0") + table + body
