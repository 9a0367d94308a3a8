"""The vectors of another model for all images of an index, grown beside the old ones.

They lie in an index of their own, wave by wave, so that a killed run is continued.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from lookalike import images
from lookalike.images.inputs.listing import write_listing
from lookalike.images.inputs.spark_reader import image_frame
from lookalike.ingest.embedding import embed_all, nothing_readable_error, waves
from lookalike.ingest.job_inputs import Inputs, PathSet
from lookalike.ingest.options import Job
from lookalike.models import Model
from lookalike.spark import progress, session
from lookalike.storage import (
    EmbeddingTable,
    SegmentRecord,
    commits,
    discard,
    forget_all,
    is_index,
    new_data_folder,
    write_segment,
)
from lookalike.storage.commits import (
    FULL_SEGMENT_ROWS,
    Ids,
    may_pass,
    passing_reasons,
    query_ids,
)
from lookalike.storage.schema import ROW
from lookalike.system.files import delete
from lookalike.system.progress import progress_line
from lookalike.system.sql import connect, create_view, fetch_row

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_BATCH_ROWS = 1024
_GONE = "no such file"  # the reason for an image that its table or URI has no longer


class Replacement:
    """The vectors of another model for an index, with the ids of the old ones.

    Attributes
    ----------
    embedded : int
        Number of inputs that were read.

    """

    def __init__(self, job: Job, path: Path, staging: Path) -> None:
        self._job, self._path, self._staging = job, path, staging
        self._table: EmbeddingTable | None = None
        self.embedded = 0

    def resume(self, precision: str) -> None:
        """Open what a killed run has left, or delete it if it has another model or source.

        What could not be read for a reason that may have passed is read again.
        """
        if not is_index(self._path):
            return
        kept = EmbeddingTable.open(self._path)
        same = (kept.full_model, kept.source) == (self._job.full_model, self._job.source)
        if not (same and precision in ("auto", kept.about_model["precision"])):
            forget_all(self._path)
            for entry in self._path.iterdir():
                if entry.name != ".writers":
                    delete(entry)
            return
        if self._job.full.function is not None:
            kept.attach(self._job.full)
        model = kept.model
        self._table = commits.remove(kept, self._to_read_again, "upgrade")
        self._job = replace(self._job, full=model, precision=model.precision, chosen=True)

    def _to_read_again(self, kept: EmbeddingTable) -> Ids:
        with kept.connect(self._staging) as sql:
            query = f"select id from stored where status = 'skipped' and {may_pass('stored')}"
            return query_ids(sql, query, {"passing": passing_reasons()})

    def follow(self, stored: EmbeddingTable) -> bool:
        """Embed the images of a version that have no new vector yet; tell whether there were any.

        An image that a table has no longer is skipped, with the reason.
        """
        listing = self._staging / "upgrade.parquet"
        count = self._list(stored, listing)
        if not count:
            return False
        self.embedded += count
        if stored.source.kind != "table":
            self._embed(Inputs(count, listing))
            return True
        spark = session()
        with progress(spark, "listing images"):
            found = image_frame(spark, stored.source, self._staging)
        wanted = PathSet.of(listing, self._staging / "upgrade.npy")
        self._embed(Inputs(count, frame=found.images, paths=wanted), listing)
        if gone := self._list(stored, listing, _GONE):
            self._embed(Inputs(gone, listing), local=True)
        return True

    def switch(self, stored: EmbeddingTable) -> EmbeddingTable:
        """Commit the new vectors of all rows of a version.

        Raises `Conflict` if it has a successor by now.
        """
        assert self._table is not None
        folder = stored.new_folder()
        try:
            with self._both(stored) as sql, progress_line("switching"):
                own = [name for name in stored.schema.names if name not in ROW.names]
                kept = dict.fromkeys(("id", "path", "label", *own), "stored")
                columns = _columns("new", stored.schema, **kept)
                query = f"select {columns} from stored join new using (id) order by stored.id"
                written = _write(sql, query, folder, stored.schema)
            return stored.switch(self._table.model, written, self._job.full_model)
        finally:
            discard(stored.path, folder, stored.version)

    def _list(self, stored: EmbeddingTable, listing: Path, reason: str | None = None) -> int:
        """Write a listing of the images without a new vector; return their number."""
        with self._both(stored) as sql:
            query = """
                select id, path, label, $reason::varchar as reason, size, modified
                from stored anti join new using (id) order by id"""
            write_listing(sql, query, listing, {"reason": reason})
            return int(fetch_row(sql, "select count() from stored anti join new using (id)")[0])

    @contextmanager
    def _both(self, stored: EmbeddingTable) -> Iterator["DuckDBPyConnection"]:
        """Yield a connection with the views `stored`, of the index, and `new`."""
        with stored.connect(self._staging) as sql:
            if self._table is None:
                sql.register("new", ROW.empty_table())
            else:
                self._table.view(sql, "new")
            yield sql

    def _embed(self, inputs: Inputs, listing: Path | None = None, *, local: bool = False) -> None:
        """Embed inputs into this index, wave by wave; `listing` has the ids of those of a frame."""
        job = replace(self._job, spark=False) if local else self._job
        folder = new_data_folder(self._path)
        since = -1 if self._table is None else self._table.version
        held: list[SegmentRecord] = []  # an index is created only with an embedded image

        def deliver(written: list[SegmentRecord], model: Model) -> None:
            if listing is not None:
                written = self._with_ids(written, listing, folder)
            held.extend(written)
            if self._table is not None:
                rows = sum(row["rows"] for row in held)
                self._table = self._table.commit("upgrade", held, rows_added=rows)
            elif any(row["embedded"] for row in held):
                self._table = EmbeddingTable.create(
                    self._path, job.source, model, held, job.full_model
                )
            else:
                return
            held.clear()

        try:
            embed_all(job, inputs, folder, deliver)
            if self._table is None and not held:
                raise images.no_images_error(job.rooted, job.ignored)
            if self._table is None:
                raise nothing_readable_error([Path(row["path"]) for row in held], job.ignored)
        finally:
            discard(self._path, folder, since)

    def _with_ids(
        self, written: list[SegmentRecord], listing: Path, folder: Path
    ) -> list[SegmentRecord]:
        """Write segments again with the ids that a listing gives their paths."""
        with connect(self._staging) as sql:
            create_view(sql, "listing", listing)
            create_view(sql, "made", *(Path(row["path"]) for row in written))
            query = f"""
                select {_columns("made", id="listing")} from made join listing using (path)
                order by listing.id"""
            return _write(sql, query, folder)


def _columns(usual: str, schema: pa.Schema = ROW, **others: str) -> str:
    """Return the columns of a schema for SQL: those in `others` from these tables."""
    return ", ".join(f'{others.get(name, usual)}."{name}"' for name in schema.names)


def _write(
    sql: "DuckDBPyConnection", query: str, folder: Path, schema: pa.Schema = ROW
) -> list[SegmentRecord]:
    """Write the rows of a query as segments; a batch is in memory at a time."""
    batches = (
        pa.RecordBatch.from_arrays(
            [batch[name].cast(schema.field(name).type) for name in schema.names], schema=schema
        )
        for batch in sql.sql(query).to_arrow_reader(_BATCH_ROWS)
    )
    groups = (write_segment(wave, folder) for wave in waves(batches, FULL_SEGMENT_ROWS))
    return [row for group in groups for batch in group for row in batch.to_pylist()]
