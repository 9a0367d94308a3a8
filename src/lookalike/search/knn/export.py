"""The k nearest neighbours of many queries, as a Spark DataFrame or a folder of Parquet."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, cast

from lookalike.errors import LookalikeError
from lookalike.search.engines import KNN_ENGINES, KnnEngine, check_engine
from lookalike.search.knn.join import JoinPlan, plan_join
from lookalike.search.knn.sources import FrameRows, IndexRows
from lookalike.search.rows import check_k, check_recall
from lookalike.spark import is_frame, local_uri, progress, session
from lookalike.storage import EmbeddingTable
from lookalike.storage.protocol import HasTable
from lookalike.storage.schema import KEY
from lookalike.system.defaults import TARGET_RECALL
from lookalike.system.files import check_free, put_in_place, staging_folder
from lookalike.system.paths import Name, local_path

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from lookalike.search.knn.cost import Cost


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

    table: EmbeddingTable | None = field(repr=False)
    queries: EmbeddingTable | None = field(repr=False)
    """Whose images are the queries; None where these are rows of a DataFrame."""
    make_plan: Callable[[], JoinPlan] = field(repr=False)
    k: int
    target: float = field(default=TARGET_RECALL, repr=False)
    """The recall that was asked for."""

    def explain(self) -> "Cost":
        """Say what finding the neighbours will cost, from some seconds of sampling.

        Returns
        -------
        Cost
            Rows, regions, visits, bytes that travel, memory of a task, core-hours.

        Raises
        ------
        LookalikeError
            For other queries than the rows of the index.

        """
        from lookalike.search.knn.cost import estimate

        if self.table is None or self.queries is not self.table:
            raise LookalikeError("only the neighbours of the rows of an index are explained")
        return estimate(session(), self.table, self.k, self.target)

    @cached_property
    def plan(self) -> JoinPlan:
        """How the neighbours will be found. Spark measures it on first use."""
        return self.make_plan()

    @property
    def recall(self) -> float | None:
        """The share of the true neighbours that is found, as drawn queries say: 1 if all are."""
        return self.plan.recall

    def to_spark(self) -> "DataFrame":
        """Return the neighbours as a Spark DataFrame, which is computed when it is used."""
        return self.plan.run()

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
        spark = self.plan.spark if "plan" in self.__dict__ else session()
        with progress(spark, "finding neighbours"), staging_folder(out) as staging:
            found = self.to_spark()
            if paths:
                found = _with_paths(spark, found, self.queries, self.table)
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

        def plan() -> JoinPlan:
            spark = session()
            asked = None if opened is None else rows_of_index(spark, opened)
            return plan_join(spark, rows_of_index(spark, table), k, asked, engine, recall)

        return NeighborTable(table, opened or table, plan, k, recall)
    spark = opened.sparkSession
    items = rows_of_index(spark, table)
    asked = FrameRows.of(opened, id_column, column, items.width, table.metric)
    planned = plan_join(spark, items, k, asked, engine, recall)
    return NeighborTable(table, None, lambda: planned, k)


def rows_of_index(spark: "SparkSession", table: EmbeddingTable) -> IndexRows:
    """Return the rows of an index with the keys that a user's table gave them, or their ids."""
    return IndexRows(spark, table, _key(table))


def _key(table: EmbeddingTable) -> str:
    return KEY if table.has_keys else "id"


def check_same_model(table: EmbeddingTable, other: EmbeddingTable) -> None:
    """Raise `LookalikeError` unless the vectors of two tables can be compared."""
    if table.about_model["fingerprint"] != other.about_model["fingerprint"]:
        raise LookalikeError(
            f"{other.path} was made with another model than {table.path}: "
            f"index its images again with `like={table.path}`"
        )


def _with_paths(
    spark: "SparkSession",
    found: "DataFrame",
    queries: EmbeddingTable | None,
    rows: EmbeddingTable | None,
) -> "DataFrame":
    columns = ["query_id", "rank", "neighbor_id", "distance"]
    for side, table in (("neighbor", rows), ("query", queries)):
        if table is not None:
            columns.insert(columns.index(f"{side}_id") + 1, f"{side}_path")
            names = table.dataframe(spark).selectExpr(
                f"{_key(table)} AS {side}_id", f"path AS {side}_path"
            )
            found = found.join(names, f"{side}_id")
    return found.select(*columns)
