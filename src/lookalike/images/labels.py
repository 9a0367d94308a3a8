"""Labels from a CSV file, such as Stanford Cars' `,x1,y1,x2,y2,Class,image`."""

import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq

from lookalike.errors import LookalikeError
from lookalike.images.sources import encode_path

SCHEMA = pa.schema({"name": pa.string(), "label": pa.string()})
CONFLICTING = "have more than one label: keep one"
AMBIGUOUS = "fit several photos: give paths instead"
EXAMPLES = 5  # names in an error, out of however many


def open_labels(
    path: str | Path, image_column: str = "image", label_column: str = "Class"
) -> Iterator[pa.RecordBatch]:
    """Check a label file's header, then give its rows in batches of `SCHEMA`.

    Only the two columns are read, the label as text. `name` is encoded as image paths are.
    Raises `LookalikeError` at once where a column is missing or the file is no CSV.
    """
    path = os.fspath(path)
    try:
        reader = csv.open_csv(
            path,
            parse_options=csv.ParseOptions(newlines_in_values=True),
            convert_options=csv.ConvertOptions(
                include_columns=[image_column, label_column],
                column_types={image_column: pa.string(), label_column: pa.string()},
                strings_can_be_null=True,
                null_values=[""],  # a class may well be called NA
            ),
        )
    except OSError as error:
        raise LookalikeError(f"cannot read the labels: {error}") from None
    except KeyError:
        raise LookalikeError(
            f"{path} lacks the column {image_column!r} or {label_column!r}; its header is "
            f"{_header(path)!r}: name the right ones with --image-name and --label-name"
        ) from None
    except pa.ArrowInvalid as error:
        advice = "save it as UTF-8" if "UTF8" in str(error) else "give another file"
        raise LookalikeError(
            f"{path} is no CSV with a header ({_first_line(error)}): {advice}"
        ) from None
    batches = _batches(reader, path)
    return itertools.chain([next(batches)], batches)  # the first one now: is there any label?


def _batches(reader: csv.CSVStreamingReader, path: str) -> Iterator[pa.RecordBatch]:
    rows = 0
    try:
        for batch in reader:
            names = [None if n is None else _normal(n) for n in batch.column(0).to_pylist()]
            batch = pa.RecordBatch.from_arrays(
                [pa.array(names, pa.string()), batch.column(1)], schema=SCHEMA
            )
            batch = batch.drop_null()
            rows += batch.num_rows
            if batch.num_rows:
                yield batch
    except pa.ArrowInvalid as error:
        raise LookalikeError(f"{path} is damaged: {_first_line(error)}") from None
    if rows == 0:
        raise LookalikeError(f"{path} holds no labels: leave --labels out or give another file")


def _normal(name: str) -> str:
    return encode_path(os.path.normpath(name.strip()))


def _header(path: str) -> str:
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        return file.readline().strip()[:200]


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


def write_labels(batches: Iterator[pa.RecordBatch], path: Path) -> None:
    """Write labels to a Parquet file, one batch in memory at a time."""
    with pq.ParquetWriter(path, SCHEMA) as writer:
        for batch in batches:
            writer.write_batch(batch)


def names_in_doubt(count: int, first: Sequence[str], meaning: str) -> LookalikeError:
    """Return the error for names that are `CONFLICTING` or `AMBIGUOUS`, the `first` few shown."""
    more = ", ..." if count > len(first) else ""
    return LookalikeError(f"{count} names in the label file {meaning}: {', '.join(first)}{more}")
