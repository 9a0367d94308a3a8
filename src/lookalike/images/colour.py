"""Colours as sRGB has them, whatever colour space a picture was stored in.

A picture that carries a profile (https://www.color.org/icc_specs2.xalter) of its own colour space
is converted by LittleCMS, relative to its white, black to black. A profile that is broken, or of
another colour space than the pixels, is ignored, as viewers do; so are the chunks `gAMA` and `cHRM`
of PNG, which many programs wrote wrong and most viewers leave alone.
"""

import io
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageCms

MAX_PROFILE_BYTES = 4 * 2**20
"""Of a profile that is looked at: those of printing presses take up to three million."""
SAME = 2
"""Levels of 255 that a colour may move for a profile still to be taken for that of sRGB."""
_KEPT = 8  # transforms at hand, with the profiles they are of: a collection has a handful


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert an image in L, RGB, RGBA, CMYK or LAB to sRGB, as its profile says.

    The result is RGB, or RGBA of RGBA; the very image where there is nothing to convert.
    """
    if image.mode != "LAB" and not profile:
        return image
    transform = _transform(profile or b"", image.mode)
    return image if transform is None else transform.apply(image)


def is_other(profile: bytes | None, mode: str) -> bool:
    """Tell whether a profile moves colours of a mode, so that they need to be converted."""
    return bool(profile) and _transform(profile or b"", mode) is not None


@lru_cache(maxsize=_KEPT)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return what brings pixels to sRGB; None where the profile is sRGB's or of no use."""
    if len(profile) > MAX_PROFILE_BYTES:
        return None
    try:
        # Of LAB the numbers say the colour themselves.
        source: Any = ImageCms.createProfile("LAB") if mode == "LAB" else io.BytesIO(profile)
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(source),
            ImageCms.createProfile("sRGB"),
            mode,
            "RGBA" if mode == "RGBA" else "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        drawn = _colours(mode)
        moved = np.asarray(transform.apply(drawn).convert("RGB")).astype(int)
    except (OSError, ValueError, TypeError, ImageCms.PyCMSError):
        return None
    if mode in ("CMYK", "LAB"):
        return transform
    return transform if np.abs(moved - np.asarray(drawn.convert("RGB"))).max() > SAME else None


def _colours(mode: str) -> Image.Image:
    """Draw what a transform is tried on: greys, or 1,000 colours evenly spread."""
    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    steps = np.linspace(0, 255, 10).round().astype(np.uint8)
    cube = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)
    return Image.fromarray(cube).convert(mode) if mode != "LAB" else Image.new("LAB", (1, 1))
