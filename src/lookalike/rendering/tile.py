"""What sheets and pages have in common: a picture with its texts, and how these are written."""

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image

GONE = "file is gone"


@dataclass(frozen=True)
class Tile:
    """One picture with what is written under it."""

    picture: Image.Image | None
    """In RGB; None where the file is gone."""
    label: str | None
    name: str
    """The name of the file."""
    distance: float | None = None
    """How far it is from the query; None for the query itself."""


def alike(query: Tile, tile: Tile) -> bool:
    """Tell whether a neighbor is known to have the label of the query."""
    return query.label is not None and query.label == tile.label


def alike_note(query: Tile, neighbors: Sequence[Tile]) -> str:
    """Say how many neighbors have the label of the query, or nothing if none has."""
    count = sum(alike(query, tile) for tile in neighbors)
    return f"{count} of {len(neighbors)} with this label" if count else ""


def heading_of(neighbors: Sequence[Tile]) -> str:
    """Say what the neighbors are."""
    return {0: "no neighbours", 1: "nearest neighbour"}.get(len(neighbors), "nearest neighbours")


def distance_of(tile: Tile) -> str:
    """Write the distance of a tile, if it has one."""
    return "" if tile.distance is None else f"{tile.distance:.3f}"


def printable(text: str) -> str:
    """Put text on one line, with U+FFFD for control characters and what UTF-8 cannot hold."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", "\ufffd", " ".join(text.split()))


def shortened(text: str, fits: Callable[[str], bool]) -> str:
    """Cut as little as makes the text fit out of its middle: names differ most at their ends."""

    def without(cut: int) -> str:
        kept = len(text) - cut
        return f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}" if cut else text

    return without(bisect_left(range(len(text)), True, key=lambda cut: fits(without(cut))))
