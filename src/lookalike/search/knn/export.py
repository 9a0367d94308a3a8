"""The k nearest neighbours of many queries, as a Spark DataFrame or a folder of Parquet."""

import atexit
import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from lookalike.errors import LookalikeError
from lookalike.search.columns import vector_column
from lookalike.search.engines import KNN_ENGINES, KnnEngine, check_engine
from lookalike.search.keys import with_keys
from lookalike.search.knn import knn_join, write_queries
from lookalike.search.rows import check_k, check_recall
from lookalike.spark import is_frame, local_uri, progress, session
from lookalike.spark.columns import column_of
from lookalike.storage import EmbeddingTable
from lookalike.storage.protocol import HasTable
from lookalike.system.defaults import TARGET_RECALL
from lookalike.system.files import check_free, put_in_place, staging_folder
from lookalike.system.paths import Name, local_path

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


@dataclass(frozen=True)
class NeighborTable:
    """The k nearest neighbours of many queries. Spark finds them when they are read or written.

    A row is a pair: `query_id, rank, neighbor_id, distance`. Where the user's vectors have keys,
    the ids are these.

    Examples
    --------
    >>> index.kneighbors(k=3)
    NeighborTable(k=3)

    """

    table: EmbeddingTable = field(repr=False)
    queries: EmbeddingTable | None = field(repr=False)
    """Whose images are the queries; None where these are rows of a DataFrame."""
    find: "Callable[[], DataFrame]" = field(repr=False)
    k: int

    def to_spark(self) -> "DataFrame":
        """Return the neighbours as a Spark DataFrame, which is computed when it is used."""
        return self._with_keys(self.find())

    def _with_keys(self, found: "DataFrame") -> "DataFrame":
        return with_keys(found, {"query_id": self.queries, "neighbor_id": self.table})

    def write(self, out: Name, *, paths: bool = False, overwrite: bool = False) -> "DataFrame":
        """Write the neighbours to a folder of Parquet, whole or not at all.

        Parameters
        ----------
        out : str or Path
            The folder to write.
        paths : bool
            Add the columns `query_path` and `neighbor_path`; rows of a DataFrame have no
            `query_path`.
        overwrite : bool
            Replace what was written there earlier.

        Returns
        -------
        pyspark.sql.DataFrame
            What was written.

        Raises
        ------
        LookalikeError
            If `out` exists and may not be replaced.

        """
        out = local_path(out).absolute()
        check_free(out, overwrite)
        if out.exists() and not (out / "_SUCCESS").exists():  # which Spark leaves in what it wrote
            raise LookalikeError(f"{out} is a folder of something else: choose another `out`")
        spark = session()
        with progress(spark, "finding neighbours"), staging_folder(out) as staging:
            found = self.find()
            if paths:
                asked = None if self.queries is None else self.queries.dataframe(spark)
                found = _with_paths(found, asked, self.table.dataframe(spark))
            found = self._with_keys(found)
            found.write.parquet(local_uri(staging / "out"))
            put_in_place(staging / "out", out, overwrite=overwrite)
        return spark.read.schema(found.schema).parquet(local_uri(out))


def kneighbors(
    self: HasTable,
    queries: "HasTable | Name | DataFrame | None" = None,
    k: int = 10,
    *,
    id_column: str = "id",
    column: str = "embedding",
    engine: KnnEngine = "auto",
    recall: float = TARGET_RECALL,
) -> NeighborTable:
    """Find the k nearest neighbours of many images at once, on Spark.

    Parameters
    ----------
    queries : Index, str, Path or pyspark.sql.DataFrame, optional
        Another index of the same model, or a DataFrame with a vector in each row. Without it, the
        images of this index, each of which is not its own neighbour.
    k : int
        Number of neighbours of each query.
    id_column, column : str
        Columns of the DataFrame: number or name of each query; its vector or array of numbers.
    engine, recall
        As for `search`.

    Returns
    -------
    NeighborTable
        Has `to_spark()` and `write(out)`: rows `query_id, rank, neighbor_id, distance`.

    Raises
    ------
    LookalikeError
        If an option is wrong, or the other index was made with another model.

    """
    table = self._table
    if isinstance(queries, str | os.PathLike):
        opened: EmbeddingTable | DataFrame | None = EmbeddingTable.open(queries)
    elif is_frame(queries):
        opened = cast("DataFrame", queries)
    else:
        opened = cast("EmbeddingTable | None", getattr(queries, "_table", queries))
    check_engine(engine, KNN_ENGINES)
    check_k(k)
    check_recall(recall)
    if opened is None or isinstance(opened, EmbeddingTable):
        if opened is not None:
            check_same_model(table, opened)
        find = partial(_of_table, table, opened, k, engine, recall)
        return NeighborTable(table, opened or table, find, k)
    found = _of_frame(table, opened, k, id_column, column, engine, recall)
    return NeighborTable(table, None, lambda: found, k)


