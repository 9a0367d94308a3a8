"""The parameters of `NearestNeighbors` and its model."""

from collections.abc import Sequence
from typing import Self

from pyspark.ml.param import Param, Params, TypeConverters
from pyspark.ml.param.shared import HasInputCol, HasInputCols, HasOutputCol

from lookalike.errors import LookalikeError, either
from lookalike.search.rows import check_k, check_recall

METRICS = ("euclidean", "l2", "sqeuclidean", "cosine")
"""Names of distances; `l2` is another name of `euclidean`."""
MAX_NEIGHBORS = 2_048
"""Largest k: a task holds this many neighbours of each of thousands of queries."""
UNIQUE_ID = "unique_id"
"""The column of ids that is added where none is named."""


class NeighborParams(HasInputCol, HasInputCols, HasOutputCol):
    """Which columns are read, how many neighbours, how close and how found."""

    k: Param[int] = Param(
        Params._dummy(),
        "k",
        f"the number of neighbours of each query, 1 to {MAX_NEIGHBORS:,}",
        TypeConverters.toInt,
    )
    idCol: Param[str] = Param(  # noqa: N815 - as in Spark
        Params._dummy(),
        "idCol",
        f"the column that names the rows, whole numbers or strings; without it {UNIQUE_ID} is made",
        TypeConverters.toString,
    )
    recall: Param[float] = Param(
        Params._dummy(),
        "recall",
        "the share of the true neighbours to find, above 0 and up to 1; at 1 the search is exact",
        TypeConverters.toFloat,
    )
    metric: Param[str] = Param(
        Params._dummy(),
        "metric",
        "the distance: euclidean (or l2), sqeuclidean (its square) or cosine (1 - cosine)",
        TypeConverters.toString,
    )

    def _set_defaults(self) -> None:
        self._setDefault(k=5, recall=1.0, metric="euclidean", outputCol="neighbors")

    def setInputCol(self, value: "str | Sequence[str]") -> Self:  # noqa: N802 - as in Spark
        """Set the column of vectors or arrays, or several columns of numbers."""
        if not isinstance(value, str):
            return self.setInputCols(value)
        self.clear(self.inputCols)
        return self._set(inputCol=value)

    def setInputCols(self, value: Sequence[str]) -> Self:  # noqa: N802
        """Set the columns of numbers that make up a vector."""
        self.clear(self.inputCol)
        return self._set(inputCols=list(value))

    def setOutputCol(self, value: str) -> Self:  # noqa: N802
        """Set the column of neighbours that `transform` adds."""
        return self._set(outputCol=value)

    def setK(self, value: int) -> Self:  # noqa: N802
        """Set the number of neighbours."""
        return self._set(k=value)

    def getK(self) -> int:  # noqa: N802
        """Return the number of neighbours."""
        return self.getOrDefault(self.k)

    def setIdCol(self, value: str) -> Self:  # noqa: N802
        """Set the column of ids."""
        return self._set(idCol=value)

    def getIdCol(self) -> str | None:  # noqa: N802
        """Return the column of ids, None where none is named."""
        return self.getOrDefault(self.idCol) if self.isDefined(self.idCol) else None

    def setRecall(self, value: float) -> Self:  # noqa: N802
        """Set the share of the true neighbours to find."""
        return self._set(recall=value)

    def getRecall(self) -> float:  # noqa: N802
        """Return the share of the true neighbours to find."""
        return self.getOrDefault(self.recall)

    def setMetric(self, value: str) -> Self:  # noqa: N802
        """Set the distance."""
        return self._set(metric=value)

    def getMetric(self) -> str:  # noqa: N802
        """Return the name of the distance."""
        return self.getOrDefault(self.metric)

    @property
    def _id_name(self) -> str:
        return self.getIdCol() or UNIQUE_ID

    def _check(self) -> None:
        """Raise `LookalikeError` for parameters out of range."""
        check_k(self.getK())
        if self.getK() > MAX_NEIGHBORS:
            raise LookalikeError(f"k is {self.getK():,}: give {MAX_NEIGHBORS:,} at most")
        check_recall(self.getRecall())
        if self.getMetric() not in METRICS:
            raise LookalikeError(f"unknown metric {self.getMetric()!r}: choose {either(METRICS)}")
        if not (self.isDefined(self.inputCol) or self.isDefined(self.inputCols)):
            raise LookalikeError("no column of vectors: set `inputCol`")
