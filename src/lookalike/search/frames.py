"""The rows of an index as a stream of Arrow, or as a DataFrame of pandas or Polars."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from lookalike.errors import LookalikeError
from lookalike.spark import session
from lookalike.storage.protocol import HasTable
from lookalike.storage.schema import KEY
from lookalike.storage.segments import row_batches
from lookalike.system.extras import require

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    from pyspark.sql import DataFrame, SparkSession


def to_arrow(self: HasTable, columns: Sequence[str] | None = None) -> pa.RecordBatchReader:
    """Return the rows of the index as a stream of Arrow, a batch in memory at a time.

    DuckDB, Polars, pandas and Arrow's datasets read such a stream; `read_all()` makes a table.

    Parameters
    ----------
    columns : list of str, optional
        Only these columns, in this order: `id, path, label, width, height, size, modified,
        content_hash, status, reason, embedding`. Where your vectors have keys, `id` has these.

    Returns
    -------
    pyarrow.RecordBatchReader

    Raises
    ------
    LookalikeError
        For an unknown column; while it is read, for a data file that is missing or damaged.

    Examples
    --------
    >>> index.to_arrow(["id", "path"]).read_all().num_rows == len(photos)
    True

    """
    table = self._table
    shown = {name: name for name in table.schema.names if name != KEY}
    if table.has_keys:
        shown["id"] = KEY
    wanted = list(shown) if columns is None else list(columns)
    if unknown := [name for name in wanted if name not in shown]:
        raise LookalikeError(f"no column {unknown[0]!r}: choose {', '.join(shown)}")
    stored = [shown[name] for name in wanted]
    schema = pa.schema([(name, table.schema.field(shown[name]).type) for name in wanted])

    def batches() -> Iterator[pa.RecordBatch]:
        for file in table.files():
            for batch in row_batches(file, list(dict.fromkeys(stored))):
                yield pa.RecordBatch.from_arrays([batch[name] for name in stored], schema=schema)

    return pa.RecordBatchReader.from_batches(schema, batches())


def to_pandas(self: HasTable, columns: Sequence[str] | None = None) -> "pd.DataFrame":
    """Return the rows of the index as a pandas DataFrame, in memory.

    Parameters and errors are those of `to_arrow`. Without `embedding` it takes little memory.

    Examples
    --------
    >>> list(index.to_pandas(["id", "label"]).columns)
    ['id', 'label']

    """
    require("to_pandas", "pandas")
    frame: pd.DataFrame = to_arrow(self, columns).read_pandas()
    return frame


def to_polars(self: HasTable, columns: Sequence[str] | None = None) -> "pl.DataFrame":
    """Return the rows of the index as a Polars DataFrame, in memory.

    Parameters and errors are those of `to_arrow`. Without `embedding` it takes little memory.

    Examples
    --------
    >>> index.to_polars(["id", "label"]).columns
    ['id', 'label']

    """
    require("to_polars", "polars")
    import polars as pl

    return pl.DataFrame(to_arrow(self, columns))


def to_spark(self: HasTable, spark: "SparkSession | None" = None) -> "DataFrame":
    """Return the index as a Spark DataFrame: `id, path, label, ..., embedding`.

    Where your vectors have keys, `id` has these.
    """
    table = self._table
    frame = table.dataframe(spark or session())
    return frame.withColumn("id", frame["key"]).drop("key") if table.has_keys else frame
