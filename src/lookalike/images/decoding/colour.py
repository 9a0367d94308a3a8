"""Convert images to sRGB by their ICC profiles (https://www.color.org/icc_specs2.xalter).

LittleCMS converts with relative colorimetric intent and black point compensation. A profile that is
broken, or that belongs to another colour space than the pixels, is ignored, as viewers do. So are
PNG's chunks `gAMA` and `cHRM`: many programs write them wrong, and most viewers ignore them.
"""

import io
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageCms

MAX_PROFILE_BYTES = 4 * 2**20
"""Larger profiles are ignored. Those of printing presses take up to three million bytes."""
MAX_SRGB_DIFFERENCE = 2
"""A profile that moves no colour by more levels of 255 than this counts as sRGB."""
_CACHED_TRANSFORMS = 8  # a collection has a handful of profiles


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert an image from its colour profile to sRGB.

    Parameters
    ----------
    image
        An image in mode L, RGB, RGBA, CMYK or LAB.
    profile
        Its ICC profile, if it has one.

    Returns
    -------
    RGBA for RGBA, RGB for other modes; the same image if there is nothing to convert.

    """
    if image.mode != "LAB" and not profile:
        return image
    transform = _build_transform(profile or b"", image.mode)
    return image if transform is None else transform.apply(image)


def needs_conversion(profile: bytes | None, mode: str) -> bool:
    """Tell whether a profile differs from sRGB for an image of this mode."""
    return bool(profile) and _build_transform(profile or b"", mode) is not None


@lru_cache(maxsize=_CACHED_TRANSFORMS)
def _build_transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return a transform to sRGB; None if the profile is sRGB's own or unusable."""
    if len(profile) > MAX_PROFILE_BYTES:
        return None
    try:
        # LAB values define colours without a profile.
        source: Any = ImageCms.createProfile("LAB") if mode == "LAB" else io.BytesIO(profile)
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(source),
            ImageCms.createProfile("sRGB"),
            mode,
            "RGBA" if mode == "RGBA" else "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        sample = _sample_colours(mode)
        converted = np.asarray(transform.apply(sample).convert("RGB")).astype(int)
    except (OSError, ValueError, TypeError, ImageCms.PyCMSError):
        return None
    if mode in ("CMYK", "LAB"):
        return transform
    difference = np.abs(converted - np.asarray(sample.convert("RGB"))).max()
    return transform if difference > MAX_SRGB_DIFFERENCE else None


def _sample_colours(mode: str) -> Image.Image:
    """Return an image of all greys, or of 1,000 colours on an even grid."""
    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    steps = np.linspace(0, 255, 10).round().astype(np.uint8)
    cube = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)
    return Image.fromarray(cube).convert(mode) if mode != "LAB" else Image.new("LAB", (1, 1))
