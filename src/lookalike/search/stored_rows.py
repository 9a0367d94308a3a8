"""Single rows of an index, read from its data files: nothing is mapped, and no cache is made."""

import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lookalike.errors import LookalikeError, one_line
from lookalike.storage import EmbeddingTable, local_rows
from lookalike.storage.remote.copies import copy_of
from lookalike.storage.schema import KEY
from lookalike.system.arrays import Vectors


class StoredRow(NamedTuple):
    """A row: its number, key or number, path, label, content hash and vector float32 (width,)."""

    number: int
    id: int | str
    path: str
    label: str | None
    content_hash: str | None
    vector: Vectors


@contextmanager
def opened(file: Path) -> Iterator[pq.ParquetFile]:
    """Open a data file where it lies: of a store nothing is written to the disk.

    Raises `LookalikeError` where it cannot be read.
    """
    copy = copy_of(file)
    try:
        place = file if copy is None or file.exists() else copy.store.open(copy.name(file))
        with pq.ParquetFile(place, page_checksum_verification=True, pre_buffer=True) as stored:
            yield stored
    except (pa.ArrowException, FileNotFoundError, ValueError) as error:
        raise LookalikeError(
            f"the data file {file} cannot be read ({one_line(error)}): `lookalike check INDEX`"
        ) from None


def read_row(table: EmbeddingTable, number: int) -> StoredRow | None:
    """Return the embedded row with a number, out of one group of rows; None without one."""
    for file, first, last, _ in table.id_ranges():
        if not first <= number <= last:
            continue
        with opened(file) as stored:
            names = [*("id", "path", "label", "content_hash", "embedding"), KEY]
            columns = [name for name in names if name in stored.schema_arrow.names]
            groups = [
                group
                for group in range(stored.num_row_groups)
                if _may_hold(stored.metadata.row_group(group), number)
            ]
            rows = stored.read_row_groups(groups, columns)
        found = rows.filter(pc.equal(rows["id"], number))
        for row in found.filter(pc.is_valid(found["embedding"])).to_pylist():
            vector = np.array(row["embedding"], np.float32)
            named = (row["path"], row["label"], row["content_hash"])
            return StoredRow(number, row.get(KEY, number), *named, vector)
    return None


def _may_hold(group: pq.RowGroupMetaData, number: int) -> bool:
    for at in range(group.num_columns):
        column = group.column(at)
        if column.path_in_schema == "id":
            known = column.statistics
            return known is None or not known.has_min_max or known.min <= number <= known.max
    return True


def number_of_name(table: EmbeddingTable, column: str, value: int | str) -> int | None:
    """Return the number of the embedded row with a key or a path; None without one."""
    query = f"select id from stored where {column} = $value and status = 'ok' limit 1"
    with (
        tempfile.TemporaryDirectory(prefix="lookalike-") as folder,
        table.connect(Path(folder)) as sql,
    ):
        found = sql.execute(query, {"value": value}).fetchall()
    return int(found[0][0]) if found else None


def draw_row(table: EmbeddingTable, seed: int | None = None) -> StoredRow | None:
    """Draw an embedded row; None where there is none."""
    records = [one for one in table.segment_records() if one["embedded"] != 0]
    drawn = random.Random(seed)
    while records:
        weights = [one["embedded"] or one["rows"] or 1 for one in records]
        (record,) = drawn.choices(records, weights)
        (file,) = local_rows([Path(record["path"])])
        rows = pq.read_table(file, columns=["id", "status"], partitioning=None)
        ids = rows.filter(pc.equal(rows["status"], "ok"))["id"].to_pylist()
        if ids:
            return read_row(table, drawn.choice(ids))
        records.remove(record)
    return None
