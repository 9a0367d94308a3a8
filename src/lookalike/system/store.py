"""Objects of a store: a disk, S3, Google Cloud Storage, Azure, HDFS, or this process's memory.

obstore (Rust's `object_store`) does the work: it reads the credentials, endpoints and options that
deltalake reads, so that images and an index on the same store need one set-up; it lists into Arrow
batches, releases the interpreter while it waits, retries, and puts conditionally. pyarrow.fs cannot
put conditionally and lists one page after the other into Python objects; fsspec needs a package for
each store, with options of its own. HDFS alone goes through pyarrow.fs, as obstore lacks it.
"""

import errno
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from lookalike.system.store_backends import backend
from lookalike.system.store_errors import StoreError, explained, is_past_the_end
from lookalike.system.store_ranges import list_ranges, together
from lookalike.system.uris import canonical_root, split_uri

OBJECT = pa.schema(
    {"name": pa.string(), "size": pa.int64(), "modified": pa.int64(), "etag": pa.string()}
)
"""One row for each object: `size` in bytes, `modified` in nanoseconds since 1970.

Times are rounded down to milliseconds, as Hadoop's file systems do.
"""

_PAGE_OBJECTS = 1_000  # of a request of a listing
_LISTED_AT_ONCE = 5 * _PAGE_OBJECTS
_LISTING_THREADS = 16
_MAX_FOLDERS = 1_000  # that are listed at once
_ORDERED = ("s3", "gs", "memory")  # the stores that list names in order, from any name on
_UNORDERED_BUCKET = "--x-s3"  # ends the name of a directory bucket of S3
_BUFFER_BYTES = 2**20  # of a reader
_NS = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}
_MS_NS = 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class StoredObject(NamedTuple):
    """An object: its size in bytes, its time in nanoseconds since 1970, and its etag or None."""

    size: int
    modified: int
    etag: str | None


class ObjectTooLarge(Exception):
    """An object has more bytes than wanted: `size`."""

    def __init__(self, size: int) -> None:
        super().__init__(f"an object of {size:,} bytes")
        self.size = size


