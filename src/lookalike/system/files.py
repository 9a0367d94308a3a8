"""Write files and folders atomically, replace them, and delete them."""

import contextlib
import ctypes
import errno
import fcntl
import glob
import hashlib
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

_OWNER = ".owner"  # locked by the process of a staging folder while it runs

# Errors of folders without the right to read, or of file systems that cannot sync folders.
_CANNOT_SYNC = (errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EISDIR)


@contextmanager
def new_file(file: Path, *, sealed: bool = False, lasting: bool = True) -> Iterator[Path]:
    """Yield a temporary path; rename it to `file` when the block ends without an error.

    An older `file` stays until then. Raises `OSError`.

    Parameters
    ----------
    sealed
        Append a seal (`map_sealed`).
    lasting
        Sync the file to disk first.

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
    """Yield a temporary folder; rename it to `folder` when the block ends without an error.

    Its files are synced to disk first. If another process has made `folder` meanwhile, that one
    stays. Raises `OSError`.
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


def digest(file: Path) -> str:
    """Return the hash of the content of a file, as data files are named. Raises `OSError`."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def delete(path: Path) -> None:
    """Delete a file, a link, or a folder with its contents. Raises `OSError` for a file."""
    if path.is_dir() and not path.is_symlink():
        delete_folder(path)
    else:
        path.unlink(missing_ok=True)


def delete_folder(folder: Path) -> None:
    """Delete a folder as far as possible, without an error. A link to a folder stays."""
    shutil.rmtree(folder, ignore_errors=True)


def delete_folder_at_once(folder: Path) -> None:
    """Rename a folder to a temporary name, then delete it: other processes see one step.

    Raises `OSError` if it cannot be renamed.
    """
    aside = folder.with_name(f".{folder.name}-{uuid.uuid4().hex}")
    folder.rename(aside)
    if aside.is_symlink():
        aside.unlink()
    delete_folder(aside)


@contextmanager
def staging_folder(beside: Path) -> Iterator[Path]:
    """Yield a temporary folder next to `beside`, on the same disk; delete it afterwards.

    Leftover folders of killed runs are deleted too.
    """
    parent = beside.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    for left in leftover_folders(beside):
        delete_folder(left)
    folder = Path(tempfile.mkdtemp(prefix=f".{beside.name}-", dir=parent))
    try:
        folder.chmod(0o755)  # Spark workers may run as another user
        with (folder / f"{_OWNER}-to-be").open("w") as owner:
            fcntl.flock(owner, fcntl.LOCK_EX)
            # Rename after locking: an unlocked owner file marks a leftover folder.
            Path(owner.name).rename(folder / _OWNER)
            yield folder
    finally:
        delete_folder(folder)


def leftover_folders(beside: Path) -> list[Path]:
    """Return the staging folders next to `beside` of killed runs."""
    found = beside.parent.glob(f".{glob.escape(beside.name)}-????????")
    return sorted(folder for folder in found if _is_leftover(folder))


def _is_leftover(folder: Path) -> bool:
    with contextlib.suppress(OSError), (folder / _OWNER).open() as owner:
        fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def check_free(out: Path, overwrite: bool) -> None:
    """Raise `LookalikeError` if `out` exists and may not be replaced, or has an unsuitable name."""
    local_path(out)
    if re.search(r"%[0-9A-Fa-f]{2}|[][{}*?\\\x00-\x1f\udc80-\udcff]", str(out.absolute())):
        raise LookalikeError(
            f"Delta and Spark cannot use the name {str(out)!r}: choose a name without %, *, ?, "
            "brackets, braces or backslashes"
        )
    if out.exists() and not overwrite:
        raise LookalikeError(f"{out} already exists: choose another `out`, or set `overwrite=True`")


def put_in_place(
    fresh: Path,
    path: Path,
    *,
    overwrite: bool = True,
    before_deleting: Callable[[Path], None] = lambda _: None,
) -> None:
    """Rename a new file or folder to `path`, then delete the old one.

    Old folders that a killed run has left are deleted too.

    Parameters
    ----------
    fresh
        The new file or folder.
    path
        Its final path.
    overwrite
        Replace an existing file or folder.
    before_deleting
        Called with each old folder before it is deleted.

    Raises
    ------
    LookalikeError
        Without `overwrite`, if `path` exists.

    """
    path = Path(os.path.realpath(path))
    with _locked(path.parent):
        if not overwrite and os.path.lexists(path):
            raise LookalikeError(
                f"another process has just created {path}, which stays: choose another `out`, or "
                "set `overwrite=True`"
            )
        if not fresh.is_dir() and not path.is_dir():
            fresh.replace(path)
            return
        old = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
        if not path.exists():
            fresh.rename(path)
        elif _exchange_names(fresh, path):
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
def _locked(folder: Path) -> Iterator[None]:
    """Let one process at a time rename in a folder, if the file system supports locks."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            opened = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, opened)
            fcntl.flock(opened, fcntl.LOCK_EX)
        yield


def _exchange_names(one: Path, other: Path) -> bool:
    """Exchange the names of two folders in one step; return whether the system can.

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
    """Sync the names in a folder to disk, if its file system can. Raises `OSError`."""
    try:
        _sync(folder)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
