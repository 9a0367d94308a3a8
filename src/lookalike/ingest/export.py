"""Steps 3 and 4: write embeddings to a CSV file or to Parquet, with a list of skipped images."""

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
    Photos,
    Report,
    discover_changes,
    embed_all,
    nothing_readable_error,
    prepare,
    rows_with_status,
)
from lookalike.models import quantization
from lookalike.spark import is_spark_available, local_uri, session
from lookalike.storage import EmbeddingTable, SegmentRecord
from lookalike.storage.schema import ROW
from lookalike.system.files import check_free, put_in_place, staging_folder
from lookalike.system.paths import Name, local_path
from lookalike.system.untrusted import without_formulas

_SKIPPED_SCHEMA = pa.schema([("path", pa.string()), ("reason", pa.string())])


def write_embeddings(
    photos: Photos,
    out: Name,
    options: Options,
    overwrite: bool = False,
    *,
    no_formulas: bool = False,
) -> Report:
    """Steps 3 and 4: embed all images into a CSV file, or into a folder of Parquet files.

    CSV has the columns `image, label, e0, e1, ...`, Parquet `image, label, embedding`; rows are in
    the order of ids. Skipped images are listed with their reasons in `skipped_file(out)`.

    Parameters
    ----------
    photos
        Folders, files or globs; or one URI or table of images; or a DataFrame of images.
    out
        A CSV file if its name ends in `.csv`, else a folder.
    options
        How to read and embed.
    overwrite
        Replace an earlier result.
    no_formulas
        Put an apostrophe before names and labels that a spreadsheet would run as a formula. For CSV
        only.

    Raises
    ------
    LookalikeError
        If an option is wrong, `out` is taken, or no image can be read.

    """
    out = local_path(out)
    if no_formulas and not is_csv(out):
        raise LookalikeError(
            f"`no_formulas` is for CSV, but {out} would be Parquet: choose an `out` ending in .csv"
        )
    out = out.absolute()
    skipped = skipped_file(out)
    check_free(out, overwrite)
    replace_skipped = overwrite or not out.exists()  # a list without its result is outdated
    check_free(skipped, replace_skipped)
    if skipped.exists() and not _is_skipped_file(skipped):
        raise LookalikeError(f"{skipped} was not written by lookalike: choose another `out`")
    if out.is_dir() and not (out / "_SUCCESS").exists():  # Spark writes it into its results
        raise LookalikeError(f"{out} was not written by lookalike: choose another `out`")
    with quantization.preload(options.precision == "int8"):
        job = prepare(photos, options)
        if job.vectors is not None:
            raise LookalikeError("these are vectors already: index them with `lookalike index`")
        with staging_folder(out) as staging:
            folder = staging / "data"
            folder.mkdir()
            found = discover_changes(job, None, staging)
            job = found.settle(job)
            written: list[SegmentRecord] = []
            done = embed_all(job, found.inputs, folder, lambda wave, _: written.extend(wave))
            if not written:
                raise images.no_images_error(job.rooted, job.ignored)
            files = [Path(row["path"]) for row in sorted(written, key=lambda row: row["first_id"])]
            if not done.images:
                raise nothing_readable_error(files, job.ignored)
            fresh = staging / "out"
            if is_csv(out):
                _write_csv(files, fresh, done.model.width, no_formulas)
            else:
                _write_parquet(files, fresh)
            _write_skipped(files, staging / "skipped", no_formulas)
            put_in_place(fresh, out, overwrite=overwrite)
            put_in_place(staging / "skipped", skipped, overwrite=replace_skipped)
    return Report.of(done, found.labelled, job.ignored)


def is_csv(out: Path) -> bool:
    """Tell whether `write_embeddings` writes a CSV file for this name, not a folder of Parquet."""
    return out.suffix.lower() == ".csv"


def skipped_file(out: Path) -> Path:
    """Return the file in which `write_embeddings` lists skipped images."""
    return out.with_name(f"{out.name}.skipped.csv")


def _is_skipped_file(skipped: Path) -> bool:
    header = b",".join(f'"{name}"'.encode() for name in _SKIPPED_SCHEMA.names) + b"\n"
    if not skipped.is_file():
        return False
    with skipped.open("rb") as opened:
        return opened.readline(len(header)) == header


def export_csv(stored: EmbeddingTable, out: Name, *, no_formulas: bool = False) -> None:
    """Step 4: write the embeddings of a table to a CSV file, as `write_embeddings` does."""
    out = local_path(out).absolute()
    with staging_folder(out) as staging:
        width = int(stored.about_model["width"])
        _write_csv(stored.files(), staging / "out", width, no_formulas)
        put_in_place(staging / "out", out)


def _write_csv(files: Sequence[Path], out: Path, width: int, no_formulas: bool) -> None:
    """Stream segments into one CSV file. Numbers are written without loss of precision."""
    schema = pa.schema(
        [("image", pa.string()), ("label", pa.string())]
        + [(f"e{i}", pa.float32()) for i in range(width)]
    )
    with csv.CSVWriter(str(out), schema) as writer:
        for batch in rows_with_status(files, "ok", ["path", "label", "embedding"]):
            vectors = batch["embedding"].flatten().to_numpy().reshape(batch.num_rows, width)
            columns = [pa.array(column) for column in np.ascontiguousarray(vectors.T)]
            texts = [_cells(batch[name], no_formulas) for name in ("path", "label")]
            rows = [*texts, *columns]
            writer.write_batch(pa.RecordBatch.from_arrays(rows, schema=schema))


def _write_parquet(files: Sequence[Path], out: Path) -> None:
    if not is_spark_available():  # the segments are in order: no need to start Spark
        out.mkdir()
        schema = pa.schema([("image", pa.string()), ROW.field("label"), ROW.field("embedding")])
        with pq.ParquetWriter(out / "part-00000.parquet", schema) as writer:
            for batch in rows_with_status(files, "ok", ["path", "label", "embedding"]):
                writer.write_batch(pa.RecordBatch.from_arrays(batch.columns, schema=schema))
        (out / "_SUCCESS").touch()
        return
    from pyspark.sql import functions as F

    rows = session().read.parquet(*map(local_uri, files)).filter("status = 'ok'").orderBy("id")
    table = rows.select(F.col("path").alias("image"), "label", "embedding")
    table.write.parquet(local_uri(out))


def _write_skipped(files: Sequence[Path], out: Path, no_formulas: bool) -> None:
    with csv.CSVWriter(str(out), _SKIPPED_SCHEMA) as writer:
        for batch in rows_with_status(files, "skipped", _SKIPPED_SCHEMA.names):
            rows = [_cells(column, no_formulas) for column in batch.columns]
            writer.write_batch(pa.RecordBatch.from_arrays(rows, schema=_SKIPPED_SCHEMA))


def _cells(column: pa.Array, no_formulas: bool) -> pa.Array:
    return without_formulas(column) if no_formulas else column
