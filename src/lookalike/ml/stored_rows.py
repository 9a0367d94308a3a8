"""Write the rows of a DataFrame to a folder, with ids and a vector column that stay the same.

A DataFrame may be computed anew each time that it is used, with other ids, or at the price of
embedding all its images. Columns with bytes are left out: images are where they are.
"""

import atexit
import contextlib
import tempfile
from collections.abc import Collection, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lookalike.errors import LookalikeError
from lookalike.ml.neighbor_params import NeighborParams
from lookalike.search.columns import vector_column
from lookalike.spark import is_connect, local_uri, parallelism, setting
from lookalike.spark.columns import column_of
from lookalike.storage import EmbeddingTable
from lookalike.system.files import delete_folder, staging_folder

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession


VECTOR = "__vector"
"""The column of vectors where several columns of numbers are given."""
ROW = "__row"
"""The column that numbers queries: two of them may have the same id."""


def temporary_folder(spark: "SparkSession") -> Path:
    """Return a new folder that is deleted when this process ends.

    Raises
    ------
    LookalikeError
        On a cluster, whose workers may not see a temporary folder of this machine.

    """
    master = setting(spark, "spark.master", "local")
    if not master.startswith("local"):
        raise LookalikeError(
            f"the workers of {master} may not see a temporary folder of this machine: set `path` "
            "to a folder on a disk that all share"
        )
    return Path(tempfile.mkdtemp(dir=_folder_of_process()))


@cache
def _folder_of_process() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="lookalike-"))
    atexit.register(delete_folder, folder)
    return folder


def check_shared(spark: "SparkSession", folder: Path) -> None:
    """Raise `LookalikeError` unless the workers of Spark see a folder of this machine.

    They would write rows to disks of their own, where nobody finds them.
    """
    from pyspark.sql import functions as F

    if not is_connect(spark) and setting(spark, "spark.master", "local").startswith("local"):
        return
    mark = folder / "mark"
    mark.touch()

    def look(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            yield pa.RecordBatch.from_pydict({"seen": [mark.exists()] * batch.num_rows})

    tasks = parallelism(spark)
    looked = spark.range(0, tasks, 1, tasks).mapInArrow(look, "seen boolean")
    (row,) = looked.agg(F.bool_and("seen")).collect()
    if not row[0]:
        raise LookalikeError(
            f"not all workers of Spark see {folder}: set `path` to a folder on a disk that all "
            "share"
        )
    mark.unlink()


def check_columns(frame: "DataFrame", stage: NeighborParams, *, named: bool) -> None:
    """Raise `LookalikeError` for columns that are not there, or hold something else.

    `named` says that rows have ids, or get them.
    """
    vectors = [stage.getInputCol()] if stage.isDefined("inputCol") else stage.getInputCols()
    ids = [stage.getIdCol()] if stage.getIdCol() and named else []
    for name in [*vectors, *ids]:
        if name not in frame.columns:
            raise LookalikeError(f"unknown column {name!r}: choose {', '.join(frame.columns)}")
    vector_of(frame, stage)
    for name in ids:
        check_ids(frame, str(name))
    added = [VECTOR, ROW] if stage.getIdCol() else [VECTOR, ROW, stage._id_name]
    for name in added:
        if named and name in frame.columns:
            raise LookalikeError(f"a column {name!r} exists already: rename it, or set `idCol`")


def check_ids(frame: "DataFrame", name: str) -> None:
    """Raise `LookalikeError` unless a column holds whole numbers or strings."""
    from pyspark.sql.types import IntegralType, StringType

    kind = frame.schema[name].dataType
    if not isinstance(kind, IntegralType | StringType):
        raise LookalikeError(
            f"column {name!r} holds {kind.simpleString()}, no ids: set `idCol` to a column of "
            "whole numbers or strings"
        )


def vector_of(frame: "DataFrame", stage: NeighborParams) -> "Column":
    """Return the vectors of a DataFrame as arrays.

    Raises
    ------
    LookalikeError
        If the columns hold something else.

    """
    from pyspark.sql import functions as F
    from pyspark.sql.types import NumericType

    if stage.isDefined("inputCol"):
        return vector_column(frame, stage.getInputCol())
    for name in stage.getInputCols():
        kind = frame.schema[name].dataType
        if not isinstance(kind, NumericType):
            raise LookalikeError(f"column {name!r} holds {kind.simpleString()}: give numbers")
    return F.array(*(column_of(frame, name).cast("double") for name in stage.getInputCols()))


def vector_name(stage: NeighborParams) -> str:
    """Return the column of vectors among stored rows."""
    return stage.getInputCol() if stage.isDefined("inputCol") else VECTOR


def store(frame: "DataFrame", stage: NeighborParams, folder: Path) -> "DataFrame":
    """Write rows to a new folder of Parquet, and return them: with ids, vectors, and numbers."""
    from pyspark.sql import functions as F

    columns = [
        column_of(frame, field.name).alias(field.name)
        for field in frame.schema
        if not has_bytes(field.dataType)
    ]
    number = F.monotonically_increasing_id()
    if stage.getIdCol() is None:
        columns.insert(0, number.alias(stage._id_name))
    if not stage.isDefined("inputCol"):
        columns.append(vector_of(frame, stage).alias(VECTOR))
    rows = frame.select(*columns, number.alias(ROW))
    rows.write.parquet(local_uri(folder))
    return frame.sparkSession.read.schema(rows.schema).parquet(local_uri(folder))


def count_nulls(folder: Path, name: str) -> int:
    """Count the nulls in a column of stored rows: their files know where there are none."""
    import pyarrow.compute as pc
    from pyarrow import dataset

    rows = dataset.dataset(folder, format="parquet")
    return int(rows.count_rows(filter=pc.field(name).is_null()))


def column(frame: "DataFrame", name: str) -> "Column":
    """Return a column by its name, whatever is in it."""
    from pyspark.sql import functions as F

    return F.col(f"`{name.replace('`', '``')}`")


def as_struct(frame: "DataFrame", hidden: Collection[str]) -> "Column":
    """Return a struct of all columns but the hidden ones."""
    from pyspark.sql import functions as F

    return F.struct(*(column(frame, name) for name in frame.columns if name not in hidden))


def has_bytes(kind: Any) -> bool:
    """Tell whether a type of Spark has bytes somewhere."""
    from pyspark.sql.types import ArrayType, BinaryType, MapType, StructType

    if isinstance(kind, StructType):
        return any(has_bytes(field.dataType) for field in kind)
    if isinstance(kind, ArrayType):
        return has_bytes(kind.elementType)
    if isinstance(kind, MapType):
        return has_bytes(kind.keyType) or has_bytes(kind.valueType)
    return isinstance(kind, BinaryType)


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
