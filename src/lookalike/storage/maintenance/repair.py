"""Repairs a table: derived files are made again when needed, lost ones are taken out of it."""

from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lookalike.errors import LookalikeError
from lookalike.storage import EmbeddingTable, SegmentRecord, commits, rewrite_segment, writing
from lookalike.storage.commits import Ids, Step, query_ids
from lookalike.storage.maintenance.check import (
    CheckSignatures,
    Inspection,
    inspect,
    similar_rows,
    temporary_folder,
)
from lookalike.storage.maintenance.data_files import CheckedFile
from lookalike.storage.maintenance.findings import MISSING, Checked
from lookalike.storage.maintenance.rows import Form, as_rows, good
from lookalike.system.files import delete
from lookalike.system.sql import connect

OPERATION = "repair"


@dataclass(frozen=True)
class Repaired:
    """The result of a repair: the problems `found` before it, and those `left` after it.

    `inputs` counts rows that were lost with data files or could not stay: `sync` reads their images
    again. `deleted` counts derived files and strays.
    """

    found: Checked
    left: Checked
    inputs: int
    deleted: int

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong any more."""
        return self.left.ok

    def to_dict(self) -> dict[str, Any]:
        """Return it as `--json` prints it."""
        return {"ok": self.ok, **asdict(self)}


def repair(table: EmbeddingTable, check_signatures: CheckSignatures) -> Repaired:
    """Repair the newest version of a table; nothing else may write meanwhile.

    Damaged derived files and strays are deleted. A commit takes lost data files and bad rows out of
    the table; files with wrong ids or figures are written again. Older versions stay as they are.
    Raises `LookalikeError` where something writes, and where all data files are missing: then a
    disk is away.
    """
    path = table.path
    with writing(path, alone=True):
        stored = EmbeddingTable.open(path, check_files=False)
        found = inspect(stored, check_signatures, alone=True)
        if found.checked.ok:
            return Repaired(found.checked, found.checked, 0, 0)
        if found.files and not any(MISSING not in file.findings.counts for file in found.files):
            raise LookalikeError(f"{path / 'data'} is missing: restore it; nothing was changed")
        inputs = 0
        if not all(file.usable and file.may_stay for file in found.files):
            stored, inputs = _replace_files(stored, found)
        if found.has_repeated_paths:
            before = sum(stored.counts())
            stored = commits.remove(stored, _older_of_repeated, OPERATION)
            inputs += before - sum(stored.counts())
        deleted = [*found.derived, *found.strays]
        for one in deleted:
            delete(one)
        left = inspect(EmbeddingTable.open(path, check_files=False), check_signatures, alone=True)
        return Repaired(found.checked, left.checked, inputs, len(deleted))


def _replace_files(stored: EmbeddingTable, found: Inspection) -> tuple[EmbeddingTable, int]:
    """Commit other files in place of those that cannot stay; return how many inputs are lost."""
    lost = 0
    form = Form.of(stored)

    def work_out(newest: EmbeddingTable, folder: Path) -> Step:
        nonlocal lost
        lost = 0
        ids = count(max([newest.next_id, *(file.ids[1] + 1 for file in found.files if file.ids)]))
        added: list[SegmentRecord] = []
        removed: list[Path] = []
        for file in found.files:
            if file.usable and file.may_stay:
                continue
            new = _rewrite(file, folder, form, ids) if file.usable else _restore(file, folder)
            had = file.rows if file.usable else file.record["rows"] or 0
            lost += had - sum(record["rows"] for record in new)
            added += new
            removed.append(file.file)
        return Step(added, removed, rows_removed=lost)

    return commits.change(stored, OPERATION, work_out), lost


def _rewrite(file: CheckedFile, folder: Path, form: Form, ids: "count[int]") -> list[SegmentRecord]:
    """Write the good rows of a file again, with new ids where the old ones cannot stay."""

    def correct(batch: pa.RecordBatch) -> pa.RecordBatch:
        batch = good(as_rows(batch, form.schema), form)
        if file.sorted and file.disjoint:
            return batch
        numbers = np.fromiter(ids, np.int64, batch.num_rows)
        return batch.set_column(0, "id", pa.array(numbers))

    return rewrite_segment([file.file], folder, transform=correct)


def _restore(file: CheckedFile, folder: Path) -> list[SegmentRecord]:
    """Write the rows of a damaged file again, if that gives the file as it was, to the last byte.

    It may, where the damage is in bytes that are no part of the rows.
    """
    try:
        new = rewrite_segment([file.file], folder)
    except (LookalikeError, pa.ArrowException, OSError, ValueError, KeyError):
        return []
    if new and Path(new[0]["path"]).stem == file.file.stem:
        return new
    for record in new:
        Path(record["path"]).unlink()
    return []


def _older_of_repeated(stored: EmbeddingTable) -> Ids:
    """Return the ids, rising, of rows whose path a row with a higher id has too."""
    with temporary_folder() as folder, connect(folder) as sql:
        stored.view(sql, "stored")
        name = stored.name_column
        last = f"max(id) over (partition by {name})"
        return query_ids(sql, f"select id from ({similar_rows(name)}) qualify id < {last}")
