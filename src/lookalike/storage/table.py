"""The Delta table: which segments make up a version, and the commit of the next."""

import itertools
import json
import os
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa
import pyarrow.compute as pc

from lookalike.cache import new_file
from lookalike.embedding import ROW
from lookalike.errors import LookalikeError, forbidden, is_forbidden
from lookalike.given import Name, is_text, local_path
from lookalike.images import PREPROCESSING, Source
from lookalike.models import Model, in_words
from lookalike.spark import local_uri
from lookalike.sql import connect, create_view
from lookalike.storage.data_folders import MARK, describing, new_data_folder
from lookalike.storage.locks import writing
from lookalike.storage.log import Log
from lookalike.storage.segments import (
    SEGMENT,
    Segment,
    Written,
    is_history,
    read_rows,
    unreadable,
)
from lookalike.untrusted import inner_names, read_json

if TYPE_CHECKING:
    from deltalake import CommitProperties, DeltaTable
    from duckdb import DuckDBPyConnection
    from pyspark.sql import DataFrame, SparkSession

FORMAT = 2
_ABOUT = "lookalike.json"
_NEXT_ID = "lookalike.next_id"  # an application's transaction number, as Delta has them
_TRIED = "tried"  # in the description: the first id of each preprocessing, as it skips
_OF_US = "lookalike"  # the key in a commit's metadata
_LOOK_AT = 4096  # files at most whose presence is checked when a collection is opened


_ROW_DDL = (
    "id bigint, path string, label string, width int, height int, size bigint, modified bigint, "
    "content_hash string, status string, reason string, embedding array<float>"
)
_FIGURES = ("path", "num_records", "null_count.embedding")
_NUMBERS = ("size_bytes", "modification_time", *_FIGURES[1:], "min.id", "max.id")
_NO_ACTIONS = pa.table(
    {"path": pa.nulls(0, pa.string())} | {name: pa.nulls(0, pa.int64()) for name in _NUMBERS}
)
_RESTORE = "restore it, or index the images again into another `out`"
_COUNTS = ("added", "removed", "images", "skipped")


class Conflict(Exception):
    """Another writer has made the next version: look at that one, and try again."""


