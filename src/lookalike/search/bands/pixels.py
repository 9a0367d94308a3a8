"""Tell by few pixels whether two pictures may be copies of one photo, cropped or mirrored too.

This is coarse, and only serves to measure limits; `analysis.verification` compares closely.
"""

import io
import itertools

import numpy as np
import numpy.typing as npt
from PIL import Image

from lookalike import images
from lookalike.errors import ImageError, LookalikeError
from lookalike.storage import EmbeddingTable

_THUMBNAIL_SIDE = 64
_GRID_SIDE = 16  # pixels of a side when two pictures are compared
_CROPS = 0.05, 0.10, 0.15  # of each side, which may be missing in a copy
_PLACES = 0.0, 0.25, 0.5, 0.75, 1.0  # of the missing part that lies before the kept one
_TURNS = -3, 3  # degrees
_MIN_CORRELATION = 0.8
"""Correlation of colours below which two pictures show different things. All changed copies of 40
photos had more, of their 80 nearest neighbours about one in six."""
_BLANK_LEVELS = 2.0  # deviation of the pixels of a picture that shows nothing
_ROUND = _GRID_SIDE, _GRID_SIDE, 3

Grids = npt.NDArray[np.float32]
"""Colours of a picture, float32 (n, 768): whole, without a part of each side, and turned; each row
has the mean 0 and the length 1, or is 0 where the picture is blank."""


def read_grids(table: EmbeddingTable, path: str, decoder: images.IsolatedDecoder) -> Grids | None:
    """Return the grids of an image of an index; None where it cannot be read."""
    try:
        small = decoder.thumbnail(images.read(table.source, path), _THUMBNAIL_SIDE)
    except (ImageError, LookalikeError):
        return None
    return grids_of(Image.open(io.BytesIO(small)))


def grids_of(picture: Image.Image) -> Grids:
    """Return the grids of a small picture."""
    colours = picture.convert("RGB")
    views = [(colours, 0.0, 0.0, 1.0)]
    for crop, x, y in itertools.product(_CROPS, _PLACES, _PLACES):
        views.append((colours, x * crop, y * crop, 1 - crop))
    for degrees in _TURNS:
        views.append((colours.rotate(degrees, Image.Resampling.BILINEAR), 0.0, 0.0, 1.0))
    grids: Grids = np.stack([_grid(*view) for view in views])
    grids -= grids.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(grids, axis=1, keepdims=True)
    blank = lengths < _BLANK_LEVELS * grids.shape[1] ** 0.5
    return np.where(blank, 0, grids / np.maximum(lengths, 1)).astype(np.float32)


def _grid(picture: Image.Image, x: float, y: float, part: float) -> Grids:
    """Return the colours of a part of a picture in few pixels, float32 (768,)."""
    width, height = picture.size
    box = (x * width, y * height, (x + part) * width, (y + part) * height)
    small = picture.resize((_GRID_SIDE, _GRID_SIDE), Image.Resampling.BOX, box)
    return np.asarray(small, np.float32).ravel()


def may_be_copies(one: Grids, other: Grids) -> bool:
    """Tell whether two pictures may show the same, one of them cropped, turned or mirrored.

    Examples
    --------
    >>> ramp = Image.linear_gradient("L")
    >>> may_be_copies(grids_of(ramp), grids_of(ramp.crop((0, 20, 256, 256))))
    True
    >>> may_be_copies(grids_of(ramp), grids_of(Image.radial_gradient("L")))
    False
    """
    if not one[0].any() or not other[0].any():  # blank
        return bool(one[0].any() == other[0].any())
    mirrored = other.reshape(-1, *_ROUND)[:, :, ::-1].reshape(other.shape)
    best = max(
        float((whole[:1] @ parts.T).max())
        for whole, parts in ((one, other), (other, one), (one, mirrored), (mirrored, one))
    )
    return best >= _MIN_CORRELATION
