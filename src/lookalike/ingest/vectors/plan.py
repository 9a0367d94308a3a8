"""Compare a table of vectors with an index: which rows are new, changed or gone.

A row is known by its key, or by its path where the table has no keys. It is unchanged while its
vector, label, path and reason are. The comparison spills to disk.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lookalike.errors import LookalikeError
from lookalike.ingest.diff import OnChange, Plan, new_array, report_changes
from lookalike.ingest.vectors.inputs import VectorInput
from lookalike.ingest.vectors.rows import listed_columns, named_rows, rows_of
from lookalike.storage import EmbeddingTable
from lookalike.storage.commits import NO_IDS, query_ids
from lookalike.storage.schema import KEY
from lookalike.system.progress import progress_line
from lookalike.system.sql import connect, create_view, fetch_row, write_parquet

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


_BATCHES_A_GROUP = 64  # of the listing


def list_rows(opened: VectorInput, listing: Path, *, whole: bool) -> int:
    """Write a row for each row of a table to a Parquet file; return their number.

    The columns are `row`, from 0, `key` if there are keys, and `path`; with `whole`, which reads
    the vectors too, also `listed_columns`.
    """
    table, own = opened.table, opened.own
    assert table is not None
    names = [KEY] * (own.key is not None) + (listed_columns(own) if whole else ["path"])
    fields = [pa.field("row", pa.int64()), *(own.schema.field(name) for name in names)]
    schema = pa.schema(fields)
    columns = opened.columns if whole else _name_columns(opened)
    with progress_line("listing vectors", "rows") as move:

        def listed() -> Iterator[pa.RecordBatch]:
            done = 0
            for batch in table.batches(columns):
                count = batch.rows.num_rows
                ids = np.arange(done, done + count)
                rows = rows_of(opened, batch, ids) if whole else named_rows(opened, batch)
                arrays = [rows[name] for name in names]
                done += count
                move(done, None)
                yield pa.RecordBatch.from_arrays([pa.array(ids), *arrays], schema=schema)

        return _write(listed(), schema, listing)


def _name_columns(opened: VectorInput) -> list[str]:
    own = opened.own
    named = list(dict.fromkeys(name for name in (own.id_column, own.path_column) if name))
    # Rows that are named by their numbers: any column says how many there are, a narrow one sooner.
    return named or [own.label_column or own.embedding_column]


def _write(batches: Iterator[pa.RecordBatch], schema: pa.Schema, listing: Path) -> int:
    count = 0
    held: list[pa.RecordBatch] = []
    with pq.ParquetWriter(listing, schema) as writer:
        for batch in batches:
            held.append(batch)
            count += batch.num_rows
            if len(held) == _BATCHES_A_GROUP:
                writer.write_table(pa.Table.from_batches(held))
                held = []
        if held:
            writer.write_table(pa.Table.from_batches(held))
    return count


def check_names(opened: VectorInput, listing: Sequence[Path], folder: Path) -> None:
    """Raise `LookalikeError` where rows lack a key, or share one."""
    name = "path" if opened.own.key is None else KEY
    column = opened.own.id_column or opened.own.path_column
    if column is None:
        return
    with connect(folder) as sql:
        create_view(sql, "listing", *listing)
        (nulls,) = fetch_row(sql, f"select count() - count({name}) from listing")
        if nulls:
            raise nulls_error(opened.name, column, nulls)
        # Hashes take a fraction of the room of names.
        query = f"""
            select {name}, count() from listing where hash({name}) in
                (select hash({name}) from listing group by hash({name}) having count() > 1)
            group by {name} having count() > 1 order by {name} limit 1"""
        found = sql.execute(query).fetchone()
        if found is not None:
            raise repeats_error(opened.name, column, *found)


def nulls_error(place: str, column: str, count: int) -> LookalikeError:
    """Return the error for rows without a key."""
    return LookalikeError(
        f"{count:,} rows of {place} have no {column!r}: fill it, or leave these rows out; nothing "
        "was changed"
    )


def repeats_error(place: str, column: str, key: int | str, count: int) -> LookalikeError:
    """Return the error for rows with the same key."""
    return LookalikeError(
        f"{count:,} rows of {place} have the {column!r} {key!r}: keys may not repeat; nothing was "
        "changed"
    )


def plan_rows(
    stored: EmbeddingTable,
    listing: Sequence[Path],
    folder: Path,
    on_change: OnChange | None = None,
) -> Plan:
    """Compare a listing with `listed_columns` with an index.

    The `to_read` of the result has the columns of the listing and `id`, in the order of `row` if
    there is one.
    """
    to_read, first_id, name = folder / "wanted.parquet", stored.next_id, stored.name_column
    with stored.connect(folder) as sql:
        create_view(sql, "listing", *listing)
        assert stored.own is not None
        columns = [one.replace('"', '""') for one in listed_columns(stored.own)]
        pairs = (f'listing."{one}" is distinct from stored."{one}"' for one in columns)
        differs = " or ".join(pairs)
        sql.execute(
            f"""create temp table todo as
            select listing.*, stored.id as old
            from listing left join stored on listing.{name} = stored.{name}
            where stored.id is null or {differs}"""
        )
        sql.execute(
            f"""create temp table gone as
            select id, {name} from stored anti join listing using ({name})"""
        )
        order = "row" if _has_rows(sql) else name
        query = f"""
            select * exclude (old), $first_id + row_number() over (order by {order}) - 1 as id
            from todo order by id"""
        write_parquet(sql, query, to_read, {"first_id": first_id})
        (listed,) = fetch_row(sql, "select count() from listing")
        new, changed = fetch_row(sql, "select count() - count(old), count(old) from todo")
        gone = query_ids(sql, "select id from gone")
        if on_change is not None:
            query = f"""
                select if(old is null, '+', '~'), {name}::varchar from todo
                union all select '-', {name}::varchar from gone"""
            report_changes(sql, query, on_change)
    same = listed - new - changed
    return Plan(to_read, first_id, listed, new, changed, same, gone, None, NO_IDS)


def _has_rows(sql: "DuckDBPyConnection") -> bool:
    return "row" in sql.table("todo").columns


def map_wanted(to_read: Path, file: Path) -> npt.NDArray[np.int64]:
    """Return the rows to read and their ids, int64 (2, n), written to `file` and mapped."""
    with pq.ParquetFile(to_read) as opened:
        count = opened.metadata.num_rows
        made = new_array(file, np.dtype(np.int64), 2 * count).reshape(2, count)
        start = 0
        for batch in opened.iter_batches(columns=["row", "id"]):
            stop = start + batch.num_rows
            made[0, start:stop] = batch["row"].to_numpy()
            made[1, start:stop] = batch["id"].to_numpy()
            start = stop
    return load_wanted(file)


def load_wanted(file: Path) -> npt.NDArray[np.int64]:
    """Map what `map_wanted` has written."""
    mapped: npt.NDArray[np.int64] = np.load(file, mmap_mode="r").reshape(2, -1)
    return mapped
