"""The cache folders of data files: one for each content, shared by all copies of a file.

A data file is named by the hash of its content, but anybody may have given it that name. So it is
hashed before its cache is used for the first time. A mark in the cache then records path, inode,
size and times of the file: the next process compares these alone. A copy of the file finds the same
cache once it has been hashed too. Each path has one mark; the inode may change, as after each mount
of some file systems. Data files in a store are hashed when they are fetched; their identity is one.
"""

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from lookalike.storage.remote.cache_limit import USED
from lookalike.storage.remote.copies import is_stored
from lookalike.system.cache import cache_folder, ignore_cache_errors
from lookalike.system.files import delete_folder, digest, new_file
from lookalike.system.untrusted import is_hash

MARK_PREFIX = "of-"
STORED = "stored".ljust(32, "-")
"""The identity of all data files in stores: what is under a name there never changes."""
HASH_LENGTH = 32  # hexadecimal digits


def identity(file: Path) -> str:
    """Return a hash of path, inode, size and times of a file. Raises `OSError`.

    It changes with the file: the time of the last change (`ctime`) is the system's, and no program
    can set it.
    """
    if is_stored(file):
        return STORED
    status = file.stat()
    parts = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return _hash(b"\0".join([_path(file), *(b"%d" % part for part in parts)]))


def cache_of(file: Path) -> tuple[Path, str]:
    """Return the cache folder of a data file, which may not exist, and the file's `identity`.

    The folder is for the content that the file has while its identity stays the same. A file whose
    name is not the hash of its content has a folder of its own. Raises `OSError`.
    """
    now = identity(file)
    if now == STORED:
        return _folder(file.stem if is_hash(file.stem) else _hash(_path(file))), now
    shared, own = _folder(file.stem), _folder(now)
    if is_hash(file.stem) and _marked(_mark(shared, file))[0] == now:
        return shared, now
    if (
        not is_hash(file.stem)
        or os.path.isdir(own)
        or digest(file) != file.stem
        or identity(file) != now
    ):
        return own, now  # or it is being written to
    if os.path.isdir(shared):
        with ignore_cache_errors():
            mark(shared, file, now)
    return shared, now


def mark(folder: Path, file: Path, now: str) -> None:
    """Record in a cache that it is of a file while its identity is `now`. Raises `OSError`."""
    # A lost mark is made again.
    with new_file(_mark(folder, file), lasting=False) as part:
        part.write_bytes(now.encode() + _path(file))
    if now == STORED:
        (folder / USED).touch()


def forget(file: Path) -> None:
    """Delete the cache of a data file that will be deleted, unless another has the same content."""
    with suppress(OSError):
        now = identity(file)
        delete_folder(_folder(now))
        if not is_hash(file.stem):
            return
        shared = _folder(file.stem)
        _mark(shared, file).unlink(missing_ok=True)
        if not any(map(_is_there, shared.glob(f"{MARK_PREFIX}*"))):
            delete_folder(shared)


def forget_all(path: Path) -> None:
    """Delete the caches of the data files of a table at `path` that will be deleted."""
    for file in path.glob("data/*/*.parquet"):
        forget(file)


def _is_there(marking: Path) -> bool:
    now, file = _marked(marking)
    with suppress(OSError):
        return identity(file) == now
    return False


def _mark(folder: Path, file: Path) -> Path:
    return folder / f"{MARK_PREFIX}{_hash(_path(file))}"


def _marked(marking: Path) -> tuple[str, Path]:
    """Return the content of a mark: the identity of a file, and its path."""
    with suppress(OSError):
        noted = marking.read_bytes()
        return noted[:HASH_LENGTH].decode(errors="replace"), Path(os.fsdecode(noted[HASH_LENGTH:]))
    return "", Path()


def _path(file: Path) -> bytes:
    return os.fsencode(file.absolute())


def _hash(what: bytes) -> str:
    return hashlib.blake2b(what, digest_size=HASH_LENGTH // 2).hexdigest()


def _folder(name: str) -> Path:
    return cache_folder() / "segments" / name