def check_same_model(table: EmbeddingTable, other: EmbeddingTable) -> None:
    """Raise `LookalikeError` unless the vectors of two tables can be compared."""
    if table.about_model["fingerprint"] != other.about_model["fingerprint"]:
        raise LookalikeError(
            f"{other.path} was made with another model than {table.path}: "
            f"index its images again with `like={table.path}`"
        )


def _of_table(
    table: EmbeddingTable,
    queries: EmbeddingTable | None,
    k: int,
    engine: KnnEngine,
    recall: float,
) -> "DataFrame":
    segments = None if queries is None else queries.segments
    return knn_join(session(), table, k, segments, engine, recall)


def _with_paths(found: "DataFrame", queries: "DataFrame | None", rows: "DataFrame") -> "DataFrame":
    columns = ["query_id", "rank", "neighbor_id", "neighbor_path", "distance"]
    sides = {"neighbor": rows}
    if queries is not None:
        columns.insert(1, "query_path")
        sides["query"] = queries
    for side, table in sides.items():
        names = table.selectExpr(f"id AS {side}_id", f"path AS {side}_path")
        found = found.join(names, f"{side}_id")
    return found.select(*columns)


def _of_frame(
    table: EmbeddingTable,
    queries: "DataFrame",
    k: int,
    id_column: str,
    column: str,
    engine: KnnEngine,
    recall: float,
) -> "DataFrame":
    """Write the queries where all workers see them, and find their neighbours."""
    from pyspark.sql import functions as F
    from pyspark.sql.types import IntegralType

    for name in (column, id_column):
        if name not in queries.columns:
            raise LookalikeError(
                f"the queries have no column {name!r}, but {', '.join(queries.columns)}: choose one"
            )
    vector, number = vector_column(queries, column), column_of(queries, id_column)
    folder = query_folder(table)
    names = None
    if isinstance(queries.schema[id_column].dataType, IntegralType):
        rows = queries.select(number.cast("bigint").alias("id"), vector.alias("embedding"))
    else:
        # Written down: Spark numbers rows anew each time that it looks at them.
        numbers = F.monotonically_increasing_id()
        counted = queries.select(numbers.alias("id"), number.alias("name"), vector.alias("vector"))
        counted.write.parquet(local_uri(folder / "counted"))
        names = queries.sparkSession.read.parquet(local_uri(folder / "counted"))
        rows = names.select(
            F.when(F.col("name").isNotNull(), F.col("id")).alias("id"),
            F.col("vector").alias("embedding"),
        )
    stored = write_queries(rows, folder, int(table.about_model["width"]), table.metric)
    found = knn_join(queries.sparkSession, table, k, stored, engine, recall)
    if names is None:
        return found
    named = found.join(names.withColumnRenamed("id", "query_id"), "query_id")
    return named.select(F.col("name").alias("query_id"), *found.columns[1:])


def query_folder(table: EmbeddingTable) -> Path:
    """Return a new folder for queries beside an index, which is deleted when this process ends.

    Raises `LookalikeError` where nothing can be written there.
    """
    try:
        folder = _kept_to_the_end().enter_context(staging_folder(table.path)) / "queries"
        folder.mkdir()
        folder.chmod(0o1777)  # Spark's workers may be another user's
    except OSError as error:
        raise LookalikeError(
            f"the queries cannot be kept beside {table.path} ({error.strerror}): copy the "
            "index to where you may write"
        ) from None
    return folder


@cache
def _kept_to_the_end() -> contextlib.ExitStack:
    """Return what goes with the process."""
    stack = contextlib.ExitStack()
    atexit.register(stack.close)
    return stack
