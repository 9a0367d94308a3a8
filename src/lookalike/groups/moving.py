"""One file copied or moved so that a kill at any instant loses nothing, and nothing is overwritten.

A name is taken with an empty file that nobody may open, as two cannot take the same. What is to be
there then replaces that in one step: the file itself, or from another disk a copy of it that is
whole, on the disk, and compared with it.
"""

import errno
import filecmp
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from lookalike.errors import LookalikeError
from lookalike.files import sync_folder
from lookalike.images import encode_path

PART = ".lookalike-aside-part"
"""Name of a copy until it is whole."""


def move(origin: str, target: str) -> None:
    """Move a file, or a link as it is, to a free or reserved name. `OSError` where that fails.

    At any instant one of the two names has all of it, and the target has all of it or nothing.
    """
    _reserve(target)
    with _freed(target):
        try:
            os.rename(origin, target)
            return
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
        _replace(target, origin, follow=False)
    os.unlink(origin)


def copy(origin: str, target: str) -> None:
    """Copy a file, or what a link leads to, with its metadata to a free or reserved name."""
    _reserve(target)
    with _freed(target):
        _replace(target, origin, follow=True)


def is_empty(place: str) -> bool:
    """Say whether it is a file with nothing in it, as a reserved name is."""
    return os.path.isfile(place) and not os.path.islink(place) and os.path.getsize(place) == 0


def is_reserved(place: str) -> bool:
    """Say whether `place` is a name that a killed run had reserved: empty, and closed to all."""
    return is_empty(place) and os.stat(place).st_mode & 0o777 == 0


def is_moved(origin: str, other: str) -> bool:
    """Say whether `other` is `origin` as `move` copies it: a link leads to the same place."""
    if os.path.islink(origin) and os.path.islink(other):
        return os.readlink(origin) == os.readlink(other)
    return not os.path.islink(origin) and is_copy(origin, other)


def is_copy(origin: str, other: str) -> bool:
    """Say whether `other` is a file of its own with the bytes of `origin`."""
    if os.path.islink(other) or not os.path.exists(origin) or os.path.samefile(origin, other):
        return False
    filecmp.clear_cache()  # it goes by size and time
    return filecmp.cmp(origin, other, shallow=False)


def _reserve(target: str) -> None:
    try:
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0))
    except FileExistsError:
        if not is_reserved(target):
            raise
        with suppress(FileNotFoundError):  # of the run that was killed
            os.unlink(_part(target))


@contextmanager
def _freed(target: str) -> Iterator[None]:
    """Leave nothing of a name that was reserved where bringing a file there fails."""
    try:
        yield
    except BaseException:
        with suppress(OSError):
            os.unlink(_part(target))
        if is_empty(target):
            os.unlink(target)
        raise


def _replace(target: str, origin: str, *, follow: bool) -> None:
    part = _part(target)
    with suppress(FileNotFoundError):
        os.unlink(part)
    shutil.copy2(origin, part, follow_symlinks=follow)
    if not os.path.islink(part):
        with open(part, "rb") as file:
            os.fsync(file.fileno())
    if not (is_copy if follow else is_moved)(origin, part):
        raise LookalikeError(f"{encode_path(origin)} changes while it is copied: try again later")
    os.rename(part, target)
    sync_folder(os.path.dirname(target))


def _part(target: str) -> str:
    return os.path.join(os.path.dirname(target), PART)