class EmbeddingTable:
    """A collection at one version."""

    def __init__(
        self,
        path: Path,
        table: "DeltaTable",
        source: Source,
        about_model: dict[str, Any],
        tried: int | None = None,
    ) -> None:
        self.path = path.absolute()  # wherever this process goes from here
        self.source = source
        self.about_model = about_model  # the model in words, known without loading it
        self._table = table
        self._tried = tried

    @classmethod
    def open(cls, path: Name, version: int | None = None, *, look: bool = True) -> Self:
        """Open a collection, at its newest version or an older one.

        Raises `LookalikeError` if there is none, if another lookalike made it, if it may not be
        read, or, unless `look` is false, if a data file is gone or cut short.
        """
        try:
            return cls._open(local_path(path), version, look)
        except PermissionError as error:
            raise forbidden(error.filename or path) from None

    @classmethod
    def _open(cls, path: Path, version: int | None, look: bool) -> Self:
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError

        if not is_index(path):
            if is_unfinished(path) and any(path.iterdir()):
                raise LookalikeError(f"{path} was never finished: run `lookalike index` again")
            if (path / _ABOUT).is_file():
                raise LookalikeError(f"{path} is a damaged index: its log is gone; {_RESTORE}")
            what = "is not an index" if path.exists() else "does not exist"
            raise LookalikeError(f"{path} {what}: make one with `lookalike index`")
        if not is_text(str(path.absolute())):
            raise LookalikeError(
                f"{path} has a name that is not UTF-8, which Delta cannot open: rename its folder"
            )
        about = _read_about(path)
        try:
            table = DeltaTable(path.absolute())
            if version is not None and version != table.version():
                if not 0 <= version < table.version():
                    raise LookalikeError(
                        f"{path} has no version {version}: `lookalike info {path} --history`"
                    )
                table.load_as_version(version)
            source, about_model = Source.stored(about["source"]), in_words(about["model"])
            same = about_model["preprocessing"] == PREPROCESSING
            tried = about.get(_TRIED, {}).get(PREPROCESSING, 0 if same else None)
            opened = cls(path, table, source, about_model, None if tried is None else int(tried))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, DeltaError) as error:
            if version is not None and isinstance(error, DeltaError) and not _is_newer(error):
                raise _no_longer_kept(path, version) from None
            raise _damaged(path, error) from None
        if look:
            opened._look()
        return opened

    @classmethod
    def create(
        cls,
        path: Path,
        source: Source,
        model: Model,
        segments: Sequence[Written],
        full_model: str | None = None,
    ) -> Self:
        """Commit the first version of a collection whose data files lie in `path` already.

        `full_model` is the fingerprint of the model in full precision, where that is another.
        """
        from deltalake.exceptions import DeltaError
        from deltalake.transaction import create_table_with_add_actions

        model.save(path / "model")
        about = {"format": FORMAT, "source": asdict(source), "model": model.about()}
        about["full_model"] = full_model or model.fingerprint
        about[_TRIED] = {PREPROCESSING: 0}
        (path / _ABOUT).write_text(json.dumps(about, indent=1) + "\n")
        rows, embedded = _sums(segments)
        try:
            create_table_with_add_actions(
                str(path.absolute()),
                _delta_schema(),
                [_add_action(path, segment) for segment in segments],
                mode="error",
                name="lookalike",
                description="Images and their embeddings, made by lookalike",
                commit_properties=_properties(
                    "index", rows, 0, (embedded, rows - embedded), _after(segments)
                ),
            )
        except DeltaError as error:
            detail = " ".join(str(error).split())
            raise LookalikeError(f"no index can be made in {path.name!r}: {detail}") from None
        return cls.open(path)

    def commit(
        self,
        what: str,
        added: Sequence[Written] = (),
        removed: Sequence[Path] = (),
        *,
        rows_added: int = 0,
        rows_removed: int = 0,
    ) -> Self:
        """Make the next version: other data files than this one has; return it.

        The files lie in the folder already. What the commit says of itself is `what` and how many
        rows came and went. Raises `Conflict` unless this version is still the newest.
        """
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError
        from deltalake.transaction import RemoveAction

        sizes = dict(zip(self._actions["path"].to_pylist(), self._sizes(), strict=True))
        now = int(time.time() * 1000)
        names = [os.path.relpath(file.absolute(), self.path.absolute()) for file in removed]
        actions: list[Any] = [_add_action(self.path, segment) for segment in added]
        actions += [RemoveAction(name, True, now, sizes[name], {}) for name in names]
        figures = {
            path: (rows or 0, skipped or 0)  # of what another program wrote, nobody may know
            for path, rows, skipped in zip(
                *(self._actions[name].to_pylist() for name in _FIGURES), strict=True
            )
        }
        gone = [figures[name] for name in names]
        rows, embedded = _sums(added)
        images, skipped = self.counts()
        images += embedded - sum(rows - skipped for rows, skipped in gone)
        skipped += rows - embedded - sum(skipped for _, skipped in gone)
        next_id = max(self.next_id, _after(added))
        mark = uuid.uuid4().hex
        table = DeltaTable(self.path.absolute(), version=self.version)
        if str(table.metadata().id) != self.identity:
            raise LookalikeError(f"another index has taken the place of {self.path}: try again")
        try:
            table.create_write_transaction(
                actions,
                "append",
                _delta_schema(),
                commit_properties=_properties(
                    what, rows_added, rows_removed, (images, skipped), next_id, mark
                ),
            )
        except DeltaError as error:
            if not self._has_made_next(mark):  # what comes after a commit may fail as well
                if self._newest() > self.version:
                    raise Conflict from None
                if _is_newer(error):
                    raise LookalikeError(
                        f"{self.path} was changed by a newer program ({_line(error)}): "
                        "upgrade to write into it; it stays as it was"
                    ) from None
                raise LookalikeError(f"{self.path} stays as it was: {_line(error)}") from None
        return self._again(self.version + 1)  # which may have a successor by now

    def _has_made_next(self, mark: str) -> bool:
        """Say whether the next version is the one whose commit has a mark."""
        log = self.path / "_delta_log" / f"{self.version + 1:020}.json"
        return log.exists() and mark in log.read_text()

    def new_folder(self) -> Path:
        """Make a folder for new data files and return it; `discard` ends its use."""
        return new_data_folder(self.path)

    def newest(self) -> Self:
        """Return this collection at its newest version, which may be this one.

        Where another has taken its place, that one.
        """
        return self if self.is_newest() else self._again()

    def is_newest(self) -> bool:
        """Say whether nobody has made a next version, or another collection in its place."""
        from deltalake import DeltaTable

        now = DeltaTable(self.path.absolute())
        return (now.version(), str(now.metadata().id)) == (self.version, self.identity)

    def is_in_place(self) -> bool:
        """Say whether nobody has made another collection in its place, or taken it away."""
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError

        with suppress(OSError, DeltaError):
            return str(DeltaTable(self.path.absolute()).metadata().id) == self.identity
        return False

    @cached_property
    def identity(self) -> str:
        """What no other collection has, not even one that takes its place."""
        return str(self._table.metadata().id)

    def _again(self, version: int | None = None) -> Self:
        """Open the newest version, or another; the same model is not read again."""
        opened = type(self).open(self.path, version)
        if "model" in self.__dict__ and opened.about_model == self.about_model:
            opened.__dict__["model"] = self.model
        return opened

    def _newest(self) -> int:
        from deltalake import DeltaTable

        return DeltaTable(self.path.absolute()).version()

    def move(self, root: str) -> Self:
        """Say that the images now lie below `root`, an absolute folder or a URI."""
        return self._describe(lambda about: about["source"].update(root=root))

    def also_below(self, folders: Iterable[str]) -> Self:
        """Say that images lie below these folders too, outside the root."""

        def note(about: dict[str, Any]) -> None:
            about["source"]["also"] = sorted({*about["source"].get("also", ()), *folders})

        return self._describe(note)

    @property
    def tried_from(self) -> int:
        """The id from which on it was this preprocessing, and none before it, that skipped."""
        return self.next_id if self._tried is None else self._tried

    def note_tries(self) -> Self:
        """Say that what is skipped from now on was tried with this preprocessing."""
        if self._tried is not None:
            return self

        def note(about: dict[str, Any]) -> None:
            about.setdefault(_TRIED, {}).setdefault(PREPROCESSING, self.next_id)

        return self._describe(note)

    def _describe(self, change: Callable[[dict[str, Any]], None]) -> Self:
        with writing(self.path), describing(self.path):
            about = _read_about(self.path)
            change(about)
            with new_file(self.path / _ABOUT) as part:
                part.write_text(json.dumps(about, indent=1) + "\n")
        return type(self).open(self.path, self.version)

    def _look(self) -> None:
        """Raise `LookalikeError` for a data file that is gone or cut short, seen from outside."""
        sizes = dict(zip(self._actions["path"].to_pylist(), self._sizes(), strict=True))
        for file in itertools.islice(self.files(), _LOOK_AT):
            name = file.relative_to(self.path).as_posix()
            try:
                problem = None if file.stat().st_size == sizes[name] else "is cut short or grown"
            except FileNotFoundError:
                if is_history(self.path, name):
                    raise _no_longer_kept(self.path, self.version) from None
                problem = "is missing"
            if problem:
                raise unreadable(file, problem)

    def _sizes(self) -> list[int]:
        sizes: list[int] = self._actions["size_bytes"].to_pylist()
        return sizes

    @property
    def version(self) -> int:
        """Number of the version that is open."""
        return self._table.version()

    @cached_property
    def full_model(self) -> str:
        """The fingerprint of the model in full precision that `model` was made of."""
        return str(_read_about(self.path).get("full_model"))

    @cached_property
    def model(self) -> Model:
        """The model whose vectors these are."""
        return Model.load(self.path / "model")

    @cached_property
    def _actions(self) -> pa.Table:
        """What the log says of each data file of this version."""
        actions = pa.table(self._table.get_add_actions(flatten=True))
        try:
            inner_names(actions["path"])
        except ValueError as error:
            raise LookalikeError(f"{self.path} is a damaged index: {error}; {_RESTORE}") from None
        return actions if len(actions) else _NO_ACTIONS

    @property
    def next_id(self) -> int:
        """The number that the next image gets; no image ever had it."""
        given = self._table.transaction_version(_NEXT_ID) or 0
        return max(given, (pc.max(self._actions["max.id"]).as_py() or 0) + 1)

    def files(self) -> list[Path]:
        """Return the data files of this version, in the order of their ids."""
        return [file for file, *_ in self.ranges()]

    def ranges(self) -> list[tuple[Path, int, int, int]]:
        """Return file, first and last id, and count of rows of each data file, in that order."""
        columns = ("path", "min.id", "max.id", "num_records")
        rows = list(zip(*(self._actions[name].to_pylist() for name in columns), strict=True))
        return [
            (self.path / path, first, last, count)
            for path, first, last, count in sorted(rows, key=lambda row: (row[1], row[0]))
        ]

    def written(self) -> list[Written]:
        """Return what the log says of each data file, in the order of their ids.

        Figures of what another program wrote may be None.
        """
        columns = (self._actions[name].to_pylist() for name in ("path", *_NUMBERS))
        said = zip(*columns, strict=True)
        rows = [
            dict(
                zip(
                    SEGMENT.names,
                    (str(self.path / path), size, modified, count, _less(count, nulls), *ids),
                    strict=True,
                )
            )
            for path, size, modified, count, nulls, *ids in said
        ]
        return sorted(rows, key=lambda row: (row["first_id"] or 0, row["path"]))

    def view(self, connection: "DuckDBPyConnection", name: str) -> None:
        """Let a connection of DuckDB read the rows of this version as the table `name`."""
        files = self.files()
        if files:
            create_view(connection, name, *files)
        else:
            connection.register(name, ROW.empty_table())

    @contextmanager
    def asked(self, folder: Path) -> Iterator["DuckDBPyConnection"]:
        """Give a connection of DuckDB in which the rows of this version are the table `stored`.

        It spills into `folder`. Raises `LookalikeError`, which names a data file that is damaged.
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
            table = read_rows(file, ["path", "reason"], filters=[("status", "=", "skipped")])
            yield from zip(table["path"].to_pylist(), table["reason"].to_pylist(), strict=True)

    def history(self) -> list[dict[str, Any]]:
        """Return what is known of each version, newest first.

        `version, time` (milliseconds since 1970), `what` was done, how many rows were `added` and
        `removed`, how many `images` and `skipped` inputs there were then; of what other programs
        did to the table, only the first three. `kept` says whether it can still be opened.
        """
        known = []
        kept = self.log().openable()
        for commit in self._table.history():
            one = {"version": commit["version"], "time": commit["timestamp"]}
            one["kept"] = commit["version"] in kept
            one["what"] = commit.get(_OF_US) or str(commit.get("operation", "")).lower()
            counts = {key: commit.get(f"{_OF_US}.{key}") for key in _COUNTS}
            known.append(one | {key: None if v is None else int(v) for key, v in counts.items()})
        return known

    def log(self) -> Log:
        """Return the log, with all versions that are in it by now; `LookalikeError` if damaged."""
        from deltalake.exceptions import DeltaError

        try:
            return Log.read(self.path)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, DeltaError) as error:
            raise _damaged(self.path, error) from None

    def checkpoint(self) -> None:
        """Write this version into the log as a whole, so that it opens without those before it."""
        self._table.create_checkpoint()

    def size(self) -> int:
        """Return the bytes of the data files of this version."""
        actions = self._actions
        return int(pc.sum(actions["size_bytes"]).as_py() or 0)

    def dataframe(self, spark: "SparkSession") -> "DataFrame":
        """Return the collection as a Spark DataFrame with the columns of `ROW`.

        Raises `LookalikeError` for a data file that is gone by now.
        """
        self._look()
        # Spark has no Delta jar here: the log says which files make up the version. Of what a file
        # itself says of its columns nothing is asked: it might name types that run code.
        return spark.read.schema(_ROW_DDL).parquet(*map(local_uri, self.files()))

    @property
    def signature_folder(self) -> Path:
        """The folder for what the signatures of all versions have in common; it may not exist."""
        return self.path / "signatures"

    def measured_versions(self) -> list[int]:
        """Return the versions, up to this one, that `signature_folder` holds figures of."""
        numbers = (file.stem for file in self.signature_folder.glob("*.json"))
        return [int(n) for n in numbers if n.isdecimal() and int(n) <= self.version]

    @property
    def hash_folder(self) -> Path:
        """The folder for the hash model of this version, which may not exist yet."""
        return self.path / "lsh" / str(self.version)


def is_index(path: Path) -> bool:
    """Say whether there is a collection at `path`."""
    return (path / _ABOUT).is_file() and _has_versions(path)


def is_unfinished(path: Path) -> bool:
    """Say whether something began to make a collection at `path` and committed nothing yet."""
    if _has_versions(path):
        return False
    begun = (path / ".writers").is_file() or (path.is_dir() and not any(path.iterdir()))
    # What was committed once, and has lost its log, is a damaged one: nothing in it may go.
    return begun and all((one / MARK).exists() for one in (path / "data").glob("*/"))


def _has_versions(path: Path) -> bool:
    # Whoever makes one makes the folder and a part of the file first, and may be killed then.
    try:
        names = os.listdir(path / "_delta_log")
    except (FileNotFoundError, NotADirectoryError):
        return False
    return any(name[0].isdecimal() and "#" not in name for name in names)


def _read_about(path: Path) -> dict[str, Any]:
    try:
        about = read_json(path / _ABOUT)
        made_by = about["format"]
        if made_by > FORMAT:
            raise LookalikeError(f"{path} was made by a newer lookalike: upgrade to open it")
        if made_by < FORMAT:
            raise LookalikeError(
                f"{path} was made by an older lookalike: index the images again, with "
                "`overwrite=True`"
            )
        return about
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path, error) from None


def _no_longer_kept(path: Path, version: int) -> LookalikeError:
    return LookalikeError(
        f"version {version} of {path} is no longer kept: open the newest one (`Index.refresh`), or "
        f"one that `lookalike info {path} --history` shows"
    )


def _is_newer(error: Exception) -> bool:
    """Say whether it is for what a later version of Delta brought that something failed."""
    from deltalake.exceptions import DeltaError

    return isinstance(error, DeltaError) and bool(
        re.search(r"unsupported|not supported|table features", str(error), re.IGNORECASE)
    )


def _damaged(path: Path, error: Exception) -> LookalikeError:
    if is_forbidden(error):
        return forbidden(getattr(error, "filename", None) or path)
    if _is_newer(error):
        return LookalikeError(
            f"{path} was changed by a newer program ({_line(error)}): upgrade to open it"
        )
    return LookalikeError(f"{path} is a damaged index: {_line(error)}; {_RESTORE}")


def _line(error: Exception) -> str:
    return f"{type(error).__name__} {' '.join(str(error).split())[:200]}"


def _sums(segments: Iterable[Written]) -> tuple[int, int]:
    """Return how many rows segments have, and how many of them are embedded."""
    pairs = [(segment["rows"], segment["embedded"]) for segment in segments]
    return sum(rows for rows, _ in pairs), sum(embedded for _, embedded in pairs)


def _less(count: int | None, nulls: int | None) -> int | None:
    return None if count is None or nulls is None else count - nulls


def _after(segments: Iterable[Written]) -> int:
    return max((segment["last_id"] + 1 for segment in segments), default=0)


def _properties(
    what: str, added: int, removed: int, counts: tuple[int, int], next_id: int, mark: str = ""
) -> "CommitProperties":
    """Say what a commit did; let it fail, not try again, where there is another one by now."""
    from deltalake import CommitProperties, Transaction

    figures = zip(_COUNTS, (added, removed, *counts), strict=True)
    said = {_OF_US: what, f"{_OF_US}.mark": mark} | {
        f"{_OF_US}.{key}": str(value) for key, value in figures
    }
    number = Transaction(_NEXT_ID, next_id)
    return CommitProperties(said, max_commit_retries=0, app_transactions=[number])


def _delta_schema() -> Any:
    from deltalake import Schema

    return Schema.from_arrow(ROW)


def _add_action(path: Path, segment: Written) -> Any:
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
