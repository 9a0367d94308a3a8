"""Files and folders that come whole or not at all, and one place to delete them."""

import contextlib
import ctypes
import errno
import fcntl
import glob
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lookalike.errors import LookalikeError
from lookalike.system.cache import seal
from lookalike.system.paths import local_path

_OWNER = ".owner"  # locked while the process that made a staging folder lives

# A folder that nobody may list, or of a file system to which folders are no files.
_CANNOT_SYNC = (errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EISDIR)


@contextmanager
def new_file(file: Path, *, sealed: bool = False, lasting: bool = True) -> Iterator[Path]:
    """Give a name to write to, which becomes `file` when the block ends without an error.

    An older `file` stays until then. By then the new one is on the disk, unless it need not be
    `lasting`; a `sealed` one says by itself whether it is whole (`map_sealed`). Raises `OSError`.
    """
    part = file.with_name(f".{uuid.uuid4().hex}-{file.name}")
    try:
        yield part
        if sealed:
            seal(part)
        if lasting:
            _sync(part)
        part.replace(file)
        if lasting:
            sync_folder(file.parent)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Give a folder to fill, which becomes `folder` when the block ends without an error.

    By then all in it is on the disk. If `folder` is there by then, made by another process, that
    one stays. Raises `OSError`.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield staging
        for place, _, names in os.walk(staging):
            for name in names:
                _sync(Path(place, name))
            sync_folder(Path(place))
        staging.chmod(0o755)
        try:
            os.rename(staging, folder)
        except OSError:
            if not folder.exists():
                raise
        sync_folder(folder.parent)
    finally:
        delete_folder(staging)


def delete(path: Path) -> None:
    """Delete a file, a link alone, or a folder with all in it. Raises `OSError` for a file."""
    if path.is_dir() and not path.is_symlink():
        delete_folder(path)
    else:
        path.unlink(missing_ok=True)


def delete_folder(folder: Path) -> None:
    """Delete a folder with all in it. What cannot be deleted stays, as does a link to a folder."""
    shutil.rmtree(folder, ignore_errors=True)


def discard(folder: Path) -> None:
    """Delete a folder at once, as others see it, whether or not all in it can go.

    Raises `OSError` where it stays.
    """
    aside = folder.with_name(f".{folder.name}-{uuid.uuid4().hex}")
    folder.rename(aside)
    if aside.is_symlink():
        aside.unlink()
    delete_folder(aside)


@contextmanager
def staging_folder(beside: Path) -> Iterator[Path]:
    """Give a folder beside `beside`, on the same disk and gone afterwards.

    Folders that killed runs have left there go too.
    """
    parent = beside.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    for left in left_folders(beside):
        delete_folder(left)
    folder = Path(tempfile.mkdtemp(prefix=f".{beside.name}-", dir=parent))
    try:
        folder.chmod(0o755)  # Spark's workers may be another user's
        with (folder / f"{_OWNER}-to-be").open("w") as owner:
            fcntl.flock(owner, fcntl.LOCK_EX)
            # Only now: who finds it without its lock takes the folder for left.
            Path(owner.name).rename(folder / _OWNER)
            yield folder
    finally:
        delete_folder(folder)


def left_folders(beside: Path) -> list[Path]:
    """Return the staging folders beside `beside` that killed runs have left there."""
    found = beside.parent.glob(f".{glob.escape(beside.name)}-????????")
    return sorted(folder for folder in found if _is_left(folder))


def _is_left(folder: Path) -> bool:
    with contextlib.suppress(OSError), (folder / _OWNER).open() as owner:
        fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def make_free(out: Path, overwrite: bool) -> None:
    """Raise `LookalikeError` where `out` is taken and may not be replaced, or has no fit name."""
    local_path(out)
    if re.search(r"%[0-9A-Fa-f]{2}|[][{}*?\\\x00-\x1f\udc80-\udcff]", str(out.absolute())):
        raise LookalikeError(f"Delta and Spark misread the name {str(out)!r}: choose a plainer one")
    if out.exists() and not overwrite:
        raise LookalikeError(f"{out} already exists: choose another `out`, or set `overwrite=True`")


def put_in_place(
    fresh: Path,
    path: Path,
    *,
    overwrite: bool = True,
    before_deleting: Callable[[Path], None] = lambda _: None,
) -> None:
    """Rename a new file or folder to `path`. An old one is there until then, and then deleted.

    So is what a run that was killed just here has left of older ones. `before_deleting` is given
    each such folder first. Without `overwrite` what something else has put there meanwhile stays,
    and a `LookalikeError` says so.
    """
    path = Path(os.path.realpath(path))
    with _one_at_a_time(path.parent):
        if not overwrite and os.path.lexists(path):
            raise LookalikeError(
                f"something else has just made {path}, which stays: choose another `out`, or "
                "set `overwrite=True`"
            )
        if not fresh.is_dir() and not path.is_dir():
            fresh.replace(path)
            return
        old = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
        if not path.exists():
            fresh.rename(path)
        elif _exchange(fresh, path):
            old = fresh
        else:
            path.rename(old)
            try:
                fresh.rename(path)
            except BaseException:
                if not path.exists():
                    old.rename(path)
                raise
    for left in (old, *path.parent.glob(f".{glob.escape(path.name)}-{'[0-9a-f]' * 32}")):
        before_deleting(left)
        delete_folder(left)


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Let one process at a time give names in a folder, where its file system knows locks."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            opened = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, opened)
            fcntl.flock(opened, fcntl.LOCK_EX)
        yield


def _exchange(one: Path, other: Path) -> bool:
    """Exchange the names of two folders in one step; say whether the system can.

    https://man7.org/linux/man-pages/man2/rename.2.html
    """
    try:
        rename = ctypes.CDLL(None).renameat2
    except (OSError, AttributeError):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return bool(rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0)


def _sync(file: str | Path) -> None:
    opened = os.open(file, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def sync_folder(folder: str | Path) -> None:
    """Have the names in a folder on the disk, where its file system can do so. Raises `OSError`."""
    try:
        _sync(folder)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
