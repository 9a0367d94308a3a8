"""A page of groups of images, with their small pictures beside it."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path

from PIL import Image

from lookalike import images
from lookalike.errors import LookalikeError, full_disk, is_full_disk
from lookalike.pictures import GONE, PAGE_STYLE, printable, shortened

PAGE = "index.html"
THUMBNAILS = "pictures"
_SMALL = (480, 240)  # pixels; twice what a card shows, for fine screens
_NAME = 44  # letters of a path that are shown, two lines of a card
_TINTS = {"keep": "keep", "drop": "drop"}  # classes of the marks that have a colour

# Groups stand side by side where there is room, so that pairs do not each take a line. Cards are
# as wide as two of them need on a telephone; a heading does not make its group wider.
STYLE = """
body { max-width: 120rem; }
main { container-type: inline-size; }
.groups { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; }
.group { --gap: .75rem; --pad: clamp(.75rem, 2cqi, 1.25rem); box-sizing: border-box;
  --card: min(11.5rem, calc((100cqi - 2 * var(--pad) - var(--gap) - 2px) / 2));
  max-width: 100%; padding: var(--pad); border: 1px solid rgb(128 128 128 / .3);
  border-radius: 10px; }
.group:target { border-color: rgb(22 163 74); }
.head { width: 0; min-width: 100%; margin-bottom: .75rem; }
h2 { margin: 0; font-size: 1.0625rem; overflow-wrap: anywhere; }
h2 a { color: inherit; text-decoration: none; }
h2 a:hover, h2 a:focus-visible { text-decoration: underline; }
.head p, .more { margin: .125rem 0 0; opacity: .7; overflow-wrap: anywhere; }
.more { margin-top: .75rem; }
.cards { display: flex; flex-wrap: wrap; gap: 1rem var(--gap); margin: 0; padding: 0;
  list-style: none; }
.cards li { width: var(--card); }
figure { margin: 0; }
.well { display: block; box-sizing: border-box; width: 100%; height: auto; aspect-ratio: 4 / 3;
  object-fit: contain; border-radius: 4px; background: rgb(128 128 128 / .14); }
div.well { display: grid; place-items: center; font-size: .875rem; opacity: .8; }
.keep .well { outline: 2px solid rgb(22 163 74); outline-offset: 1px; }
figcaption { padding-top: .5rem; font-size: .9375rem; overflow-wrap: anywhere; }
.line { display: flex; flex-wrap: wrap; gap: 0 .5rem; align-items: center; min-height: 1.5em;
  font-variant-numeric: tabular-nums; }
strong, small { display: block; }
small { font-size: .8125rem; opacity: .7; }
mark { padding: 0 .375rem; border-radius: 4px; font-size: .8125rem; color: inherit;
  background: rgb(128 128 128 / .2); }
