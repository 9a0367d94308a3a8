"""Find, read and decode images. Every input leaves as pixels or as a reason."""

from lookalike.images.decoding import (
    PREPROCESSING,
    SIDE,
    decode,
    decode_pixels,
    pixels,
    transform,
    upright,
)
from lookalike.images.formats import HEIC, heic_is_installed, readable_endings, sniff
from lookalike.images.isolated import IsolatedDecoder, decoder
from lookalike.images.kinds import LeftOut, in_words
from lookalike.images.location import locate
from lookalike.images.scan import Found, has_images, nothing_found, walk
from lookalike.images.source import Source, decode_path, encode_path, full_path, glob_pattern, read

__all__ = [
    "HEIC",
    "PREPROCESSING",
    "SIDE",
    "Found",
    "IsolatedDecoder",
    "LeftOut",
    "Source",
    "decode",
    "decode_pixels",
    "decoder",
    "decode_path",
    "encode_path",
    "full_path",
    "glob_pattern",
    "has_images",
    "in_words",
    "heic_is_installed",
    "locate",
    "nothing_found",
    "pixels",
    "read",
    "readable_endings",
    "sniff",
    "transform",
    "upright",
    "walk",
]
