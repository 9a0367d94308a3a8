"""Groups of images to look at: a page with their pictures, a sheet of pairs."""

from lookalike.galleries.page import Card, Group, write_gallery
from lookalike.galleries.sheet import Pairs, pair_sheet

__all__ = ["Card", "Group", "Pairs", "pair_sheet", "write_gallery"]
