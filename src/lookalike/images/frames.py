"""Which frame of an animation stands for it: the first that shows something."""

from collections.abc import Callable

import numpy as np
from PIL import Image

ANIMATED = ("GIF", "WEBP", "PNG", "AVIF")
"""Formats whose frames follow one another; those of others are pictures in their own right."""
MAX_FRAMES = 100
"""Frames looked at: animations that fade in have done so by then."""
MAX_PIXELS = 50_000_000
"""Pixels of all frames looked at, so that a long animation takes a second at most."""
STRUCTURE = 8.0
"""Standard deviation in levels of 255 from which on a frame shows something."""
_SIDE = 64  # pixels: of the small picture that is looked at


def show_structure(
    image: Image.Image, flatten: Callable[[Image.Image], Image.Image]
) -> Image.Image:
    """Return the first frame that shows something, or the one that comes nearest to that.

    `flatten` brings a frame to RGB. An image of one frame, or whose first frame will do, is
    returned as it is; a frame that cannot be decoded is where looking ends.
    """
    if image.format not in ANIMATED or not getattr(image, "is_animated", False):
        return image
    image.load()
    best, most = image, _structure(flatten(image))
    if most >= STRUCTURE:
        return image
    best = image.copy()
    for number in range(1, min(MAX_FRAMES, MAX_PIXELS // (image.width * image.height))):
        try:
            image.seek(number)
            image.load()
            shows = _structure(flatten(image))
        except Exception:  # the end, or damage: what was seen until here counts
            break
        if shows > most:
            best, most = image.copy(), shows
        if most >= STRUCTURE:
            break
    return best


def _structure(image: Image.Image) -> float:
    small = image.resize((_SIDE, _SIDE), Image.Resampling.BOX)
    return float(np.asarray(small, np.float64).std(axis=(0, 1)).max())
