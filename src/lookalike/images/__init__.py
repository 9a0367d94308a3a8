"""Find, read and decode images. Every input leaves as pixels or as a reason."""

from lookalike.images.decoding.formats import HEIC, heic_is_installed, readable_endings, sniff
from lookalike.images.decoding.preprocessing import Preprocessing
from lookalike.images.decoding.raster import (
    PREPROCESSING,
    SIDE,
    decode,
    decode_pixels,
    resize,
    to_upright_rgb,
    transform,
)
from lookalike.images.decoding.sandbox import IsolatedDecoder, open_decoder
from lookalike.images.inputs.file_types import IgnoredFiles, describe_ignored
from lookalike.images.inputs.location import locate
from lookalike.images.inputs.reader import read
from lookalike.images.inputs.scan import ScannedFile, has_images, no_images_error, walk
from lookalike.images.inputs.source import Source, decode_path, encode_path, full_path, glob_pattern

__all__ = [
    "HEIC",
    "PREPROCESSING",
    "Preprocessing",
    "SIDE",
    "ScannedFile",
    "IsolatedDecoder",
    "IgnoredFiles",
    "Source",
    "decode",
    "decode_pixels",
    "decode_path",
    "encode_path",
    "full_path",
    "glob_pattern",
    "has_images",
    "describe_ignored",
    "heic_is_installed",
    "locate",
    "no_images_error",
    "open_decoder",
    "read",
    "readable_endings",
    "resize",
    "sniff",
    "to_upright_rgb",
    "transform",
    "walk",
]
