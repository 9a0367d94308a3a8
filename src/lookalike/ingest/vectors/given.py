"""Tell what is given as vectors: an array, a table of Arrow, a DataFrame of Spark, or files."""

import os
import sys
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, Union

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lookalike.errors import LookalikeError, one_line
from lookalike.ingest.vectors.in_memory import ArrowTable, batches_of, open_array
from lookalike.ingest.vectors.opening import open_files
from lookalike.ingest.vectors.tables import OwnTable
from lookalike.models import CallableModel
from lookalike.spark import is_frame
from lookalike.storage.own_vectors import Metric
from lookalike.system.paths import Name

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


TableLike: TypeAlias = Union[npt.NDArray[Any], pa.Table, pa.RecordBatchReader, "DataFrame"]
"""Vectors of this process: an array (n, width), a table or reader of Arrow, a DataFrame of Spark,
or what Arrow can read as a stream: DataFrames of pandas and Polars."""


class VectorOptions(Protocol):
    """The options that say how to read a table of vectors (`lookalike.ingest.Options`)."""

    @property
    def embedding_column(self) -> str | None: ...  # noqa: D102 - described there
    @property
    def id_column(self) -> str | None: ...  # noqa: D102
    @property
    def path_column(self) -> str | None: ...  # noqa: D102
    @property
    def keep_columns(self) -> Sequence[str]: ...  # noqa: D102
    @property
    def label_column(self) -> str | None: ...  # noqa: D102
    @property
    def image_column(self) -> str | None: ...  # noqa: D102
    @property
    def labels(self) -> Name | None: ...  # noqa: D102
    @property
    def metric(self) -> Metric: ...  # noqa: D102
    @property
    def model(self) -> str | CallableModel: ...  # noqa: D102
    @property
    def weights(self) -> str: ...  # noqa: D102
    @property
    def precision(self) -> str: ...  # noqa: D102
    @property
    def like(self) -> Name | None: ...  # noqa: D102


_READER_ROWS = 256
SAMPLE_ROWS = 1_000
"""Rows whose most frequent width is that of the index."""


def are_vectors(given: Any, options: VectorOptions) -> bool:
    """Tell whether vectors are given, rather than images."""
    if options.embedding_column is not None or is_table(given):
        return True
    names = [given] if isinstance(given, str | os.PathLike) else given
    if not isinstance(names, list | tuple):
        return False
    return len(names) == 1 and str(names[0]).lower().endswith(".npy")


def is_table(given: Any) -> bool:
    """Tell whether an array, a table of Arrow or a DataFrame of Spark is given."""
    if isinstance(given, np.ndarray | pa.RecordBatch) or is_frame(given):
        return True
    return hasattr(given, "__arrow_c_stream__") or _is_dataset(given)


def _is_dataset(given: Any) -> bool:
    if "pyarrow.dataset" not in sys.modules:
        return False
    import pyarrow.dataset as pds

    return isinstance(given, pds.Dataset)


def check_columns(options: VectorOptions) -> None:
    """Raise `LookalikeError` for options of vectors where images are given."""
    for name in ("id_column", "path_column"):
        if getattr(options, name) is not None:
            raise LookalikeError(
                f"`{name}` is for vectors and DataFrames: for vectors give `embedding_column` too"
            )
    if options.metric != "cosine":
        raise LookalikeError("`metric` is for vectors: give `embedding_column` too")


def table_of(
    given: Any, column: str
) -> tuple[OwnTable, pa.RecordBatchReader | None, list[pa.Array]]:
    """Return the table; of a reader also the reader, and its first vectors."""
    here = os.getcwd()
    if isinstance(given, np.ndarray):
        return open_array(given), None, []
    if isinstance(given, pa.RecordBatch):
        given = pa.Table.from_batches([given])
    elif not isinstance(given, pa.Table | pa.RecordBatchReader) and is_table(given):
        given = given if _is_dataset(given) else _stream_of(given)
    if isinstance(given, pa.RecordBatchReader):
        batches = batches_of(given)
        begin = list(_first_rows(batches))
        first = [one[column] for one in begin if column in given.schema.names]
        whole = pa.RecordBatchReader.from_batches(given.schema, chain(begin, batches))
        return ArrowTable(given.schema.empty_table(), None, here), whole, first
    if isinstance(given, pa.Table) or _is_dataset(given):
        return ArrowTable(given, None, here), None, []
    names = [given] if isinstance(given, str | os.PathLike) else list(given)
    if not names or not all(isinstance(name, str | os.PathLike) for name in names):
        raise LookalikeError("vectors are a table: name its file or folder, or give it as it is")
    return open_files([os.fspath(name) for name in names], column), None, []


def reader_of(given: Any) -> pa.RecordBatchReader:
    """Return a reader of a table, reader or dataset of Arrow, or of what Arrow can stream.

    Raises `LookalikeError` for what is no table.
    """
    if isinstance(given, pa.RecordBatchReader):
        return given
    if isinstance(given, pa.RecordBatch):
        given = pa.Table.from_batches([given])
    if isinstance(given, pa.Table):
        return given.to_reader(_READER_ROWS)
    if _is_dataset(given):
        scanner = given.scanner(batch_size=_READER_ROWS, batch_readahead=2, fragment_readahead=1)
        return scanner.to_reader()
    return _stream_of(given)


def _stream_of(given: Any) -> pa.RecordBatchReader:
    try:
        return pa.RecordBatchReader.from_stream(given)
    except pa.ArrowException as error:  # such as a single column
        raise LookalikeError(
            f"{type(given).__name__} is no table ({one_line(error)}): give a table"
        ) from None


def _first_rows(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    rows = 0
    for batch in batches:
        yield batch
        rows += batch.num_rows
        if rows >= SAMPLE_ROWS:
            return
