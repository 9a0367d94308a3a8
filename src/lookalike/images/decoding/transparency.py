"""Choose the background of a transparent image, so that it is visible."""

import numpy as np
from PIL import Image

MIN_NEARLY_WHITE = 240.0
"""Mean level of 255 from which on an image is invisible on white."""
MIN_CONTRAST_RATIO = 8.0
"""Contrast on black over contrast on white, from which on black is chosen."""
_SIDE = 64  # pixels a side of the small image that is measured


def add_background(image: Image.Image) -> Image.Image:
    """Lay an RGBA image on white, or on black if it would be faint on white.

    The brightness of its pixels, weighted by opacity, decides: its mean, and its root mean square
    distance from white and from black. So white icons get black, everything else gets white.
    """
    background = Image.new("RGB", image.size, "black" if _is_faint_on_white(image) else "white")
    background.paste(image, mask=image)
    return background


def _is_faint_on_white(image: Image.Image) -> bool:
    small = image.resize((min(image.width, _SIDE), min(image.height, _SIDE)), Image.Resampling.BOX)
    weight = np.asarray(small.getchannel("A"), np.float64)
    if not weight.any() or (weight.all() and weight.min() == 255):
        return False
    grey = np.asarray(small.convert("RGB").convert("L"), np.float64)
    if np.average(grey, weights=weight) >= MIN_NEARLY_WHITE:
        return True
    from_black, from_white = (
        np.average((grey - level) ** 2, weights=weight) ** 0.5 for level in (0, 255)
    )
    return bool(from_black >= MIN_CONTRAST_RATIO * from_white)
