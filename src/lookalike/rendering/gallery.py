"""A page of groups of images, with their small pictures beside it."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Literal, TextIO

from lookalike import images
from lookalike.errors import LookalikeError, full_disk, is_full_disk
from lookalike.rendering.gallery_style import STYLE
from lookalike.rendering.thumbnails import THUMBNAILS, Ask, Thumbnail, thumbnails
from lookalike.rendering.tile import GONE, printable, shortened

PAGE = "index.html"
SAME_LABEL = "same label"
"""A mark, for which a tick stands."""
AHEAD = 64  # cards whose pictures are made while others are written
_NAME = 44  # letters of a path that are shown, two lines of a card
_TINTS = {"keep": "keep", "drop": "drop", SAME_LABEL: "same"}  # classes of marks with a colour
_TICKED = {"keep": "✓ keep", SAME_LABEL: "✓"}


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
    """Empty for cards that need no heading of their own."""
    note: str
    cards: Sequence[Card]
    more: int = 0
    """Images of the group that have no card."""


@dataclass(frozen=True)
class Part:
    """A part of a page, to which a link at its top leads."""

    name: str
    """That of the anchor, and of the link: one word."""
    title: str
    note: str
    groups: Iterable[Group]
    layout: Literal["boxes", "lines", "heap"] = "boxes"
    """`boxes` for pairs, `lines` for an image and those like it, `heap` for cards alone."""


Made = Iterator[tuple[Group, list[Future[Thumbnail]]]]


def write_gallery(
    folder: Path, title: str, note: str, groups: Iterable[Group], source: images.Source
) -> int:
    """Write groups of images as a page that needs nothing but its folder; return their number.

    `folder/index.html` shows small copies in `folder/pictures`, one an image however often it has
    a card. Groups are taken a few ahead of what is written; who gives them decides how many there
    are. Raises `LookalikeError` where the disk is full or the folder read-only, and where no
    process starts to decode images in.
    """
    number, folder = 0, folder.absolute()
    with _one_line(folder), thumbnails(folder) as ask, _page(folder) as page:
        page.write(_beginning(title, note))
        page.write('<div class="groups">\n')
        for number, (group, made) in enumerate(_ahead(groups, ask, source), 1):
            page.writelines(_group(number, group, made, "h2"))
        empty = "" if number else "<p>There is nothing to show.</p>\n"
        page.write(f"</div>\n{empty}</main>\n</body>\n</html>\n")
    return number


def write_parts(
    folder: Path, title: str, note: str, parts: Sequence[Part], source: images.Source
) -> int:
    """Write a page as `write_gallery` does, its groups in parts with links to them at the top."""
    number, folder = 0, folder.absolute()
    with _one_line(folder), thumbnails(folder) as ask, _page(folder) as page:
        page.write(_beginning(title, note, parts))
        for part in parts:
            page.write(_part(part))
            for group, made in _ahead(part.groups, ask, source):
                number += 1
                page.writelines(_group(number, group, made, "h3"))
            page.write("</div>\n</section>\n")
        empty = "" if number else "<p>There is nothing to show.</p>\n"
        page.write(f"{empty}</main>\n</body>\n</html>\n")
    return number


def _ahead(groups: Iterable[Group], ask: Ask, source: images.Source) -> Made:
    """Give groups with their pictures, while those of the next ones are made."""
    waiting: deque[tuple[Group, list[Future[Thumbnail]]]] = deque()
    for group in groups:
        waiting.append((group, [ask(card.source or source, card.path) for card in group.cards]))
        while sum(len(made) for _, made in waiting) > AHEAD:
            yield waiting.popleft()
    yield from waiting


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


def _page(folder: Path) -> TextIO:
    return (folder / PAGE).open("w", encoding="utf-8")


def _beginning(title: str, note: str, parts: Sequence[Part] = ()) -> str:
    title, note = escape(printable(title)), escape(printable(note))
    subtitle = f"<p>{note}</p>" if note else ""
    links = "".join(
        f'<li><a href="#{part.name}">{part.name.capitalize()}</a></li>' for part in parts
    )
    nav = f'<nav aria-label="parts"><ul role="list">{links}</ul></nav>\n' if links else ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<header><h1>{title}</h1>{subtitle}</header>\n{nav}<main>\n"
    )


def _part(part: Part) -> str:
    name = part.name
    note = f"<p>{escape(printable(part.note))}</p>\n" if part.note else ""
    return (
        f'<section class="part {part.layout}" id="{name}" aria-labelledby="{name}-title">\n'
        f'<h2 id="{name}-title"><a href="#{name}">{escape(printable(part.title))}</a></h2>\n'
        f'{note}<div class="groups">\n'
    )


def _group(
    number: int, group: Group, made: Sequence[Future[Thumbnail]], heading: str
) -> Iterator[str]:
    yield _head(number, group, heading) if group.title else '<div class="group">\n'
    yield '<ul class="cards" role="list">\n'
    for card, thumbnail in zip(group.cards, made, strict=True):
        yield _card(card, thumbnail.result())
    yield "</ul>\n"
    if group.more:
        yield f'<p class="more">and {group.more:,} more</p>\n'
    yield "</div>\n"


def _head(number: int, group: Group, heading: str) -> str:
    anchor = f"group-{number}"
    note = f"<p>{escape(printable(group.note))}</p>" if group.note else ""
    return (
        f'<div class="group" role="group" id="{anchor}" aria-labelledby="{anchor}-title">\n'
        f'<div class="head"><{heading} id="{anchor}-title"><a href="#{anchor}">'
        f"{escape(printable(group.title))}</a></{heading}>{note}</div>\n"
    )


def _card(card: Card, thumbnail: Thumbnail) -> str:
    label, path, mark, caption = (
        printable(text or "") for text in (card.label, card.path, card.mark, card.caption)
    )
    described = escape(f"{mark or 'image'}: {label or path}")
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
    ticked = escape(_TICKED.get(mark, mark))
    marked = f'<mark class="{tint}">{ticked}</mark>' if mark else ""
    said = f"<span>{escape(caption)}</span>" if caption else ""
    line = f'<span class="line">{marked}{said}</span>' if marked or said else ""
    strong = f"<strong>{escape(label)}</strong>" if label else ""
    short = escape(shortened(path, lambda text: len(text) <= _NAME))
    # A name may hold letters that turn the direction of what follows.
    name = f"<small><bdi>{short}</bdi></small>"
    return (
        f'<li><figure class="{tint}" title="{escape(path)}">{shown}'
        f"<figcaption>{line}{strong}{name}</figcaption></figure></li>\n"
    )
