"""`NearestNeighborsModel`: finds neighbours among the rows that it was fitted on."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from pyspark.ml import Model
from pyspark.ml.util import DefaultParamsWriter, MLReadable, MLReader, MLWritable, MLWriter
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import pandas_udf

from lookalike.create import open_index
from lookalike.errors import LookalikeError
from lookalike.index import Index
from lookalike.ml import stored_rows
from lookalike.ml.neighbor_params import NeighborParams
from lookalike.ml.row_search import Place, nearest_rows
from lookalike.ml.saved_model import check_data, copy_data, local_folder
from lookalike.ml.saving import read_metadata, restore
from lookalike.search.columns import unused_name
from lookalike.spark import bound_batches, read_parquet
from lookalike.system.files import delete_folder

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession


class NearestNeighborsModel(Model, NeighborParams, MLReadable["NearestNeighborsModel"], MLWritable):
    """Finds the nearest of the rows that `NearestNeighbors` was fitted on.

    `kneighbors` and the joins divide queries and rows among all tasks; they are for many queries
    and for any number of rows. `transform` searches the whole index from each task: for a stream
    of rows, and an index that a machine can map.

    The rows and their index are in a folder, which `save` copies: the saved model needs nothing
    else. Columns with bytes are not among the rows.
    """

    def __init__(self, folder: Path, index: Index, items: "DataFrame") -> None:
        super().__init__()
        self._set_defaults()
        self._folder, self._index, self._items = folder, index, items

    @property
    def index(self) -> Index:
        """The index of the rows, as `lookalike.open_index` returns it."""
        return self._index

    @property
    def _id_type(self) -> str:
        return self._items.schema[self._id_name].dataType.simpleString()

    def kneighbors(
        self,
        query_df: "DataFrame",
        sort_knn_df_by_query_id: bool = True,
    ) -> "tuple[DataFrame, DataFrame, DataFrame]":
        """Find the k nearest rows to each query, as the method of spark-rapids-ml.

        Parameters
        ----------
        query_df : DataFrame
            With the columns `inputCol` and, if it is set, `idCol`. It is evaluated once.
        sort_knn_df_by_query_id : bool
            Sort the neighbours by the ids of queries.

        Returns
        -------
        item_df : DataFrame
            The rows that the model was fitted on, without columns with bytes; with the column
            `unique_id` where `idCol` is not set.
        query_df : DataFrame
            The queries; where `idCol` is not set, with `unique_id` and without columns with bytes.
        knn_df : DataFrame
            For each query `query_ID`, where ID is the name of the column of ids, and the arrays
            `indices` (ids of rows) and `distances` (float), nearest first, equal distances by id.
            Queries without a vector are left out.

        Raises
        ------
        LookalikeError
            If a parameter or column is wrong, or a query has no id or a vector of another width.

        """
        queries, pairs = self._pairs(query_df, self._engine())
        pair = F.struct("rank", F.col("neighbor_id").alias("id"), "distance")
        row, name = F.col(stored_rows.ROW), f"query_{self._id_name}"
        each = pairs.groupBy(F.col("query_id").alias(stored_rows.ROW))
        found = each.agg(F.sort_array(F.collect_list(pair)).alias("found"))
        named = queries.select(row, stored_rows.column(queries, self._id_name).alias(name))
        joined = named.join(found, stored_rows.ROW)
        knn = joined.select(
            stored_rows.column(joined, name),
            F.col("found.id").cast(f"array<{self._id_type}>").alias("indices"),
            F.col("found.distance").alias("distances"),
        )
        if sort_knn_df_by_query_id:
            knn = knn.sort(stored_rows.column(knn, name))
        shown = queries.drop(stored_rows.ROW, stored_rows.VECTOR)
        return self._shown_items(), shown if self.getIdCol() is None else query_df, knn

    def exactNearestNeighborsJoin(  # noqa: N802 - as in spark-rapids-ml
        self,
        query_df: "DataFrame",
        distCol: str = "distCol",  # noqa: N803
    ) -> "DataFrame":
        """Join each query with its k nearest rows, found exactly whatever `recall` is.

        Parameters
        ----------
        query_df : DataFrame
            As for `kneighbors`.
        distCol : str
            The column of distances (float).

        Returns
        -------
        DataFrame
            A row for each pair: `item_df` and `query_df`, structs of all columns without bytes,
            and `distCol`.

        Raises
        ------
        LookalikeError
            As `kneighbors`.

        """
        return self._join(query_df, distCol, "exact")

    def approxSimilarityJoin(  # noqa: N802 - as in Spark
        self,
        query_df: "DataFrame",
        distCol: str = "distCol",  # noqa: N803
        *,
        threshold: float | None = None,
    ) -> "DataFrame":
        """Join each query with its k nearest rows, of which the share `recall` is found.

        The distance is that of Spark's method of this name, Euclidean between vectors as they are
        given, unless `metric` says otherwise. Spark's finds any number of pairs, this one k of a
        query at most.

        Parameters
        ----------
        query_df, distCol
            As for `exactNearestNeighborsJoin`.
        threshold : float, optional
            Leave out pairs whose distance is not smaller.

        Returns
        -------
        DataFrame
            As that of `exactNearestNeighborsJoin`.

        Raises
        ------
        LookalikeError
            As `kneighbors`.

        """
        joined = self._join(query_df, distCol, self._engine())
        if threshold is None:
            return joined
        return joined.filter(stored_rows.column(joined, distCol) < float(threshold))

    def _transform(self, dataset: "DataFrame") -> "DataFrame":
        """Add the column `outputCol`, `array<struct<id, distance>>`, nearest first.

        Null where there is no vector.
        """
        self._check()
        stored_rows.check_columns(dataset, self, named=False)
        name, place = self.getOutputCol(), Place.of(self._index._table)
        if name in dataset.columns:
            raise LookalikeError(f"the column {name!r} exists already: set `outputCol`")
        k, recall = min(self.getK(), len(self._index)), self.getRecall()
        bound_batches(dataset.sparkSession)

        def task(chunks: Iterator[pd.Series]) -> Iterator[pd.DataFrame]:
            from pyspark import TaskContext

            context = TaskContext.get()
            threads = context.cpus() if context is not None else 1
            for chunk in chunks:
                yield nearest_rows(chunk, place, k, recall, threads)

        key = "string" if self._id_type == "string" else "bigint"
        result = f"struct<ids:array<{key}>,distances:array<float>>"
        search = pandas_udf(task, result).asNondeterministic()  # type: ignore[call-overload]
        found = search(stored_rows.vector_of(dataset, self).cast("array<double>"))
        hidden = unused_name(dataset, "found")
        ids, distances = F.col(hidden)["ids"], F.col(hidden)["distances"]
        pairs = F.arrays_zip(ids, F.transform(distances, self._distance))
        pairs = pairs.cast(f"array<struct<id:{self._id_type},distance:float>>")
        added = dataset.withColumn(hidden, found)
        return added.withColumn(name, pairs).drop(hidden)

    def _engine(self) -> Any:
        return "exact" if self.getRecall() == 1 else "auto"

    def _distance(self, distance: "Column") -> "Column":
        """Return a Euclidean distance as that of the metric; of vectors of length 1 for cosine."""
        if self.getMetric() == "sqeuclidean":
            return (distance * distance).cast("float")
        if self.getMetric() == "cosine":
            return (distance * distance / 2).cast("float")
        return distance

    def _pairs(self, query_df: "DataFrame", engine: Any) -> "tuple[DataFrame, DataFrame]":
        """Return the stored queries, and `query_id, rank, neighbor_id, distance`.

        `query_id` is the number of a query, `neighbor_id` the id of a row.
        """
        self._check()
        stored_rows.check_columns(query_df, self, named=True)
        folder = stored_rows.query_folder(self._index._table)
        queries = stored_rows.store(query_df, self, folder / "rows")
        if stored_rows.count_nulls(folder / "rows", self._id_name):
            raise LookalikeError(f"queries have no id in {self._id_name!r}: give each one")
        found = self._index.kneighbors(
            queries,
            min(self.getK(), len(self._index)),
            id_column=stored_rows.ROW,
            column=stored_rows.vector_name(self),
            engine=engine,
            recall=self.getRecall(),
        ).to_spark()
        return queries, found.withColumn("distance", self._distance(F.col("distance")))

    def _join(self, query_df: "DataFrame", name: str, engine: Any) -> "DataFrame":
        queries, pairs = self._pairs(query_df, engine)
        hidden = [stored_rows.ROW, stored_rows.VECTOR]
        hidden += [self._id_name] if self.getIdCol() is None else []
        items = self._items.select(
            stored_rows.column(self._items, self._id_name).alias("neighbor_id"),
            stored_rows.as_struct(self._items, hidden).alias("item_df"),
        )
        asked = queries.select(
            F.col(stored_rows.ROW).alias("query_id"),
            stored_rows.as_struct(queries, hidden).alias("query_df"),
        )
        joined = pairs.join(items, "neighbor_id").join(asked, "query_id")
        return joined.select("item_df", "query_df", F.col("distance").alias(name))

    def _shown_items(self) -> "DataFrame":
        return self._items.drop(stored_rows.ROW, stored_rows.VECTOR)

    def write(self) -> MLWriter:
        """Return the writer behind `save(path)`; `write().overwrite()` replaces."""
        return _Writer(self)

    @classmethod
    def read(cls) -> "MLReader[NearestNeighborsModel]":
        """Return the reader behind `load(path)`."""
        return _Reader()


def open_model(folder: Path, spark: "SparkSession") -> NearestNeighborsModel:
    """Return the model whose rows and index are in a folder.

    Raises
    ------
    LookalikeError
        If they are not there, or name types that run code.

    """
    if not (folder / "items").is_dir():
        raise LookalikeError(f"no rows in {folder}: save the model again")
    index = open_index(folder / "index")
    return NearestNeighborsModel(folder, index, read_parquet(spark, folder / "items"))


class _Writer(MLWriter):
    def __init__(self, model: NearestNeighborsModel) -> None:
        super().__init__()
        self.model = model

    def save(self, path: str) -> None:
        check_data(self.model._folder)  # before an earlier model is overwritten
        super().save(path)

    def _handleOverwrite(self, path: str) -> None:  # noqa: N802 - as in Spark
        folder = local_folder(path)
        if self.model._folder.is_relative_to(folder):
            raise LookalikeError(f"the model is in {folder}: save it elsewhere")
        delete_folder(folder)

    def saveImpl(self, path: str) -> None:  # noqa: N802
        folder = local_folder(path)
        DefaultParamsWriter.saveMetadata(self.model, path, self.sparkSession)
        copy_data(self.model._folder, folder)


class _Reader(MLReader[NearestNeighborsModel]):
    def load(self, path: str) -> NearestNeighborsModel:
        folder = local_folder(path)
        metadata = read_metadata(path, self.sparkSession, NearestNeighborsModel)
        return restore(open_model(folder, self.sparkSession), metadata)