mark.keep { background: rgb(22 163 74 / .22); }
mark.drop { background: rgb(220 38 38 / .18); }
@media print { .group { break-inside: avoid; } }
"""


@dataclass(frozen=True)
class Card:
    """One image of a group."""

    path: str
    """Encoded, as the rows of an index have it."""
    caption: str = ""
    """What there is to say of it here: a distance."""
    mark: str = ""
    """What is to become of it, or what it is: "keep", "drop", "same bytes"."""
    label: str | None = None
    source: images.Source | None = None
    """Where it lies, if not where the others do."""


@dataclass(frozen=True)
class Group:
    """Images that belong together."""

    title: str
    note: str
    cards: Sequence[Card]
    more: int = 0
    """Images of the group that have no card."""


@dataclass(frozen=True)
class _Thumbnail:
    """A small picture in the folder, or why there is none."""

    name: str = ""
    width: int = 0
    height: int = 0
    reason: str = ""


def write_gallery(
    folder: Path, title: str, note: str, groups: Iterable[Group], source: images.Source
) -> int:
    """Write groups of images as a page that needs nothing but its folder; return their number.

    `folder/index.html` shows small copies in `folder/pictures`, which are made one at a time, one
    an image however often it has a card. Groups are taken one by one; who gives them decides how
    many there are. Raises `LookalikeError` where the disk is full or the folder read-only.
    """
    made: dict[tuple[str, str], _Thumbnail] = {}
    number = 0
    with _one_line(folder):
        (folder / THUMBNAILS).mkdir(parents=True, exist_ok=True)
        with (folder / PAGE).open("w", encoding="utf-8") as page:
            page.write(_beginning(title, note))
            for number, group in enumerate(groups, 1):
                page.write(_head(number, group))
                for card in group.cards:
                    place = card.source or source
                    key = (place.root, card.path)
                    if key not in made:
                        name = f"{len(made) + 1:06}.jpg"
                        made[key] = _thumbnail(place, card.path, folder, name)
                    page.write(_card(card, made[key]))
                more = f'<p class="more">and {group.more:,} more</p>\n' if group.more else ""
                page.write(f"</ul>\n{more}</section>\n")
            empty = "" if number else "<p>There is nothing to show.</p>\n"
            page.write(f"</div>\n{empty}</main>\n</body>\n</html>\n")
    return number


@contextmanager
def _one_line(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if is_full_disk(error):
            raise full_disk(folder) from None
        raise LookalikeError(
            f"{folder} cannot be written to ({error.strerror or error}): choose another folder"
        ) from None


def _thumbnail(source: images.Source, path: str, folder: Path, name: str) -> _Thumbnail:
    try:
        picture = images.decode(images.read(source, path))
    except (images.BadImage, LookalikeError) as error:
        return _Thumbnail(reason=str(error))
    picture.thumbnail(_SMALL, Image.Resampling.LANCZOS)
    picture.save(folder / THUMBNAILS / name, "JPEG", quality=85)
    return _Thumbnail(name, *picture.size)


def _beginning(title: str, note: str) -> str:
    title, note = escape(printable(title)), escape(printable(note))
    subtitle = f"<p>{note}</p>" if note else ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{PAGE_STYLE}{STYLE}</style>\n</head>\n<body>\n"
        f'<header><h1>{title}</h1>{subtitle}</header>\n<main>\n<div class="groups">\n'
    )


def _head(number: int, group: Group) -> str:
    anchor = f"group-{number}"
    note = f"<p>{escape(printable(group.note))}</p>" if group.note else ""
    return (
        f'<section class="group" id="{anchor}" aria-labelledby="{anchor}-title">\n'
        f'<div class="head"><h2 id="{anchor}-title"><a href="#{anchor}">'
        f'{escape(printable(group.title))}</a></h2>{note}</div>\n<ul class="cards" role="list">\n'
    )


def _card(card: Card, thumbnail: _Thumbnail) -> str:
    label, path, mark, caption = (
        printable(text or "") for text in (card.label, card.path, card.mark, card.caption)
    )
    described = escape(": ".join(text for text in (mark, label or path) if text))
    if thumbnail.name:
        shown = (
            f'<img class="well" src="{THUMBNAILS}/{thumbnail.name}" alt="{described}"'
            f' width="{thumbnail.width}" height="{thumbnail.height}" loading="lazy">'
        )
    else:
        reason = escape(printable(thumbnail.reason))
        shown = (
            f'<div class="well" role="img" aria-label="{described}, {GONE}" title="{reason}">'
            f"{GONE}</div>"
        )
    tint = _TINTS.get(mark, "")
    tick = "✓ " if tint == "keep" else ""
    marked = f'<mark class="{tint}">{tick}{escape(mark)}</mark>' if mark else ""
    said = f"<span>{escape(caption)}</span>" if caption else ""
    line = f'<span class="line">{marked}{said}</span>' if marked or said else ""
    strong = f"<strong>{escape(label)}</strong>" if label else ""
    short = escape(shortened(path, lambda text: len(text) <= _NAME))
    # A name may hold letters that turn the direction of what follows.
    name = f'<small title="{escape(path)}"><bdi>{short}</bdi></small>'
    return (
        f'<li><figure class="{tint}">{shown}<figcaption>{line}{strong}{name}</figcaption>'
        "</figure></li>\n"
    )