@dataclass(frozen=True)
class Store:
    """Objects below a prefix. It can be pickled: each process opens its own connections.

    Names of objects are relative to the prefix, with slashes between their parts, and not
    percent-encoded. `FileNotFoundError` means that there is no such object, `PermissionError` that
    it may not be read; what concerns the store is a `StoreError` of one line.

    Parameters
    ----------
    root
        The scheme and the host, such as `s3://bucket`.
    prefix
        The path below it, "" for all of the store.

    """

    root: str
    prefix: str = ""

    @property
    def uri(self) -> str:
        """The URI of the prefix."""
        return f"{self.root}/{self.prefix}".rstrip("/")

    @property
    def _objects(self) -> Any:
        return backend(self.root)

    def _key(self, name: str) -> str:
        return f"{self.prefix}/{name}".strip("/") if self.prefix else name

    def below(self, name: str) -> "Store":
        """Return the store of a folder."""
        return Store(self.root, self._key(name).strip("/"))

    def list(
        self, threads: int = _LISTING_THREADS, offset: str | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Yield all objects below the prefix in batches of `OBJECT`, in any order.

        `threads` requests run at once: a store gives one page of a listing after the other. Memory
        holds some pages, however many objects there are; of Azure and HDFS also the first level.
        With `offset` one request after the other lists the objects with greater names.
        """
        if offset is not None:
            yield from self._batches(self.prefix, offset)
            return
        if self._is_ordered:
            yield from list_ranges(self._from, threads)
            return
        first = self._batches(self.prefix)
        start = next(first, None)
        if start is None:
            return
        folders: Sequence[str] = ()
        in_folders = pc.all(pc.match_substring(start["name"], "/")).as_py()
        if threads > 1 and start.num_rows == _LISTED_AT_ONCE and in_folders:
            folders, objects = self._level()
        if not 1 < len(folders) <= _MAX_FOLDERS:  # each costs a request
            yield start
            yield from first
            return
        first.close()
        yield from objects
        yield from together([self._batches(folder) for folder in folders], threads)

    @property
    def _is_ordered(self) -> bool:
        """Whether names come in their order, from any name on."""
        scheme, _, host = self.root.partition("://")
        return scheme in _ORDERED and not host.endswith(_UNORDERED_BUCKET)

    def _from(self, after: str) -> Iterator[pa.RecordBatch]:
        """Yield the objects after a name, in the order of their names."""
        offset = self._key(after) if after else None
        with explained(self.uri):
            chunks = self._objects.list(
                self.prefix or None, offset=offset, chunk_size=_PAGE_OBJECTS, return_arrow=True
            )
            for chunk in chunks:
                if batch := self._as_objects(pa.record_batch(chunk)):
                    yield batch

    def _batches(self, key: str, offset: str | None = None) -> Generator[pa.RecordBatch]:
        options: dict[str, Any] = {} if offset is None else {"offset": self._key(offset)}
        with explained(self.uri):
            chunks = self._objects.list(
                key or None, chunk_size=_LISTED_AT_ONCE, return_arrow=True, **options
            )
            for chunk in chunks:
                if batch := self._as_objects(pa.record_batch(chunk)):
                    yield batch

    def _level(self) -> tuple[Sequence[str], Iterator[pa.RecordBatch]]:
        """Return the keys of the folders of the first level, and its objects."""
        with explained(self.uri):
            found = self._objects.list_with_delimiter(self.prefix or None, return_arrow=True)
        table = pa.table(found["objects"])
        batches = (self._as_objects(batch) for batch in table.to_batches())
        return found["common_prefixes"], filter(None, batches)

    def _as_objects(self, listed: pa.RecordBatch) -> pa.RecordBatch | None:
        if not listed.num_rows:
            return None
        names = listed["path"].cast(pa.string())
        if self.prefix:
            names = pc.utf8_slice_codeunits(names, len(self.prefix) + 1)
        times = listed["last_modified"]
        unit = _NS[times.type.unit]
        since = pc.multiply(pc.divide(pc.multiply(times.cast(pa.int64()), unit), _MS_NS), _MS_NS)
        columns = [names, listed["size"].cast(pa.int64()), since, listed["e_tag"].cast(pa.string())]
        objects = pa.RecordBatch.from_arrays(columns, schema=OBJECT)
        if pc.any(pc.equal(names, "")).as_py():  # the mark of the prefix itself
            objects = objects.filter(pc.not_equal(names, ""))
        return objects if objects.num_rows else None

    def head(self, name: str) -> StoredObject:
        """Return size, time and etag of an object."""
        with explained(self.uri, name):
            about = self._objects.head(self._key(name))
        modified = (about["last_modified"] - _EPOCH) // timedelta(milliseconds=1) * _MS_NS
        return StoredObject(about["size"], modified, about["e_tag"])

    def get(self, name: str, at_most: int | None = None) -> bytes:
        """Return the content of an object. Raises `ObjectTooLarge` above `at_most` bytes."""
        with explained(self.uri, name):
            found = self._objects.get(self._key(name))
            if at_most is None or found.meta["size"] <= at_most:
                return bytes(found.bytes())
        raise ObjectTooLarge(found.meta["size"])

    def get_range(self, name: str, start: int, end: int) -> bytes:
        """Return the bytes from `start` to `end` of an object, fewer if it ends before."""
        if end <= start:
            return b""
        with explained(self.uri, name):
            try:
                return bytes(self._objects.get_range(self._key(name), start=start, end=end))
            except Exception as error:
                if is_past_the_end(error):
                    return b""
                raise

    def get_ranges(self, name: str, starts: Sequence[int], ends: Sequence[int]) -> Sequence[bytes]:
        """Return several ranges of an object; those near each other come in one request.

        Raises `StoreError` if the object ends before one begins.
        """
        if not starts:
            return []
        with explained(self.uri, name):
            found = self._objects.get_ranges(self._key(name), starts=list(starts), ends=list(ends))
            return [bytes(one) for one in found]

    def open(self, name: str) -> pa.NativeFile:
        """Open an object for reading at any place; a few requests read what is near."""
        with explained(self.uri, name):
            file = self._objects.open_reader(self._key(name), buffer_size=_BUFFER_BYTES)
        return pa.PythonFile(_Reader(file, self.uri, name), "r")

    def download(self, name: str, file: Path) -> None:
        """Write the content of an object into a local file, a part in memory at a time."""
        with explained(self.uri, name):
            parts = iter(self._objects.get(self._key(name)).stream())
        with file.open("wb") as opened:
            while True:
                with explained(self.uri, name):
                    part = next(parts, None)
                if part is None:
                    return
                opened.write(part)

    def put(self, name: str, content: bytes | Path) -> None:
        """Write an object, or write it again; a large file in several parts."""
        with explained(self.uri, name):
            self._objects.put(self._key(name), content)

    def create(self, name: str, content: bytes) -> None:
        """Write an object that does not exist. Raises `FileExistsError` if it does.

        The store decides, so that of two writers one succeeds. A store whose answer was lost may
        say that the object exists although this call made it: compare the content then. Raises
        `StoreError` for a store without conditional puts.
        """
        with explained(self.uri, name):
            self._objects.put(self._key(name), content, mode="create")

    def replace(self, name: str, content: bytes, before: bytes) -> None:
        """Write an object again if its content is still the one `before`, which the store decides.

        Raises `FileExistsError` if it is another, and `StoreError` as `create`; as there, compare
        the content then.
        """
        with explained(self.uri, name):
            found = self._objects.get(self._key(name))
            if bytes(found.bytes()) != before:
                raise FileExistsError(errno.EEXIST, "the object has changed", self._key(name))
            version = {key: found.meta[key] for key in ("e_tag", "version") if found.meta[key]}
            self._objects.put(self._key(name), content, mode=version)

    def delete(self, names: Sequence[str]) -> None:
        """Delete objects; those that do not exist are passed over."""
        keys = [self._key(name) for name in names]
        with suppress(FileNotFoundError):
            with explained(self.uri):
                self._objects.delete(keys)
            return
        for key in keys:  # some stores stop at the first that is missing
            with suppress(FileNotFoundError), explained(self.uri):
                self._objects.delete([key])


def open_store(uri: str) -> Store:
    """Return the store of a URI, such as `s3://bucket/photos`, without asking it for anything.

    Credentials, endpoints and options come from the environment, as for deltalake and the tools of
    each store: `AWS_ACCESS_KEY_ID`, `AWS_PROFILE`, `AWS_ENDPOINT_URL`, `AWS_ALLOW_HTTP`,
    `GOOGLE_APPLICATION_CREDENTIALS`, `AZURE_STORAGE_ACCOUNT_NAME` and others. `s3a://` and `s3n://`
    mean `s3://`.

    Parameters
    ----------
    uri
        The URI, not percent-encoded.

    Raises
    ------
    LookalikeError
        If the scheme is unknown, or a package for it is not installed.

    Examples
    --------
    >>> store = open_store("memory://docs/photos")
    >>> store.put("a.jpg", b"bytes")
    >>> [name.as_py() for batch in store.list() for name in batch["name"]]
    ['a.jpg']
    >>> store.get("a.jpg"), store.head("a.jpg").size
    (b'bytes', 5)

    """
    scheme, host, path = split_uri(uri)
    store = Store(canonical_root(scheme, host), path.strip("/"))
    with explained(store.uri):
        backend(store.root)
    return store


def open_object(uri: str) -> tuple[Store, str]:
    """Return the store of an object's URI, and the name of the object in it."""
    scheme, host, path = split_uri(uri)
    return Store(canonical_root(scheme, host)), path.lstrip("/")


class _Reader:
    """A file for pyarrow, whose errors are those of a store."""

    closed = False

    def __init__(self, file: Any, uri: str, name: str) -> None:
        self._file, self._uri, self._name = file, uri, name
        self._size = int(file.size)

    def size(self) -> int:
        return self._size

    def read(self, count: int = -1) -> bytes:
        left = self._size - self._file.tell()
        wanted = left if count is None or count < 0 else min(count, left)
        with explained(self._uri, self._name):
            return bytes(self._file.read(wanted)) if wanted > 0 else b""

    def seek(self, place: int, whence: int = 0) -> int:
        return int(self._file.seek(place, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self.closed = True


__all__ = [
    "OBJECT",
    "ObjectTooLarge",
    "Store",
    "StoreError",
    "StoredObject",
    "open_object",
    "open_store",
]
