"""Writes versions into the Delta log: the first of a table, and the one that follows another.

Data files lie in the folder of the table before a commit names them. Nothing checks what a commit
says of them, and readers skip files by it: it must be right.
"""

import json
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from lookalike.errors import LookalikeError
from lookalike.storage.errors import Conflict, kind_and_text, needs_upgrade
from lookalike.storage.remote.publishing import just_created, staged_log
from lookalike.storage.segments import SegmentRecord

if TYPE_CHECKING:
    import pyarrow as pa
    from deltalake import CommitProperties
    from deltalake.transaction import AddAction


NEXT_ID = "lookalike.next_id"  # the app ids of Delta transaction numbers
GENERATION = "lookalike.generation"
OPERATION = "lookalike"  # the key in the metadata of a commit
COUNTS = ("added", "removed", "images", "skipped")


@dataclass(frozen=True)
class Summary:
    """What a commit says of itself, beside its data files.

    The `operation`; how many rows it `added` and `removed`; how many `images` are embedded and how
    many inputs `skipped` after it; the id that the next image gets; the generation that it begins,
    if any.
    """

    operation: str
    added: int
    removed: int
    images: int
    skipped: int
    next_id: int
    generation: int | None = None


def write_first_version(path: Path, segments: Sequence[SegmentRecord], schema: "pa.Schema") -> None:
    """Commit the first version of a table with these columns, whose data files lie in `path`."""
    from deltalake import Schema
    from deltalake.exceptions import DeltaError
    from deltalake.transaction import create_table_with_add_actions

    rows, embedded = count_rows(segments)
    summary = Summary("index", rows, 0, embedded, rows - embedded, next_id_after(segments))
    try:
        with staged_log(path, 0, _files(segments)) as log:
            create_table_with_add_actions(
                str(log),
                Schema.from_arrow(schema),
                [_add_action(path, segment) for segment in segments],
                mode="error",
                name="lookalike",
                description="Images and their embeddings, made by lookalike",
                commit_properties=_properties(summary),
            )
    except Conflict:
        raise just_created(path) from None
    except DeltaError as error:
        detail = " ".join(str(error).split())
        raise LookalikeError(f"no index can be made in {path.name!r}: {detail}") from None


def write_next_version(
    path: Path,
    version: int,
    identity: str,
    summary: Summary,
    added: Sequence[SegmentRecord],
    removed: dict[str, int],
    schema: "pa.Schema",
) -> None:
    """Commit the version after `version` of the table with this identity and these columns.

    `removed` has names of data files, relative to `path`, and their sizes in bytes. Raises
    `Conflict` where another writer has made that version.
    """
    from deltalake import DeltaTable, Schema
    from deltalake.exceptions import DeltaError
    from deltalake.transaction import RemoveAction

    now = int(time.time() * 1000)
    actions: list[Any] = [_add_action(path, segment) for segment in added]
    actions += [RemoveAction(name, True, now, size, {}) for name, size in removed.items()]
    with staged_log(path, version + 1, _files(added)) as log:
        table = DeltaTable(log, version=version)
        if str(table.metadata().id) != identity:
            raise LookalikeError(f"another index has taken the place of {path}: try again")
        mark = uuid4().hex
        try:
            table.create_write_transaction(
                actions,
                "append",
                Schema.from_arrow(schema),
                commit_properties=_properties(summary, mark),
            )
        except DeltaError as error:
            _explain(error, path, log, version, mark)


def _explain(error: Exception, path: Path, log: Path, version: int, mark: str) -> None:
    """Raise what the error of a commit means, unless the commit with the mark was made."""
    from deltalake import DeltaTable

    if _has_mark(log, version + 1, mark):  # it was made, and what follows has failed
        return
    if DeltaTable(log).version() > version:
        raise Conflict from None
    if needs_upgrade(error):
        raise LookalikeError(
            f"{path} was changed by a newer program ({kind_and_text(error)}): "
            "upgrade to write into it; it stays as it was"
        ) from None
    raise LookalikeError(f"{path} stays as it was: {kind_and_text(error)}") from None


def _files(segments: Iterable[SegmentRecord]) -> list[Path]:
    return [Path(segment["path"]) for segment in segments]


def _has_mark(path: Path, version: int, mark: str) -> bool:
    """Tell whether the commit of a version has a mark."""
    commit = path / "_delta_log" / f"{version:020}.json"
    return commit.exists() and mark in commit.read_text()


def count_rows(segments: Iterable[SegmentRecord]) -> tuple[int, int]:
    """Return how many rows segments have, and how many of them are embedded."""
    pairs = [(segment["rows"], segment["embedded"]) for segment in segments]
    return sum(rows for rows, _ in pairs), sum(embedded for _, embedded in pairs)


def count_after(
    before: tuple[int, int], added: Iterable[SegmentRecord], gone: tuple[int, int]
) -> tuple[int, int]:
    """Return how many inputs are embedded and how many skipped once segments came and went."""
    rows, embedded = count_rows(added)
    return before[0] + embedded - gone[0], before[1] + rows - embedded - gone[1]


def next_id_after(segments: Iterable[SegmentRecord]) -> int:
    """Return the least id above those of segments; 0 where there are none."""
    return max((segment["last_id"] + 1 for segment in segments), default=0)


def _properties(summary: Summary, mark: str = "") -> "CommitProperties":
    """Return the properties of a commit, which fails where another has its version already."""
    from deltalake import CommitProperties, Transaction

    metadata = {OPERATION: summary.operation, f"{OPERATION}.mark": mark} | {
        f"{OPERATION}.{key}": str(getattr(summary, key)) for key in COUNTS
    }
    numbers = [Transaction(NEXT_ID, summary.next_id)]
    if summary.generation is not None:
        numbers.append(Transaction(GENERATION, summary.generation))
    return CommitProperties(metadata, max_commit_retries=0, app_transactions=numbers)


def _add_action(path: Path, segment: SegmentRecord) -> "AddAction":
    from deltalake.transaction import AddAction

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
