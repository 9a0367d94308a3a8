"""Networks, their weights, the engines that run them, and the precisions they run in."""

from lookalike.models.engines import DEVICES, Engine, engine, find_device
from lookalike.models.model import Model, in_words, resolve
from lookalike.models.precision import (
    PRECISIONS,
    SAMPLE,
    at_precision,
    check_precision,
    in_f32,
    is_bundled,
    overlap,
    overlaps,
)

__all__ = [
    "DEVICES",
    "PRECISIONS",
    "SAMPLE",
    "Engine",
    "Model",
    "at_precision",
    "check_precision",
    "engine",
    "find_device",
    "in_f32",
    "in_words",
    "is_bundled",
    "overlap",
    "overlaps",
    "resolve",
]
