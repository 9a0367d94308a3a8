"""The nearest rows of one DataFrame to those of another, without an index."""

from dataclasses import replace
from typing import TYPE_CHECKING

from lookalike.errors import LookalikeError
from lookalike.search.engines import KnnEngine
from lookalike.search.knn.export import NeighborTable
from lookalike.search.knn.join import plan_join
from lookalike.search.knn.sources import FrameRows
from lookalike.spark import is_frame
from lookalike.storage.own_vectors import Metric
from lookalike.system.defaults import TARGET_RECALL

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def nearest(
    queries: "DataFrame",
    items: "DataFrame",
    k: int = 10,
    recall: float = TARGET_RECALL,
    *,
    id_column: str = "id",
    column: str = "embedding",
    metric: Metric = "cosine",
    engine: KnnEngine = "auto",
) -> NeighborTable:
    """Find the k nearest rows of a Spark DataFrame to each row of another, without an index.

    Rows travel once, by region, as those of an index do; no machine holds all. Both DataFrames are
    read three times: write or cache them first where computing them takes long. Rows without a
    vector are left out.

    Parameters
    ----------
    queries, items : pyspark.sql.DataFrame
        With the columns `id_column` and `column`. They may be the same DataFrame; then each row is
        its own first neighbour.
    k : int
        Number of neighbours of each query.
    recall : float
        Target recall, above 0 and up to 1. Up to 10,000 items are compared exactly.
    id_column, column : str
        Number or name of each row; its vector or array of numbers.
    metric : {"cosine", "l2"}
        With `cosine` vectors are scaled to length 1, and distances are Euclidean between these.
        With `l2` they are compared as they are.
    engine : {"auto", "exact", "approximate"}

    Returns
    -------
    NeighborTable
        `to_spark()` and `write(out)` give rows `query_id, rank, neighbor_id, distance`; `recall` is
        the share of the true neighbours that is found, measured with drawn queries.

    Raises
    ------
    LookalikeError
        If an option is wrong, or the vectors cannot be compared.

    Examples
    --------
    >>> from lookalike.spark import session
    >>> rows = [(1, [1.0, 0.0]), (2, [0.0, 1.0]), (3, [0.8, 0.6])]
    >>> items = session().createDataFrame(rows, "id int, embedding array<double>")
    >>> found = lookalike.nearest(items.where("id = 3"), items.where("id < 3"), k=1)
    >>> found.to_spark().select("query_id", "neighbor_id").collect()
    [Row(query_id=3, neighbor_id=1)]

    """
    for frame in (queries, items):
        if not is_frame(frame):
            raise LookalikeError(
                f"`nearest` takes two Spark DataFrames, not {type(frame).__name__}: make an index "
                "of your vectors (`lookalike.create_index`), or a Spark DataFrame of them"
            )
    if metric not in ("cosine", "l2"):
        raise LookalikeError(f"unknown metric {metric!r}: choose cosine or l2")
    rows = FrameRows.of(items, id_column, column, None, metric, "items")
    asked = FrameRows.of(queries, id_column, column, rows.width or None, metric, "queries")
    rows = replace(rows, width=asked.width)  # of no items nothing says it
    plan = plan_join(items.sparkSession, rows, k, asked, engine, recall)
    return NeighborTable(None, None, lambda: plan, k)
