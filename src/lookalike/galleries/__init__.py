"""Groups of images to look at: a page with their pictures, a sheet of pairs."""

from lookalike.galleries.page import SAME_LABEL, Card, Group, Part, write_gallery, write_parts
from lookalike.galleries.sheet import Pairs, pair_sheet

__all__ = [
    "SAME_LABEL",
    "Card",
    "Group",
    "Pairs",
    "Part",
    "pair_sheet",
    "write_gallery",
    "write_parts",
]
