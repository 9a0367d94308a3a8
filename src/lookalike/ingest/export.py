"""Steps 3 and 4: embeddings as a CSV file or as Parquet, with the reasons for what was skipped."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq

from lookalike import images
from lookalike.errors import LookalikeError
from lookalike.ingest import (
    Options,
    Report,
    embed_all,
    look,
    nothing_readable,
    prepare,
    stored_rows,
)
from lookalike.models import quantization
from lookalike.spark import is_at_hand, local_uri, session
from lookalike.storage import EmbeddingTable, SegmentRecord
from lookalike.storage.schema import ROW
from lookalike.system.files import make_free, put_in_place, staging_folder
from lookalike.system.paths import Name, local_path
from lookalike.system.untrusted import without_formulas

_SKIPPED = pa.schema([("path", pa.string()), ("reason", pa.string())])


def build_table(
    photos: Name | Sequence[Name],
    out: Name,
    options: Options,
    overwrite: bool = False,
    *,
    no_formulas: bool = False,
) -> Report:
    """Steps 3 and 4: embed all images into a CSV file or, if `out` has no `.csv`, into Parquet.

    CSV has the columns `image, label, e0, e1, ...`, Parquet `image, label, embedding`; images in
    the order of their ids. What this run skipped stands beside it, with reasons: `skipped_of(out)`.
    With `no_formulas`, which is for CSV, a spreadsheet takes no name or label for a formula: those
    that begin like one get an apostrophe.
    """
    out = local_path(out)
    if no_formulas and not is_csv(out):
        raise LookalikeError(f"formulas are a matter of CSV files, and {out} will be Parquet")
    out = out.absolute()
    skipped = skipped_of(out)
    make_free(out, overwrite)
    of_none = not out.exists()  # what such a file there is tells of is gone
    make_free(skipped, overwrite or of_none)
    if skipped.exists() and not _is_ours(skipped):
        raise LookalikeError(f"{skipped} is a file of something else: choose another `out`")
    if out.is_dir() and not (out / "_SUCCESS").exists():  # which Spark leaves in what it wrote
        raise LookalikeError(f"{out} is a folder of something else: choose another `out`")
    with quantization.preload(options.precision == "int8"):
        job = prepare(photos, options)
        with staging_folder(out) as staging:
            folder = staging / "data"
            folder.mkdir()
            found = look(job, None, staging)
            written: list[SegmentRecord] = []
            done = embed_all(job, found.inputs, folder, lambda wave, _: written.extend(wave))
            if not written:
                raise images.no_images_error(job.rooted, job.ignored)
            files = [Path(row["path"]) for row in sorted(written, key=lambda row: row["first_id"])]
            if not done.images:
                raise nothing_readable(files, job.ignored)
            fresh = staging / "out"
            if is_csv(out):
                _write_csv(files, fresh, done.model.width, no_formulas)
            else:
                _write_parquet(files, fresh)
            _write_skipped(files, staging / "skipped", no_formulas)
            put_in_place(fresh, out, overwrite=overwrite)
            put_in_place(staging / "skipped", skipped, overwrite=overwrite or of_none)
    return Report.of(done, found.labelled, job.ignored)


def is_csv(out: Path) -> bool:
    """Tell whether `build_table` makes a CSV file of this name, and not a folder of Parquet."""
    return out.suffix.lower() == ".csv"


def skipped_of(out: Path) -> Path:
    """Return the file in which `build_table` says what it skipped, named after what it makes."""
    return out.with_name(f"{out.name}.skipped.csv")


def _is_ours(skipped: Path) -> bool:
    header = b",".join(f'"{name}"'.encode() for name in _SKIPPED.names) + b"\n"
    if not skipped.is_file():
        return False
    with skipped.open("rb") as there:
        return there.readline(len(header)) == header


def export_csv(stored: EmbeddingTable, out: Name, *, no_formulas: bool = False) -> None:
    """Step 4: write the embeddings of a collection to a CSV file, as `build_table` does."""
    out = local_path(out).absolute()
    with staging_folder(out) as staging:
        width = int(stored.about_model["width"])
        _write_csv(stored.files(), staging / "out", width, no_formulas)
        put_in_place(staging / "out", out)


def _write_csv(files: Sequence[Path], out: Path, width: int, no_formulas: bool) -> None:
    """Stream data files into one CSV file. Numbers are written so that they read back the same."""
    schema = pa.schema(
        [("image", pa.string()), ("label", pa.string())]
        + [(f"e{i}", pa.float32()) for i in range(width)]
    )
    with csv.CSVWriter(str(out), schema) as writer:
        for batch in stored_rows(files, "ok", ["path", "label", "embedding"]):
            vectors = batch["embedding"].flatten().to_numpy().reshape(batch.num_rows, width)
            columns = [pa.array(column) for column in np.ascontiguousarray(vectors.T)]
            texts = [_text(batch[name], no_formulas) for name in ("path", "label")]
            rows = [*texts, *columns]
            writer.write_batch(pa.RecordBatch.from_arrays(rows, schema=schema))


def _write_parquet(files: Sequence[Path], out: Path) -> None:
    if not is_at_hand():  # in order as they are: nothing to start Spark for
        out.mkdir()
        schema = pa.schema([("image", pa.string()), ROW.field("label"), ROW.field("embedding")])
        with pq.ParquetWriter(out / "part-00000.parquet", schema) as writer:
            for batch in stored_rows(files, "ok", ["path", "label", "embedding"]):
                writer.write_batch(pa.RecordBatch.from_arrays(batch.columns, schema=schema))
        (out / "_SUCCESS").touch()
        return
    from pyspark.sql import functions as F

    rows = session().read.parquet(*map(local_uri, files)).filter("status = 'ok'").orderBy("id")
    table = rows.select(F.col("path").alias("image"), "label", "embedding")
    table.write.parquet(local_uri(out))


def _write_skipped(files: Sequence[Path], out: Path, no_formulas: bool) -> None:
    with csv.CSVWriter(str(out), _SKIPPED) as writer:
        for batch in stored_rows(files, "skipped", _SKIPPED.names):
            rows = [_text(column, no_formulas) for column in batch.columns]
            writer.write_batch(pa.RecordBatch.from_arrays(rows, schema=_SKIPPED))


def _text(column: pa.Array, no_formulas: bool) -> pa.Array:
    return without_formulas(column) if no_formulas else column
