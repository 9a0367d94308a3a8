"""Which folder keeps what is made from a data file: one for each content, however often it lies.

The name of a data file says what it holds, and anybody may have written that name. So a file is
read to the end and hashed before its cache is used. A mark in the cache then says which file that
was: the next process asks no more than when and where it was written. A copy of the file finds the
same cache, once it has been hashed as well. Each path has one mark, however often the file there
becomes another to the system, as after each mount of some file systems.
"""

import hashlib
import os
import shutil
from contextlib import suppress
from pathlib import Path

from lookalike.cache import cache_folder, keeping, new_file
from lookalike.untrusted import is_hash

_OF = "of-"  # begins the name of a mark, which holds identity and path of the file
_DIGITS = 32  # of a hash, hexadecimal


def digest(file: Path) -> str:
    """Return the hash of the content of a file, which names it. Raises `OSError`."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def identity(file: Path) -> str:
    """Return what changes with a file: where it is, its inode, size and times. Raises `OSError`.

    The time of its last change (`ctime`) is the system's: nobody can set it.
    """
    status = file.stat()
    parts = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return _hash(b"\0".join([_path(file), *(b"%d" % part for part in parts)]))


def cache_of(file: Path) -> tuple[Path, str]:
    """Return the folder of what is made from a data file, which may not exist. Raises `OSError`.

    It is of the content that the file has as long as its `identity` is the one returned with it.
    What is not what its name says has a folder that no other file has.
    """
    now = identity(file)
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
        with keeping():
            mark(shared, file, now)
    return shared, now


def mark(folder: Path, file: Path, now: str) -> None:
    """Note in a cache that it is of a file, as long as its identity is `now`. Raises `OSError`."""
    # One that is lost is made again.
    with new_file(_mark(folder, file), lasting=False) as part:
        part.write_bytes(now.encode() + _path(file))


def forget(file: Path) -> None:
    """Delete what is kept of a data file that is about to go, unless another file has the same."""
    with suppress(OSError):
        now = identity(file)
        shutil.rmtree(_folder(now), ignore_errors=True)
        if not is_hash(file.stem):
            return
        shared = _folder(file.stem)
        _mark(shared, file).unlink(missing_ok=True)
        if not any(map(_is_there, shared.glob(f"{_OF}*"))):
            shutil.rmtree(shared, ignore_errors=True)


def forget_all(path: Path) -> None:
    """Delete what is kept of the data files of a table at `path` that is about to go."""
    for file in path.glob("data/*/*.parquet"):
        forget(file)


def _is_there(marking: Path) -> bool:
    now, file = _marked(marking)
    with suppress(OSError):
        return identity(file) == now
    return False


def _mark(folder: Path, file: Path) -> Path:
    return folder / f"{_OF}{_hash(_path(file))}"


def _marked(marking: Path) -> tuple[str, Path]:
    """Return what `mark` has noted: what the identity of a file was, and its path."""
    with suppress(OSError):
        noted = marking.read_bytes()
        return noted[:_DIGITS].decode(errors="replace"), Path(os.fsdecode(noted[_DIGITS:]))
    return "", Path()


def _path(file: Path) -> bytes:
    return os.fsencode(file.absolute())


def _hash(what: bytes) -> str:
    return hashlib.blake2b(what, digest_size=_DIGITS // 2).hexdigest()


def _folder(name: str) -> Path:
    return cache_folder() / "segments" / name
