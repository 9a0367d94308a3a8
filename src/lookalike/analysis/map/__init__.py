"""Lay out an index in two dimensions for the map on the page; similar images are near."""

from lookalike.analysis.map.cache import load_layout, load_older_layout, save_layout
from lookalike.analysis.map.job import Job
from lookalike.analysis.map.tsne import MAX_IMAGES, Layout, lay_out, with_changes

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
