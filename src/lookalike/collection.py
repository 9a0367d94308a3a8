"""The collection: a Delta table of embeddings, and per data file a cache that search maps.

Nothing else knows its layout, which is

    INDEX/lookalike.json      format, where the images lie, the model in words
    INDEX/model/              the model itself
    INDEX/_delta_log/         the versions
    INDEX/data/UUID/*.parquet the segments: immutable data files, written by Spark's tasks
    INDEX/lsh/                hash models, derived (see `hashing`)
    INDEX/signatures/         what signatures are made with, and what they are worth (`searcher`)

A table of Delta Lake, https://github.com/delta-io/delta/blob/master/PROTOCOL.md, that any of its
readers can read; written through https://delta-io.github.io/delta-rs/.
"""

import contextlib
import errno
import itertools
import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lookalike.cache import cache_folder, new_file, new_folder
from lookalike.embedding import ROW
from lookalike.errors import LookalikeError
from lookalike.images import Source
from lookalike.models import Model, in_words
from lookalike.spark import local_uri
from lookalike.untrusted import map_array, read_json

if TYPE_CHECKING:
    from deltalake import DeltaTable
    from pyspark.sql import DataFrame, SparkSession

FORMAT = 1
_ABOUT = "lookalike.json"
# What search needs of a row, beside its vector.
_CACHED = ["id", "path", "label", "content_hash"]
_BATCHES_A_GROUP = 64  # of a Parquet file: some 1,000 rows, 2 MB

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

_ROW_DDL = (
    "id bigint, path string, label string, width int, height int, content_hash string, "
    "status string, reason string, embedding array<float>"
)


def write_segment(batches: Iterable[pa.RecordBatch], folder: Path) -> Iterator[pa.RecordBatch]:
    """Write batches of `ROW` to one new Parquet file in `folder`; give one row of `SEGMENT`.

    Runs in a Spark task. The file gets its name only when it is whole and on the disk. No
    batches, no file. `folder` exists; if it is gone, the run was given up.
    """
    remaining = iter(batches)
    groups = iter(lambda: list(itertools.islice(remaining, _BATCHES_A_GROUP)), [])
    first = next(groups, None)
    if first is None:
        return
    final = folder / f"{uuid.uuid4().hex}.parquet"
    part = final.with_name(f".{final.name}.part")
    rows = embedded = 0
    ids = []
    try:
        # Random mantissas do not compress and hardly a value repeats: no dictionary for them.
        repeated = ["label", "status", "reason"]
        with pq.ParquetWriter(part, ROW, compression="zstd", use_dictionary=repeated) as writer:
            for group in itertools.chain([first], groups):
                table = pa.Table.from_batches(group)
                writer.write_table(table)
                rows += table.num_rows
                embedded += table.num_rows - table["embedding"].null_count
                ids += pc.min_max(table["id"]).as_py().values()
        with part.open("rb") as written:
            os.fsync(written.fileno())
        part.rename(final)
    finally:
        part.unlink(missing_ok=True)
    status = final.stat()
    modified = status.st_mtime_ns // 1_000_000
    values = [str(final), status.st_size, modified, rows, embedded, min(ids), max(ids)]
    yield pa.RecordBatch.from_arrays([pa.array([value]) for value in values], schema=SEGMENT)


