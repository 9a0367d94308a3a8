"""What there is in a place of local files: walked in the order of paths, each input once."""

import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from lookalike.errors import LookalikeError
from lookalike.images.kinds import LeftOut, in_words, is_image, readable
from lookalike.images.location import INDEX_FILES
from lookalike.images.source import Source, encode_path

_FARTHEST = 2**63 - 1  # nanoseconds, in the year 2262: a table holds no later time


@dataclass(frozen=True)
class Found:
    """One input: its encoded path below the root, and why it cannot be read, if so.

    `size` in bytes and `modified` in nanoseconds since 1970, where they are to be had.
    """

    path: str
    reason: str | None = None
    size: int | None = None
    modified: int | None = None


def walk(source: Source, takes: Callable[[str], bool] | None = None) -> Iterator[Found]:
    """Yield the files below the root in the order of their paths, each once, hidden ones out.

    `takes` says of a path whether it counts; by default what is an image does. An index is not
    looked into. Links are followed; one that leads back to a folder above it is an input with a
    reason, as is one that leads nowhere. A file that was named outright is taken whatever its
    extension.
    """
    takes = takes or LeftOut().takes
    for name in source.names:
        path = os.path.join(source.root, name) if name else source.root
        # The root is a folder, even where it has just vanished: else all in it would seem gone.
        if name and not os.path.isdir(path):
            yield _found(path, _status(path), encode_path(name))
        else:
            yield from _walk_folder(path, source.root, (), takes)


def _walk_folder(
    folder: str, root: str, above: tuple[tuple[int, int], ...], takes: Callable[[str], bool]
) -> Iterator[Found]:
    def below(path: str) -> str:
        return encode_path(os.path.relpath(path, root))

    try:
        status = os.stat(folder)
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            yield Found(below(folder), "link back to a folder above it")
            return
        with os.scandir(folder) as scan:
            entries = [
                (entry.name, _is_folder(entry)) for entry in scan if not entry.name.startswith(".")
            ]
    except OSError as error:
        if not above:  # of a folder that was named, this is no detail
            raise LookalikeError(f"cannot read {encode_path(folder)}: {error.strerror}") from None
        yield Found(below(folder), f"unreadable folder: {error.strerror}")
        return
    is_table = above and ("_delta_log", True) in entries
    if is_table and any((name, False) in entries for name in INDEX_FILES):
        return
    # With the slash, folders sort where the paths of their files do.
    entries.sort(key=lambda entry: encode_path(entry[0]) + "/" * bool(entry[1]))
    for name, is_folder in entries:
        path = os.path.join(folder, name)
        if is_folder:
            yield from _walk_folder(path, root, (*above, identity), takes)
        # What cannot be looked at may be a folder, of a disk that is away: nothing in it is gone.
        elif is_folder is None or takes(path):
            yield _found(path, _status(path), below(path))


Status: TypeAlias = "os.stat_result | OSError"


def _status(path: str) -> Status:
    try:
        return os.stat(path)
    except OSError as error:
        return error


def _is_folder(entry: "os.DirEntry[str]") -> bool | None:
    """Say whether an entry is a folder, or a link to one; None where that cannot be found out."""
    try:
        if entry.is_dir():
            return True
        # Only of a link is it still open whether there is anything behind it.
        return None if entry.is_symlink() and not os.path.exists(entry.path) else False
    except OSError:
        return None


def _found(file: str, status: Status, path: str) -> Found:
    if not isinstance(status, OSError):
        modified = max(-_FARTHEST, min(status.st_mtime_ns, _FARTHEST))
        return Found(path, None, status.st_size, modified)
    if os.path.islink(file) and status.errno in (errno.ENOENT, errno.ELOOP):
        return Found(path, "link to itself" if status.errno == errno.ELOOP else "broken link")
    if status.errno == errno.ENOENT:
        return Found(path)  # it has just gone: reading it will say so
    return Found(path, f"unreadable: {status.strerror}")


def has_images(source: Source, left_out: LeftOut | None = None) -> bool:
    """Say whether `walk` finds anything, as soon as that shows.

    Where it finds nothing, `left_out` has what there is instead.
    """
    for name in source.names:
        top = os.path.join(source.root, name)
        if name and not os.path.isdir(top):
            return True
        for _, folders, files in os.walk(top):
            if any(is_image(file) and not file.startswith(".") for file in files):
                return True
            folders[:] = [folder for folder in folders if not folder.startswith(".")]
    # By their first bytes; links, and what cannot be read.
    return next(walk(source, (left_out or LeftOut()).takes), None) is not None


def nothing_found(source: Source, left_out: LeftOut | None = None) -> LookalikeError:
    """Return the error for a place without images, which says what there is instead."""
    there = in_words(left_out.counts()) if left_out is not None else ""
    return LookalikeError(
        f"no images in {encode_path(source.root)}: "
        + (f"not looked at: {there}; " if there else "")
        + f"images end in {', '.join(sorted(readable()))}"
    )
