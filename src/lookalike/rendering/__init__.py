"""Images on paper and on screen: contact sheets, HTML for notebooks and browsers, galleries, plots.

It knows images and how to draw them; what to show comes as plain data.
"""

from lookalike.rendering.contact_sheet import contact_sheet, tile_sheet
from lookalike.rendering.gallery import Card, Group, Part, write_gallery, write_parts
from lookalike.rendering.html import html_page, html_row, html_rows, html_tiles
from lookalike.rendering.name_tile import name_jpeg, name_tile
from lookalike.rendering.pair_sheet import Pairs, pair_sheet
from lookalike.rendering.tile import SAME_LABEL, Tile

__all__ = [
    "SAME_LABEL",
    "Card",
    "Group",
    "Pairs",
    "Part",
    "Tile",
    "contact_sheet",
    "html_page",
    "html_row",
    "html_rows",
    "html_tiles",
    "name_jpeg",
    "name_tile",
    "pair_sheet",
    "tile_sheet",
    "write_gallery",
    "write_parts",
]
