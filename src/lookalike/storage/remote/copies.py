"""Local copies: folders of the cache that hold what was needed of an index in a store.

The log and the description are compared with those of the store whenever an index is opened or
followed. Other files are fetched when they are needed. Data files never change, and their name is
the hash of their content, by which a fetched one is checked.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lookalike.errors import LookalikeError, show_as
from lookalike.storage.remote.cache_limit import make_room
from lookalike.storage.remote.cache_use import using_cache
from lookalike.storage.remote.copied_log import (
    BESIDE,
    ORIGIN,
    TRANSFERS,
    CopiedLog,
    is_as,
    set_time,
)
from lookalike.system.cache import cache_folder
from lookalike.system.files import digest, new_file
from lookalike.system.paths import Name, local_path
from lookalike.system.store import StoreError, open_store
from lookalike.system.untrusted import is_hash
from lookalike.system.uris import is_uri, split_uri, with_slashes

STORES = "stores"
"""The folder of the cache with local copies."""
_FETCH_ATTEMPTS = 3
_MAX_NAME_LETTERS = 60  # of up to four bytes, where a disk allows 255
_ROWS = "rows"  # data files without their vectors


class DamagedObject(LookalikeError):
    """A data file in a store has another content than its name says."""


def index_path(name: Name) -> Path:
    """Return the folder of an index: the one that is named, or the local copy for a URI.

    The index need not exist. Raises `LookalikeError` for a URI of no store.
    """
    text = with_slashes(name)
    if not is_uri(text) or split_uri(text)[0] == "file":
        return local_path(name)
    return open_copy(text).folder


def open_copy(uri: str) -> "LocalCopy":
    """Return the local copy of the index at a URI, with a folder for it."""
    store = open_store(uri)
    if not store.prefix:
        raise LookalikeError(f"{uri} is a whole bucket: give a folder in it, {uri}/NAME.index")
    key = hashlib.blake2b(store.uri.encode(), digest_size=16).hexdigest()
    place = cache_folder() / STORES / key
    copy = LocalCopy(store, place / _folder_name(store.prefix))
    copy.prepare()
    return _remember(copy)


def _folder_name(prefix: str) -> str:
    """Return a name for the folder of a copy; Delta cannot open some that a store has."""
    name = re.sub(r"[^\w. -]", "_", prefix.rpartition("/")[2])[-_MAX_NAME_LETTERS:]
    return f"_{name}" if name in BESIDE or name.startswith(".") else name


def copy_at(path: Path) -> "LocalCopy | None":
    """Return the local copy that a folder is; None for an index on a disk.

    What this process has opened stays one, whatever happens to the cache. Raises `LookalikeError`
    for a folder among the copies that does not say of what it is one.
    """
    path = Path(os.path.abspath(path))
    if path in _copies:
        return _copies[path]
    if path.parent.parent != cache_folder() / STORES:
        return None
    try:
        store = open_store(json.loads((path.parent / ORIGIN).read_text())["uri"])
    except (OSError, ValueError, KeyError, TypeError):
        raise LookalikeError(
            f"{path} is no longer the copy of an index in a store: open that by its URI"
        ) from None
    return _remember(LocalCopy(store, path))


_copies: dict[Path, "LocalCopy"] = {}


def _remember(copy: "LocalCopy") -> "LocalCopy":
    show_as(str(copy.folder), copy.store.uri)
    return _copies.setdefault(copy.folder, copy)


def copy_of(file: Path) -> "LocalCopy | None":
    """Return the local copy that a data file belongs to; None on a disk."""
    return copy_at(file.parents[2]) if len(file.parts) > 3 else None


def is_stored(file: Path) -> bool:
    """Tell whether a data file belongs to an index in a store."""
    return copy_of(file) is not None


def name_of(path: Path) -> str:
    """Return how to name an index to people: by its URI or its folder."""
    copy = copy_at(path)
    return str(path) if copy is None else copy.store.uri


def pull(path: Path, *, description: bool = False) -> None:
    """Bring the log of a local copy up to date, and its description; on a disk do nothing.

    The description is read again with new commits, or if `description` is set.
    """
    if (copy := copy_at(path)) is not None:
        copy.pull(description=description)


def mend_log(path: Path) -> bool:
    """Make the log of a local copy as it is in its store; return whether it was not."""
    copy = copy_at(path)
    return copy is not None and copy.mend_log()


def push(path: Path, *files: Path) -> None:
    """Put files or folders of a local copy into its store; on a disk do nothing."""
    if (copy := copy_at(path)) is not None:
        copy.push(files)


def fetch_data(file: Path) -> None:
    """Fetch a data file that is not in its local copy; on a disk do nothing.

    Raises `FileNotFoundError` where the store has none, and `DamagedObject`.
    """
    if (copy := copy_of(file)) is not None:
        copy.fetch(file)


def local_rows(files: Iterable[Path]) -> list[Path]:
    """Return files with the rows of data files, for SQL: of a store without their vectors.

    Files without vectors come first: DuckDB takes the columns of the first file.
    """
    named = list(files)
    copy = copy_of(named[0]) if named else None
    if copy is None:
        return named
    whole = set(named)
    with ThreadPoolExecutor(TRANSFERS) as pool:
        return sorted(pool.map(copy.fetch_rows, named), key=whole.__contains__)


class LocalCopy(CopiedLog):
    """The local copy of an index: the index in the `store`, and the `folder` that stands for it."""

    def name(self, file: Path) -> str:
        """Return the name in the store of a file in the folder."""
        return file.absolute().relative_to(self.folder).as_posix()

    def fetch_folder(self, folder: Path) -> None:
        """Fetch what is new in a folder beside the data files: a model, signatures."""
        below = self.name(folder)
        listed = [row for row in _objects(self.store.below(below).list(1)) if _is_inner(row[0])]
        fresh = [row for row in listed if not is_as(folder / row[0], *row[1:])]

        def fetch(row: tuple[str, int, int]) -> None:
            name, _, modified = row
            with using_cache():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                with new_file(folder / name, lasting=False) as part:
                    self.store.download(f"{below}/{name}", part)
                    set_time(part, modified)

        with ThreadPoolExecutor(TRANSFERS) as pool:
            list(pool.map(fetch, fresh))

    def fetch(self, file: Path) -> None:
        """Fetch a data file that is not there. Raises `FileNotFoundError`, or `DamagedObject`."""
        for _ in range(_FETCH_ATTEMPTS):
            if file.exists():
                with suppress(OSError):
                    os.utime(file)  # when it was used
                return
            make_room()
            with using_cache(), suppress(ValueError):
                file.parent.mkdir(parents=True, exist_ok=True)
                with new_file(file, lasting=False) as part:
                    self.store.download(self.name(file), part)
                    if is_hash(file.stem) and digest(part) != file.stem:
                        raise ValueError
        if not file.exists():
            raise DamagedObject(
                f"the data file {file} is not what was written: `lookalike check INDEX --repair`"
            )

    def fetch_again(self, file: Path) -> None:
        """Fetch a data file whose copy may be damaged."""
        file.unlink(missing_ok=True)
        self.fetch(file)

    def fetch_rows(self, file: Path) -> Path:
        """Return a file with all columns of a data file but the vectors, which are not read.

        Raises `LookalikeError` where the store has none, or a damaged one.
        """
        if file.exists():
            return file
        try:
            return self._rows(file)
        except (pa.ArrowException, ValueError):  # damaged, or it did not come whole
            self.fetch(file)
            return file
        except FileNotFoundError:
            raise LookalikeError(f"the data file {file} is missing: `lookalike check`") from None

    def _rows(self, file: Path) -> Path:
        rows = self.folder / _ROWS / file.relative_to(self.folder)
        if rows.exists():
            with suppress(OSError):
                os.utime(rows)
            return rows
        make_room()
        with (
            using_cache(),
            pq.ParquetFile(
                self.store.open(self.name(file)), page_checksum_verification=True, pre_buffer=True
            ) as stored,
        ):
            rows.parent.mkdir(parents=True, exist_ok=True)
            names = [name for name in stored.schema_arrow.names if name != "embedding"]
            schema = pa.schema([stored.schema_arrow.field(name) for name in names])
            with (
                new_file(rows, lasting=False) as part,
                pq.ParquetWriter(part, schema, compression="zstd") as writer,
            ):
                for batch in stored.iter_batches(columns=names):
                    writer.write_batch(batch)
        return rows

    def push(self, files: Iterable[Path]) -> None:
        """Put files, or all files in folders, into the store under the names that they have."""
        whole = [
            one
            for file in files
            for one in (sorted(file.rglob("*")) if file.is_dir() else [file])
            if one.is_file()
        ]
        with ThreadPoolExecutor(TRANSFERS // 2) as pool:
            list(pool.map(lambda file: self.put(self.name(file), file), whole))

    def put(
        self, name: str, content: bytes | Path, *, new: bool = False, before: bytes | None = None
    ) -> None:
        """Write an object; a `new` one must not exist, another have the content `before`, if given.

        Raises `FileExistsError` where that is not so, `StoreError`, and `LookalikeError` where a
        file was deleted before it came into the store.
        """
        try:
            if isinstance(content, bytes) and new:
                self.store.create(name, content)
            elif isinstance(content, bytes) and before is not None:
                self.store.replace(name, content, before)
            else:
                self.store.put(name, content)
        except PermissionError:
            raise StoreError(
                f"{self.store.uri} may not be written to: ask its owner for the right to"
            ) from None
        except FileNotFoundError:
            raise lost_file(self.folder / name) from None

    def data_files(self) -> dict[str, int]:
        """Return the sizes of all data files in the store by their names, of no version too."""
        listed = _objects(self.store.below("data").list())
        return {f"data/{name}": size for name, size, _ in listed}

    def forget(self, name: str) -> None:
        """Delete what the folder has of an object that was deleted in the store."""
        file = self.folder / name
        file.unlink(missing_ok=True)
        (self.folder / _ROWS / name).unlink(missing_ok=True)


def lost_file(file: Path) -> LookalikeError:
    """Return the error for a file of a local copy that was deleted before its commit."""
    return LookalikeError(
        f"the cache lost {file} before that was committed: run the same command again"
    )


def _objects(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[str, int, int]]:
    """Yield name, size and time of listed objects."""
    for batch in batches:
        columns = (batch[name].to_pylist() for name in ("name", "size", "modified"))
        yield from zip(*columns, strict=True)


def _is_inner(name: str) -> bool:
    return ".." not in name.split("/") and not name.startswith("/")


_fetched_at: dict[Path, int] = {}  # the version for which a folder was fetched last


def fetched(folder: Path, path: Path, version: int | None = None) -> Path:
    """Return a folder of the index at `path`, with what its store has of it.

    For a version it is fetched once in a process.
    """
    copy = copy_at(path)
    if copy is not None and (version is None or _fetched_at.get(folder) != version):
        copy.fetch_folder(folder)
        if version is not None:
            _fetched_at[folder] = version
    return folder
