"""Convert the columns of a user's table: vectors to float32, keys, paths and labels to Arrow."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lookalike import images
from lookalike.errors import LookalikeError
from lookalike.models.embedder import have_direction, unit_rows
from lookalike.search.rows import MAX_LENGTH
from lookalike.storage.own_vectors import Metric
from lookalike.storage.schema import KeyType
from lookalike.system.arrays import Vectors

_NO_VECTOR = "no vector: null"
_NULLS = "the vector has nulls"
_NOT_FINITE = "the vector has numbers that are not finite"
_NO_DIRECTION = "a vector of zeros, or near zero, has no direction"
_TOO_LONG = f"the vector is longer than {MAX_LENGTH:g}"
_SPARK_FIELDS = {"type", "size", "indices", "values"}
_ODD_PATH = r"[%\x00-\x1f\x7f]"


class Parsed(NamedTuple):
    """Vectors of some rows of a batch, and the reasons why the others have none.

    Attributes
    ----------
    rows
        The rows with a vector, rising: int64 (m,).
    vectors
        float32 (m, width).
    reasons
        One for each row of the batch, None for a row with a vector.

    """

    rows: npt.NDArray[np.int64]
    vectors: Vectors
    reasons: list[str | None]


def is_vector_type(kind: pa.DataType) -> bool:
    """Tell whether a column of this type holds vectors: lists of numbers, or vectors of Spark."""
    if pa.types.is_null(kind):  # of none so far
        return True
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    if pa.types.is_struct(kind):
        names = {field.name for field in kind}
        return bool(names >= _SPARK_FIELDS)
    return _is_list(kind) and _is_number(kind.value_type)


def _is_list(kind: pa.DataType) -> bool:
    types = pa.types
    kinds = (types.is_list, types.is_large_list, types.is_fixed_size_list)
    return any(is_kind(kind) for is_kind in kinds)


def _is_number(kind: pa.DataType) -> bool:
    return any((pa.types.is_floating(kind), pa.types.is_integer(kind)))


def widths(column: pa.Array) -> npt.NDArray[np.int64]:
    """Return the number of numbers of each vector in a column, without nulls: int64 (n,)."""
    column = _storage(column).drop_null()
    if pa.types.is_struct(column.type):
        dense = pc.list_value_length(column.field("values"))
        column = pc.coalesce(column.field("size").cast(pa.int32()), dense)
    else:
        column = pc.list_value_length(column)
    found: npt.NDArray[np.int64] = pc.fill_null(column, 0).to_numpy(zero_copy_only=False)
    return found.astype(np.int64)


def parse(column: pa.Array, width: int, metric: Metric) -> Parsed:
    """Convert a column of vectors, row by row: each becomes a vector or a reason."""
    column = _storage(column)
    reasons = np.full(len(column), None, object)
    valid = column.is_valid().to_numpy(zero_copy_only=False)
    reasons[~valid] = _NO_VECTOR
    rows = np.flatnonzero(valid)
    lengths = widths(column)
    other = lengths != width
    for length in np.unique(lengths[other]).tolist():
        named = f"the vector has {length:,} numbers, not {width:,}"
        reasons[rows[lengths == length]] = named
    rows = rows[~other]
    some = column.take(pa.array(rows))
    if pa.types.is_struct(some.type):
        values, has_nulls = _spark_vectors(some, width)
    else:
        values, has_nulls = _matrix(_values(some), width)
    vectors = _usable(values, metric, rows, reasons)
    reasons[rows[has_nulls]] = _NULLS
    kept = reasons[rows] == None  # noqa: E711 - element by element
    return Parsed(rows[kept], np.ascontiguousarray(vectors[kept]), reasons.tolist())


def _usable(
    values: npt.NDArray[Any], metric: Metric, rows: npt.NDArray[np.int64], reasons: Any
) -> Vectors:
    """Return values (n, width) as vectors of a metric; write the reasons of those that are none."""
    finite = np.isfinite(values).all(axis=1)
    if metric == "cosine":
        vectors = unit_rows(values)
        reasons[rows[~have_direction(vectors)]] = _NO_DIRECTION
    else:
        with np.errstate(over="ignore", invalid="ignore"):
            vectors = values.astype(np.float32)
            lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
        reasons[rows[~(lengths <= MAX_LENGTH)]] = _TOO_LONG
    reasons[rows[~finite]] = _NOT_FINITE
    return vectors


def _storage(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if pa.types.is_null(column.type):  # as pandas writes a column without any value
        return column.cast(pa.list_(pa.float32()))
    return column.storage if isinstance(column, pa.ExtensionArray) else column


def _values(lists: pa.Array) -> pa.Array:
    """Return the numbers of lists without nulls, one after the other."""
    values = lists.flatten()
    return values.cast(pa.float32()) if pa.types.is_float16(values.type) else values


def _matrix(values: pa.Array, width: int) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
    """Return numbers as (n, width), and a mask of the rows with nulls."""
    shape = (len(values) // width, width)
    if not values.null_count:
        return values.to_numpy(zero_copy_only=False).reshape(shape), np.zeros(shape[0], bool)
    null = values.is_null().to_numpy(zero_copy_only=False).reshape(shape).any(axis=1)
    return pc.fill_null(values, 0).to_numpy(zero_copy_only=False).reshape(shape), null


def _spark_vectors(
    column: pa.Array, width: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Return vectors of Spark ML, dense or sparse, as (n, width), and a mask of odd ones."""
    counts, places = (
        pc.fill_null(pc.list_value_length(column.field(name)), -1).to_numpy(zero_copy_only=False)
        for name in ("values", "indices")
    )
    is_sparse = places >= 0
    odd = np.where(is_sparse, places != counts, counts != width)
    good = np.flatnonzero(~odd)
    some = column.take(pa.array(good))
    numbers = some.field("values").flatten()
    flat = pc.fill_null(numbers, 0).to_numpy(zero_copy_only=False)
    counts, is_sparse = counts[good], is_sparse[good]
    row = np.repeat(good, counts)
    place = np.arange(len(flat)) - np.repeat(np.cumsum(counts) - counts, counts)
    indices = some.field("indices").filter(pa.array(is_sparse)).flatten()
    place[np.repeat(is_sparse, counts)] = pc.fill_null(indices, -1).to_numpy(zero_copy_only=False)
    null = numbers.is_null().to_numpy(zero_copy_only=False)
    inside = (place >= 0) & (place < width)
    odd[row[~inside | null]] = True
    made = np.zeros((len(column), width))
    made[row[inside], place[inside]] = flat[inside]
    return made, odd


