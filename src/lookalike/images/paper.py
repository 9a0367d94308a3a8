"""What a picture with transparency is laid on, so that it can be seen."""

import numpy as np
from PIL import Image

NEARLY_WHITE = 240.0
"""Mean level of 255, from which on what is visible of a picture would be lost on white."""
_SIDE = 64  # pixels: of the small picture that is looked at


def on_paper(image: Image.Image) -> Image.Image:
    """Lay an RGBA image on white; on black where what is visible of it is nearly white itself.

    What counts is the mean brightness of its pixels, each by its opacity. White drawings on
    nothing, as signs and icons are stored, come out as such; all others as on a page.
    """
    paper = Image.new("RGB", image.size, "black" if _is_nearly_white(image) else "white")
    paper.paste(image, mask=image)
    return paper


def _is_nearly_white(image: Image.Image) -> bool:
    small = image.resize((min(image.width, _SIDE), min(image.height, _SIDE)), Image.Resampling.BOX)
    weight = np.asarray(small.getchannel("A"), np.float64)
    if not weight.any() or (weight.all() and weight.min() == 255):
        return False
    grey = np.asarray(small.convert("RGB").convert("L"), np.float64)
    return float((grey * weight).sum() / weight.sum()) >= NEARLY_WHITE
