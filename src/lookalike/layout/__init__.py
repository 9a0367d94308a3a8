"""A collection laid out in two dimensions, for the map on the page: alike is near."""

from lookalike.layout.job import Job
from lookalike.layout.keeping import keep, kept, kept_before
from lookalike.layout.placing import MOST, Layout, lay_out, with_changes

__all__ = ["MOST", "Layout", "lay_out", "with_changes", "kept", "kept_before", "keep", "Job"]
