"""Choose the frame that stands for an animation: the first that shows something."""

from collections.abc import Callable

import numpy as np
from PIL import Image

ANIMATED = ("GIF", "WEBP", "PNG", "AVIF")
"""Formats whose frames form an animation. Pages of other formats are separate images."""
MAX_FRAMES = 100
"""Frames examined: animations that fade in have done so by then."""
MAX_PIXELS = 50_000_000
"""Pixels of all frames examined, so that a long animation takes a second at most."""
MIN_CONTRAST = 8.0
"""Standard deviation, in levels of 255, from which on a frame shows something."""
_SIDE = 64  # pixels a side of the small image whose contrast is measured


def choose_frame(image: Image.Image, flatten: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Return the first frame with contrast, or the frame with the most if none has enough.

    Parameters
    ----------
    image
        An opened image. A still image is returned as it is.
    flatten
        Converts a frame to RGB.

    """
    if image.format not in ANIMATED or not getattr(image, "is_animated", False):
        return image
    image.load()
    highest = _contrast(flatten(image))
    if highest >= MIN_CONTRAST:
        return image
    best = image.copy()
    for number in range(1, min(MAX_FRAMES, MAX_PIXELS // (image.width * image.height))):
        try:
            image.seek(number)
            image.load()
            contrast = _contrast(flatten(image))
        except Exception:  # the last frame, or damage: the frames so far count
            break
        if contrast > highest:
            best, highest = image.copy(), contrast
        if highest >= MIN_CONTRAST:
            break
    return best


def _contrast(image: Image.Image) -> float:
    small = image.resize((_SIDE, _SIDE), Image.Resampling.BOX)
    return float(np.asarray(small, np.float64).std(axis=(0, 1)).max())
