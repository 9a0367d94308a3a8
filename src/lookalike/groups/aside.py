"""Images that others stand for, set aside: moved, copied, linked or listed.

No image is deleted, no file overwritten, and `undo` takes it back with a journal, `aside.csv`. The
journal names an image before anything happens to it, so that after a kill at any instant both
functions find out what became of it: run again, they go on.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Literal

from lookalike.errors import LookalikeError, full_disk, is_full_disk, one_line
from lookalike.given import Name, local_path
from lookalike.groups.journal import JOURNAL, Entry, entries, journal
from lookalike.groups.moving import PART, copy, is_copy, is_empty, is_moved, is_reserved, move
from lookalike.images import Source, encode_path, full_path
from lookalike.images.location import INDEX_FILES
from lookalike.images.source import is_inside, looked_at

How = Literal["copy", "move", "link", "list"]

LIST = "drop.txt"
_REPLACED = ("found.json", *INDEX_FILES)  # which a result has, and an index
_ELSEWHERE = "elsewhere"  # below the folder, for images that lie outside the root


@dataclass(frozen=True)
class Aside:
    """How many images were set aside, and how many were not, by the reason."""

    done: int = 0
    already: int = 0
    """An earlier run has done it."""
    gone: int = 0
    """There is no such file, or nothing in it."""
    alone: int = 0
    """The image that stands for it is gone: it may be the last."""
    same: int = 0
    """By a link it is the very file that stands for it."""
    outside: int = 0
    """Its path leads out of the folders of the index."""
    changed: int = 0
    """It, or the image that stands for it, is no longer what it was when they were compared."""


def set_aside(how: How, source: Source, drops: Iterable[tuple[str, str]], folder: Path) -> Aside:
    """Set images aside in `folder`, which is new, empty, or of an earlier run that goes on.

    `drops` gives the encoded paths of an image to drop and of the one that stands for it. Below
    `folder` an image keeps its path below the root; `link` makes absolute symbolic links. `list`
    writes `drop.txt`, an encoded absolute path or URI a line, and is all that there is for images
    in tables or at URIs. Raises `LookalikeError` for those, for a folder that will not do, where
    the disk is full, and where a file may not be written or moved.
    """
    folder = folder.absolute()
    check(how, source, folder)
    counts: Counter[str] = Counter()
    with _one_line(folder):
        _make_folder(folder)
        if how == "list":
            _list(source, drops, folder, counts)
            return Aside(**counts)
        with journal(folder) as write_down:
            for entry in entries(folder):
                if entry.how != how:
                    raise LookalikeError(
                        f"{folder} has what an earlier run did ({entry.how}): undo that, or choose "
                        "a new folder"
                    )
                break
            for drop, kept in drops:
                counts[_set_aside_one(how, source, drop, kept, folder, write_down)] += 1
    return Aside(**counts)


def undo(folder: Name, say: Callable[[str], None] = lambda line: None) -> int:
    """Put back what was moved, remove copies and links, and return for how many images.

    A copy is removed only where the image is there and has the same bytes, a link only where it
    still leads to the image. What is back already is passed over. `say` is given a line for each
    image that cannot be put back; after the others were, that is a `LookalikeError`. Else the
    journal and all empty folders go at the end.
    """
    folder = local_path(folder).absolute()
    if not (folder / JOURNAL).is_file():
        raise LookalikeError(f"{folder} has no {JOURNAL}: there is nothing to undo")
    back = failed = 0
    with _one_line(folder), journal(folder):
        for entry in entries(folder):
            try:
                back += _undo_one(entry)
            except (OSError, LookalikeError) as error:
                if is_full_disk(error):
                    raise
                failed += 1
                say(f"{encode_path(entry.origin)} was not put back: {one_line(error)}")
        if failed:
            raise LookalikeError(
                f"{failed:,} images were not put back, {back:,} were: make room for them in their "
                f"old places and undo {folder} again"
            )
        (folder / JOURNAL).unlink()
    for place, _, _ in os.walk(folder, topdown=False):
        with suppress(OSError):  # there is something else in it
            os.rmdir(place)
    return back


def check(how: How, source: Source, folder: Path) -> None:
    """Raise `LookalikeError` where images of a source cannot be set aside so, or not there.

    Not among the images, where they would be found again, and not in what lookalike wrote, which is
    replaced as a whole.
    """
    local_path(folder)
    if how == "list":
        return
    if source.kind != "files":
        raise LookalikeError(f"these images are no local files, no way to {how} them: use list")
    if (found := looked_at(source, folder)) is not None:
        raise LookalikeError(
            f"{folder} lies in {encode_path(found)}, where its images would be found again: "
            "choose a folder elsewhere"
        )
    place = Path(os.path.realpath(folder))
    for above in (place, *place.parents):
        if any((above / name).is_file() for name in _REPLACED):
            raise LookalikeError(
                f"{folder} lies in {above}, which is replaced when it is made again: choose a "
                "folder elsewhere"
            )


def _make_folder(folder: Path) -> None:
    """Make the folder; refuse one with other things in it."""
    folder.mkdir(parents=True, exist_ok=True)
    names = set(os.listdir(folder))
    if JOURNAL not in names and names - {LIST, PART}:
        raise LookalikeError(f"{folder} is not empty: choose a new folder")


def _reason_not_to(source: Source, drop: str, kept: str) -> str | None:
    """Return why an image may not be dropped for another, as the field of `Aside`, if so."""
    if source.kind == "table":  # the row is no part of the name
        drop, kept = drop.rpartition("#")[0], kept.rpartition("#")[0]
    if not (is_inside(source, drop) and is_inside(source, kept)):
        return "outside"
    if source.kind != "files":
        return None
    origin, other = full_path(source, drop), full_path(source, kept)
    if not os.path.isfile(origin) or is_empty(origin):
        return "gone"
    if not os.path.isfile(other):
        return "alone"
    return "same" if os.path.samefile(origin, other) else None


def _list(
    source: Source, drops: Iterable[tuple[str, str]], folder: Path, counts: Counter[str]
) -> None:
    with open(folder / PART, "w", encoding="utf-8") as file:
        for drop, kept in drops:
            reason = _reason_not_to(source, drop, kept)
            counts[reason or "done"] += 1
            if reason is None:
                file.write(f"{encode_path(full_path(source, drop))}\n")
    os.replace(folder / PART, folder / LIST)


def _set_aside_one(
    how: str,
    source: Source,
    drop: str,
    kept: str,
    folder: Path,
    write_down: Callable[[Entry], None],
) -> str:
    """Return what became of it, as the field of `Aside`."""
    reason = _reason_not_to(source, drop, kept)
    if reason == "outside":
        return reason
    origin = full_path(source, drop)
    wanted = folder / _below(source, origin)
    if reason == "gone" and not os.path.lexists(origin) and os.path.lexists(wanted):
        return "already"
    if reason is not None:
        return reason
    for entry in _names(how, origin, wanted, folder):
        if not os.path.lexists(entry.target) or is_reserved(entry.target):  # before a kill
            break
        if how == "link" and _leads_to(entry.target, origin):
            return "already"
        if how == "copy" and is_copy(origin, entry.target):
            return "already"
        if how == "move" and is_moved(origin, entry.target) and entry in entries(folder):
            os.unlink(origin)  # it was copied to another disk, and then came the kill
            return "done"
    write_down(entry)
    os.makedirs(os.path.dirname(entry.target), exist_ok=True)
    if how == "link":
        os.symlink(origin, entry.target)
    else:
        (move if how == "move" else copy)(origin, entry.target)
    return "done"


def _below(source: Source, origin: str) -> str:
    """Return the path that an image is to have below the folder, normalised as `origin` is."""
    root = os.path.normpath(source.root).rstrip("/") + "/"
    if origin.startswith(root):
        return origin.removeprefix(root)
    return os.path.join(_ELSEWHERE, origin.lstrip("/"))


def _names(how: str, origin: str, wanted: Path, folder: Path) -> Iterator[Entry]:
    """Give the places an image may come to, all but the first numbered, none of our own files."""
    own = {JOURNAL, LIST} if wanted.parent == folder else set()
    for number in count(1):
        name = wanted.name if number == 1 else f"{wanted.stem}-{number}{wanted.suffix}"
        if name.lower() not in own | {PART}:
            yield Entry(how, origin, str(wanted.with_name(name)))


def _undo_one(entry: Entry) -> bool:
    """Take it back; say whether there was anything to do. `LookalikeError` where that cannot be."""
    how, origin, target = entry
    there, here = os.path.lexists(target), os.path.lexists(origin)
    if how == "link":
        if _leads_to(target, origin):
            os.unlink(target)
            return True
        return False
    with suppress(OSError):
        os.unlink(os.path.join(os.path.dirname(target), PART))
    if is_empty(target):  # reserved, and then came a kill
        os.unlink(target)
        return False
    if there and here and (is_moved if how == "move" else is_copy)(origin, target):
        os.unlink(target)
        return True
    if how == "copy":
        if there:
            raise LookalikeError(f"it is gone or another by now, so {encode_path(target)} stays")
        return False
    if not there:
        if here:
            return False
        raise LookalikeError(f"it is gone from {encode_path(target)} as well")
    if here and not is_reserved(origin):
        raise LookalikeError("there is another file by now")
    os.makedirs(os.path.dirname(origin), exist_ok=True)
    move(target, origin)
    return True


def _leads_to(link: str, origin: str) -> bool:
    return os.path.islink(link) and os.readlink(link) == origin


@contextmanager
def _one_line(folder: Path) -> Iterator[None]:
    """Make an error of the system one line that says how to go on."""
    try:
        yield
    except OSError as error:
        if is_full_disk(error):
            raise full_disk(folder) from None
        place = error.filename if isinstance(error.filename, str | bytes) else str(folder)
        raise LookalikeError(
            f"{encode_path(place)}: {one_line(error)}; see to it and run the same command "
            f"again, it goes on, or undo {folder}"
        ) from None
