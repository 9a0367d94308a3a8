"""What a test reads of pictures and of HTML."""

from html.parser import HTMLParser

import numpy as np
from PIL import Image

VOID = {"meta", "img"}


def extent(sheet: Image.Image, color: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Return the box around all pixels of one color."""
    rows, columns = np.nonzero((np.asarray(sheet) == color).all(axis=2))
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def pixels(sheet: Image.Image, color: tuple[int, int, int]) -> int:
    """Count the pixels of one color."""
    return int((np.asarray(sheet) == color).all(axis=2).sum())


class Page(HTMLParser):
    """Reads HTML and insists that all that is opened is closed in turn."""

    def __init__(self, source: str) -> None:
        """Read the whole source."""
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag and its attributes."""
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Check that the innermost open tag is the one closed."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Note a text, leaving out the style sheets."""
        if self.open[-1:] != ["style"] and data.strip():
            self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """Return the attributes of all tags of that name."""
        return [attributes for name, attributes in self.found if name == tag]
