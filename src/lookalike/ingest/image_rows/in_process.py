"""Rows of Arrow, pandas and Polars: their batches come once, and are kept on the disk."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lookalike.images.inputs.image_columns import GROUP_ROWS, arrow_column
from lookalike.ingest.image_rows import rows as names
from lookalike.ingest.image_rows.given import ImageRows
from lookalike.ingest.image_rows.rows import RowReader
from lookalike.ingest.job_inputs import PathSet
from lookalike.ingest.vectors.in_memory import batches_of

_SPOOLED_ROWS = 256  # of a row group


def reduced(given: ImageRows, batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return the columns of a batch that are needed, under the names of `rows`."""
    own, count = given.columns, batch.num_rows
    assert own.image_column is not None
    image = arrow_column(batch[own.image_column], given.kind)

    def given_column(name: str | None, kind: pa.DataType) -> pa.Array:
        return pa.nulls(count, kind) if name is None else batch[name]

    path = given_column(own.path_column, pa.string())
    if given.kind == "path":
        path = image
    elif given.name_field is not None:
        path = _field(batch[own.image_column], given.name_field)
    columns = {
        names.PATH: path.cast(pa.string()),
        names.LABEL: given_column(own.label_column, pa.string()),
        names.SIZE: pa.nulls(count, pa.int64()),
        names.TIME: pa.nulls(count, pa.int64()),
        **{name: batch[name] for name, _ in own.kept},
    }
    if own.id_column is not None:
        columns[names.NAME] = batch[own.id_column]
    if given.kind != "path":
        columns[names.IMAGES] = image
    return pa.RecordBatch.from_pydict(columns)


def _field(column: pa.Array, name: str) -> pa.Array:
    at = column.type.get_field_index(name)
    return column.flatten()[at]


def spool(given: ImageRows, reader: RowReader, folder: Path, *, hashed: bool) -> Path | None:
    """Write a listing of rows into a folder; write their images, too, and return that file.

    Returns None for rows of paths, whose images are files.
    """
    assert given.reader is not None
    listing = folder / "rows.parquet"
    spooled = folder / "images.parquet"
    images: pq.ParquetWriter | None = None
    try:
        with pq.ParquetWriter(listing, reader.listing_schema) as listed:
            for whole in batches_of(given.reader):
                for start in range(0, whole.num_rows, _SPOOLED_ROWS):
                    batch = reduced(given, whole.slice(start, _SPOOLED_ROWS))
                    shown = batch
                    if names.IMAGES in batch.schema.names:
                        images = images or pq.ParquetWriter(
                            spooled, batch.schema, compression="lz4", use_dictionary=False
                        )
                        images.write_batch(batch)
                        if not hashed:
                            shown = batch.drop_columns([names.IMAGES])
                    for one in reader.list_rows([shown]):
                        listed.write_batch(one)
    finally:
        if images is not None:
            images.close()
    return None if images is None else spooled


def read_spooled(
    file: Path, reader: RowReader, first_id: int, wanted: PathSet | None
) -> Iterator[pa.RecordBatch]:
    """Yield the images of spooled rows, or of the wanted ones, with ids from `first_id` on."""

    def numbered() -> Iterator[pa.RecordBatch]:
        first = first_id
        with pq.ParquetFile(file, pre_buffer=False, buffer_size=2**20) as stored:
            for batch in stored.iter_batches(GROUP_ROWS, use_threads=False):
                ids = pa.array(range(first, first + batch.num_rows), pa.int64())
                first += batch.num_rows
                yield batch.append_column("id", ids)

    return reader.read_images(numbered(), wanted)
