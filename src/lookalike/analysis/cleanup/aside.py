"""Set duplicates aside: move, copy, link or list them.

No image is deleted and no file overwritten; `cleanup.undo` reverts everything by the journal
`aside.csv`. The journal names an image before its file is touched, so after a kill at any instant
both continue where they stopped.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Literal

from lookalike.analysis.cleanup.file_moves import (
    PART,
    copy,
    is_copy,
    is_empty,
    is_moved,
    is_reserved,
    leads_to,
    move,
    short_errors,
)
from lookalike.analysis.cleanup.journal import JOURNAL, Entry, entries, journal
from lookalike.errors import LookalikeError
from lookalike.images import Source, encode_path, full_path
from lookalike.images.inputs.location import INDEX_FILES
from lookalike.images.inputs.source import containing_folder, is_inside
from lookalike.system.paths import local_path

AsideAction = Literal["copy", "move", "link", "list"]

LIST = "drop.txt"
_MARKERS = ("found.json", *INDEX_FILES)  # files of a result and of an index
_OUTSIDE_FOLDER = "elsewhere"  # for images outside the root


@dataclass(frozen=True)
class Aside:
    """The number of images that were set aside, and of those that were not, by reason.

    Attributes
    ----------
    done : int
        Set aside now.
    already : int
        Set aside by an earlier run.
    gone : int
        The file is missing or empty.
    alone : int
        The image to keep is missing, so this may be the last copy.
    same : int
        A link to the image to keep.
    outside : int
        The path leads out of the folders of the index.
    changed : int
        One of the two files changed since they were compared.
    """

    done: int = 0
    already: int = 0
    gone: int = 0
    alone: int = 0
    same: int = 0
    outside: int = 0
    changed: int = 0


def set_aside(
    how: AsideAction, source: Source, drops: Iterable[tuple[str, str | None]], folder: Path
) -> Aside:
    """Set images aside.

    Parameters
    ----------
    how : {"copy", "move", "link", "list"}
        `link` makes absolute symbolic links. `list` writes `drop.txt` with a percent-encoded
        absolute path or URI per line, and is the only way for images in tables or at URIs. Of
        vectors without pictures it lists the keys.
    source : Source
    drops : iterable of (str, str or None)
        Encoded paths of an image to drop and of the image to keep for it; None where a person has
        chosen the image by itself.
    folder : Path
        A new or empty folder, or that of an earlier run to continue. Images keep their paths below
        the root.

    Returns
    -------
    Aside

    Raises
    ------
    LookalikeError
        For an unsuitable source or folder, a full disk, or a file that cannot be written or moved.
    """
    folder = folder.absolute()
    check(how, source, folder)
    counts: Counter[str] = Counter()
    with short_errors(folder):
        _make_folder(folder)
        if how == "list":
            _list(source, drops, folder, counts)
            return Aside(**counts)
        with journal(folder) as write:
            for entry in entries(folder):
                if entry.how != how:
                    raise LookalikeError(
                        f"{folder} is of an earlier run ({entry.how}): undo it or choose "
                        "a new folder"
                    )
                break
            for drop, kept in drops:
                counts[_set_aside_one(how, source, drop, kept, folder, write)] += 1
    return Aside(**counts)


def check(how: AsideAction, source: Source, folder: Path) -> None:
    """Raise `LookalikeError` for an unsuitable source or folder.

    The folder may not lie among the images, which would be found again, nor in a result or an
    index, which is replaced as a whole.
    """
    local_path(folder)
    if how == "list":
        return
    if source.kind != "files":
        raise LookalikeError(f"cannot {how} images that are not local files: use `list`")
    if (found := containing_folder(source, folder)) is not None:
        raise LookalikeError(
            f"{folder} lies in {encode_path(found)}, where its images would be indexed: choose "
            "another folder"
        )
    place = Path(os.path.realpath(folder))
    for above in (place, *place.parents):
        if any((above / name).is_file() for name in _MARKERS):
            raise LookalikeError(
                f"{folder} lies in {above}, which is replaced as a whole: choose another folder"
            )


def _make_folder(folder: Path) -> None:
    """Create the folder. Raises `LookalikeError` for one with other files."""
    folder.mkdir(parents=True, exist_ok=True)
    names = set(os.listdir(folder))
    if JOURNAL not in names and names - {LIST, PART}:
        raise LookalikeError(f"{folder} is not empty: choose a new folder")


def _reason_not_to(source: Source, drop: str, kept: str | None) -> str | None:
    """Return the reason not to drop an image, a field of `Aside`; None to drop it."""
    if source.kind == "table":  # without the row number
        drop, kept = drop.rpartition("#")[0], kept and kept.rpartition("#")[0]
    if not all(is_inside(source, path) for path in (drop, kept) if path is not None):
        return "outside"
    if source.kind != "files":
        return None
    origin = full_path(source, drop)
    if not os.path.isfile(origin) or is_empty(origin):
        return "gone"
    if kept is None:
        return None
    other = full_path(source, kept)
    if not os.path.isfile(other):
        return "alone"
    return "same" if os.path.samefile(origin, other) else None


def _list(
    source: Source, drops: Iterable[tuple[str, str | None]], folder: Path, counts: Counter[str]
) -> None:
    with open(folder / PART, "w", encoding="utf-8") as file:
        for drop, kept in drops:
            reason = _reason_not_to(source, drop, kept) if source.has_pictures else None
            counts[reason or "done"] += 1
            if reason is None:
                name = full_path(source, drop)
                is_key = not source.has_pictures and name.isprintable()
                file.write(f"{name if is_key else encode_path(name)}\n")
    os.replace(folder / PART, folder / LIST)


def _set_aside_one(
    how: str,
    source: Source,
    drop: str,
    kept: str | None,
    folder: Path,
    write: Callable[[Entry], None],
) -> str:
    """Set one image aside; return the field of `Aside` to count it in."""
    reason = _reason_not_to(source, drop, kept)
    if reason == "outside":
        return reason
    origin = full_path(source, drop)
    wanted = folder / _relative_path(source, origin)
    if reason == "gone" and not os.path.lexists(origin) and os.path.lexists(wanted):
        return "already"
    if reason is not None:
        return reason
    for entry in _candidate_entries(how, origin, wanted, folder):
        if not os.path.lexists(entry.target) or is_reserved(
            entry.target
        ):  # reserved by a killed run
            break
        if how == "link" and leads_to(entry.target, origin):
            return "already"
        if how == "copy" and is_copy(origin, entry.target):
            return "already"
        if how == "move" and is_moved(origin, entry.target) and entry in entries(folder):
            os.unlink(origin)  # killed between copy and delete
            return "done"
    write(entry)
    os.makedirs(os.path.dirname(entry.target), exist_ok=True)
    if how == "link":
        os.symlink(origin, entry.target)
    else:
        (move if how == "move" else copy)(origin, entry.target)
    return "done"


def _relative_path(source: Source, origin: str) -> str:
    """Return the path of an image below the folder."""
    root = os.path.normpath(source.root).rstrip("/") + "/"
    if origin.startswith(root):
        return origin.removeprefix(root)
    return os.path.join(_OUTSIDE_FOLDER, origin.lstrip("/"))


def _candidate_entries(how: str, origin: str, wanted: Path, folder: Path) -> Iterator[Entry]:
    """Yield possible targets: the wanted name, then numbered ones; never a name of our files."""
    own = {JOURNAL, LIST} if wanted.parent == folder else set()
    for number in count(1):
        name = wanted.name if number == 1 else f"{wanted.stem}-{number}{wanted.suffix}"
        if name.lower() not in own | {PART}:
            yield Entry(how, origin, str(wanted.with_name(name)))
