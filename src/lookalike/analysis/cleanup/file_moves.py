"""Copy or move one file so that a kill loses nothing and nothing is overwritten.

An empty file without permissions reserves the target name. The content then replaces it in one
step: a rename or, from another disk, a complete, synced and verified copy.
"""

import errno
import filecmp
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lookalike.errors import LookalikeError, full_disk, is_full_disk, one_line
from lookalike.images import encode_path
from lookalike.system.files import sync_folder

PART = ".lookalike-aside-part"
"""The name of an incomplete copy."""


def move(origin: str, target: str) -> None:
    """Move a file or a link to a free or reserved name. Raises `OSError`.

    At any instant one of the two names has the whole content, and the target all or none of it.
    """
    _reserve(target)
    with _released(target):
        try:
            os.rename(origin, target)
            return
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
        _replace(target, origin, follow=False)
    os.unlink(origin)


def copy(origin: str, target: str) -> None:
    """Copy a file, or the target of a link, with its metadata to a free or reserved name."""
    _reserve(target)
    with _released(target):
        _replace(target, origin, follow=True)


def is_empty(place: str) -> bool:
    """Tell whether a path is an empty file."""
    return os.path.isfile(place) and not os.path.islink(place) and os.path.getsize(place) == 0


def is_reserved(place: str) -> bool:
    """Tell whether a path is a reserved name of a killed run: empty, without permissions."""
    return is_empty(place) and os.stat(place).st_mode & 0o777 == 0


def is_moved(origin: str, other: str) -> bool:
    """Tell whether `other` is a complete copy of `origin` by `move`: same bytes, or same link."""
    if os.path.islink(origin) and os.path.islink(other):
        return os.readlink(origin) == os.readlink(other)
    return not os.path.islink(origin) and is_copy(origin, other)


def is_copy(origin: str, other: str) -> bool:
    """Tell whether `other` is a separate file with the bytes of `origin`."""
    if os.path.islink(other) or not os.path.exists(origin) or os.path.samefile(origin, other):
        return False
    filecmp.clear_cache()  # its key is only size and time
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
def _released(target: str) -> Iterator[None]:
    """Release a reserved name after a failure."""
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


def leads_to(link: str, origin: str) -> bool:
    """Tell whether a path is a link to `origin`."""
    return os.path.islink(link) and os.readlink(link) == origin


@contextmanager
def short_errors(folder: Path) -> Iterator[None]:
    """Turn an `OSError` into a `LookalikeError` of one line."""
    try:
        yield
    except OSError as error:
        if is_full_disk(error):
            raise full_disk(folder) from None
        place = error.filename if isinstance(error.filename, str | bytes) else str(folder)
        raise LookalikeError(
            f"{encode_path(place)}: {one_line(error)}; correct it and run the same command "
            f"again to continue, or undo {folder}"
        ) from None
