"""The segments of an index: immutable data files, and the caches that search maps of them."""

import contextlib
import errno
import itertools
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lookalike.errors import LookalikeError, forbidden, is_forbidden, one_line, says_nothing
from lookalike.storage.remote.cache_limit import USED
from lookalike.storage.remote.copies import copy_of, fetch_data, is_stored, open_copy
from lookalike.storage.schema import KEY, schema_in
from lookalike.storage.segment_caches import STORED, cache_of, identity, mark
from lookalike.system.cache import ignore_cache_errors, map_sealed, seal, warn_cache_unusable
from lookalike.system.files import delete_folder_at_once, digest, new_file, new_folder, sync_folder
from lookalike.system.untrusted import is_hash, map_array

# What search needs of a row, beside its vector and its key.
_CACHED = ["id", "path", "label", "content_hash"]
_BATCHES_A_GROUP = 64  # of a Parquet file: some 1,000 rows, 2 MB
BATCH_ROWS = 1024
"""Rows of a group of a data file, and of a batch that is read from one."""

SEGMENT = pa.schema(
    {
        "path": pa.string(),
        "size": pa.int64(),
        "modified": pa.int64(),
        "rows": pa.int64(),
        "embedded": pa.int64(),
        "first_id": pa.int64(),
        "last_id": pa.int64(),
    }
)
"""One row a written data file: what a commit must say of it. `modified` in milliseconds."""

SEGMENT_DDL = "path string" + "".join(f", {name} bigint" for name in SEGMENT.names[1:])
"""The same as Spark writes schemas."""

SegmentRecord = dict[str, Any]
"""A row of `SEGMENT`."""


def write_segment(batches: Iterable[pa.RecordBatch], folder: Path) -> Iterator[pa.RecordBatch]:
    """Write batches of `schema_of` to one new Parquet file in `folder`; give one row of `SEGMENT`.

    Runs in a Spark task. The file gets its name, the hash of its content, only when it is whole
    and on the disk. No batches, no file. `folder` exists; if it is gone, the run was given up.
    """
    remaining = iter(batches)
    groups = iter(lambda: list(itertools.islice(remaining, _BATCHES_A_GROUP)), [])
    first = next(groups, None)
    if first is None:
        return
    part = folder / f".{uuid.uuid4().hex}.part"
    rows = embedded = 0
    ids = []
    try:
        # Random mantissas do not compress and hardly a value repeats: no dictionary for them.
        repeated = ["label", "status", "reason"]
        with pq.ParquetWriter(
            part,
            schema_in(first[0].schema),
            compression="zstd",
            use_dictionary=repeated,
            write_page_checksum=True,
        ) as writer:
            for group in itertools.chain([first], groups):
                table = pa.Table.from_batches(group)
                writer.write_table(table)
                rows += table.num_rows
                embedded += table.num_rows - table["embedding"].null_count
                ids += pc.min_max(table["id"]).as_py().values()
        with part.open("rb") as written:
            os.fsync(written.fileno())
        final = folder / f"{digest(part)}.parquet"
        part.rename(final)
        sync_folder(folder)
    finally:
        part.unlink(missing_ok=True)
    status = final.stat()
    modified = status.st_mtime_ns // 1_000_000
    values = [str(final), status.st_size, modified, rows, embedded, min(ids), max(ids)]
    yield pa.RecordBatch.from_arrays([pa.array([value]) for value in values], schema=SEGMENT)


def rewrite_segment(
    files: Iterable[Path],
    folder: Path,
    without: npt.NDArray[np.int64] | None = None,
    shift: int = 0,
    transform: Callable[[pa.RecordBatch], pa.RecordBatch] = lambda batch: batch,
) -> list[SegmentRecord]:
    """Write the rows of some data files to one new file; return its row of `SEGMENT`, if any.

    Rows pass through `transform` first. Left out are those whose id is one of `without`; `shift` is
    added to the others' ids. Order stays. A group of rows is in memory at a time.
    """
    dropped = pa.array(without if without is not None else [], pa.int64())

    def kept() -> Iterator[pa.RecordBatch]:
        for file in files:
            for batch in row_batches(file, row_columns(file)):
                batch = transform(batch)
                batch = batch.filter(pc.invert(pc.is_in(batch["id"], dropped)))
                if batch.num_rows:
                    ids = pc.add(batch["id"], shift)
                    yield batch.set_column(0, "id", ids)

    # A group of one batch: it is as large as those of `write_segment`.
    batches = (part for batch in kept() for part in _slices(batch))
    return [row for one in write_segment(batches, folder) for row in one.to_pylist()]


