"""Search results as HTML: a row for notebooks, a self-contained page."""

import base64
import io
from collections.abc import Sequence
from html import escape

from lookalike.rendering.tile import (
    GONE,
    Tile,
    alike,
    alike_note,
    distance_of,
    heading_of,
    printable,
    shortened,
)

# The row takes its ink from its surroundings and its tints are translucent, so that it suits a
# notebook of any theme; the longer selectors outweigh the notebook's own for lists and images.
ROW_STYLE = """
.lookalike { display: flex; flex-wrap: wrap; gap: 2rem; line-height: 1.4; }
.lookalike .query { flex: 1 1 18rem; max-width: 24rem; }
.lookalike .found { flex: 999 1 20rem; }
.lookalike .heading { margin: 0 0 .75rem; opacity: .7; }
.lookalike ol.neighbors { display: grid; gap: 1.5rem 1rem; margin: 0; padding: 0;
  grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); list-style: none; }
.lookalike figure { margin: 0; }
.lookalike figure .well { display: block; width: 100%; max-width: none; height: auto; margin: 0;
  aspect-ratio: 4 / 3; object-fit: contain; background: rgb(128 128 128 / .14); }
.lookalike .query img.well { aspect-ratio: auto; max-height: 24rem; }
.lookalike figure div.well { display: grid; place-items: center; font-size: .875rem; }
.lookalike figcaption { padding-top: .5rem; overflow-wrap: anywhere; }
.lookalike strong, .lookalike small { display: block; }
.lookalike small { opacity: .7; }
.lookalike .rank { display: flex; gap: .5rem; align-items: baseline; }
.lookalike .rank span { margin-left: auto; font-variant-numeric: tabular-nums; }
.lookalike mark { padding: 0 .375rem; border-radius: 4px; font-size: .8125rem; color: inherit;
  background: rgb(22 163 74 / .2); }
"""

PAGE_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1a1a1c; }
@media (prefers-color-scheme: dark) { :root { --paper: #161618; --ink: #ececee; } }
body { max-width: 90rem; margin: 0 auto; padding: clamp(1rem, 4vw, 3rem);
  background: var(--paper); color: var(--ink); font: 1rem/1.4 system-ui, sans-serif; }
header { margin-bottom: 2rem; }
h1 { margin: 0; font-size: 1.5rem; overflow-wrap: anywhere; }
header p { margin: .25rem 0 0; opacity: .7; }
"""


def html_row(query: Tile, neighbors: Sequence[Tile]) -> str:
    """Return the query and its neighbors as a fragment of HTML, for a notebook."""
    shared = alike_note(query, neighbors)
    items = "\n".join(
        f"<li>{_figure(tile, f'neighbour {rank}', 360, _rank_line(rank, query, tile))}</li>"
        for rank, tile in enumerate(neighbors, 1)
    )
    return (
        f'<div class="lookalike">\n<style>{ROW_STYLE}</style>\n'
        f'<section class="query"><p class="heading">query</p>\n{_figure(query, "query", 768)}\n'
        f"{f'<p><mark>✓ {shared}</mark></p>' if shared else ''}</section>\n"
        f'<section class="found"><p class="heading">{heading_of(neighbors)}</p>\n'
        f'<ol class="neighbors">\n{items}\n</ol></section>\n</div>\n'
    )


def html_tiles(tiles: Sequence[Tile], note: str = "") -> str:
    """Return pictures in rows, with what is to be said of them, as a fragment for a notebook."""
    items = "\n".join(f"<li>{_figure(tile, 'image', 360)}</li>" for tile in tiles)
    said = f'<p class="heading">{escape(printable(note))}</p>\n' if note else ""
    return (
        f'<div class="lookalike">\n<style>{ROW_STYLE}</style>\n'
        f'<section class="found">{said}<ol class="neighbors">\n{items}\n</ol></section>\n</div>\n'
    )


def html_page(query: Tile, neighbors: Sequence[Tile], note: str = "") -> str:
    """Return the query and its neighbors as one HTML document that needs no other file."""
    title = escape(printable(f"Look-alikes of {query.name}"))
    subtitle = f"<p>{escape(printable(note))}</p>" if note else ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{PAGE_STYLE}</style>\n</head>\n<body>\n"
        f"<header><h1>{title}</h1>{subtitle}</header>\n"
        f"<main>\n{html_row(query, neighbors)}</main>\n</body>\n</html>\n"
    )


def _figure(tile: Tile, role: str, pixels: int, heading: str = "") -> str:
    """Return a picture of at most `pixels` a side, with its caption."""
    label, name = printable(tile.label or ""), printable(tile.name)
    described = escape(f"{role}: {label or name}")
    if tile.picture is None:
        shown = f'<div class="well" role="img" aria-label="{described}, {GONE}">{GONE}</div>'
    else:
        small, jpeg = tile.picture.copy(), io.BytesIO()
        small.thumbnail((pixels, pixels))
        small.save(jpeg, "JPEG", quality=85)
        shown = (
            f'<img class="well" width="{small.width}" height="{small.height}" alt="{described}"'
            f' src="data:image/jpeg;base64,{base64.b64encode(jpeg.getvalue()).decode()}">'
        )
    strong = f"<strong>{escape(label)}</strong>" if label else ""
    short = escape(shortened(name, lambda text: len(text) <= 24))
    return (
        f"<figure>{shown}<figcaption>{heading}{strong}"
        f'<small title="{escape(name)}">{short}</small></figcaption></figure>'
    )


def _rank_line(rank: int, query: Tile, tile: Tile) -> str:
    mark = '<mark title="same label as the query">✓ same</mark>' if alike(query, tile) else ""
    return f'<div class="rank"><b>{rank}</b>{mark}<span>{distance_of(tile)}</span></div>'
