"""Publish versions: the store makes a commit visible, in one conditional put."""

import os
import re
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lookalike.errors import LookalikeError
from lookalike.storage.errors import Conflict
from lookalike.storage.remote.copies import DESCRIPTION, LOG, LocalCopy, copy_at
from lookalike.system.files import new_file
from lookalike.system.store import StoreError

CLAIM_SECONDS = 30.0
"""How long the description of an index without versions may be that of a living process."""
_POLL_SECONDS = 1.0
_OF_INDEX = re.compile(r"data/|_delta_log/|_model|_signatures/|_lsh/|_work/|_?lookalike\.json")
_CHECKPOINT = re.compile(r"\d{20}\.checkpoint.*|_last_checkpoint")


@contextmanager
def staged_log(path: Path, version: int, files: Iterable[Path]) -> Iterator[Path]:
    """Yield a folder with the log of an index, in which the block commits a version.

    On a disk it is the folder of the index, and the version exists when the block has made it. For
    an index in a store it is a temporary one: afterwards the new data files are put into the store,
    and then the commit, under a name that must not exist. Raises `Conflict` if it does.
    """
    copy = copy_at(path)
    if copy is None:
        yield path.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="commit-", dir=copy.folder.parent) as folder:
        staged = Path(folder)
        (staged / LOG).mkdir()
        before = copy.folder / LOG
        for name in os.listdir(before) if before.is_dir() else []:
            os.link(before / name, staged / LOG / name)
        yield staged
        _check_is_next(copy, version)
        copy.push(file for file in files if file.exists())  # others are in the store already
        _commit(copy, staged / LOG / f"{version:020}.json")
        _publish_checkpoint(copy, staged / LOG, before)


def _check_is_next(copy: LocalCopy, version: int) -> None:
    """Raise `Conflict` where the version exists, before data files are put in vain."""
    try:
        copy.store.head(f"{LOG}/{version:020}.json")
    except FileNotFoundError:
        return
    raise Conflict


def _commit(copy: LocalCopy, file: Path) -> None:
    name, content = f"{LOG}/{file.name}", file.read_bytes()
    try:
        copy.store.create(name, content)
    except (FileExistsError, StoreError) as error:  # or the answer to it was lost
        try:
            found = copy.store.get(name)
        except FileNotFoundError:
            raise error from None
        except LookalikeError as unknown:
            raise LookalikeError(
                f"whether version {int(file.stem)} of {copy.store.uri} was committed is not known "
                f"({unknown}): run the same command again, it goes on from what is there"
            ) from None
        if found != content:
            raise Conflict from None
    local = copy.folder / name
    local.parent.mkdir(exist_ok=True)
    with new_file(local, lasting=False) as part:
        part.write_bytes(content)


def _publish_checkpoint(copy: LocalCopy, staged: Path, before: Path) -> None:
    """Put a checkpoint that the commit has made; without it the log is read as well."""
    fresh = [name for name in os.listdir(staged) if _CHECKPOINT.fullmatch(name)]
    for name in sorted(fresh):  # the name of the last one comes last
        content = (staged / name).read_bytes()
        if not (before / name).exists() or (before / name).read_bytes() != content:
            with new_file(before / name, lasting=False) as part:
                part.write_bytes(content)
            copy.push([before / name])


def publish_checkpoint(path: Path) -> None:
    """Put the checkpoints in the log of a local copy into its store; on a disk do nothing."""
    if (copy := copy_at(path)) is not None:
        log = copy.folder / LOG
        copy.push(log / name for name in sorted(os.listdir(log)) if _CHECKPOINT.fullmatch(name))


def claim(path: Path) -> None:
    """Put the description of a new index into its store; on a disk do nothing.

    Where there is one and no version, a process was killed before its first commit, or is about to
    make it: wait for that. Raises `LookalikeError` if a version appears.
    """
    copy = copy_at(path)
    if copy is None:
        return
    content = (path / DESCRIPTION).read_bytes()
    try:
        copy.store.create(DESCRIPTION, content)
        return
    except FileExistsError:
        if copy.store.get(DESCRIPTION) == content:
            return
    give_up = time.monotonic() + CLAIM_SECONDS
    while time.monotonic() < give_up:
        if any(batch.num_rows for batch in copy.store.below(LOG).list(1)):
            raise just_created(path)
        time.sleep(_POLL_SECONDS)
    copy.store.put(DESCRIPTION, content)


def just_created(path: Path) -> LookalikeError:
    """Return the error for an index that another process has made meanwhile."""
    return LookalikeError(f"another process has just created {path}: run the same command again")


def check_free_place(path: Path) -> None:
    """Raise `LookalikeError` where the store holds other things under the URI of a new index."""
    copy = copy_at(path)
    if copy is None:
        return
    for batch in copy.store.list(1):
        for name in batch["name"].to_pylist():
            if not _OF_INDEX.match(name):
                raise LookalikeError(
                    f"{copy.store.uri} is not an index, it has {name}: choose another `out`"
                )
        return  # the first objects tell
