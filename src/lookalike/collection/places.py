"""Folders that come whole or not at all, and who may write into a collection."""

import contextlib
import ctypes
import fcntl
import glob
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from lookalike.collection.caches import forget
from lookalike.collection.left import clear
from lookalike.errors import LookalikeError, full_disk, is_full_disk
from lookalike.given import local_path

_OWNER = ".owner"  # locked while the process that made a staging folder lives
_PATIENCE = 2.0  # seconds, with who has a collection to itself: mostly to clear up in it


class ReadOnly(LookalikeError):
    """A collection that this process may not write into."""


@contextmanager
def staging_folder(beside: Path) -> Iterator[Path]:
    """Give a folder beside `beside`, on the same disk and gone afterwards.

    Folders that killed runs have left there go too.
    """
    parent = beside.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    for left in left_folders(beside):
        shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{beside.name}-", dir=parent))
    try:
        folder.chmod(0o755)  # Spark's workers may be another user's
        with (folder / f"{_OWNER}-to-be").open("w") as owner:
            fcntl.flock(owner, fcntl.LOCK_EX)
            # Only now: who finds it without its lock takes the folder for left.
            Path(owner.name).rename(folder / _OWNER)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def left_folders(beside: Path) -> list[Path]:
    """Return the staging folders beside `beside` that killed runs have left there."""
    found = beside.parent.glob(f".{glob.escape(beside.name)}-????????")
    return sorted(folder for folder in found if _is_left(folder))


def _is_left(folder: Path) -> bool:
    with contextlib.suppress(OSError), (folder / _OWNER).open() as owner:
        fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


@contextmanager
def writing(path: Path, *, alone: bool = False) -> Iterator[Callable[[], None]]:
    """Say that this process writes into the collection at `path`, beside others or `alone`.

    Raises `LookalikeError` where it must be alone and is not, the collection is `ReadOnly`, or the
    disk is full, which may turn out only in the block. The lock goes with the process, however it
    ends. Gives a function that lets others write as well. Who comes first clears up after writers
    that were killed.
    """
    give_up = time.monotonic() + _PATIENCE
    with contextlib.ExitStack() as stack:
        while True:
            lock = stack.enter_context(_opened(path))
            if _takes(lock, fcntl.LOCK_EX):
                clear(path)
            while not _takes(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH):
                if time.monotonic() > give_up:
                    who = "something writes into it" if alone else "something has it to itself"
                    raise LookalikeError(f"{path} is busy, {who}: try again later")
                time.sleep(0.05)
            # Meanwhile another collection may have taken its place, with a lock of its own.
            with contextlib.suppress(OSError):
                if os.path.samestat(os.fstat(lock.fileno()), os.stat(path / ".writers")):
                    break
        try:
            yield lambda: fcntl.flock(lock, fcntl.LOCK_SH)
        except Exception as error:
            if is_full_disk(error):
                raise full_disk(path) from None
            raise


@contextmanager
def working(path: Path, *, only_looks: bool = False) -> Iterator[Path]:
    """Say that this process writes into the collection at `path`, as `writing`; give a folder.

    It is a staging folder in the collection. Where the process `only_looks` and may not write
    there, it is a temporary one of the system's.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(writing(path))
            folder = stack.enter_context(staging_folder(path / "work"))
        except (ReadOnly, PermissionError):
            if not only_looks:
                raise
            temporary = tempfile.TemporaryDirectory(prefix="lookalike-")
            folder = Path(stack.enter_context(temporary))
        yield folder


def _opened(path: Path) -> IO[str]:
    try:
        return (path / ".writers").open("a")
    except OSError as error:
        if is_full_disk(error):
            raise full_disk(path) from None
        raise ReadOnly(
            f"{path} cannot be written to ({error.strerror}): search needs no more than reading it"
        ) from None


def _takes(lock: IO[str], how: int) -> bool:
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(lock, how | fcntl.LOCK_NB)
        return True
    return False


def is_busy(path: Path) -> bool:
    """Say whether something writes into the collection at `path`, or may do so for all we see."""
    try:
        with (path / ".writers").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return False
    except FileNotFoundError:
        return False
    except OSError:
        return True


def make_free(out: Path, overwrite: bool) -> None:
    """Raise `LookalikeError` where `out` is taken and may not be replaced, or has no fit name."""
    local_path(out)
    if re.search(r"%[0-9A-Fa-f]{2}|[][{}*?\\\x00-\x1f\udc80-\udcff]", str(out.absolute())):
        raise LookalikeError(f"Delta and Spark misread the name {str(out)!r}: choose a plainer one")
    if out.exists() and not overwrite:
        raise LookalikeError(f"{out} is there already: give another --out, or --overwrite it")


def successor(out: Path) -> Path:
    """Return the hidden folder beside a collection in which one is made to take its place."""
    real = Path(os.path.realpath(out))
    return real.with_name(f".{real.name}.next")


@contextmanager
def making_anew(out: Path) -> Iterator[Path]:
    """Give the folder `successor`, which may be there of a run that was killed, to one at a time.

    Raises `LookalikeError` where another process has it, and where nothing can be made there.
    """
    beside = successor(out)
    file = beside.with_name(f"{beside.name}.lock")
    with contextlib.ExitStack() as stack:
        while True:
            try:
                lock = stack.enter_context(file.open("a"))
            except OSError as error:
                if is_full_disk(error):
                    raise full_disk(out) from None
                raise ReadOnly(
                    f"nothing can be made in {file.parent} ({error.strerror}), which takes the "
                    f"place of {out}: give another --out"
                ) from None
            if not _takes(lock, fcntl.LOCK_EX):
                raise LookalikeError(
                    f"another process is rebuilding {out}: try again when that is done, or "
                    "give another --out"
                )
            with contextlib.suppress(FileNotFoundError):  # whoever had it has just deleted it
                if os.path.samestat(os.fstat(lock.fileno()), file.stat()):
                    break
        try:
            yield beside
        finally:
            file.unlink(missing_ok=True)


def put_in_place(fresh: Path, path: Path, *, overwrite: bool = True) -> None:
    """Rename a new file or folder to `path`. An old one is there until then, and then deleted.

    So is what a run that was killed just here has left of older ones. Without `overwrite` what
    something else has put there meanwhile stays, and a `LookalikeError` says so.
    """
    path = Path(os.path.realpath(path))
    with _one_at_a_time(path.parent):
        if not overwrite and os.path.lexists(path):
            raise LookalikeError(
                f"something else has just made {path}, which stays: give another --out, or "
                "--overwrite it"
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
        for file in left.glob("data/*/*.parquet"):
            forget(file)
        shutil.rmtree(left, ignore_errors=True)


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
