"""Save and load stages: JSON of their parameters, read without trust in the classes it names."""

from typing import Any, TypeVar

from pyspark.errors import PySparkException
from pyspark.ml.util import DefaultParamsReader
from pyspark.sql import SparkSession

from lookalike.errors import LookalikeError
from lookalike.spark import short_error

Stage = TypeVar("Stage")


def read_metadata(path: str, spark: SparkSession, kind: type) -> dict[str, Any]:
    """Return the metadata of a saved stage.

    Raises
    ------
    LookalikeError
        If there is no stage of this kind.

    """
    named = f"{kind.__module__}.{kind.__name__}"
    try:
        return DefaultParamsReader.loadMetadata(path, spark, named)
    except PySparkException as error:
        raise LookalikeError(f"no {kind.__name__} in {path}: {short_error(error)}") from None
    except (AssertionError, ValueError, KeyError) as error:
        raise LookalikeError(f"no {kind.__name__} in {path}: {error}") from None


def restore(stage: Stage, metadata: dict[str, Any]) -> Stage:
    """Give a new stage the name and the parameters of a saved one."""
    params: Any = stage
    params._resetUid(metadata["uid"])
    DefaultParamsReader.getAndSetParams(params, metadata)
    return stage


class StageReader(DefaultParamsReader[Any]):
    """Reads a stage without data. Spark's own reader would make any class that the file names."""

    def load(self, path: str) -> Any:
        """Return the stage that was saved to a path."""
        return restore(self.cls(), read_metadata(path, self.sparkSession, self.cls))
