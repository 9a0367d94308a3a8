"""Local copies: folders of the cache that hold what was needed of an index in a store.

The log and the description are compared with those of the store whenever an index is opened or
followed. Other files are fetched when they are needed. Data files never change, and their name is
the hash of their content, by which a fetched one is checked.
"""

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lookalike.errors import LookalikeError, show_as
from lookalike.images.inputs.location import INDEX_FILES
from lookalike.storage.remote.cache_limit import make_room
from lookalike.system.cache import cache_folder
from lookalike.system.files import delete_folder_at_once, digest, new_file
from lookalike.system.paths import Name, local_path
from lookalike.system.store import Store, StoredObject, open_store
from lookalike.system.untrusted import is_hash
from lookalike.system.uris import is_uri, split_uri, with_slashes

STORES = "stores"
"""The folder of the cache with local copies."""
LOG = "_delta_log"
DESCRIPTION = INDEX_FILES[0]
TRANSFERS = 8  # requests at once
_FETCH_ATTEMPTS = 3
_ORIGIN = "origin.json"
_SEEN = "newest"  # the newest commit when it was compared with that of the store
_COMMIT = re.compile(r"\d{20}\.json")
_OF_LOG = re.compile(r"\d{20}\.(json|checkpoint[.0-9a-f-]*\.(parquet|json))|_last_checkpoint")
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
    copy = LocalCopy(store, place / store.prefix.rpartition("/")[2])
    copy.folder.mkdir(parents=True, exist_ok=True)
    origin = place / _ORIGIN
    if not origin.exists():
        with new_file(origin, lasting=False) as part:
            part.write_text(json.dumps({"uri": store.uri}))
    show_as(str(copy.folder), store.uri)
    return copy


def copy_at(path: Path) -> "LocalCopy | None":
    """Return the local copy that a folder is; None for an index on a disk."""
    path = Path(os.path.abspath(path))
    if path.parent.parent != cache_folder() / STORES:
        return None
    with suppress(OSError, ValueError, KeyError):
        return _opened(json.loads((path.parent / _ORIGIN).read_text())["uri"], path)
    return None


@lru_cache(64)
def _opened(uri: str, path: Path) -> "LocalCopy":
    show_as(str(path), uri)
    return LocalCopy(open_store(uri), path)


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

    def local(file: Path) -> Path:
        copy = copy_of(file)
        return file if copy is None else copy.fetch_rows(file)

    with ThreadPoolExecutor(TRANSFERS) as pool:
        found = list(pool.map(local, files))
    return sorted(found, key=lambda file: _ROWS not in file.parts)


