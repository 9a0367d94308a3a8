"""A picture with its caption, and the wording of captions on sheets and pages."""

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image

GONE = "file is gone"
SAME_LABEL = "same label"
"""A mark of a card, which the page shows as a tick."""


@dataclass(frozen=True)
class Tile:
    """A picture with the texts of its caption."""

    picture: Image.Image | None
    """In RGB, of any size; None if the file is gone."""
    label: str | None
    name: str
    """The name of the file."""
    distance: float | None = None
    """Distance from the query; None for the query itself."""
    band: str | None = None
    """What the distance means, None if that is not known."""
    copies: int = 0
    """Number of copies of the picture that are not shown."""


def alike(query: Tile, tile: Tile) -> bool:
    """Tell whether a neighbor is known to have the label of the query."""
    return query.label is not None and query.label == tile.label


def alike_note(query: Tile, neighbors: Sequence[Tile]) -> str:
    """Return how many neighbors have the label of the query, or an empty text if none has."""
    count = sum(alike(query, tile) for tile in neighbors)
    return f"{count} of {len(neighbors)} with this label" if count else ""


def heading_of(neighbors: Sequence[Tile]) -> str:
    """Return the heading above neighbors."""
    return {0: "no neighbours", 1: "nearest neighbour"}.get(len(neighbors), "nearest neighbours")


def distance_of(tile: Tile) -> str:
    """Return the distance of a tile as text, or an empty text if it has none."""
    return "" if tile.distance is None else f"{tile.distance:.3f}"


def copies_of(tile: Tile) -> str:
    """Return how many copies of a tile are not shown, or an empty text if there are none."""
    return f"+ {tile.copies:,} {'copy' if tile.copies == 1 else 'copies'}" if tile.copies else ""


def printable(text: str) -> str:
    """Bring a text to one line, with U+FFFD for control characters and lone surrogates."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", "\ufffd", " ".join(text.split()))


def shortened(text: str, fits: Callable[[str], bool]) -> str:
    """Shorten a text in its middle until it fits: names differ most at their ends."""

    def without(cut: int) -> str:
        kept = len(text) - cut
        return f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}" if cut else text

    return without(bisect_left(range(len(text)), True, key=lambda cut: fits(without(cut))))
