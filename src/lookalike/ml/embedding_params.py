"""The parameters of `ImageEmbedding`."""

import os
from typing import Any, Self

from pyspark.ml.param import Param, Params, TypeConverters
from pyspark.ml.param.shared import HasInputCol, HasOutputCol

from lookalike.models import CallableModel

OUTPUT_TYPES = ("vector", "array")


def _to_model(value: Any) -> str | CallableModel:
    """Return the name of a model, or a function of the user's own."""
    if isinstance(value, CallableModel):
        return value
    if isinstance(value, str | os.PathLike):
        return os.fspath(value)
    raise TypeError(f"Could not convert {type(value)} to the name of a model or a CallableModel")


class EmbeddingParams(HasInputCol, HasOutputCol):
    """Which columns are read and written, and the model."""

    errorCol: Param[str] = Param(  # noqa: N815 - as in Spark
        Params._dummy(),
        "errorCol",
        "the column for the reason why an image has no vector; an empty name leaves it out",
        TypeConverters.toString,
    )
    outputType: Param[str] = Param(  # noqa: N815
        Params._dummy(),
        "outputType",
        "the type of outputCol: vector (of pyspark.ml) or array (of float)",
        TypeConverters.toString,
    )
    model: Param[str] = Param(
        Params._dummy(),
        "model",
        "the network: a name or an ONNX file, as ImageEmbedder takes it, or a CallableModel",
        _to_model,  # type: ignore[arg-type]
    )
    weights: Param[str] = Param(
        Params._dummy(),
        "weights",
        "bundled weights, imagenet, or a file",
        TypeConverters.toString,
    )
    precision: Param[str] = Param(
        Params._dummy(),
        "precision",
        "what the network computes in: auto (f32), f32 or bf16; int8 comes with `like`",
        TypeConverters.toString,
    )
    device: Param[str] = Param(
        Params._dummy(),
        "device",
        "what the network runs on: cpu, cuda, or auto for cuda if the driver has it",
        TypeConverters.toString,
    )
    like: Param[str] = Param(
        Params._dummy(),
        "like",
        "the folder of an index whose model is used, with its precision; empty for none",
        TypeConverters.toString,
    )
    normalize: Param[bool] = Param(
        Params._dummy(),
        "normalize",
        "whether vectors are scaled to length 1",
        TypeConverters.toBoolean,
    )
    truncated: Param[bool] = Param(
        Params._dummy(),
        "truncated",
        "whether files that were cut short are embedded too, as far as they go",
        TypeConverters.toBoolean,
    )

    def setInputCol(self, value: str) -> Self:  # noqa: N802 - as in Spark
        """Set the column of images."""
        return self._set(inputCol=value)

    def setOutputCol(self, value: str) -> Self:  # noqa: N802
        """Set the column for vectors."""
        return self._set(outputCol=value)

    def setErrorCol(self, value: str) -> Self:  # noqa: N802
        """Set the column for reasons."""
        return self._set(errorCol=value)

    def getErrorCol(self) -> str:  # noqa: N802
        """Return the column for reasons."""
        return self.getOrDefault(self.errorCol)

    def setOutputType(self, value: str) -> Self:  # noqa: N802
        """Set the type of the column for vectors."""
        return self._set(outputType=value)

    def getOutputType(self) -> str:  # noqa: N802
        """Return the type of the column for vectors."""
        return self.getOrDefault(self.outputType)

    def setModel(self, value: "str | CallableModel") -> Self:  # noqa: N802
        """Set the network."""
        return self._set(model=value)

    def getModel(self) -> "str | CallableModel":  # noqa: N802
        """Return the network."""
        return self.getOrDefault(self.model)

    def setWeights(self, value: str) -> Self:  # noqa: N802
        """Set the weights."""
        return self._set(weights=value)

    def getWeights(self) -> str:  # noqa: N802
        """Return the weights."""
        return self.getOrDefault(self.weights)

    def setPrecision(self, value: str) -> Self:  # noqa: N802
        """Set the precision."""
        return self._set(precision=value)

    def getPrecision(self) -> str:  # noqa: N802
        """Return the precision."""
        return self.getOrDefault(self.precision)

    def setDevice(self, value: str) -> Self:  # noqa: N802
        """Set what the network runs on."""
        return self._set(device=value)

    def getDevice(self) -> str:  # noqa: N802
        """Return what the network runs on."""
        return self.getOrDefault(self.device)

    def setLike(self, value: str) -> Self:  # noqa: N802
        """Set the index whose model is used."""
        return self._set(like=value)

    def getLike(self) -> str:  # noqa: N802
        """Return the index whose model is used."""
        return self.getOrDefault(self.like)

    def setNormalize(self, value: bool) -> Self:  # noqa: N802
        """Set whether vectors are scaled to length 1."""
        return self._set(normalize=value)

    def getNormalize(self) -> bool:  # noqa: N802
        """Return whether vectors are scaled to length 1."""
        return self.getOrDefault(self.normalize)

    def setTruncated(self, value: bool) -> Self:  # noqa: N802
        """Set whether files that were cut short are embedded too."""
        return self._set(truncated=value)

    def getTruncated(self) -> bool:  # noqa: N802
        """Return whether files that were cut short are embedded too."""
        return self.getOrDefault(self.truncated)