@dataclass(frozen=True)
class LocalCopy:
    """The local copy of an index: the index in the `store`, and the `folder` that stands for it."""

    store: Store
    folder: Path

    def name(self, file: Path) -> str:
        """Return the name in the store of a file in the folder."""
        return file.absolute().relative_to(self.folder).as_posix()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Let one process at a time change what was copied of the log."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder.parent / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def pull(self, *, description: bool = False) -> None:
        """Bring the log and the description up to date, as `pull` does.

        Where another index has taken the place of the copied one, or none is there any more, what
        was copied goes first. Raises `StoreError` where the store cannot be read.
        """
        with self._locked():
            newest = max(self._commits(), default=None)
            listed = self._listed(newest)
            if newest is not None and not self._is_same(newest, listed):
                delete_folder_at_once(self.folder)
                self.folder.mkdir()
                newest, listed = None, self._listed(None)
            log = self.folder / LOG
            fresh = [name for name in listed if not _is_as(log / name, *listed[name][:2])]
            # A description is there before the first commit, and changes before a later one.
            if description or newest is None or fresh:
                self._fetch_description()
            if not fresh:
                return
            log.mkdir(exist_ok=True)
            with ThreadPoolExecutor(TRANSFERS) as pool:
                contents = pool.map(lambda name: self.store.get(f"{LOG}/{name}"), fresh)
                for name, content in zip(fresh, contents, strict=True):
                    _write(log / name, content, listed[name].modified)

    def _commits(self) -> list[str]:
        with suppress(FileNotFoundError):
            return [name for name in os.listdir(self.folder / LOG) if _COMMIT.fullmatch(name)]
        return []

    def _listed(self, newest: str | None) -> dict[str, StoredObject]:
        """Return the files of the log, from the commit `newest` on, in order."""
        listed = self.store.below(LOG).list(1, newest and newest.removesuffix(".json"))
        rows = (row for batch in listed for row in batch.to_pylist())
        found = {
            row["name"]: StoredObject(row["size"], row["modified"], row["etag"])
            for row in rows
            if _OF_LOG.fullmatch(row["name"])
        }
        return dict(sorted(found.items()))

    def _is_same(self, newest: str, listed: dict[str, StoredObject]) -> bool:
        """Tell whether the store has the newest commit that was copied."""
        if newest not in listed:
            return False
        seen, file = self.folder.parent / _SEEN, self.folder / LOG / newest
        now = f"{newest} {listed[newest].etag}"
        with suppress(FileNotFoundError):
            if listed[newest].etag and seen.read_text() == now:
                return True
        # Times may be whole seconds: another index may have been made in the same one.
        if self.store.get(f"{LOG}/{newest}") != file.read_bytes():
            return False
        _set_time(file, listed[newest].modified)  # this process may have written it
        _write(seen, now.encode(), None)
        return True

    def _fetch_description(self) -> None:
        with suppress(FileNotFoundError):
            _write(self.folder / DESCRIPTION, self.store.get(DESCRIPTION), None)

    def fetch_folder(self, folder: Path) -> None:
        """Fetch what is new in a folder beside the data files: a model, signatures."""
        below = self.name(folder)
        listed = [row for row in _objects(self.store.below(below).list(1)) if _is_inner(row[0])]
        fresh = [row for row in listed if not _is_as(folder / row[0], *row[1:])]

        def fetch(row: tuple[str, int, int]) -> None:
            name, _, modified = row
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            with new_file(folder / name, lasting=False) as part:
                self.store.download(f"{below}/{name}", part)
                _set_time(part, modified)

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
            file.parent.mkdir(parents=True, exist_ok=True)
            with suppress(ValueError), new_file(file, lasting=False) as part:
                self.store.download(self.name(file), part)
                if is_hash(file.stem) and digest(part) != file.stem:
                    raise ValueError
        if not file.exists():
            raise DamagedObject(
                f"the data file {file} is not what was written: `lookalike check INDEX --repair`"
            )

    def fetch_rows(self, file: Path) -> Path:
        """Return a file with all columns of a data file but the vectors, which are not read."""
        if file.exists():
            return file
        rows = self.folder / _ROWS / file.relative_to(self.folder)
        if rows.exists():
            with suppress(OSError):
                os.utime(rows)
            return rows
        make_room()
        rows.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetFile(
            self.store.open(self.name(file)), page_checksum_verification=True, pre_buffer=True
        ) as stored:
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
            list(pool.map(lambda file: self.store.put(self.name(file), file), whole))

    def newest(self) -> int:
        """Return the newest version that was copied, -1 if there is none."""
        return max((int(name[:20]) for name in self._commits()), default=-1)

    def data_files(self) -> dict[str, int]:
        """Return the sizes of all data files in the store by their names, of no version too."""
        listed = _objects(self.store.below("data").list())
        return {f"data/{name}": size for name, size, _ in listed}

    def forget(self, name: str) -> None:
        """Delete what the folder has of an object that was deleted in the store."""
        file = self.folder / name
        file.unlink(missing_ok=True)
        (self.folder / _ROWS / name).unlink(missing_ok=True)


def _objects(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[str, int, int]]:
    """Yield name, size and time of listed objects."""
    for batch in batches:
        columns = (batch[name].to_pylist() for name in ("name", "size", "modified"))
        yield from zip(*columns, strict=True)


def _is_inner(name: str) -> bool:
    return ".." not in name.split("/") and not name.startswith("/")


def _is_as(file: Path, size: int, modified: int) -> bool:
    """Tell whether a local file has the size and the time of its object."""
    with suppress(OSError):
        status = file.stat()
        return (status.st_size, status.st_mtime_ns) == (size, modified)
    return False


def _set_time(file: Path, modified: int) -> None:
    os.utime(file, ns=(modified, modified))


def _write(file: Path, content: bytes, modified: int | None) -> None:
    with new_file(file, lasting=False) as part:
        part.write_bytes(content)
        if modified is not None:
            _set_time(part, modified)


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