@dataclass(frozen=True)
class Segment:
    """One data file of a collection, as search sees it: its embedded rows, mapped into memory."""

    file: Path

    def __reduce__(self) -> tuple[type[Self], tuple[Path]]:
        """Travel without what is mapped: wherever a segment arrives, it is mapped again."""
        return type(self), (self.file,)

    @cached_property
    def _mapped(self) -> tuple[npt.NDArray[np.float32], pa.Table]:
        try:
            return self._map()
        except (OSError, ValueError, EOFError) as error:  # not there yet, or damaged
            if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
                raise LookalikeError(f"too many open files for {self.file}: ulimit -n") from None
            shutil.rmtree(self.cache, ignore_errors=True)
        vectors, rows = self._read()
        try:
            with new_folder(self.cache) as staging:
                np.save(staging / "vectors.npy", vectors)
                with pa.ipc.new_file(str(staging / "rows.arrow"), rows.schema) as writer:
                    writer.write_table(rows)
            return self._map()
        except OSError:  # a cache that is full or read-only costs time, not the result
            return vectors, rows

    @property
    def cache(self) -> Path:
        """The folder of what is made from the file again whenever it is missing."""
        return cache_folder() / "segments" / self.file.stem

    def _map(self) -> tuple[npt.NDArray[np.float32], pa.Table]:
        vectors = map_array(self.cache / "vectors.npy")
        return vectors, pa.ipc.open_file(pa.memory_map(str(self.cache / "rows.arrow"))).read_all()

    def _read(self) -> tuple[npt.NDArray[np.float32], pa.Table]:
        table = _read(self.file, [*_CACHED, "embedding"])
        table = table.filter(pc.is_valid(table["embedding"])).combine_chunks()
        values = table["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        vectors = values.reshape(len(table), len(values) // max(len(table), 1))
        return vectors, table.select(_CACHED).cast(_cached_schema())

    def derived(
        self, kind: str, of: str, make: Callable[[Self], npt.NDArray[Any]]
    ) -> npt.NDArray[Any]:
        """Return an array with a row an embedding, made once and then mapped from the cache.

        `of` tells it from others of its kind, of which the cache keeps the newest alone.
        """
        file = self.cache / f"{kind}-{of}.npy"
        with contextlib.suppress(OSError, ValueError, EOFError):  # not there yet, or damaged
            kept = map_array(file)
            if len(kept) == len(self.ids):
                return kept
        made = make(self)
        # A cache that is full or read-only costs only time.
        with contextlib.suppress(OSError):
            with new_file(file) as part:
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
        """`id, path, label, content_hash` of the same rows, mapped from the cache."""
        return self._mapped[1]

    @cached_property
    def ids(self) -> npt.NDArray[np.int64]:
        """The ids, int64 (rows,), rising."""
        ids: npt.NDArray[np.int64] = self.rows["id"].to_numpy()
        return ids


def _read(file: Path, columns: list[str], **options: Any) -> pa.Table:
    """Read columns of a data file; `LookalikeError` if it is gone or damaged."""
    try:
        return pq.read_table(file, columns=columns, partitioning=None, **options)
    except FileNotFoundError:
        problem = "is missing"
    except (pa.ArrowInvalid, OSError) as error:
        problem = f"is damaged ({str(error).splitlines()[0]})"
    raise LookalikeError(f"the data file {file} {problem}: restore it or index again")


def _cached_schema() -> pa.Schema:
    return pa.schema([ROW.field(name) for name in _CACHED])


class Collection:
    """A collection at one version."""

    def __init__(
        self, path: Path, table: "DeltaTable", source: Source, about_model: dict[str, Any]
    ) -> None:
        self.path = path
        self.source = source
        self.about_model = about_model  # the model in words, known without loading it
        self._table = table

    @classmethod
    def open(cls, path: str | Path, version: int | None = None) -> Self:
        """Open a collection; `LookalikeError` if there is none or a newer lookalike made it."""
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError

        path = Path(path)
        if not is_collection(path):
            what = "is not an index" if path.exists() else "does not exist"
            raise LookalikeError(f"{path} {what}: make one with `lookalike index IMAGES --out`")
        try:
            about = read_json(path / _ABOUT)
            if about["format"] > FORMAT:
                raise LookalikeError(f"{path} was made by a newer lookalike: upgrade to open it")
            source, about_model = Source.stored(about["source"]), in_words(about["model"])
            table = DeltaTable(path.absolute(), version=version)
        except (OSError, ValueError, KeyError, TypeError, DeltaError) as error:
            detail = f"{type(error).__name__} {' '.join(str(error).split())[:200]}"
            raise LookalikeError(f"{path} is a damaged index: {detail}") from None
        return cls(path, table, source, about_model)

    @classmethod
    def create(
        cls, path: Path, source: Source, model: Model, segments: Sequence[dict[str, Any]]
    ) -> Self:
        """Commit the first version of a collection whose data files lie in `path` already."""
        from deltalake.exceptions import DeltaError
        from deltalake.transaction import create_table_with_add_actions

        model.save(path / "model")
        about = {"format": FORMAT, "source": asdict(source), "model": model.about()}
        (path / _ABOUT).write_text(json.dumps(about, indent=1) + "\n")
        try:
            create_table_with_add_actions(
                str(path.absolute()),
                _delta_schema(),
                [_add_action(path, segment) for segment in segments],
                mode="error",
                name="lookalike",
                description="Images and their embeddings, made by lookalike",
            )
        except DeltaError as error:
            detail = " ".join(str(error).split())
            raise LookalikeError(f"no index can be made in {path.name!r}: {detail}") from None
        return cls.open(path)

    @property
    def version(self) -> int:
        """Number of the version that is open."""
        return self._table.version()

    @cached_property
    def model(self) -> Model:
        """The model whose vectors these are."""
        return Model.load(self.path / "model")

    @cached_property
    def _actions(self) -> pa.Table:
        """What the log says of each data file of this version."""
        return pa.table(self._table.get_add_actions(flatten=True))

    def files(self) -> list[Path]:
        """Return the data files of this version, in the order of their ids."""
        actions = self._actions
        paths, first = actions["path"].to_pylist(), actions["min.id"].to_pylist()
        names = [path for _, path in sorted(zip(first, paths, strict=True))]
        for name in map(PurePosixPath, names):
            # Absolute ones are Delta's too, but not ours; a cache is named by what else is left.
            if name.is_absolute() or ".." in name.parts or not name.stem.strip("."):
                raise LookalikeError(f"{self.path} is a damaged index: it names {str(name)!r}")
        return [self.path / name for name in names]

    @cached_property
    def segments(self) -> list[Segment]:
        """The data files as search maps them."""
        return [Segment(file.absolute()) for file in self.files()]

    def counts(self) -> tuple[int, int]:
        """Return how many inputs are embedded and how many skipped, from the log alone."""
        actions = self._actions
        rows = pc.sum(actions["num_records"]).as_py() or 0
        skipped = pc.sum(actions["null_count.embedding"]).as_py() or 0
        return rows - skipped, skipped

    def skipped(self) -> Iterator[tuple[str, str]]:
        """Give path and reason of every input that has no embedding, file by file."""
        for file in self.files():
            table = _read(file, ["path", "reason"], filters=[("status", "=", "skipped")])
            yield from zip(table["path"].to_pylist(), table["reason"].to_pylist(), strict=True)

    def history(self) -> list[dict[str, Any]]:
        """Return the commits, newest first."""
        return self._table.history()

    def size(self) -> int:
        """Return the bytes of the data files of this version."""
        actions = self._actions
        return int(pc.sum(actions["size_bytes"]).as_py() or 0)

    def dataframe(self, spark: "SparkSession") -> "DataFrame":
        """Return the collection as a Spark DataFrame with the columns of `ROW`."""
        # Spark has no Delta jar here: the log says which files make up the version. Of what a file
        # itself says of its columns nothing is asked: it might name types that run code.
        return spark.read.schema(_ROW_DDL).parquet(*map(local_uri, self.files()))

    @property
    def signature_folder(self) -> Path:
        """The folder for what the signatures of all versions have in common; it may not exist."""
        return self.path / "signatures"

    @property
    def hash_folder(self) -> Path:
        """The folder for the hash model of this version, which may not exist yet."""
        return self.path / "lsh" / str(self.version)


def is_collection(path: Path) -> bool:
    """Say whether there is a collection at `path`."""
    return (path / _ABOUT).is_file() and (path / "_delta_log").is_dir()


def _delta_schema() -> Any:
    from deltalake import Schema

    return Schema.from_arrow(ROW)


def _add_action(path: Path, segment: dict[str, Any]) -> Any:
    from deltalake.transaction import AddAction

    # Readers skip files by these figures, and nothing checks them: they must be right.
    statistics = {
        "numRecords": segment["rows"],
        "minValues": {"id": segment["first_id"]},
        "maxValues": {"id": segment["last_id"]},
        "nullCount": {"id": 0, "embedding": segment["rows"] - segment["embedded"]},
    }
    return AddAction(
        path=os.path.relpath(segment["path"], path.absolute()),
        size=segment["size"],
        partition_values={},
        modification_time=segment["modified"],
        data_change=True,
        stats=json.dumps(statistics),
    )


@contextmanager
def staging_folder(beside: Path) -> Iterator[Path]:
    """Give a folder beside `beside`, on the same disk and gone afterwards."""
    beside.absolute().parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{beside.name}-", dir=beside.absolute().parent))
    folder.chmod(0o755)  # Spark's workers may be another user's
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def make_free(out: Path, overwrite: bool) -> None:
    """Raise `LookalikeError` where `out` is taken and may not be replaced, or has no fit name."""
    if re.search(r"%[0-9A-Fa-f]{2}|[][{}*?\\\x00-\x1f\udc80-\udcff]", str(out.absolute())):
        raise LookalikeError(f"Delta and Spark misread the name {str(out)!r}: choose a plainer one")
    if out.exists() and not overwrite:
        raise LookalikeError(f"{out} is there already: give another --out, or --overwrite it")


def put_in_place(fresh: Path, path: Path) -> None:
    """Rename a new file or folder to `path`. An old one is there until then, and then deleted."""
    path = Path(os.path.realpath(path))
    if not path.is_dir():
        fresh.replace(path)
        return
    old = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    path.rename(old)
    try:
        fresh.rename(path)
    except BaseException:
        old.rename(path)
        raise
    for file in old.glob("data/*/*.parquet"):
        shutil.rmtree(Segment(file).cache, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
