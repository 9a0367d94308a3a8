"""Move an index to another model: embed all images beside it, then switch in one commit.

The new vectors grow wave by wave in an index of their own, in the folder `_upgrade` of the index.
A killed run continues there. Until the commit, every search answers from the old vectors.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lookalike.errors import LookalikeError
from lookalike.images.inputs.listing import write_listing
from lookalike.images.inputs.spark_reader import image_frame
from lookalike.ingest.embedding import embed_all, nothing_readable_error, waves
from lookalike.ingest.job_inputs import Inputs, PathSet
from lookalike.ingest.options import Job, Options, prepare
from lookalike.ingest.waves import compact_and_measure
from lookalike.models import Model, quantization
from lookalike.search.evaluation import by_label
from lookalike.search.searcher import Searcher
from lookalike.spark import progress, session
from lookalike.storage import (
    EmbeddingTable,
    SegmentRecord,
    discard,
    forget_all,
    is_index,
    new_data_folder,
    working,
    write_segment,
    writing,
)
from lookalike.storage.commits import FULL_SEGMENT_ROWS, MAX_COMMIT_ATTEMPTS
from lookalike.storage.errors import Conflict
from lookalike.storage.schema import ROW
from lookalike.system.files import delete_folder
from lookalike.system.progress import progress_line
from lookalike.system.sql import connect, create_view, fetch_row

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_FOLDER = "_upgrade"  # of the new vectors, in the folder of the index
_LABELLED_QUERIES = 1000
_BATCH_ROWS = 1024
_GONE = "no such file"  # the reason for an image that its table or URI has no longer


@dataclass(frozen=True)
class Upgraded:
    """The result of an upgrade.

    Attributes
    ----------
    version : int
        The version of the index.
    embedded : int
        Number of inputs that this run read; 0 where the index had the model already.
    before, after : dict
        The model, the number of `images` and `skipped` inputs, the measured `recall`, and of
        labelled images `R@1`, `P@5` and `mAP@R`, with the old and the new model.

    """

    version: int
    embedded: int
    before: dict[str, Any] = field(default_factory=dict)
    after: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the result as `--json` prints it."""
        return asdict(self)


def upgrade(stored: EmbeddingTable, options: Options) -> tuple[EmbeddingTable, Upgraded]:
    """Embed all images of an index with another model, and switch to it in one commit.

    Ids, paths and labels stay. Images that other processes add or remove meanwhile are followed.
    Older versions keep the old model.

    Parameters
    ----------
    stored
        The table of the index.
    options
        The model, and how to read and embed.

    Returns
    -------
    The newest table, and the figures that moved.

    Raises
    ------
    LookalikeError
        If the model cannot be loaded, another process upgrades the index, or no image can be read.
        The index is then as it was.

    """
    stored = stored.newest()
    if stored.own is not None:
        raise LookalikeError(
            f"{stored.path} holds vectors of your own, which no model here made: index the new "
            "ones into another `out`"
        )
    with quantization.preload(options.precision == "int8"):
        job = prepare((), options, located=stored.source)
    beside = stored.path / _FOLDER
    if job.full_model == stored.full_model and options.precision in ("auto", _precision(stored)):
        _delete(beside)
        return stored, Upgraded(stored.version, 0)
    before = _figures(stored)
    with working(stored.path) as staging, _locked(beside):
        new = _Beside(job, beside, staging)
        new.resume(options.precision)
        for _ in range(MAX_COMMIT_ATTEMPTS):
            stored = stored.newest()
            while new.follow(stored):
                stored = stored.newest()
            try:
                stored = new.switch(stored)
                break
            except Conflict:  # another process has added or removed images
                continue
        else:
            raise LookalikeError(f"others keep writing into {stored.path}: try again")
    _delete(beside)
    stored = compact_and_measure(stored)
    return stored, Upgraded(stored.version, new.embedded, before, _figures(stored))


