"""The Delta table of embeddings: the segments of a version, and the commit of the next."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa
import pyarrow.compute as pc

from lookalike.errors import LookalikeError, forbidden
from lookalike.images import Source
from lookalike.models import Model, check_description
from lookalike.storage.data_folders import check_index, new_data_folder
from lookalike.storage.description import (
    change_description,
    create_description,
    find_folder,
    read_description,
)
from lookalike.storage.errors import RESTORE, Conflict, damaged, needs_upgrade, no_longer_kept
from lookalike.storage.file_entries import (
    check_sizes,
    count_inputs,
    find_damage,
    id_ranges,
    read_actions,
    records,
    sizes_by_name,
)
from lookalike.storage.generations import (
    description_of,
    model_folder,
    signature_folder,
)
from lookalike.storage.locks import writing
from lookalike.storage.log import Log, history, newest_version
from lookalike.storage.own_vectors import Described, Own, stored_own
from lookalike.storage.remote import (
    fetched,
    index_path,
    local_rows,
    mend_log,
    publish_checkpoint,
    pull,
    push,
)
from lookalike.storage.schema import ROW
from lookalike.storage.segments import Segment, SegmentRecord, read_rows
from lookalike.storage.spark_frame import spark_frame
from lookalike.storage.stored_model import (
    begin_generation,
    check_same,
    first_tried_id,
    load_model,
    new_description,
    record_first_tried,
)
from lookalike.storage.transactions import (
    GENERATION,
    NEXT_ID,
    Summary,
    count_after,
    next_id_after,
    write_first_version,
    write_next_version,
)
from lookalike.system.paths import Name
from lookalike.system.sql import connect, create_view

if TYPE_CHECKING:
    from deltalake import DeltaTable
    from duckdb import DuckDBPyConnection
    from pyspark.sql import DataFrame, SparkSession


_DAMAGE = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError)


class EmbeddingTable(Described):
    """A Delta table of embeddings, open at one version."""

    def __init__(
        self,
        path: Path,
        table: "DeltaTable",
        source: Source,
        about_model: dict[str, Any],
        tried_from_id: int | None = None,
        own: Own | None = None,
        generation: int = 0,
    ) -> None:
        super().__init__(source, about_model, own)
        self.path = path.absolute()  # the process may change its working folder
        self.generation = generation  # of its model
        self._table = table
        self._tried_from_id = tried_from_id

    @classmethod
    def open(cls, path: Name, version: int | None = None, *, check_files: bool = True) -> Self:
        """Open the table of an index, at its newest version or an older one.

        Raises `LookalikeError` where there is none, where a newer lookalike made it, where it may
        not be read, and, unless `check_files` is false, where a data file is missing or cut short.
        """
        try:
            return cls._open(index_path(path), version, check_files)
        except PermissionError as error:
            raise forbidden(error.filename or path) from None

    @classmethod
    def _open(cls, path: Path, version: int | None, check_files: bool) -> Self:
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError

        pull(path, description=True)
        check_index(path)
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
            tried = first_tried_id(part, about_model)
            own = stored_own(description)
            opened = cls(path, table, source, about_model, tried, own, generation)
        except (*_DAMAGE, DeltaError) as error:
            if version is not None and isinstance(error, DeltaError) and not needs_upgrade(error):
                raise no_longer_kept(path, version) from None
            if mend_log(path):
                return cls._open(path, version, check_files)
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
        own: Own | None = None,
    ) -> Self:
        """Commit the first version of a table whose data files lie in `path` already.

        `full_model` is the fingerprint of the model in full precision, where that is another.
        `own` describes vectors that the user has made, or columns of the user's images.
        """
        model.save(model_folder(path, 0))
        create_description(path, new_description(source, model, full_model, own))
        push(path, model_folder(path, 0))
        write_first_version(path, segments, ROW if own is None else own.schema)
        made = cls.open(path)
        if model.function is not None:
            made.attach(model)
        return made

    def commit(
        self,
        operation: str,
        added: Sequence[SegmentRecord] = (),
        removed: Sequence[Path] = (),
        *,
        rows_added: int = 0,
        rows_removed: int = 0,
        generation: int | None = None,
    ) -> Self:
        """Make the next version, with other data files than this one has; return it.

        The files lie in the folder already. The commit says its `operation`, how many rows came and
        went, and the generation that it begins. Raises `Conflict` unless this version is still the
        newest.
        """
        names = [os.path.relpath(file.absolute(), self.path) for file in removed]
        gone = count_inputs(self._actions, names)
        images, skipped = count_after(self.counts(), added, gone)
        next_id = max(self.next_id, next_id_after(added))
        summary = Summary(operation, rows_added, rows_removed, images, skipped, next_id, generation)
        sizes = sizes_by_name(self._actions)
        lost = {name: sizes[name] for name in names}
        write_next_version(
            self.path, self.version, self.identity, summary, added, lost, self.schema
        )
        return self.reopen(self.version + 1)  # which may have a successor by now

    def switch(
        self, model: Model, segments: Sequence[SegmentRecord], full_model: str | None = None
    ) -> Self:
        """Make the next version, with the vectors of another model in place of all; return it.

        The log alone tells which model a version has. Raises `Conflict` unless this version is
        still the newest. `full_model` is as in `create`.
        """
        if not self.is_newest():  # else another's model could be replaced
            raise Conflict
        following = self.generation + 1
        begin_generation(self.path, following, model, full_model)
        rows_moved = dict.fromkeys(("rows_added", "rows_removed"), sum(self.counts()))
        made = self.commit("upgrade", segments, self.files(), **rows_moved, generation=following)
        if model.function is not None:
            made.attach(model)
        return made

    def new_folder(self) -> Path:
        """Make a folder for new data files and return it; `discard` ends its use."""
        return new_data_folder(self.path)

    def newest(self) -> Self:
        """Return the newest version, maybe this one, or an index that has taken its place."""
        return self if self.is_newest() else self.reopen()

    def is_newest(self) -> bool:
        """Tell whether there is no later version, and no other index in its place."""
        return newest_version(self.path) == (self.version, self.identity)

    def is_in_place(self) -> bool:
        """Tell whether the index is still there, and no other in its place."""
        with suppress(OSError, LookalikeError):
            return newest_version(self.path)[1] == self.identity
        return False

    @cached_property
    def identity(self) -> str:
        """The id of the table; an index that takes its place has another."""
        return str(self._table.metadata().id)

    def reopen(self, version: int | None = None) -> Self:
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
            record_first_tried(description_of(about, self.generation), self.next_id)

        return self._describe(change)

    def _describe(self, change: Callable[[dict[str, Any]], None]) -> Self:
        with writing(self.path):
            change_description(self.path, change)
        return self.reopen(self.version)

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
        return load_model(self.path, self.generation)

    def attach(self, model: Model) -> None:
        """Give the table its model, a function, which is not stored with it.

        Raises `LookalikeError` for another model than that of the vectors.
        """
        check_same(model, self.about_model, self.path)
        self.__dict__["model"] = model

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
            create_view(connection, name, *local_rows(files))
        else:
            connection.register(name, self.schema.empty_table())

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
            find_damage(self.files(), [name for name in self.schema.names if name != "embedding"])
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
        """Return a record of each version, newest first."""
        return history(self._table, self.log())

    def log(self) -> Log:
        """Return the log with all its versions, newer ones too. Raises `LookalikeError`."""
        return Log.open(self.path)

    def checkpoint(self) -> None:
        """Write a checkpoint of this version: it then opens without the commits before it."""
        self._table.create_checkpoint()
        publish_checkpoint(self.path)

    def size(self) -> int:
        """Return the size of the data files of this version in bytes."""
        return int(pc.sum(self._actions["size_bytes"]).as_py() or 0)

    def dataframe(self, spark: "SparkSession") -> "DataFrame":
        """Return the table as a Spark DataFrame with the columns of `schema` (`spark_frame`)."""
        self.check_files()
        return spark_frame(spark, self.segments, self.schema, self.schema_ddl)

    @property
    def signature_folder(self) -> Path:
        """The folder of the cells, and of the measured recall of each version; it may not exist."""
        return fetched(signature_folder(self.path, self.generation), self.path, self.version)

    @property
    def hash_folder(self) -> Path:
        """The folder of the hash model of this version; it may not exist."""
        return fetched(find_folder(self.path, "lsh") / str(self.version), self.path, self.version)
