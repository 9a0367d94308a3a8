"""Search results as HTML: rows for notebooks, a page that needs no other file.

The templates lie in `templates/`. Every text that one prints is brought to one line and escaped.
"""

import base64
import io
from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image

from lookalike.rendering.tile import (
    GONE,
    SAME_LABEL,
    Tile,
    alike,
    alike_note,
    copies_of,
    distance_of,
    heading_of,
    printable,
    shortened,
)

if TYPE_CHECKING:
    from jinja2 import Environment, Template


def html_row(query: Tile, neighbors: Sequence[Tile]) -> str:
    """Return a query and its neighbors as a fragment of HTML, for a notebook.

    Parameters
    ----------
    query
        The picture that was searched with.
    neighbors
        Its neighbors, nearest first, each with its distance.

    Returns
    -------
    str
        One `<style>` and one `<div class="lookalike">`. Pictures are embedded as JPEG.

    Examples
    --------
    >>> query = Tile(None, "red sedan", "00001.jpg")
    >>> row = html_row(query, [Tile(None, "red sedan", "00002.jpg", 0.25)])
    >>> "1 of 1 with this label" in row
    True

    """
    return html_rows([(query, neighbors)])


def html_rows(results: Iterable[tuple[Tile, Sequence[Tile]]], more: int = 0) -> str:
    """Return several queries with their neighbors as a fragment of HTML, for a notebook.

    Parameters
    ----------
    results
        Queries, each with its neighbors, nearest first. They are taken one after another, so that
        the pictures of one are in memory at a time.
    more
        Number of results that are not shown, which the last line says.

    Returns
    -------
    str
        A fragment as `html_row` returns it, with a rule between two results.

    """
    return load_template("neighbors.html").render(results=results, more=more)


def html_tiles(tiles: Iterable[Tile], more: int = 0) -> str:
    """Return pictures in rows as a fragment of HTML, for a notebook.

    Parameters
    ----------
    tiles
        The pictures.
    more
        Number of pictures that are not shown, which the last line says.

    Returns
    -------
    str
        A fragment as `html_row` returns it.

    """
    return load_template("tiles.html").render(tiles=tiles, more=more)


def html_page(query: Tile, neighbors: Sequence[Tile], note: str = "") -> str:
    """Return a query and its neighbors as an HTML document that needs no other file.

    Parameters
    ----------
    query
        The picture that was searched with.
    neighbors
        Its neighbors, nearest first, each with its distance.
    note
        A line below the title: how the search was done.

    Returns
    -------
    str
        The document. It has no scripts and loads nothing.

    """
    title = f"Look-alikes of {query.name}"
    return load_template("neighbors_page.html").render(
        query=query, neighbors=neighbors, title=title, note=note
    )


def load_template(name: str) -> "Template":
    """Load one of the templates of this package, from a folder or from a zip file."""
    return _environment().get_template(name)


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined  # 50 ms, needed for HTML alone

    environment = Environment(
        loader=PackageLoader("lookalike.rendering"),
        autoescape=True,
        finalize=_one_line,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters |= {"embedded": _embedded, "one_line": printable, "short": _short}
    environment.globals |= {
        "GONE": GONE,
        "SAME_LABEL": SAME_LABEL,
        "alike": alike,
        "alike_note": alike_note,
        "copies_of": copies_of,
        "distance_of": distance_of,
        "heading_of": heading_of,
    }
    return environment


def _one_line(value: Any) -> Any:
    """Bring a text that a template prints to one line of valid UTF-8; finished HTML stays."""
    return printable(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


def _short(text: str, letters: int) -> str:
    return shortened(printable(text), lambda some: len(some) <= letters)


class _EmbeddedImage(NamedTuple):
    uri: str
    width: int
    height: int


def _embedded(picture: Image.Image, side: int) -> _EmbeddedImage:
    """Return a picture of at most `side` pixels a side as a data URI."""
    small, jpeg = picture.copy(), io.BytesIO()
    small.thumbnail((side, side))
    small.save(jpeg, "JPEG", quality=85)
    data = base64.b64encode(jpeg.getvalue()).decode()
    return _EmbeddedImage(f"data:image/jpeg;base64,{data}", *small.size)
