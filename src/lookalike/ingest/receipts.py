"""Receipts: what tasks of Spark write beside their segments, for the driver to find."""

import json
import os
import tempfile
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lookalike.errors import LookalikeError
from lookalike.storage import SegmentRecord, copy_at
from lookalike.storage.remote import open_copy
from lookalike.system.untrusted import is_hash, read_json

_ENDING = ".receipt"


class Receipts(ABC):
    """The receipts of the tasks of a job: each names the segment that its task has written.

    An attempt of a task that Spark considers lost may run on beside the next one: the first receipt
    counts. https://spark.apache.org/docs/latest/job-scheduling.html
    """

    @abstractmethod
    def find(self, task: int) -> SegmentRecord | None:
        """Return the record in the receipt of a task, if there is one."""

    @abstractmethod
    def segment_folder(self) -> AbstractContextManager[Path]:
        """Return a context with the local folder in which a task writes its segment."""

    @abstractmethod
    def deliver(self, task: int, written: SegmentRecord) -> SegmentRecord:
        """Write the receipt of a segment; return the record of the first receipt."""

    @abstractmethod
    def new(self, seen: set[str]) -> list[SegmentRecord]:
        """Return the records of receipts that are not in `seen`, and add them to it."""

    @abstractmethod
    def arrived(self, record: dict[str, Any]) -> SegmentRecord:
        """Return a record that came through Spark as the driver names its file."""

    @abstractmethod
    def clear(self) -> None:
        """Delete all receipts."""


def receipts_in(folder: Path) -> Receipts:
    """Return the receipts for segments in a folder for data files."""
    copy = copy_at(folder.parents[1])
    if copy is None:
        return DiskReceipts(folder)
    return StoreReceipts(copy.store.uri, copy.name(folder))


@dataclass(frozen=True)
class DiskReceipts(Receipts):
    """Receipts on a disk that the driver and all workers share."""

    folder: Path

    def find(self, task: int) -> SegmentRecord | None:
        """Do as `Receipts`."""
        receipt = self._file(task)
        return self._read(receipt) if receipt.exists() else None

    @contextmanager
    def segment_folder(self) -> Iterator[Path]:
        """Do as `Receipts`."""
        yield self.folder

    def deliver(self, task: int, written: SegmentRecord) -> SegmentRecord:
        """Do as `Receipts`."""
        receipt = self._file(task)
        part = receipt.with_name(f".{uuid.uuid4().hex}.part")
        part.write_text(json.dumps(written))
        try:
            os.link(part, receipt)
            return written
        except FileExistsError:
            first = self._read(receipt)
            if first["path"] != written["path"]:
                Path(written["path"]).unlink()
            return first
        finally:
            part.unlink()

    def new(self, seen: set[str]) -> list[SegmentRecord]:
        """Do as `Receipts`."""
        fresh = sorted({file.name for file in self.folder.glob(f"*{_ENDING}")} - seen)
        seen.update(fresh)
        return [self._read(self.folder / name) for name in fresh]

    def arrived(self, record: dict[str, Any]) -> SegmentRecord:
        """Do as `Receipts`."""
        return record

    def clear(self) -> None:
        """Do as `Receipts`."""
        for receipt in self.folder.glob(f"*{_ENDING}"):
            receipt.unlink(missing_ok=True)

    def _file(self, task: int) -> Path:
        return self.folder / f"{task}{_ENDING}"

    def _read(self, receipt: Path) -> SegmentRecord:
        """Return the record of a receipt. Raises `LookalikeError` unless its file is beside it."""
        try:
            record: SegmentRecord = read_json(receipt)
            file = Path(record["path"])
        except (ValueError, KeyError, TypeError):
            raise _changed(str(receipt)) from None
        if file.parent != receipt.parent or not is_hash(file.stem):
            raise _changed(str(receipt))
        return record


@dataclass(frozen=True)
class StoreReceipts(Receipts):
    """Receipts in the store of an index, below the name of a folder for data files.

    A task puts its segment and then the receipt, under a name that must not exist. Until a commit
    names the segment, nobody reads it.
    """

    uri: str
    folder: str

    def find(self, task: int) -> SegmentRecord | None:
        """Do as `Receipts`."""
        with suppress(FileNotFoundError):
            return self._read(f"{task}{_ENDING}")
        return None

    @contextmanager
    def segment_folder(self) -> Iterator[Path]:
        """Do as `Receipts`."""
        beside = open_copy(self.uri).folder.parent
        with tempfile.TemporaryDirectory(prefix="task-", dir=beside) as folder:
            yield Path(folder)

    def deliver(self, task: int, written: SegmentRecord) -> SegmentRecord:
        """Do as `Receipts`."""
        store = open_copy(self.uri).store
        file = Path(written["path"])
        named = {**written, "path": f"{self.folder}/{file.name}"}
        store.put(named["path"], file)
        name = f"{self.folder}/{task}{_ENDING}"
        content = json.dumps(named).encode()
        try:
            store.create(name, content)
        except FileExistsError:  # of another attempt, or the answer to this one was lost
            first = self._read(f"{task}{_ENDING}")
            if first["path"] != named["path"]:
                store.delete([named["path"]])
            return first
        return named

    def new(self, seen: set[str]) -> list[SegmentRecord]:
        """Do as `Receipts`."""
        listed = open_copy(self.uri).store.below(self.folder).list(1)
        names = {name for batch in listed for name in batch["name"].to_pylist()}
        fresh = sorted({name for name in names if name.endswith(_ENDING)} - seen)
        seen.update(fresh)
        return [self.arrived(self._read(name)) for name in fresh]

    def arrived(self, record: dict[str, Any]) -> SegmentRecord:
        """Do as `Receipts`."""
        return {**record, "path": str(open_copy(self.uri).folder / record["path"])}

    def clear(self) -> None:
        """Do as `Receipts`."""
        store = open_copy(self.uri).store.below(self.folder)
        names = [name for batch in store.list(1) for name in batch["name"].to_pylist()]
        store.delete([name for name in names if name.endswith(_ENDING)])

    def _read(self, name: str) -> SegmentRecord:
        """Return the record of a receipt. Raises `LookalikeError` unless its file is beside it."""
        try:
            record: SegmentRecord = json.loads(
                open_copy(self.uri).store.get(f"{self.folder}/{name}")
            )
            folder, _, file = record["path"].rpartition("/")
        except (ValueError, KeyError, TypeError, AttributeError):
            raise _changed(name) from None
        if folder != self.folder or not is_hash(file.removesuffix(".parquet")):
            raise _changed(name)
        return record


def _changed(receipt: str) -> LookalikeError:
    return LookalikeError(
        f"{receipt} was changed by another program and names no data file beside it: "
        "run the same command again"
    )