def key_type(kind: pa.DataType, column: str) -> KeyType:
    """Return the type of the keys in a column. Raises `LookalikeError` for what is no key."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_integer(kind):
        return "int64"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return "string"
    raise LookalikeError(
        f"column {column!r} holds {kind}, no keys: choose an `id_column` of whole numbers or "
        "strings"
    )


def keys(column: pa.Array, kind: KeyType, name: str) -> pa.Array:
    """Return a column of keys as int64 or string. Raises `LookalikeError` for other types."""
    if not pa.types.is_null(column.type) and key_type(column.type, name) != kind:
        raise LookalikeError(
            f"column {name!r} holds {column.type}, but the other keys are {kind}: "
            "give keys of one type"
        )
    return _cast(column, pa.int64() if kind == "int64" else pa.string(), name, "keys")


def texts(column: pa.Array, name: str) -> pa.Array:
    """Return a column of labels or paths as strings. Raises `LookalikeError` for other types."""
    return _cast(column, pa.string(), name, "texts")


def _cast(column: pa.Array, kind: pa.DataType, name: str, what: str) -> pa.Array:
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    try:
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        return column.cast(kind)
    except pa.ArrowException as error:
        detail = " ".join(str(error).split())[:200]
        raise LookalikeError(f"column {name!r} holds no {what} ({detail})") from None


def encoded(column: pa.Array, *, may_be: bool) -> pa.Array:
    """Percent-encode texts as `images.encode_path`; `may_be` keeps those that are encoded already.

    Few texts need it, so that most are not touched.
    """
    odd = pc.fill_null(pc.match_substring_regex(column, _ODD_PATH), False)
    if not pc.any(odd).as_py():
        return column

    def encode(text: str) -> str:
        if may_be and images.encode_path(images.decode_path(text)) == text:
            return text
        return images.encode_path(text)

    changed = pa.array([encode(text) for text in column.filter(odd).to_pylist()], pa.string())
    return pc.replace_with_mask(column, odd, changed)
