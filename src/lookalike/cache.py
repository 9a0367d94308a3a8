"""The folder for what can be made again; how files and folders come whole or not at all.

Whoever can write into that folder is believed: it is for one person, or for people who trust each
other.
"""

import contextlib
import ctypes
import errno
import fcntl
import functools
import glob
import hashlib
import logging
import os
import re
import shutil
import struct
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
from platformdirs import user_cache_path

from lookalike.errors import LookalikeError, one_line
from lookalike.given import local_path

_OWNER = ".owner"  # locked while the process that made a staging folder lives
logger = logging.getLogger(__name__)
_SEAL = struct.Struct("<16s16sQ8s")  # hash of samples, hash of all, length, mark
_MARK = b"lookseal"
_WHOLE = 2**20  # bytes up to which all of a file is compared with its seal when it is mapped
_SAMPLES = 16  # of a larger one, evenly from the first to the last
_BLOCK = 4096  # bytes of a sample: what a disk loses at a time

# A folder that nobody may list, or of a file system to which folders are no files.
_CANNOT_SYNC = (errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EISDIR)


def cache_folder() -> Path:
    """Return `LOOKALIKE_CACHE`, or the platform's own place for caches. It may not exist yet."""
    chosen = os.environ.get("LOOKALIKE_CACHE")
    return _absolute(chosen) if chosen else user_cache_path("lookalike")


@functools.cache  # where it was seen first, wherever this process goes from there
def _absolute(chosen: str) -> Path:
    return Path(chosen).absolute()


@contextmanager
def keeping() -> Iterator[None]:
    """Let a cache folder that is full, shut or read-only cost time, not the result; say so once."""
    try:
        yield
    except OSError as error:
        say_why(error)


_said: set[str] = set()


def say_why(error: OSError) -> None:
    """Log a warning, once in a process, that nothing can be kept, or read, and why.

    Of Spark's tasks one in a job says it, for they may be thousands: on stderr, which is the log of
    a worker, where nobody sets up another.
    """
    folder = str(cache_folder())
    pyspark = sys.modules.get("pyspark")
    task = pyspark.TaskContext.get() if pyspark else None
    if error.errno == errno.ENOENT or folder in _said or (task and task.partitionId() != 0):
        return
    _said.add(folder)
    why = (
        f"the cache {folder} cannot be used ({one_line(error)}), so that what it "
        "would keep is made again each time: set LOOKALIKE_CACHE to a folder that can be written "
        "to and has room"
    )
    if task:
        sys.stderr.write(f"warning: {why}\n")
    else:
        logger.warning(why)


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
        raise LookalikeError(
            f"{out} is there already: choose another `out`, or set `overwrite=True`"
        )


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


# Seals: what a power cut, or a disk, has made of a file shows before it is used.


def seal(file: Path) -> None:
    """Append to a file what tells whether it is whole."""
    with file.open("r+b") as opened:
        whole = hashlib.file_digest(opened, _hash).digest()
        size = opened.seek(0, os.SEEK_END)
        sample = _hash()
        for start, length in _samples(size):
            opened.seek(start)
            sample.update(opened.read(length))
        opened.seek(0, os.SEEK_END)
        opened.write(_SEAL.pack(sample.digest(), whole, size, _MARK))


def map_sealed(file: Path, *, all_of_it: bool = False) -> pa.Buffer:
    """Map what was in a file when it was sealed. Raises `OSError`, or `ValueError` if it is not.

    Of one of over a megabyte some blocks are looked at, or `all_of_it`.
    """
    # Unlike NumPy's, Arrow's maps keep no file open: an index may have thousands.
    with pa.memory_map(str(file)) as mapped:
        content = mapped.read_buffer()
    return opened_seal(content, file.name, all_of_it=all_of_it)


def opened_seal(content: pa.Buffer, name: str, *, all_of_it: bool = False) -> pa.Buffer:
    """Return what was sealed; `ValueError`, which names it, where it is not what it was."""
    size = content.size - _SEAL.size
    if size < 0:
        raise ValueError(f"{name} has no seal")
    sample, whole, sealed, mark = _SEAL.unpack(content.slice(size))
    if mark != _MARK or sealed != size:
        raise ValueError(f"{name} has no seal")
    found = _hash()
    view = memoryview(content)
    for start, length in _samples(size):
        found.update(view[start : start + length])
    if found.digest() != sample or (all_of_it and _hash(view[:size]).digest() != whole):
        raise ValueError(f"{name} is not what was written")
    return content.slice(0, size)


def _samples(size: int) -> list[tuple[int, int]]:
    if size <= _WHOLE:
        return [(0, size)]
    last = size - _BLOCK
    return [(last * number // (_SAMPLES - 1), _BLOCK) for number in range(_SAMPLES)]


def _hash(content: bytes | memoryview = b"") -> "hashlib.blake2b":
    return hashlib.blake2b(content, digest_size=16)
