"""Replace the numbers of rows by the keys that a user's table gives them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lookalike.storage import EmbeddingTable

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def with_keys(frame: "DataFrame", tables: Mapping[str, EmbeddingTable | None]) -> "DataFrame":
    """Return a DataFrame in which columns with numbers of rows have the keys of these rows.

    Parameters
    ----------
    frame : DataFrame
    tables : mapping of str to EmbeddingTable or None
        The columns, and the table whose rows each has. A table without keys changes nothing.

    """
    columns = frame.columns
    for column, table in tables.items():
        if table is None or not table.has_keys:
            continue
        keys = table.dataframe(frame.sparkSession).selectExpr(f"id AS {column}", "key AS _key")
        frame = frame.join(keys, column).drop(column).withColumnRenamed("_key", column)
    return frame.select(*columns)
