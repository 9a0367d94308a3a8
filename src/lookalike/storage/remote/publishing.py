"""Publish versions: the store makes a commit visible, in one conditional put."""

import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from lookalike.errors import LookalikeError
from lookalike.storage.errors import Conflict
from lookalike.storage.remote.cache_use import using_cache
from lookalike.storage.remote.copied_log import DESCRIPTION, LOG, OF_LOG, TRANSFERS
from lookalike.storage.remote.copies import LocalCopy, copy_at, lost_file
from lookalike.system.files import new_file, staging_folder
from lookalike.system.store import StoreError

CLAIM_SECONDS = 30.0
"""How long the description of an index without versions may be that of a living process."""
_WAITS_OF_COMMIT = 6  # a put and its repetitions take as long at most
_POLL_SECONDS = 1.0
_OF_INDEX = re.compile(
    r"data/|_delta_log/|_model|_signatures/|_lsh/|_regions/|_work/|_?lookalike\.json"
)
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
    with using_cache():
        copy.prepare()  # whoever cleared the cache
        with staging_folder(copy.folder.parent / "commit") as staged:
            (staged / LOG).mkdir()
            before = copy.folder / LOG
            for name in os.listdir(before) if before.is_dir() else []:
                if OF_LOG.fullmatch(name):
                    _link(before / name, staged / LOG / name)
            yield staged
            _check_is_next(copy, version)
            _push_data(copy, files)
            if version == 0:
                _check_claim(copy)
            else:
                _check_follows(copy, staged / LOG / f"{version - 1:020}.json")
            _commit(copy, staged / LOG / f"{version:020}.json")
            with suppress(OSError, StoreError):  # without a checkpoint the log is read as well
                _publish_checkpoint(copy, staged / LOG, before)


def _link(file: Path, link: Path) -> None:
    try:
        os.link(file, link)
    except OSError:  # some disks have no links
        shutil.copyfile(file, link)


def _push_data(copy: LocalCopy, files: Iterable[Path]) -> None:
    """Put data files into the store; those that tasks have put have to be there."""
    here: list[Path] = []
    others: list[Path] = []
    for file in files:
        (here if file.exists() else others).append(file)
    copy.push(here)

    def check(file: Path) -> None:
        try:
            copy.store.head(copy.name(file))
        except FileNotFoundError:
            raise lost_file(file) from None

    with ThreadPoolExecutor(TRANSFERS) as pool:
        list(pool.map(check, others))


def _check_is_next(copy: LocalCopy, version: int) -> None:
    """Raise `Conflict` where the version exists, before data files are put in vain."""
    try:
        copy.store.head(f"{LOG}/{version:020}.json")
    except FileNotFoundError:
        return
    raise Conflict


def _check_follows(copy: LocalCopy, before: Path) -> None:
    """Raise `LookalikeError` unless the store has the commit before, and no other in its place."""
    with suppress(FileNotFoundError):
        if copy.store.get(f"{LOG}/{before.name}") == before.read_bytes():
            return
    raise LookalikeError(f"another index has taken the place of {copy.folder}: try again")


def _commit(copy: LocalCopy, file: Path) -> None:
    name, content = f"{LOG}/{file.name}", file.read_bytes()
    try:
        copy.put(name, content, new=True)
    except (FileExistsError, StoreError) as error:  # or the answer to it was lost
        try:
            found = copy.store.get(name)
        except (OSError, LookalikeError) as unknown:
            if isinstance(error, StoreError) and isinstance(unknown, FileNotFoundError):
                raise error from None
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
    """Put a checkpoint that the commit has made."""
    fresh = [name for name in os.listdir(staged) if _CHECKPOINT.fullmatch(name)]
    for name in sorted(fresh):  # the name of the last one comes last
        content = (staged / name).read_bytes()
        if not (before / name).exists() or (before / name).read_bytes() != content:
            with new_file(before / name, lasting=False) as part:
                part.write_bytes(content)
            copy.push([before / name])


def replace_description(path: Path, before: bytes) -> None:
    """Put the description of a local copy in place of the one `before`; on a disk do nothing.

    Raises `Conflict` where another machine has changed it.
    """
    if (copy := copy_at(path)) is not None:
        _replace_description(copy, (path / DESCRIPTION).read_bytes(), before)


def _replace_description(copy: LocalCopy, content: bytes, before: bytes) -> None:
    try:
        copy.put(DESCRIPTION, content, before=before)
    except (FileExistsError, StoreError) as error:  # or the answer to it was lost
        if copy.store.get(DESCRIPTION) == content:
            return
        if isinstance(error, StoreError):
            raise
        raise Conflict from None


def publish_checkpoint(path: Path) -> None:
    """Put the checkpoints in the log of a local copy into its store; on a disk do nothing."""
    if (copy := copy_at(path)) is not None:
        log = copy.folder / LOG
        copy.push(log / name for name in sorted(os.listdir(log)) if _CHECKPOINT.fullmatch(name))


def claim(path: Path) -> None:
    """Put the description of a new index into its store; on a disk do nothing.

    Where another one is there and no version, a process was killed before its first commit, or is
    about to make it: wait for that. Then take its place, and wait until it cannot commit any more,
    as it looks at the description right before. Raises `LookalikeError` if a version appears.
    """
    copy = copy_at(path)
    if copy is None:
        return
    content = (path / DESCRIPTION).read_bytes()
    try:
        copy.put(DESCRIPTION, content, new=True)
        return
    except FileExistsError:
        before = copy.store.get(DESCRIPTION)
        if before == content:
            return
    _wait_for_version(copy, CLAIM_SECONDS)
    try:
        _replace_description(copy, content, before)
    except Conflict:
        raise _just_begun(copy) from None
    try:
        _wait_for_version(copy, _WAITS_OF_COMMIT * CLAIM_SECONDS)
    except LookalikeError:
        copy.put(DESCRIPTION, before)
        raise


def _wait_for_version(copy: LocalCopy, seconds: float) -> None:
    """Wait; raise `LookalikeError` once there is a version."""
    give_up = time.monotonic() + seconds
    while True:
        with suppress(FileNotFoundError):
            copy.store.head(f"{LOG}/{0:020}.json")
            raise just_created(copy.folder)
        if time.monotonic() >= give_up:
            return
        time.sleep(_POLL_SECONDS)


def _check_claim(copy: LocalCopy) -> None:
    """Raise `LookalikeError` where another process has put its description."""
    with suppress(FileNotFoundError):
        if copy.store.get(DESCRIPTION) == (copy.folder / DESCRIPTION).read_bytes():
            return
    raise _just_begun(copy)


def _just_begun(copy: LocalCopy) -> LookalikeError:
    return LookalikeError(
        f"another process has begun to make {copy.folder}: run the same command again"
    )


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
