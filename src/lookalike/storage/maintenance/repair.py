"""Repairs a collection: what is derived is made again, what is lost is taken out of the table."""

import shutil
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lookalike.errors import LookalikeError
from lookalike.sql import connect
from lookalike.storage import EmbeddingTable, Written, commits, rewrite_segment, writing
from lookalike.storage.commits import Ids, Step, query_ids
from lookalike.storage.maintenance.check import ALIKE, CheckSignatures, Inspection, inspect, scratch
from lookalike.storage.maintenance.data_files import Look
from lookalike.storage.maintenance.findings import Checked
from lookalike.storage.maintenance.rows import as_rows, good

_WHAT = "repair"


@dataclass(frozen=True)
class Repaired:
    """What a repair did.

    `found` was wrong before it, `left` is after it. `inputs` were lost with data files or had rows
    that could not stay: `sync` reads them again. `deleted` counts what was derived or belonged to
    nothing.
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


def repair(collection: EmbeddingTable, check_signatures: CheckSignatures) -> Repaired:
    """Repair the newest version of a collection, alone.

    What is derived and damaged, or belongs to nothing, is deleted. Data files that are lost, and
    rows that cannot stay, are taken out of the table by a commit; files whose ids or figures are
    wrong are written again. Older versions stay as they are. Raises `LookalikeError` where
    something writes, or where it is plain that not the collection is broken but a disk is away.
    """
    path = collection.path
    with writing(path, alone=True):
        stored = EmbeddingTable.open(path, look=False)
        found = inspect(stored, check_signatures, alone=True)
        if found.checked.ok:
            return Repaired(found.checked, found.checked, 0, 0)
        if found.looks and not any(stored_file.exists() for stored_file in stored.files()):
            raise LookalikeError(f"{path / 'data'} is missing: restore it; nothing was changed")
        inputs = 0
        if not all(look.usable and look.may_stay for look in found.looks):
            stored, inputs = _mend(stored, found)
        if found.paths_twice:
            before = sum(stored.counts())
            stored = commits.remove(stored, _older_of_two, _WHAT)
            inputs += before - sum(stored.counts())
        deleted = [*found.derived, *found.strays]
        for one in deleted:
            _delete(one)
        left = inspect(EmbeddingTable.open(path, look=False), check_signatures, alone=True)
        return Repaired(found.checked, left.checked, inputs, len(deleted))


def _mend(stored: EmbeddingTable, found: Inspection) -> tuple[EmbeddingTable, int]:
    """Commit other files in place of those that cannot stay; return how many inputs are lost."""
    lost = 0
    width = stored.about_model["width"]

    def work_out(newest: EmbeddingTable, folder: Path) -> Step:
        nonlocal lost
        lost = 0
        ids = count(max([newest.next_id, *(look.ids[1] + 1 for look in found.looks if look.ids)]))
        added: list[Written] = []
        removed: list[Path] = []
        for look in found.looks:
            if look.usable and look.may_stay:
                continue
            fresh = _again(look, folder, width, ids) if look.usable else _restored(look, folder)
            had = look.rows if look.usable else look.said["rows"] or 0
            lost += had - sum(row["rows"] for row in fresh)
            added += fresh
            removed.append(look.file)
        return Step(added, removed, rows_removed=lost)

    return commits.change(stored, _WHAT, work_out), lost


def _again(look: Look, folder: Path, width: int, ids: "count[int]") -> list[Written]:
    """Write the rows of a file again that may stay, with new ids where those cannot."""

    def mend(batch: pa.RecordBatch) -> pa.RecordBatch:
        batch = good(as_rows(batch), width)
        if look.rising and look.apart:
            return batch
        numbers = np.fromiter(ids, np.int64, batch.num_rows)
        return batch.set_column(0, "id", pa.array(numbers))

    return rewrite_segment([look.file], folder, mend=mend)


def _restored(look: Look, folder: Path) -> list[Written]:
    """Write what a damaged file says again, if that is, to the last byte, what was written.

    It may be: where what is damaged says nothing of the rows.
    """
    try:
        fresh = rewrite_segment([look.file], folder)
    except (LookalikeError, pa.ArrowException, OSError, ValueError, KeyError):
        return []
    if fresh and Path(fresh[0]["path"]).stem == look.file.stem:
        return fresh
    for row in fresh:
        Path(row["path"]).unlink()
    return []


def _older_of_two(stored: EmbeddingTable) -> Ids:
    """Return the ids, rising, of rows whose path a row with a higher id has too."""
    with scratch() as folder, connect(folder) as sql:
        stored.view(sql, "stored")
        return query_ids(
            sql, f"select id from ({ALIKE}) qualify id < max(id) over (partition by path)"
        )


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
