"""Networks, their weights, the runtimes that execute them, and their precisions."""

from lookalike.models.callables import CallableModel
from lookalike.models.model import Model, check_description
from lookalike.models.precision import (
    PRECISIONS,
    SAMPLE_IMAGES,
    at_precision,
    check_precision,
    in_f32,
    is_bundled,
    overlap,
    overlaps,
)
from lookalike.models.resolution import resolve
from lookalike.models.runtimes import DEVICES, Engine, engine, find_device

__all__ = [
    "CallableModel",
    "DEVICES",
    "PRECISIONS",
    "SAMPLE_IMAGES",
    "Engine",
    "Model",
    "at_precision",
    "check_description",
    "check_precision",
    "engine",
    "find_device",
    "in_f32",
    "is_bundled",
    "overlap",
    "overlaps",
    "resolve",
]
