"""Search for a part of a picture: a box on it is cut out and embedded as a picture of its own."""

import io
import math
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from fastapi import HTTPException
from PIL import Image

from lookalike.images import IsolatedDecoder
from lookalike.system.arrays import Vectors

MAX_KEPT = 1000
"""Vectors of parts that are kept, about 2 MB."""
MIN_SHARE = 0.02
"""Smallest side of a box, as a share of that of the picture."""
MIN_PIXELS = 8
_WANTED_PIXELS = 448  # of the shorter side of a part: networks look at 224 or more
_SIDES = (640, 4096)  # of the picture that a part is cut from
_QUALITY = 95
_NUMBER = r"(0(\.\d{1,6})?|1(\.0{1,6})?)"
PATTERN = rf"^{_NUMBER}(,{_NUMBER}){{3}}$"


class Box(NamedTuple):
    """A part of a picture: left, top, right, bottom, as shares of its sides from 0 to 1."""

    left: float
    top: float
    right: float
    bottom: float

    @classmethod
    def of(cls, text: str) -> "Box":
        """Read a box. Raises `HTTPException` for one that is empty or too small.

        >>> Box.of("0.25,0,0.75,0.5")
        Box(left=0.25, top=0.0, right=0.75, bottom=0.5)
        """
        if not re.fullmatch(PATTERN, text):
            raise HTTPException(422, "box: give left,top,right,bottom, each from 0 to 1")
        box = cls(*map(float, text.split(",")))
        if min(box.right - box.left, box.bottom - box.top) < MIN_SHARE:
            raise HTTPException(
                422, f"box: draw a larger one, of {MIN_SHARE:.0%} of each side at least"
            )
        return box


def cut_out(decoder: IsolatedDecoder, data: bytes, box: Box) -> bytes:
    """Return a part of a picture as a JPEG.

    Raises `ImageError` if the picture cannot be decoded, `HTTPException` for a part of few pixels.
    """
    shorter = min(box.right - box.left, box.bottom - box.top)
    side = min(max(math.ceil(_WANTED_PIXELS / shorter), _SIDES[0]), _SIDES[1])
    # What comes from the decoder's process is a JPEG of ours.
    with Image.open(io.BytesIO(decoder.thumbnail(data, side))) as whole:
        width, height = whole.size
        corners = (
            round(box.left * width),
            round(box.top * height),
            round(box.right * width),
            round(box.bottom * height),
        )
        part = whole.crop(corners)
    if min(part.size) < MIN_PIXELS:
        raise HTTPException(422, f"box: it holds fewer than {MIN_PIXELS} pixels: draw a larger one")
    cut = io.BytesIO()
    part.save(cut, "JPEG", quality=_QUALITY)
    return cut.getvalue()


class PartVectors:
    """Keeps the vectors of the parts that were searched for last."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str, Box], Vectors] = OrderedDict()

    async def get(
        self, of: str, fingerprint: str, box: Box, make: Callable[[], Awaitable[Vectors]]
    ) -> Vectors:
        """Return the vector of a part of the picture `of`, by the model `fingerprint`."""
        key = (of, fingerprint, box)
        vector = self._kept.get(key)
        if vector is None:
            vector = await make()
        self._kept[key] = vector
        self._kept.move_to_end(key)
        while len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)
        return vector
