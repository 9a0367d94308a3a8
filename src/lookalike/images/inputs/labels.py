"""Read labels from a CSV file, such as Stanford Cars' `,x1,y1,x2,y2,Class,image`."""

import codecs
import csv as rows_of_text
import io
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as pq

from lookalike.errors import LookalikeError, one_line
from lookalike.images.inputs.file_opening import open_file
from lookalike.images.inputs.file_types import is_image
from lookalike.images.inputs.source import encode_path, is_uri

SCHEMA = pa.schema({"name": pa.string(), "label": pa.string()})
# Predicates of an error, for one name and for several.
CONFLICTING = ("has more than one label: keep one", "have more than one label: keep one")
AMBIGUOUS = ("fits several photos: give paths instead", "fit several photos: give paths instead")
MAX_EXAMPLES = 5  # names in an error
_DELIMITERS = ",;\t|"
_BYTE_ORDER_MARKS = {  # UTF-32 first: it begins as UTF-16 does
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_COMPRESSED = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4"}
_MAX_HEADER_BYTES = 2**16
_CHUNK_BYTES = 2**24
# Matches the names that `os.path.normpath` or `encode_path` may change.
_NOT_NORMAL = r"[%\x00-\x1f\x7f]|//|(^|/)\.\.?(/|$)|/$"


@dataclass(frozen=True)
class _Layout:
    """The format of a label file. `name` and `label` are the numbers of its two columns."""

    encoding: str
    delimiter: str
    header_lines: int
    columns: int
    name: int
    label: int
    quoted: bool  # it contains quotation marks, so that a row may take several lines


def open_labels(
    path: str | Path, image_column: str = "image", label_column: str = "Class"
) -> Iterator[pa.RecordBatch]:
    """Check the header of a label file and return its rows as batches of `SCHEMA`.

    Values are separated by commas, semicolons, tabs or bars, in UTF-8 or UTF-16. The two columns
    are stripped; rows that lack one are left out. `name` is encoded as image paths are.

    Parameters
    ----------
    path
        The file or its URI; it may be compressed.
    image_column, label_column
        The names of the two columns.

    Raises
    ------
    LookalikeError
        If the file is no CSV or lacks a column; while iterating, if a row is damaged.

    """
    path = os.fspath(path)
    try:
        layout = _read_layout(path, image_column, label_column)
        batches = _batches(path, layout)
        return itertools.chain([next(batches)], batches)  # raises if there is no label
    except OSError as error:
        raise LookalikeError(f"cannot read the labels: {encode_path(path)}: {error}") from None


def _open(path: str) -> "pa.NativeFile":
    """Open a local file or an object, decompressed by its ending.

    The bytes belong to Arrow. Its threads read ahead, and those of Python objects could outlive
    the interpreter, which ends the process with SIGABRT.
    """
    with _spooled(path) if is_uri(path) else open(path, "rb") as opened:
        file = pa.OSFile(f"/dev/fd/{opened.fileno()}")  # its name need not be UTF-8
    codec = _COMPRESSED.get(os.path.splitext(path)[1].lower())
    return pa.CompressedInputStream(file, codec) if codec else file


@contextmanager
def _spooled(path: str) -> Iterator[IO[bytes]]:
    """Yield a temporary file with the content of an object."""
    with tempfile.TemporaryFile() as spool:
        with open_file(path) as file:
            shutil.copyfileobj(file, spool)
        spool.flush()
        yield spool


def _read_layout(path: str, image_column: str, label_column: str) -> _Layout:
    with _open(path) as file:
        chunk = head = file.read(_MAX_HEADER_BYTES)
        marks = _BYTE_ORDER_MARKS.items()
        encoding = next((name for mark, name in marks if head.startswith(mark)), None)
        if encoding is None:
            pairs = head[: len(head) // 2 * 2]
            zeros = [pairs[at::2].count(0) * 4 > len(pairs) for at in (0, 1)]  # half of the bytes
            encoding = {(False, True): "utf-16-le", (True, False): "utf-16-be"}.get(tuple(zeros))
        while not (quoted := b'"' in chunk) and (chunk := file.read(_CHUNK_BYTES)):
            pass
    text = codecs.getincrementaldecoder(encoding or "utf-8-sig")("replace").decode(head)
    wanted = (image_column.strip(), label_column.strip())
    for delimiter in _DELIMITERS:
        lines = rows_of_text.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        header = [name.strip() for name in next(filter(None, lines), [])]
        if all(name in header for name in wanted):
            break
    else:
        raise _header_error(path, text, wanted)
    for name in wanted:
        if header.count(name) > 1:
            raise LookalikeError(
                f"{encode_path(path)} has the column {name!r} {header.count(name)} times: "
                "rename all but one"
            )
    at = [header.index(name) for name in wanted]
    return _Layout(
        encoding or "utf-8", delimiter, lines.line_num, len(header), at[0], at[1], quoted
    )


def _header_error(path: str, text: str, wanted: Sequence[str]) -> LookalikeError:
    first = text.strip().partition("\n")[0].strip()[:200]
    shown = encode_path(path)
    if not first:
        return LookalikeError(f"{shown} is no CSV with a header (it is empty): give another file")
    if any(is_image(value.strip(' "')) for value in _split(first)):
        return LookalikeError(
            f"{shown} has no header, its first line is {first!r}: put a line with the names of "
            f"the columns above it, such as {','.join(wanted)!r} for those that count"
        )
    return LookalikeError(
        f"{shown} lacks the column {wanted[0]!r} or {wanted[1]!r}; its header is {first!r}: "
        "set `image_name` and `label_name`"
    )


def _split(line: str) -> Iterator[str]:
    for delimiter in _DELIMITERS:
        yield from line.split(delimiter)


def _batches(path: str, layout: _Layout) -> Iterator[pa.RecordBatch]:
    columns = [str(column) for column in range(layout.columns)]
    picked = [columns[layout.name], columns[layout.label]]
    # Bytes if all columns are read: the others may be no text.
    type_ = pa.binary() if layout.quoted else pa.string()
    rows = 0
    checked = False
    try:
        with (
            _open(path) as file,
            csv.open_csv(
                file,
                csv.ReadOptions(
                    column_names=columns, skip_rows=layout.header_lines, encoding=layout.encoding
                ),
                csv.ParseOptions(delimiter=layout.delimiter, newlines_in_values=layout.quoted),
                csv.ConvertOptions(
                    include_columns=columns if layout.quoted else list(dict.fromkeys(picked)),
                    column_types=dict.fromkeys(columns, type_),
                    strings_can_be_null=False,  # a class may be called NA
                ),
            ) as reader,
        ):
            for batch in reader:
                if layout.quoted and not checked and _has_line_breaks(batch):
                    checked = True
                    _check_rows(path, layout)
                names, labels = (
                    pc.utf8_trim_whitespace(batch[column].cast(pa.string())) for column in picked
                )
                batch = pa.RecordBatch.from_arrays(
                    [_normalise_names(names), _compose_accents(labels)], schema=SCHEMA
                )
                batch = batch.filter(pc.and_(pc.not_equal(names, ""), pc.not_equal(labels, "")))
                rows += batch.num_rows
                if batch.num_rows:
                    yield batch
    except (pa.ArrowInvalid, UnicodeError) as error:
        if str(error) != "Empty CSV file":
            _check_rows(path, layout)
            raise LookalikeError(f"{encode_path(path)} is damaged: {one_line(error)}") from None
    if rows == 0:
        raise no_labels(path)


def no_labels(path: str | None = None) -> LookalikeError:
    """Return the error for a label file without rows."""
    file = "the label file" if path is None else encode_path(path)
    return LookalikeError(f"{file} holds no labels: leave `labels` out or choose another file")


def _has_line_breaks(batch: pa.RecordBatch) -> bool:
    return any(
        pc.any(pc.match_substring(column, sign)).as_py() for column in batch for sign in "\r\n"
    )


def _normalise_names(names: pa.Array) -> pa.Array:
    """Write names as image paths are stored. Few of them change."""
    odd = pc.match_substring_regex(names, _NOT_NORMAL)
    normal = [
        encode_path(name if is_uri(name) else os.path.normpath(name))
        for name in names.filter(odd).to_pylist()
    ]
    return pc.replace_with_mask(names, odd, pa.array(normal, pa.string())) if normal else names


def _compose_accents(labels: pa.Array) -> pa.Array:
    """Normalise labels to NFC: other forms look the same."""
    plain = pc.all(pc.string_is_ascii(labels)).as_py()
    return labels if plain else pc.utf8_normalize(labels, "NFC")


def _check_rows(path: str, layout: _Layout) -> None:
    """Raise an error for the first damaged row of a label file, if there is one."""
    with (
        _open(path) as file,
        io.TextIOWrapper(file, layout.encoding, "surrogateescape", newline="") as text,
    ):
        rows = rows_of_text.reader(text, delimiter=layout.delimiter, strict=True)
        line = 1
        try:
            for row in rows:
                problem = None if line <= layout.header_lines or not row else _fault(row, layout)
                if problem is not None:
                    break
                line = rows.line_num + 1
            else:
                return
        except rows_of_text.Error:  # text behind a closing quote, or the end within quotes
            problem = "a quote is not closed, or one within a value is not doubled"
        except UnicodeError:
            problem = f"it is not {layout.encoding.upper()}: save the file as UTF-8"
    raise LookalikeError(f"{encode_path(path)}, line {line}: {problem}")


def _fault(row: list[str], layout: _Layout) -> str | None:
    if len(row) != layout.columns:
        return f"{len(row)} values, and its header has {layout.columns}: {row[0][:40]!r}"
    # An unclosed quote swallows whole rows.
    lines = itertools.chain.from_iterable(value.splitlines()[1:] for value in row)
    if any(line.count(layout.delimiter) == layout.columns - 1 for line in lines):
        return "a quote opens here and is not closed before the next line"
    for value in (row[layout.name], row[layout.label]):
        if any("\udc80" <= letter <= "\udcff" for letter in value):  # bytes that are not UTF-8
            guess = value.encode("utf-8", "surrogateescape").decode("cp1252", "replace")
            return f"not UTF-8, but perhaps Windows-1252 ({guess!r}): save the file as UTF-8"
    return None


def write_labels(batches: Iterator[pa.RecordBatch], path: Path) -> None:
    """Write labels to a Parquet file, one batch in memory at a time."""
    with pq.ParquetWriter(path, SCHEMA) as writer:
        for batch in batches:
            writer.write_batch(batch)


def names_in_doubt(count: int, first: Sequence[str], meaning: tuple[str, str]) -> LookalikeError:
    """Return the error for `count` names that are `CONFLICTING` or `AMBIGUOUS`; show the first."""
    more = ", ..." if count > len(first) else ""
    one, several = meaning
    what = (
        f"1 name in the label file {one}"
        if count == 1
        else (f"{count:,} names in the label file {several}")
    )
    return LookalikeError(f"{what}: {', '.join(first)}{more}")
