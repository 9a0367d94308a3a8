"""Locks: who may write into a table, and who may make another in its place."""

import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from lookalike.errors import LookalikeError, full_disk, is_full_disk
from lookalike.storage.data_folders import clear
from lookalike.storage.description import upgrade
from lookalike.storage.errors import Busy, ReadOnly
from lookalike.system.files import staging_folder

PATIENCE_S = 2.0
"""How long to wait for a writer that has the table to itself, mostly to clear up in it."""
POLL_S = 0.05


@contextmanager
def writing(
    path: Path, *, alone: bool = False, dry_run: bool = False
) -> Iterator[Callable[[], None]]:
    """Hold the right to write into the table at `path`, beside others or `alone`.

    Raises `LookalikeError` where it must be alone and is not, the table is `ReadOnly`, or the disk
    is full, which may turn out only in the block. The lock goes with the process, however it ends.
    Yields a function that lets others write as well. The first writer clears up after those that
    were killed, and upgrades an index of an older format, unless `dry_run` is set.
    """
    give_up = time.monotonic() + PATIENCE_S
    with contextlib.ExitStack() as stack:
        while True:
            lock = stack.enter_context(_opened(path))
            if _takes(lock, fcntl.LOCK_EX):
                clear(path)
                if not dry_run:
                    upgrade(path)
            while not _takes(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH):
                if time.monotonic() > give_up:
                    who = "something writes into it" if alone else "something has it to itself"
                    raise Busy(f"{path} is busy, {who}: try again later")
                time.sleep(POLL_S)
            # Meanwhile another table may have taken its place, with a lock of its own.
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
def working(path: Path, *, dry_run: bool = False) -> Iterator[Path]:
    """Hold the right to write into the table at `path`, as `writing`; give a staging folder in it.

    With `dry_run`, in an index that may not be written to, it is a temporary folder of the system.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(writing(path, dry_run=dry_run))
            folder = stack.enter_context(staging_folder(path / "work"))
        except (ReadOnly, PermissionError):
            if not dry_run:
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
    """Tell whether something writes into the table at `path`, or whether that cannot be known."""
    try:
        with (path / ".writers").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return False
    except FileNotFoundError:
        return False
    except OSError:
        return True


def rebuild_folder(out: Path) -> Path:
    """Return the hidden folder next to an index in which its replacement is built."""
    real = Path(os.path.realpath(out))
    return real.with_name(f".{real.name}.next")


@contextmanager
def rebuilding(out: Path) -> Iterator[Path]:
    """Lock and yield `rebuild_folder`, which a killed run may have left.

    Raises `LookalikeError` if another process has locked it, or it cannot be written to.
    """
    folder = rebuild_folder(out)
    file = folder.with_name(f"{folder.name}.lock")
    with contextlib.ExitStack() as stack:
        while True:
            try:
                lock = stack.enter_context(file.open("a"))
            except OSError as error:
                if is_full_disk(error):
                    raise full_disk(out) from None
                raise ReadOnly(
                    f"{file.parent} cannot be written to ({error.strerror}), but the new index is "
                    f"built there before it replaces {out}: choose another `out`"
                ) from None
            if not _takes(lock, fcntl.LOCK_EX):
                raise LookalikeError(
                    f"another process is rebuilding {out}: try again when that is done, or "
                    "choose another `out`"
                )
            with contextlib.suppress(FileNotFoundError):  # whoever had it has just deleted it
                if os.path.samestat(os.fstat(lock.fileno()), file.stat()):
                    break
        try:
            yield folder
        finally:
            file.unlink(missing_ok=True)
