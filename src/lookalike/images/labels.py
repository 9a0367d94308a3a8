"""Labels from a CSV file, such as Stanford Cars' `,x1,y1,x2,y2,Class,image`."""

import codecs
import csv as rows_of_text
import io
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as pq

from lookalike.errors import LookalikeError, one_line
from lookalike.images.kinds import is_image
from lookalike.images.source import encode_path, is_uri

SCHEMA = pa.schema({"name": pa.string(), "label": pa.string()})
# What is said of one name, and of several.
CONFLICTING = ("has more than one label: keep one", "have more than one label: keep one")
AMBIGUOUS = ("fits several photos: give paths instead", "fit several photos: give paths instead")
EXAMPLES = 5  # names in an error, out of however many
_DELIMITERS = ",;\t|"
_MARKS = {  # the longer first: UTF-32 begins as UTF-16 does
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_COMPRESSED = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4"}
_HEAD = 2**16  # bytes in which the header is looked for
_CHUNK = 2**24  # bytes read at once to find a quote
# What `os.path.normpath` and `encode_path` may change of a name.
_TO_NORMALISE = r"[%\x00-\x1f\x7f]|//|(^|/)\.\.?(/|$)|/$"


@dataclass(frozen=True)
class _Layout:
    """How a label file is written: its encoding, and where in its rows the two columns are.

    `header` is the number of lines that the header takes, `columns` that of values in a row.
    Unless `quoted` there is no quotation mark in it, and every row is a line.
    """

    encoding: str
    delimiter: str
    header: int
    columns: int
    name: int
    label: int
    quoted: bool


def open_labels(
    path: str | Path, image_column: str = "image", label_column: str = "Class"
) -> Iterator[pa.RecordBatch]:
    """Check a label file's header, then give its rows in batches of `SCHEMA`.

    Commas, semicolons, tabs or bars stand between values, in UTF-8 or UTF-16. Only the two columns
    are read, as text, without blanks around it; rows that lack one are left out. `name` is encoded
    as image paths are. Raises `LookalikeError` at once where a column is missing or the file is no
    CSV, and, where that shows, for a row that is damaged or a quote that is not closed.
    """
    path = os.fspath(path)
    try:
        layout = _layout(path, image_column, label_column)
        batches = _batches(path, layout)
        return itertools.chain([next(batches)], batches)  # now: is there any label?
    except OSError as error:
        raise LookalikeError(f"cannot read the labels: {encode_path(path)}: {error}") from None


def _open(path: str) -> "pa.NativeFile":
    """Open a file that may be compressed, as its name says."""
    file = pa.PythonFile(open(path, "rb"), "r")  # noqa: SIM115 - pyarrow closes it
    codec = _COMPRESSED.get(os.path.splitext(path)[1].lower())
    return pa.CompressedInputStream(file, codec) if codec else file


def _layout(path: str, image_column: str, label_column: str) -> _Layout:
    with _open(path) as file:
        chunk = head = file.read(_HEAD)
        encoding = next((name for mark, name in _MARKS.items() if head.startswith(mark)), None)
        if encoding is None:
            pairs = head[: len(head) // 2 * 2]
            zeros = [pairs[at::2].count(0) * 4 > len(pairs) for at in (0, 1)]  # half of the bytes
            encoding = {(False, True): "utf-16-le", (True, False): "utf-16-be"}.get(tuple(zeros))
        while not (quoted := b'"' in chunk) and (chunk := file.read(_CHUNK)):
            pass
    text = codecs.getincrementaldecoder(encoding or "utf-8-sig")("replace").decode(head)
    wanted = (image_column.strip(), label_column.strip())
    for delimiter in _DELIMITERS:
        lines = rows_of_text.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        header = [name.strip() for name in next(filter(None, lines), [])]
        if all(name in header for name in wanted):
            break
    else:
        raise _no_header(path, text, wanted)
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


def _no_header(path: str, text: str, wanted: Sequence[str]) -> LookalikeError:
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
    # As bytes where all are read: those of other columns need be no text.
    kind = pa.binary() if layout.quoted else pa.string()
    rows = 0
    several = False  # lines in one value
    try:
        with (
            _open(path) as file,
            csv.open_csv(
                file,
                csv.ReadOptions(
                    column_names=columns, skip_rows=layout.header, encoding=layout.encoding
                ),
                csv.ParseOptions(delimiter=layout.delimiter, newlines_in_values=layout.quoted),
                csv.ConvertOptions(
                    include_columns=columns if layout.quoted else list(dict.fromkeys(picked)),
                    column_types=dict.fromkeys(columns, kind),
                    strings_can_be_null=False,  # a class may well be called NA
                ),
            ) as reader,
        ):
            for batch in reader:
                if layout.quoted and not several and _has_lines(batch):
                    several = True
                    _refuse_fault(path, layout)
                names, labels = (pc.utf8_trim_whitespace(_text(batch[one])) for one in picked)
                batch = pa.RecordBatch.from_arrays(
                    [_normal(names), _composed(labels)], schema=SCHEMA
                )
                batch = batch.filter(pc.and_(pc.not_equal(names, ""), pc.not_equal(labels, "")))
                rows += batch.num_rows
                if batch.num_rows:
                    yield batch
    except (pa.ArrowInvalid, UnicodeError) as error:
        if str(error) != "Empty CSV file":  # nothing below the header
            _refuse_fault(path, layout)
            raise LookalikeError(f"{encode_path(path)} is damaged: {one_line(error)}") from None
    if rows == 0:
        raise no_labels(path)


def no_labels(path: str | None = None) -> LookalikeError:
    """Return the error for a label file with a header and nothing below it."""
    file = "the label file" if path is None else encode_path(path)
    return LookalikeError(f"{file} holds no labels: leave `labels` out or choose another file")


def _text(column: pa.Array) -> pa.Array:
    return column if column.type == pa.string() else column.cast(pa.string())


def _has_lines(batch: pa.RecordBatch) -> bool:
    """Say whether any value has more than one line."""
    return any(
        pc.any(pc.match_substring(column, sign)).as_py() for column in batch for sign in "\r\n"
    )


def _normal(names: pa.Array) -> pa.Array:
    """Bring names to the form that image paths have; few of them are not in it already."""
    odd = pc.match_substring_regex(names, _TO_NORMALISE)
    normal = [
        encode_path(name if is_uri(name) else os.path.normpath(name))
        for name in names.filter(odd).to_pylist()
    ]
    return pc.replace_with_mask(names, odd, pa.array(normal, pa.string())) if normal else names


def _composed(labels: pa.Array) -> pa.Array:
    """Write letters with accents in one way: it shows in none of them which is meant."""
    plain = pc.all(pc.string_is_ascii(labels)).as_py()
    return labels if plain else pc.utf8_normalize(labels, "NFC")


def _refuse_fault(path: str, layout: _Layout) -> None:
    """Raise the error for the first row of a label file that is not as it should be, if any is."""
    with (
        _open(path) as file,
        io.TextIOWrapper(file, layout.encoding, "surrogateescape", newline="") as text,
    ):
        rows = rows_of_text.reader(text, delimiter=layout.delimiter, strict=True)
        line = 1
        try:
            for row in rows:
                problem = None if line <= layout.header or not row else _fault(row, layout)
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
    # Rows that a value has swallowed look as rows do.
    lines = itertools.chain.from_iterable(value.splitlines()[1:] for value in row)
    if any(line.count(layout.delimiter) == layout.columns - 1 for line in lines):
        return "a quote opens here and is not closed before the next line"
    for value in (row[layout.name], row[layout.label]):
        if any("\udc80" <= letter <= "\udcff" for letter in value):  # bytes that are no text
            meant = value.encode("utf-8", "surrogateescape").decode("cp1252", "replace")
            return f"not UTF-8, but perhaps Windows-1252 ({meant!r}): save the file as UTF-8"
    return None


def write_labels(batches: Iterator[pa.RecordBatch], path: Path) -> None:
    """Write labels to a Parquet file, one batch in memory at a time."""
    with pq.ParquetWriter(path, SCHEMA) as writer:
        for batch in batches:
            writer.write_batch(batch)


def names_in_doubt(count: int, first: Sequence[str], meaning: tuple[str, str]) -> LookalikeError:
    """Return the error for names that are `CONFLICTING` or `AMBIGUOUS`, the `first` few shown."""
    more = ", ..." if count > len(first) else ""
    one, several = meaning
    what = (
        f"1 name in the label file {one}"
        if count == 1
        else (f"{count:,} names in the label file {several}")
    )
    return LookalikeError(f"{what}: {', '.join(first)}{more}")