def _slices(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    size = -(-BATCH_ROWS // _BATCHES_A_GROUP)
    return (batch.slice(start, size) for start in range(0, batch.num_rows, size))


def is_intact(file: Path) -> bool:
    """Tell whether a data file is, to the last byte, what was written. Raises `OSError`."""
    return digest(file) == file.stem


@dataclass(frozen=True)
class Segment:
    """One data file of an index, as search sees it: its embedded rows, mapped into memory."""

    file: Path

    def __reduce__(self) -> tuple[Callable[..., Self], tuple[Any, ...]]:
        """Travel without what is mapped: wherever a segment arrives, it is mapped again."""
        if (copy := copy_of(self.file)) is not None:
            return type(self)._arrived, (copy.store.uri, copy.name(self.file))
        return type(self), (self.file,)

    @classmethod
    def _arrived(cls, uri: str, name: str) -> Self:
        """Return a segment of an index in a store, in the cache of this machine."""
        return cls(open_copy(uri).folder / name)

    @cached_property
    def _mapped(self) -> tuple[npt.NDArray[np.float32], pa.Table, bool]:
        """`vectors`, `rows`, and whether the cache has the same, so that more may be kept there."""
        was_there = os.path.lexists(self.cache)  # as it comes whole, what lacks a file is damaged
        try:
            mapped = self._map()
            self._record_use()
            return *mapped, True
        except (OSError, ValueError, MemoryError, pa.ArrowException) as error:
            if says_nothing(error):
                _give_up(self.file, error)
                return *self.stored(), False
        if was_there:
            with ignore_cache_errors():
                delete_folder_at_once(self.cache)
        vectors, rows = self.stored()
        if not self._is_unchanged():  # of which content that is, nobody knows
            return vectors, rows, False
        with ignore_cache_errors():
            if not os.path.lexists(self.cache):
                self._keep(vectors, rows)
            with contextlib.suppress(ValueError, MemoryError, pa.ArrowException):
                return *self._map(), True
        return vectors, rows, False

    def _is_unchanged(self) -> bool:
        with contextlib.suppress(OSError):
            return identity(self.file) == self._found[1]
        return False

    def _keep(self, vectors: npt.NDArray[np.float32], rows: pa.Table) -> None:
        with new_folder(self.cache) as staging:
            np.save(staging / "vectors.npy", vectors)
            with pa.ipc.new_file(str(staging / "rows.arrow"), rows.schema) as writer:
                writer.write_table(rows)
            for file in (staging / "vectors.npy", staging / "rows.arrow"):
                seal(file)
            mark(staging, self.file, self._found[1])

    @cached_property
    def _found(self) -> tuple[Path, str]:
        if is_stored(self.file):  # it need not be fetched for that
            return cache_of(self.file)
        with _readable(self.file):
            return cache_of(self.file)

    def _record_use(self) -> None:
        """Record in the cache of a data file in a store that it was used."""
        if self._found[1] == STORED:
            with contextlib.suppress(OSError):
                (self.cache / USED).touch()

    @property
    def cache(self) -> Path:
        """The folder of what is made from the file again whenever it is missing.

        Raises `LookalikeError` where the file is gone or cannot be read.
        """
        return self._found[0]

    def _map(self, *, check_all: bool = False) -> tuple[npt.NDArray[np.float32], pa.Table]:
        vectors = map_array(self.cache / "vectors.npy", check_all=check_all)
        stored = map_sealed(self.cache / "rows.arrow", check_all=check_all)
        rows = pa.ipc.open_file(pa.BufferReader(stored)).read_all()
        if vectors.dtype != np.float32 or vectors.ndim != 2 or len(vectors) != len(rows):
            raise ValueError(f"{self.cache} does not go together")
        return vectors, rows

    def stored(self) -> tuple[npt.NDArray[np.float32], pa.Table]:
        """Read what `vectors` and `rows` map from the data file itself."""
        schema = _cached_schema(self.file)
        table = read_rows(self.file, [*schema.names, "embedding"])
        table = table.filter(pc.is_valid(table["embedding"])).combine_chunks()
        values = table["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        vectors = values.reshape(len(table), len(values) // max(len(table), 1))
        return vectors, table.select(schema.names).cast(schema)

    def is_cached_well(self) -> bool:
        """Tell whether the cache has of this file what `stored` reads, if it has anything.

        A group of rows is in memory at a time. `LookalikeError` where the file itself is damaged.
        """
        try:
            if not self.cache.exists():
                return True
            vectors, rows = self._map(check_all=True)
            rows.validate(full=True)  # else what is damaged could lead anywhere
            start, schema = 0, _cached_schema(self.file)
            for batch in row_batches(self.file, [*schema.names, "embedding"]):
                batch = batch.filter(pc.is_valid(batch["embedding"]))
                stop = start + batch.num_rows
                values = pc.list_flatten(batch["embedding"]).to_numpy(zero_copy_only=False)
                given = pa.Table.from_batches([batch]).select(schema.names).cast(schema)
                if vectors[start:stop].tobytes() != values.tobytes():
                    return False
                if not rows.slice(start, batch.num_rows).equals(given):
                    return False
                start = stop
            files = self.cache.glob("*-*.npy")
            derived = (map_array(file, check_all=True) for file in files)
            return len(vectors) == len(rows) == start and all(len(one) == start for one in derived)
        except (OSError, ValueError, TypeError, MemoryError, pa.ArrowException) as error:
            return says_nothing(error)  # search does not use it then either

    def derived(
        self, kind: str, of: str, make: Callable[[Self], npt.NDArray[Any]]
    ) -> npt.NDArray[Any]:
        """Return an array with a row an embedding, made once and then mapped from the cache.

        `of` tells it from others of its kind, of which the cache keeps the newest alone.
        """
        if not self._mapped[2]:
            return make(self)
        file = self.cache / f"{kind}-{of}.npy"
        try:
            kept = map_array(file)
            if len(kept) == len(self.ids):
                return kept
        except (OSError, ValueError, MemoryError) as error:
            if says_nothing(error):
                _give_up(self.file, error)
                return make(self)
        made = make(self)
        with ignore_cache_errors():
            with new_file(file, sealed=True) as part:
                np.save(part, made)
            for other in self.cache.glob(f"{kind}-*.npy"):
                if other != file:
                    other.unlink(missing_ok=True)
        return made

    @property
    def vectors(self) -> npt.NDArray[np.float32]:
        """The embeddings, float32 (rows, width), mapped from the cache."""
        return self._mapped[0]

    @property
    def rows(self) -> pa.Table:
        """`id, path, label, content_hash`, and `key` if any, of the same rows, from the cache."""
        return self._mapped[1]

    @cached_property
    def ids(self) -> npt.NDArray[np.int64]:
        """The ids, int64 (rows,), rising."""
        ids: npt.NDArray[np.int64] = self.rows["id"].to_numpy()
        return ids


def _give_up(file: Path, error: Exception) -> None:
    """Raise `LookalikeError` where the cache cannot be mapped for want of what reading takes too.

    Else say why it is not used. About the cache itself it says nothing: that stays.
    """
    number = getattr(error, "errno", errno.ENOMEM)
    if number in (errno.EMFILE, errno.ENFILE):
        raise LookalikeError(f"too many open files for {file}: ulimit -n") from None
    if number == errno.ENOMEM:
        raise LookalikeError(
            f"no memory to map {file}: see `ulimit -v` and vm.max_map_count, or run less at a time"
        ) from None
    assert isinstance(error, OSError)
    warn_cache_unusable(error)


class DamagedCopy(LookalikeError):
    """A data file that the cache has damaged: it is fetched again when it is needed."""


@contextlib.contextmanager
def _readable(file: Path) -> Iterator[None]:
    try:
        fetch_data(file)
        yield
    except FileNotFoundError:
        raise _missing(file) from None
    except (pa.ArrowException, OSError, ValueError) as error:
        if is_forbidden(error):
            raise forbidden(file) from None
        if is_stored(file) and is_hash(file.stem) and not says_nothing(error):  # it came whole
            with contextlib.suppress(OSError):
                file.unlink(missing_ok=True)
            raise DamagedCopy(f"the cache has damaged {file}: run the same command again") from None
        raise unreadable(file, f"is damaged ({one_line(error)})") from None


def is_history(path: Path, name: str) -> bool:
    """Tell whether a data file is none of the newest version of the index at `path`."""
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    with contextlib.suppress(OSError, DeltaError):  # damaged: it says nothing
        actions = pa.table(DeltaTable(path.absolute()).get_add_actions())
        return not len(actions) or name not in actions["path"].to_pylist()
    return False


def _missing(file: Path) -> LookalikeError:
    """Return the error for a data file that is lost, or went with the last version that had it."""
    whole = file.absolute()
    for path in whole.parents:
        if (path / "_delta_log").is_dir() and is_history(path, whole.relative_to(path).as_posix()):
            return LookalikeError(
                f"the data file {file} is of a version that is no longer kept: open the newest one "
                "(`Index.refresh`)"
            )
    return unreadable(file, "is missing")


def unreadable(file: Path, problem: str) -> LookalikeError:
    """Return the error for a data file with a problem."""
    return LookalikeError(
        f"the data file {file} {problem}: restore it, or `lookalike check INDEX --repair`"
    )


def read_rows(file: Path, columns: list[str], **options: Any) -> pa.Table:
    """Read columns of a data file; `LookalikeError` if it is gone or damaged."""
    with _readable(file):
        return pq.read_table(
            file, columns=columns, partitioning=None, page_checksum_verification=True, **options
        )


def row_batches(file: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Yield columns of a data file in batches; `LookalikeError` if it is gone or damaged."""
    with _readable(file), pq.ParquetFile(file, page_checksum_verification=True) as stored:
        yield from stored.iter_batches(BATCH_ROWS, columns=columns)


def row_columns(file: Path) -> list[str]:
    """Return the columns of an index that a data file has; `LookalikeError` if it is damaged."""
    return list(_schema(file).names)


def _cached_schema(file: Path) -> pa.Schema:
    schema = _schema(file)
    return pa.schema([schema.field(name) for name in (*_CACHED, KEY) if name in schema.names])


def _schema(file: Path) -> pa.Schema:
    with _readable(file):
        return schema_in(pq.read_schema(file))
