"""What a picture with transparency is laid on, so that it can be seen."""

import numpy as np
from PIL import Image

NEARLY_WHITE = 240.0
"""Mean level of 255, from which on what is visible of a picture would be lost on white."""
CLEARLY = 8.0
"""Times as much that a picture stands out from black as from white, to be laid on that."""
_SIDE = 64  # pixels: of the small picture that is looked at


def on_paper(image: Image.Image) -> Image.Image:
    """Lay an RGBA image on white; on black where it would be lost, or faint, on white.

    What counts is the brightness of its pixels, each by its opacity: the mean, and how far they are
    from either paper (root mean square). White and light grey drawings on nothing, as signs and
    icons are stored, come out as such; all others, and light ones with something dark in them, as
    on a page.
    """
    paper = Image.new("RGB", image.size, "black" if _is_lost_on_white(image) else "white")
    paper.paste(image, mask=image)
    return paper


def _is_lost_on_white(image: Image.Image) -> bool:
    small = image.resize((min(image.width, _SIDE), min(image.height, _SIDE)), Image.Resampling.BOX)
    weight = np.asarray(small.getchannel("A"), np.float64)
    if not weight.any() or (weight.all() and weight.min() == 255):
        return False
    grey = np.asarray(small.convert("RGB").convert("L"), np.float64)
    if np.average(grey, weights=weight) >= NEARLY_WHITE:
        return True
    from_black, from_white = (
        np.average((grey - level) ** 2, weights=weight) ** 0.5 for level in (0, 255)
    )
    return bool(from_black >= CLEARLY * from_white)
