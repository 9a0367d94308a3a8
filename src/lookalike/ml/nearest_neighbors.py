"""`NearestNeighbors`: index the vectors of a DataFrame, as an estimator of `pyspark.ml`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pyspark.ml import Estimator
from pyspark.ml.param import Param, Params, TypeConverters
from pyspark.ml.util import DefaultParamsReadable, DefaultParamsReader, DefaultParamsWritable

from lookalike.create import create_index
from lookalike.errors import writing_to
from lookalike.ml import stored_rows
from lookalike.ml.neighbor_params import NeighborParams
from lookalike.ml.neighbors_model import NearestNeighborsModel
from lookalike.ml.saving import StageReader
from lookalike.system.files import delete_folder
from lookalike.system.paths import local_path

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


class NearestNeighbors(
    Estimator[NearestNeighborsModel],
    NeighborParams,
    DefaultParamsReadable[Any],
    DefaultParamsWritable,
):
    """Index the vectors of a DataFrame, to find the nearest of its rows to others.

    The calls of `spark_rapids_ml.knn.NearestNeighbors` run with this class too, without a GPU.

    Parameters
    ----------
    k : int
        The number of neighbours of each query: 5, if it is not set.
    inputCol : str or list of str
        A column of vectors or of arrays of numbers, or several columns of numbers.
    idCol : str
        The column that names the rows, whole numbers or strings, each once. Without it, a column
        `unique_id` is made.
    recall : float
        The share of the true neighbours to find, above 0 and up to 1. At 1, the default, search is
        exact. Millions of queries need less, such as 0.98.
    metric : {"euclidean", "l2", "sqeuclidean", "cosine"}
        The distance of vectors as they are given; `cosine` is 1 - cosine.
    outputCol : str
        The column that `transform` of the model adds: "neighbors", if it is not set.
    path : str
        A folder for the data of fitted models, on a disk that all workers share. Each model gets a
        folder in it, which nothing deletes. Without it, on one machine, data is temporary: it goes
        with this process, unless the model is saved.
    num_workers, verbose
        Of spark-rapids-ml, without effect.

    Examples
    --------
    >>> rows = [(0, [1.0, 1.0]), (1, [2.0, 2.0]), (2, [3.0, 3.0])]
    >>> items = spark.createDataFrame(rows, "id int, features array<float>")
    >>> queries = spark.createDataFrame([(3, [1.0, 1.0])], "id int, features array<float>")
    >>> model = NearestNeighbors(k=2, inputCol="features", idCol="id").fit(items)
    >>> _, _, knn = model.kneighbors(queries)
    >>> knn.show()
    +--------+-------+----------------+
    |query_id|indices|       distances|
    +--------+-------+----------------+
    |       3| [0, 1]|[0.0, 1.4142135]|
    +--------+-------+----------------+
    <BLANKLINE>

    """

    path: Param[str] = Param(
        Params._dummy(),
        "path",
        "a folder for the data of fitted models, on a disk that all workers share",
        TypeConverters.toString,
    )

    def __init__(
        self,
        *,
        k: int | None = None,
        inputCol: "str | Sequence[str] | None" = None,  # noqa: N803 - as in Spark
        idCol: str | None = None,  # noqa: N803
        recall: float | None = None,
        metric: str | None = None,
        outputCol: str | None = None,  # noqa: N803
        path: str | None = None,
        num_workers: int | None = None,
        verbose: int | bool = False,
    ) -> None:
        super().__init__()
        self._set_defaults()
        given = {
            "k": k,
            "idCol": idCol,
            "recall": recall,
            "metric": metric,
            "outputCol": outputCol,
            "path": path,
        }
        self._set(**{name: value for name, value in given.items() if value is not None})
        if inputCol is not None:
            self.setInputCol(inputCol)

    def setPath(self, value: str) -> Self:  # noqa: N802 - as in Spark
        """Set the folder for the data of fitted models."""
        return self._set(path=value)

    def getPath(self) -> str | None:  # noqa: N802
        """Return the folder for the data of fitted models, None where it is not set."""
        return self.getOrDefault(self.path) if self.isDefined(self.path) else None

    @classmethod
    def read(cls) -> "DefaultParamsReader[Any]":
        """Return the reader behind `load(path)`."""
        return StageReader(cls)

    def _fit(self, dataset: "DataFrame") -> NearestNeighborsModel:
        self._check()
        stored_rows.check_columns(dataset, self, named=True)
        uid = NearestNeighborsModel._randomUID()
        folder = self._new_folder(uid, dataset)
        try:
            stored_rows.check_shared(dataset.sparkSession, folder)
            items = stored_rows.store(dataset, self, folder / "items")
            index = create_index(
                folder / "items",
                folder / "index",
                embedding_column=stored_rows.vector_name(self),
                id_column=self._id_name,
                metric="cosine" if self.getMetric() == "cosine" else "l2",
            )
        except BaseException:
            delete_folder(folder)
            raise
        model = NearestNeighborsModel(folder, index, items)._resetUid(uid)
        return self._copyValues(model)

    def _new_folder(self, name: str, dataset: "DataFrame") -> Path:
        given = self.getPath()
        if given is None:
            return stored_rows.temporary_folder(dataset.sparkSession)
        folder = local_path(given).absolute() / name
        with writing_to(given, "set `path` to another folder"):
            folder.mkdir(parents=True)
        return folder