class _Beside:
    """The new vectors of an index, with the ids of the old ones, in an index of their own."""

    def __init__(self, job: Job, path: Path, staging: Path) -> None:
        self._job, self._path, self._staging = job, path, staging
        self._table: EmbeddingTable | None = None
        self.embedded = 0

    def resume(self, precision: str) -> None:
        """Open what a killed run has left, or delete it if it has another model or source."""
        if not is_index(self._path):
            return
        kept = EmbeddingTable.open(self._path)
        same = (kept.full_model, kept.source) == (self._job.full_model, self._job.source)
        if same and precision in ("auto", _precision(kept)):
            if self._job.full.function is not None:
                kept.attach(self._job.full)
            model = kept.model
            self._table = kept
            self._job = replace(self._job, full=model, precision=model.precision, chosen=True)
            return
        forget_all(self._path)
        for entry in self._path.iterdir():
            if entry.name != ".writers":
                delete_folder(entry) if entry.is_dir() else entry.unlink()

    def follow(self, stored: EmbeddingTable) -> bool:
        """Embed the images of a version that have no new vector yet; tell whether there were any.

        An image that a table or a URI has no longer is skipped, with the reason.
        """
        listing = self._staging / "upgrade.parquet"
        count = self._list(stored, listing)
        if not count:
            return False
        self.embedded += count
        if stored.source.kind == "files":
            self._embed(Inputs(count, listing))
            return True
        spark = session()
        with progress(spark, "listing images"):
            frame, _, _ = image_frame(spark, stored.source, self._staging, None)
        wanted = PathSet.of(listing, self._staging / "upgrade.npy")
        self._embed(Inputs(count, frame=frame, paths=wanted), listing)
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
                columns = _columns("new", id="stored", path="stored", label="stored")
                query = f"select {columns} from stored join new using (id) order by stored.id"
                written = _write(sql, query, folder)
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
                create = partial(EmbeddingTable.create, self._path, job.source, model)
                self._table = create(held, job.full_model)
            else:
                return
            held.clear()

        try:
            embed_all(job, inputs, folder, deliver)
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


def _columns(usual: str, **others: str) -> str:
    """Return the columns of `ROW` for SQL: those in `others` from these tables."""
    return ", ".join(f"{others.get(name, usual)}.{name}" for name in ROW.names)


def _write(sql: "DuckDBPyConnection", query: str, folder: Path) -> list[SegmentRecord]:
    """Write the rows of a query as segments; a batch is in memory at a time."""
    batches = (
        pa.RecordBatch.from_arrays(
            [batch[name].cast(ROW.field(name).type) for name in ROW.names], schema=ROW
        )
        for batch in sql.sql(query).to_arrow_reader(_BATCH_ROWS)
    )
    groups = (write_segment(wave, folder) for wave in waves(batches, FULL_SEGMENT_ROWS))
    return [row for group in groups for batch in group for row in batch.to_pylist()]


@contextmanager
def _locked(beside: Path) -> Iterator[None]:
    """Create the folder of the new vectors and lock it.

    Raises `LookalikeError` if another process upgrades the index.
    """
    beside.mkdir(exist_ok=True)
    try:
        with writing(beside, alone=True):
            yield
    except LookalikeError as error:
        if "is busy" not in str(error):
            raise
        raise LookalikeError(
            f"another process is upgrading {beside.parent}: try again when that is done"
        ) from None


def _delete(beside: Path) -> None:
    """Delete the new vectors, which the index has by now."""
    if beside.exists():
        forget_all(beside)
        delete_folder(beside)


def _precision(stored: EmbeddingTable) -> str:
    return str(stored.about_model["precision"])


def _figures(stored: EmbeddingTable) -> dict[str, Any]:
    """Return what an upgrade may change."""
    searcher = Searcher(stored)
    images, skipped = stored.counts()
    figures = by_label(searcher.rows, _LABELLED_QUERIES) if images > 1 else {}
    about = ("backbone", "weights", "precision", "width")
    return {
        **{name: stored.about_model[name] for name in about},
        "images": images,
        "skipped": skipped,
        "recall": searcher.known_recall(),
        **figures,
    }
