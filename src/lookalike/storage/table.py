"""The Delta table of embeddings: the segments of a version, and the commit of the next."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa
import pyarrow.compute as pc

from lookalike.errors import LookalikeError, forbidden
from lookalike.images import PREPROCESSING, Source
from lookalike.models import Model, check_description
from lookalike.spark import local_uri
from lookalike.storage.data_folders import is_unfinished, new_data_folder
from lookalike.storage.description import (
    change_description,
    create_description,
    find_folder,
    has_description,
    is_index,
    read_description,
)
from lookalike.storage.errors import RESTORE, damaged, needs_upgrade, no_longer_kept
from lookalike.storage.file_entries import (
    check_sizes,
    count_inputs,
    id_ranges,
    read_actions,
    records,
    sizes_by_name,
)
from lookalike.storage.generations import (
    description_of,
    model_folder,
    record_generation,
    signature_folder,
)
from lookalike.storage.locks import writing
from lookalike.storage.log import Log, history
from lookalike.storage.schema import ROW
from lookalike.storage.segments import Segment, SegmentRecord, read_rows
from lookalike.storage.transactions import (
    GENERATION,
    NEXT_ID,
    Summary,
    count_rows,
    next_id_after,
    write_first_version,
    write_next_version,
)
from lookalike.system.files import delete_folder
from lookalike.system.paths import Name, is_text, local_path
from lookalike.system.sql import connect, create_view

if TYPE_CHECKING:
    from deltalake import DeltaTable
    from duckdb import DuckDBPyConnection
    from pyspark.sql import DataFrame, SparkSession


_TRIED = "tried"
"""The key in the description for the first id of each preprocessing. From that id on it is the one
that skipped what was skipped."""
_DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError)
_ROW_DDL = (
    "id bigint, path string, label string, width int, height int, size bigint, modified bigint, "
    "content_hash string, status string, reason string, embedding array<float>"
)


class EmbeddingTable:
    """A Delta table of embeddings, open at one version."""

    def __init__(
        self,
        path: Path,
        table: "DeltaTable",
        source: Source,
        about_model: dict[str, Any],
        tried_from_id: int | None = None,
        generation: int = 0,
    ) -> None:
        self.path = path.absolute()  # the process may change its working folder
        self.source = source
        self.about_model = about_model  # the model in words, known without loading it
        self.generation = generation
        self._table = table
        self._tried_from_id = tried_from_id

    @classmethod
    def open(cls, path: Name, version: int | None = None, *, check_files: bool = True) -> Self:
        """Open the table of an index, at its newest version or an older one.

        Raises `LookalikeError` where there is none, where a newer lookalike made it, where it may
        not be read, and, unless `check_files` is false, where a data file is missing or cut short.
        """
        try:
            return cls._open(local_path(path), version, check_files)
        except PermissionError as error:
            raise forbidden(error.filename or path) from None

    @classmethod
    def _open(cls, path: Path, version: int | None, check_files: bool) -> Self:
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError

        if not is_index(path):
            if is_unfinished(path) and any(path.iterdir()):
                raise LookalikeError(f"{path} was never finished: run `lookalike index` again")
            if has_description(path):
                raise LookalikeError(f"{path} is a damaged index: its log is gone; {RESTORE}")
            what = "is not an index" if path.exists() else "does not exist"
            raise LookalikeError(f"{path} {what}: make one with `lookalike index`")
        if not is_text(str(path.absolute())):
            raise LookalikeError(
                f"{path} has a name that is not UTF-8, which Delta cannot open: rename its folder"
            )
        description = read_description(path)
        try:
            table = DeltaTable(path.absolute())
            if version is not None and version != table.version():
                if not 0 <= version < table.version():
                    raise LookalikeError(
                        f"{path} has no version {version}: `lookalike info {path} --history`"
                    )
                table.load_as_version(version)
            generation = table.transaction_version(GENERATION) or 0
            part = description_of(description, generation)
            source = Source.stored(description["source"])
            about_model = check_description(part["model"])
            same = about_model["preprocessing"] == PREPROCESSING
            tried = part.get(_TRIED, {}).get(PREPROCESSING, 0 if same else None)
            since = None if tried is None else int(tried)
            opened = cls(path, table, source, about_model, since, generation)
        except (*_DAMAGE, DeltaError) as error:
            if version is not None and isinstance(error, DeltaError) and not needs_upgrade(error):
                raise no_longer_kept(path, version) from None
            raise damaged(path, error) from None
        if check_files:
            opened.check_files()
        return opened

    @classmethod
    def create(
        cls,
        path: Path,
        source: Source,
        model: Model,
        segments: Sequence[SegmentRecord],
        full_model: str | None = None,
    ) -> Self:
        """Commit the first version of a table whose data files lie in `path` already.

        `full_model` is the fingerprint of the model in full precision, where that is another.
        """
        model.save(model_folder(path, 0))
        about = _describe_model(model, full_model)
        create_description(path, {"source": asdict(source), **about})
        write_first_version(path, segments)
        return cls.open(path)

    def commit(
        self,
        operation: str,
        added: Sequence[SegmentRecord] = (),
        removed: Sequence[Path] = (),
        *,
        rows_added: int = 0,
        rows_removed: int = 0,
    ) -> Self:
        """Make the next version, with other data files than this one has; return it.

        The files lie in the folder already. The commit says its `operation` and how many rows came
        and went. Raises `Conflict` unless this version is still the newest.
        """
        return self._commit(operation, added, removed, rows_added, rows_removed)

    def switch(
        self, model: Model, segments: Sequence[SegmentRecord], full_model: str | None = None
    ) -> Self:
        """Make the next version, with the vectors of another model in place of all; return it.

        The log alone tells which model a version has. Raises `Conflict` unless this version is
        still the newest. `full_model` is as in `create`.
        """
        following = self.generation + 1
        folder = model_folder(self.path, following)
        delete_folder(folder)  # of an upgrade that was killed here
        model.save(folder)
        part = _describe_model(model, full_model)
        change_description(self.path, lambda about: record_generation(about, following, part))
        rows = sum(self.counts())
        return self._commit("upgrade", segments, self.files(), rows, rows, following)

    def _commit(
        self,
        operation: str,
        added: Sequence[SegmentRecord],
        removed: Sequence[Path],
        rows_added: int,
        rows_removed: int,
        generation: int | None = None,
    ) -> Self:
        names = [os.path.relpath(file.absolute(), self.path) for file in removed]
        rows, embedded = count_rows(added)
        images, skipped = self.counts()
        gone, gone_skipped = count_inputs(self._actions, names)
        summary = Summary(
            operation,
            rows_added,
            rows_removed,
            images + embedded - gone,
            skipped + rows - embedded - gone_skipped,
            max(self.next_id, next_id_after(added)),
            generation,
        )
        sizes = sizes_by_name(self._actions)
        lost = {name: sizes[name] for name in names}
        write_next_version(self.path, self.version, self.identity, summary, added, lost)
        return self._reopen(self.version + 1)  # which may have a successor by now

    def new_folder(self) -> Path:
        """Make a folder for new data files and return it; `discard` ends its use."""
        return new_data_folder(self.path)

    def newest(self) -> Self:
        """Return the table at its newest version, which may be this one.

        Where another index has taken its place, that one.
        """
        return self if self.is_newest() else self._reopen()

    def is_newest(self) -> bool:
        """Tell whether there is no later version, and no other index in its place."""
        from deltalake import DeltaTable

        now = DeltaTable(self.path.absolute())
        return (now.version(), str(now.metadata().id)) == (self.version, self.identity)

    def is_in_place(self) -> bool:
        """Tell whether the index is still there, and no other in its place."""
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError

        with suppress(OSError, DeltaError):
            return str(DeltaTable(self.path.absolute()).metadata().id) == self.identity
        return False

    @cached_property
    def identity(self) -> str:
        """The id of the table; an index that takes its place has another."""
        return str(self._table.metadata().id)

    def _reopen(self, version: int | None = None) -> Self:
        """Open the newest version, or another; keep the model where it is the same."""
        opened = type(self).open(self.path, version)
        if "model" in self.__dict__ and opened.about_model == self.about_model:
            opened.__dict__["model"] = self.model
        return opened

    def move(self, root: str) -> Self:
        """Record that the images now lie below `root`, an absolute folder or a URI."""
        return self._describe(lambda about: about["source"].update(root=root))

    def add_folders(self, folders: Iterable[str]) -> Self:
        """Record folders outside the root that hold images too."""

        def change(about: dict[str, Any]) -> None:
            about["source"]["also"] = sorted({*about["source"].get("also", ()), *folders})

        return self._describe(change)

    @property
    def tried_from_id(self) -> int:
        """The first id of this preprocessing: inputs skipped before it may be readable by now."""
        return self.next_id if self._tried_from_id is None else self._tried_from_id

    def record_preprocessing(self) -> Self:
        """Record that ids from now on are of this preprocessing."""
        if self._tried_from_id is not None:
            return self

        def change(about: dict[str, Any]) -> None:
            part = description_of(about, self.generation)
            part.setdefault(_TRIED, {}).setdefault(PREPROCESSING, self.next_id)

        return self._describe(change)

    def _describe(self, change: Callable[[dict[str, Any]], None]) -> Self:
        with writing(self.path):
            change_description(self.path, change)
        return type(self).open(self.path, self.version)

    def check_files(self) -> None:
        """Raise `LookalikeError` where a data file is missing or has another size than written."""
        check_sizes(self._actions, self.path, self.version)

    @property
    def version(self) -> int:
        """Number of the version that is open."""
        return self._table.version()

    @cached_property
    def full_model(self) -> str:
        """The fingerprint of the model in full precision from which `model` was made."""
        description = read_description(self.path)
        return str(description_of(description, self.generation).get("full_model"))

    @cached_property
    def model(self) -> Model:
        """The model whose vectors these are."""
        folder = model_folder(self.path, self.generation)
        try:
            return Model.load(folder)
        except LookalikeError:
            # Another process may just have renamed it (`description.upgrade`).
            if (renamed := model_folder(self.path, self.generation)) == folder:
                raise
            return Model.load(renamed)

    @property
    def next_id(self) -> int:
        """The id of the next image; no image ever had it."""
        given = self._table.transaction_version(NEXT_ID) or 0
        return max(given, (pc.max(self._actions["max.id"]).as_py() or 0) + 1)

    @cached_property
    def _actions(self) -> pa.Table:
        """The log's add action of each data file of this version (`add_actions`)."""
        try:
            return read_actions(self._table)
        except ValueError as error:
            raise LookalikeError(f"{self.path} is a damaged index: {error}; {RESTORE}") from None

    def files(self) -> list[Path]:
        """Return the data files of this version, in the order of their ids."""
        return [file for file, *_ in self.id_ranges()]

    def id_ranges(self) -> list[tuple[Path, int, int, int]]:
        """Return file, first id, last id and count of rows of each data file, in that order."""
        return id_ranges(self._actions, self.path)

    def segment_records(self) -> list[SegmentRecord]:
        """Return the figures of each data file, in the order of ids (`file_entries.records`)."""
        return records(self._actions, self.path)

    def view(self, connection: "DuckDBPyConnection", name: str) -> None:
        """Let a connection of DuckDB read the rows of this version as the view `name`."""
        files = self.files()
        if files:
            create_view(connection, name, *files)
        else:
            connection.register(name, ROW.empty_table())

    @contextmanager
    def connect(self, folder: Path) -> Iterator["DuckDBPyConnection"]:
        """Yield a connection of DuckDB in which the rows of this version are the view `stored`.

        It spills into `folder`. Raises `LookalikeError`, which names a damaged data file.
        """
        try:
            with connect(folder) as sql:
                self.view(sql, "stored")
                yield sql
        except LookalikeError:
            for file in self.files():
                read_rows(file, [name for name in ROW.names if name != "embedding"])
            raise

    @cached_property
    def segments(self) -> list[Segment]:
        """The data files, for search to map."""
        return [Segment(file.absolute()) for file in self.files()]

    def counts(self) -> tuple[int, int]:
        """Return how many inputs are embedded and how many skipped, from the log alone."""
        return count_inputs(self._actions)

    def skipped(self) -> Iterator[tuple[str, str]]:
        """Yield path and reason of every input without an embedding, file by file."""
        for file in self.files():
            table = read_rows(file, ["path", "reason"], filters=[("status", "=", "skipped")])
            yield from zip(table["path"].to_pylist(), table["reason"].to_pylist(), strict=True)

    def history(self) -> list[dict[str, Any]]:
        """Return a record of each version, newest first (`log.history`)."""
        return history(self._table, self.log())

    def log(self) -> Log:
        """Return the log with all its versions, newer ones too. Raises `LookalikeError`."""
        from deltalake.exceptions import DeltaError

        try:
            return Log.read(self.path)
        except (*_DAMAGE, DeltaError) as error:
            raise damaged(self.path, error) from None

    def checkpoint(self) -> None:
        """Write a checkpoint of this version, so that it opens without the commits before it."""
        self._table.create_checkpoint()

    def size(self) -> int:
        """Return the size of the data files of this version in bytes."""
        return int(pc.sum(self._actions["size_bytes"]).as_py() or 0)

    def dataframe(self, spark: "SparkSession") -> "DataFrame":
        """Return the table as a Spark DataFrame with the columns of `ROW`.

        Raises `LookalikeError` where a data file is missing by now.
        """
        self.check_files()
        # Spark has no Delta jar here: the log says which files make up the version. The schema is
        # ours, not that of a file, which might name types that run code.
        return spark.read.schema(_ROW_DDL).parquet(*map(local_uri, self.files()))

    @property
    def signature_folder(self) -> Path:
        """The folder of the cells, and of the measured recall of each version; it may not exist."""
        return signature_folder(self.path, self.generation)

    def measured_versions(self) -> list[int]:
        """Return the versions, up to this one, whose recall was measured."""
        numbers = (file.stem for file in self.signature_folder.glob("*.json"))
        return [int(n) for n in numbers if n.isdecimal() and int(n) <= self.version]

    @property
    def hash_folder(self) -> Path:
        """The folder of the hash model of this version; it may not exist."""
        return find_folder(self.path, "lsh") / str(self.version)


def _describe_model(model: Model, full_model: str | None) -> dict[str, Any]:
    """Return the part of a description that has a model."""
    full_model = full_model or model.fingerprint
    return {"model": model.about(), "full_model": full_model, _TRIED: {PREPROCESSING: 0}}
