"""A gallery: groups of images on an HTML page, with their thumbnails beside it."""

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lookalike import images
from lookalike.errors import writing_to
from lookalike.rendering.html import load_template
from lookalike.rendering.thumbnails import RequestThumbnail, Thumbnail, thumbnail_maker

PAGE = "index.html"
THUMBNAILS_AHEAD = 64  # made while earlier cards are written


@dataclass(frozen=True)
class Card:
    """One image of a group."""

    path: str
    """Encoded, as the rows of an index have it."""
    caption: str = ""
    """What to say of the image, such as its distance."""
    mark: str = ""
    """What the image is or what happens to it: "keep", "drop", `SAME_LABEL`, "same bytes"."""
    label: str | None = None
    source: images.Source | None = None
    """Where the image lies, if not in the source of the gallery."""
    detail: str = ""
    """What the file is: its size in pixels and bytes."""


@dataclass(frozen=True)
class Group:
    """Images that belong together."""

    title: str
    """Empty for cards without a heading."""
    note: str
    cards: Sequence[Card]
    more: int = 0
    """Number of images of the group that have no card."""


@dataclass(frozen=True)
class Part:
    """A part of a page, to which a link at its top leads."""

    name: str
    """One word, for the link and its anchor. Empty for groups that are in no part."""
    title: str
    note: str
    groups: Iterable[Group]
    layout: Literal["boxes", "lines", "heap"] = "boxes"
    """`boxes` for pairs, `lines` for an image and those like it, `heap` for cards alone."""


Numbered = tuple[int, Group, Iterator[tuple[Card, Thumbnail]]]


def write_gallery(
    folder: Path, title: str, note: str, groups: Iterable[Group], source: images.Source
) -> int:
    """Write groups of images as a page that needs no file outside its folder.

    Groups are taken a few ahead of what is written, so that memory does not grow with their
    number.

    Parameters
    ----------
    folder
        The folder to write into: `index.html`, and a thumbnail of each image in `pictures/`.
    title, note
        The heading of the page, and a line below it.
    groups
        The groups, in the order of the page.
    source
        Where the images are read.

    Returns
    -------
    int
        Number of groups written.

    Raises
    ------
    LookalikeError
        The disk is full, the folder is read-only, or no process starts to decode images in.

    """
    return write_parts(folder, title, note, [Part("", "", "", groups)], source)


def write_parts(
    folder: Path, title: str, note: str, parts: Sequence[Part], source: images.Source
) -> int:
    """Write a page as `write_gallery` does, in parts, with links to them at the top.

    Parameters
    ----------
    folder, title, note, source
        As in `write_gallery`.
    parts
        The parts, in the order of the page.

    Returns
    -------
    int
        Number of groups written, in all parts together.

    Raises
    ------
    LookalikeError
        As in `write_gallery`.

    """
    folder, numbers = folder.absolute(), itertools.count(1)
    with writing_to(folder, "choose another folder"), thumbnail_maker(folder) as request:
        pieces = load_template("gallery.html").generate(
            title=title,
            note=note,
            links=[part.name for part in parts if part.name],
            parts=((part, _number(part.groups, numbers, request, source)) for part in parts),
        )
        with (folder / PAGE).open("w", encoding="utf-8") as page:
            page.writelines(pieces)
    return next(numbers) - 1


def _number(
    groups: Iterable[Group],
    numbers: Iterator[int],
    request: RequestThumbnail,
    source: images.Source,
) -> Iterator[Numbered]:
    """Yield groups with their numbers and thumbnails, while those of the next ones are made."""
    waiting: deque[tuple[Group, list[Future[Thumbnail]]]] = deque()
    for group in groups:
        waiting.append((group, [request(card.source or source, card.path) for card in group.cards]))
        while sum(len(thumbnails) for _, thumbnails in waiting) > THUMBNAILS_AHEAD:
            yield _finished(next(numbers), *waiting.popleft())
    while waiting:
        yield _finished(next(numbers), *waiting.popleft())


def _finished(number: int, group: Group, thumbnails: list[Future[Thumbnail]]) -> Numbered:
    pairs = zip(group.cards, thumbnails, strict=True)
    return number, group, ((card, thumbnail.result()) for card, thumbnail in pairs)
