"""Lay out a collection in two dimensions for the map on the page; similar images are near."""

from lookalike.layout.job import Job
from lookalike.layout.keeping import load_layout, load_older_layout, save_layout
from lookalike.layout.placing import MAX_IMAGES, Layout, lay_out, with_changes

__all__ = [
    "MAX_IMAGES",
    "Layout",
    "lay_out",
    "with_changes",
    "load_layout",
    "load_older_layout",
    "save_layout",
    "Job",
]
