"""`ImageEmbedding`: images to vectors, as a stage of `pyspark.ml`."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import pandas as pd
import pyarrow as pa
from pyspark.ml import Transformer
from pyspark.ml.functions import array_to_vector
from pyspark.ml.util import (
    DefaultParamsReadable,
    DefaultParamsReader,
    DefaultParamsWritable,
    DefaultParamsWriter,
    MLWriter,
)
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import pandas_udf

from lookalike import images
from lookalike.errors import LookalikeError, either
from lookalike.images.inputs.image_columns import (
    GROUP_ROWS,
    Kind,
    group,
    input_column,
    open_contents,
)
from lookalike.images.inputs.listing import IMAGE
from lookalike.ingest.batches import embed_batches
from lookalike.ml.embedding_params import OUTPUT_TYPES, EmbeddingParams
from lookalike.ml.saving import StageReader
from lookalike.models import CallableModel, Model, at_precision, callables, find_device, resolve
from lookalike.models.weights import AUTO
from lookalike.search.columns import unused_name
from lookalike.spark import bound_batches, is_retry, retries_tasks
from lookalike.storage import EmbeddingTable

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


Chunk: TypeAlias = "pd.Series[Any] | pd.DataFrame"

_GROUP_ROWS = {"cpu": GROUP_ROWS, "cuda": 256}  # images of a batch
_RESULT = "struct<embedding:array<float>,reason:string>"


class ImageEmbedding(
    Transformer, EmbeddingParams, DefaultParamsReadable[Any], DefaultParamsWritable
):
    """Embed images: a vector for each row, or null and the reason.

    An image that cannot be embedded never fails the job. The other columns stay as they are, and
    are not sent to Python. Rows are embedded when the result is used, and again with each use:
    write the result, or cache it.

    Parameters
    ----------
    inputCol : str
        A column of paths or URIs (string), of the bytes of files (binary, as `content` of Spark's
        format `binaryFile`), of rows of that format as structs (`content` or `bytes`, and `path`),
        or of Spark's images (its format `image`). Default: "content".
    outputCol : str
        The new column of vectors. Default: "embedding".
    errorCol : str
        The new column of reasons, null where there is a vector. Default: "error"; an empty name
        leaves it out.
    outputType : {"vector", "array"}
        The type of `outputCol`: a vector of `pyspark.ml`, which all its other stages take (the
        default), or `array<float>`, half as large in Parquet.
    model : str or CallableModel
        The network, as `ImageEmbedder` takes it. A function cannot be saved.
    weights : str
        Bundled weights, "imagenet", or a file that the driver sees.
    precision : {"auto", "f32", "bf16"}
        What the network computes in; `auto` is f32. int8 depends on images, so that it comes with
        `like`.
    device : {"cpu", "cuda", "auto"}
        What the network runs on: processors (the default), or the GPUs of the workers; a worker
        without one uses its processor. `auto` is "cuda" if the driver has a GPU.
    like : str
        The folder of an index whose model is used, with its precision, instead of `model`.
    normalize : bool
        Scale each vector to length 1 (the default).
    truncated : bool
        Embed files that were cut short too, as far as they go.

    Examples
    --------
    >>> from pyspark.sql import Row
    >>> rows = spark.createDataFrame([Row(photo=str(photos[0])), Row(photo="nowhere.jpg")])
    >>> embedding = ImageEmbedding(inputCol="photo")
    >>> embedded = embedding.transform(rows)
    >>> embedded.columns
    ['photo', 'embedding', 'error']
    >>> [row.error for row in embedded.select("error").collect()]
    [None, 'no such file']

    """

    def __init__(
        self,
        *,
        inputCol: str | None = None,  # noqa: N803 - as in Spark
        outputCol: str | None = None,  # noqa: N803
        errorCol: str | None = None,  # noqa: N803
        outputType: str | None = None,  # noqa: N803
        model: "str | CallableModel | None" = None,
        weights: str | None = None,
        precision: str | None = None,
        device: str | None = None,
        like: str | None = None,
        normalize: bool | None = None,
        truncated: bool | None = None,
    ) -> None:
        given = {name: value for name, value in locals().items() if name in _NAMES}
        super().__init__()
        self._setDefault(
            inputCol="content", outputCol="embedding", errorCol="error", outputType="vector"
        )
        self._setDefault(model=AUTO, weights=AUTO, precision="auto", device="cpu", like="")
        self._setDefault(normalize=True, truncated=False)
        self._set(**{name: value for name, value in given.items() if value is not None})

    def write(self) -> MLWriter:
        """Return the writer behind `save(path)`; `write().overwrite()` replaces."""
        return _Writer(self)

    @classmethod
    def read(cls) -> "DefaultParamsReader[Any]":
        """Return the reader behind `load(path)`."""
        return StageReader(cls)

    def _transform(self, dataset: "DataFrame") -> "DataFrame":
        kind, column = input_column(dataset, self.getInputCol())
        added = [one for one in (self.getOutputCol(), self.getErrorCol()) if one]
        for name in added:
            if name in dataset.columns:
                raise LookalikeError(f"the column {name!r} exists already: choose another name")
        if len(set(added)) < len(added):
            raise LookalikeError(f"outputCol and errorCol are both {added[0]!r}: rename one")
        if self.getOutputType() not in OUTPUT_TYPES:
            raise LookalikeError(
                f"unknown outputType {self.getOutputType()!r}: choose {either(OUTPUT_TYPES)}"
            )
        bound_batches(dataset.sparkSession)
        embed = pandas_udf(self._task(kind, dataset.sparkSession), _RESULT)  # type: ignore[call-overload]
        # Called deterministic, it would run again for each filter on its result.
        made = embed.asNondeterministic()(column)
        name = unused_name(dataset, "embedded")
        vector, reason = F.col(name)["embedding"], F.col(name)["reason"]
        if self.getOutputType() == "vector":
            vector = F.when(vector.isNotNull(), array_to_vector(vector))
        outputs = dict(zip(added, (vector, reason), strict=False))
        return dataset.withColumn(name, made).withColumns(outputs).drop(name)

    def _task(self, kind: Kind, spark: "SparkSession") -> Any:
        """Return what runs in the tasks: it holds the network, without its text side."""
        model, device = self._resolved()
        model = replace(model, text=None)
        if model.function is not None:
            callables.pickled(model.function)  # now: Spark would print what is wrong with it
        source = images.Source("files", "/", truncated=self.getTruncated())
        scaled, retries = self.getNormalize(), retries_tasks(spark)

        def task(chunks: Iterator[Chunk]) -> Iterator[pd.DataFrame]:
            from pyspark import TaskContext

            context = TaskContext.get()
            threads = context.cpus() if context is not None else 1
            # An image may crash a worker. The retry of its task decodes in a separate process.
            isolated = threads > 1 or not retries or is_retry()
            for made in embed_batches(
                _image_batches(chunks, kind, _GROUP_ROWS[device]),
                source,
                model,
                threads,
                device,
                isolated=isolated,
                expendable=True,
                scaled=scaled,
            ):
                vectors = made["embedding"].to_numpy(zero_copy_only=False)
                reasons = made["reason"].to_numpy(zero_copy_only=False)
                yield pd.DataFrame({"embedding": list(vectors), "reason": reasons})

        # By their types Spark tells kinds of functions apart.
        several: Any = Iterator
        given = pd.Series if kind in ("path", "bytes") else pd.DataFrame
        task.__annotations__ = {"chunks": several[given], "return": several[pd.DataFrame]}
        return task

    def _resolved(self) -> tuple[Model, str]:
        """Return the model, and the device that tasks use where they have it."""
        device = self.getDevice()
        if device != "cuda":  # which the driver need not have
            device = find_device(device)
        if self.getLike():
            if any(self.isSet(name) for name in ("model", "weights", "precision")):
                raise LookalikeError(
                    "`like` sets the whole model: leave `model`, `weights` and `precision` out"
                )
            model = EmbeddingTable.open(self.getLike()).model
            model.check_runs()
            return model, "cpu" if model.precision == "int8" else device
        if self.getPrecision() == "int8":
            raise LookalikeError(
                "int8 is calibrated on images: make an index in int8, and set `like` to it"
            )
        full = resolve(self.getModel(), self.getWeights(), device)
        return at_precision(full, self.getPrecision()), device


_NAMES = {
    *("inputCol", "outputCol", "errorCol", "outputType", "model", "weights", "precision"),
    *("device", "like", "normalize", "truncated"),
}


def _image_batches(chunks: Iterable[Chunk], kind: Kind, count: int) -> Iterator[pa.RecordBatch]:
    """Yield the images of a task, with the columns of `listing.IMAGE`, in their order."""
    with open_contents(kind) as contents:
        for chunk in chunks:
            rows: Iterator[Any] = (
                chunk.itertuples(index=False, name=None)
                if isinstance(chunk, pd.DataFrame)
                else iter(chunk)
            )
            for files in group(contents(rows), count):
                columns: dict[str, Any] = {name: [None] * len(files) for name in IMAGE.names}
                columns["content"] = [one if isinstance(one, bytes) else b"" for one in files]
                columns["reason"] = [one if isinstance(one, str) else None for one in files]
                yield pa.RecordBatch.from_pydict(columns, schema=IMAGE)


class _Writer(DefaultParamsWriter):
    def __init__(self, instance: ImageEmbedding) -> None:
        super().__init__(instance)
        self._model = instance.getModel()

    def save(self, path: str) -> None:
        # Before an earlier stage is overwritten.
        if isinstance(self._model, CallableModel):
            raise LookalikeError(
                f"the function {self._model.name!r} cannot be saved: set `model` to an ONNX file, "
                "or make the stage anew in each process"
            )
        super().save(path)
