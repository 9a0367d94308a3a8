"""Scan local folders for images, in the order of their paths, each input once."""

import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from lookalike.errors import LookalikeError
from lookalike.images.inputs.file_types import IgnoredFiles, describe_ignored, is_image, readable
from lookalike.images.inputs.folder_entries import Entry, scan_folder, sort_entries
from lookalike.images.inputs.location import INDEX_FILES
from lookalike.images.inputs.source import Source, encode_path

_LOG = Entry("_delta_log", True)
_INDEX = {_LOG, *(Entry(name, False) for name in INDEX_FILES)}
_MAX_TIME_NS = 2**63 - 1  # the year 2262, the last time that int64 holds


@dataclass(frozen=True)
class ScannedFile:
    """One input.

    Attributes
    ----------
    path
        Encoded, relative to the root.
    reason
        Why it cannot be read, None if it can.
    size
        In bytes, None if unknown.
    modified
        In nanoseconds since 1970, None if unknown.

    """

    path: str
    reason: str | None = None
    size: int | None = None
    modified: int | None = None


def walk(source: Source, accepts: Callable[[str], bool] | None = None) -> Iterator[ScannedFile]:
    """Yield the images of a local source in the order of their paths, each once.

    Hidden files and the insides of indexes are left out. Links are followed; a broken link, or one
    to a folder above it, is an input with a reason. Files in `source.names` count, whatever their
    ending.

    Parameters
    ----------
    source
        A source of the kind "files".
    accepts
        Tells whether the file at a path counts, by default whether it is an image.

    Raises
    ------
    LookalikeError
        If a folder in `source.names` is unreadable.

    """
    accepts = accepts or IgnoredFiles().accepts
    for name in source.names:
        path = os.path.join(source.root, name) if name else source.root
        # The root counts as a folder even if it is missing, so that its images do not seem deleted.
        if name and not os.path.isdir(path):
            yield _found(path, _status(path), encode_path(name))
        else:
            yield from _walk_folder(path, source.root, (), accepts)


def _walk_folder(
    folder: str, root: str, above: tuple[tuple[int, int], ...], accepts: Callable[[str], bool]
) -> Iterator[ScannedFile]:
    own = os.path.relpath(folder, root)
    before = "" if own == os.curdir else f"{encode_path(own)}/"
    marks: set[Entry] = set()  # of an index

    def entries(scan: "Iterator[os.DirEntry[str]]") -> Iterator[Entry]:
        for found in scan:
            if not found.name.startswith("."):
                entry = Entry(found.name, _is_folder(found))
                if entry in _INDEX:
                    marks.add(entry)
                yield entry

    try:
        status = os.stat(folder)
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            yield ScannedFile(encode_path(own), "link back to a folder above it")
            return
        with os.scandir(folder) as scan:
            found = sort_entries(entries(scan))
    except OSError as error:
        if not above:  # a folder of `source.names`
            raise LookalikeError(f"cannot read {encode_path(folder)}: {error.strerror}") from None
        yield ScannedFile(encode_path(own), f"unreadable folder: {error.strerror}")
        return
    if above and _LOG in marks and len(marks) > 1:
        return
    for name, is_folder in found:
        path = os.path.join(folder, name)
        if is_folder:
            yield from _walk_folder(path, root, (*above, identity), accepts)
        # An unreadable entry may be a folder of a disconnected disk: its images are not deleted.
        elif is_folder is None or accepts(path):
            yield _found(path, _status(path), before + encode_path(name))


def found_file(file: str, root: str) -> ScannedFile:
    """Return a file below a root as an input."""
    return _found(file, _status(file), encode_path(os.path.relpath(file, root)))


Status: TypeAlias = "os.stat_result | OSError"


def _status(path: str) -> Status:
    try:
        return os.stat(path)
    except OSError as error:
        return error


def _is_folder(entry: "os.DirEntry[str]") -> bool | None:
    """Tell whether an entry is a folder or a link to one; None if that is unknown."""
    try:
        if entry.is_dir():
            return True
        # A link may be broken.
        return None if entry.is_symlink() and not os.path.exists(entry.path) else False
    except OSError:
        return None


def _found(file: str, status: Status, path: str) -> ScannedFile:
    if not isinstance(status, OSError):
        modified = max(-_MAX_TIME_NS, min(status.st_mtime_ns, _MAX_TIME_NS))
        return ScannedFile(path, None, status.st_size, modified)
    if os.path.islink(file) and status.errno in (errno.ENOENT, errno.ELOOP):
        return ScannedFile(path, "link to itself" if status.errno == errno.ELOOP else "broken link")
    if status.errno == errno.ENOENT:
        return ScannedFile(path)  # just deleted: reading it will fail with a reason
    return ScannedFile(path, f"unreadable: {status.strerror}")


def has_images(source: Source, ignored: IgnoredFiles | None = None) -> bool:
    """Tell whether `walk` yields anything; if not, count the other files in `ignored`."""
    for name in source.names:
        top = os.path.join(source.root, name)
        if name and not os.path.isdir(top):
            return True
        folders = [top]
        while folders:
            folder = folders.pop()
            for found, is_folder in scan_folder(folder):
                path = os.path.join(folder, found)
                if is_folder:
                    folders += [] if os.path.islink(path) else [path]
                elif is_image(found):
                    return True
    # No name ends as an image's does: look at first bytes, links and unreadable files.
    return next(walk(source, (ignored or IgnoredFiles()).accepts), None) is not None


def no_images_error(source: Source, ignored: IgnoredFiles | None = None) -> LookalikeError:
    """Return the error for a source without images, which names the ignored files."""
    others = describe_ignored(ignored.counts()) if ignored is not None else ""
    return LookalikeError(
        f"no images in {encode_path(source.root)}: "
        + (f"not looked at: {others}; " if others else "")
        + f"images end in {', '.join(sorted(readable()))}"
    )
