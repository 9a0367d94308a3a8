"""Embed images: `ImageEmbedder` for a few, `embed_batches` for Arrow batches of many."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from lookalike import images, models
from lookalike.errors import ImageError, LookalikeError
from lookalike.images.decoding.preprocessing import DEFAULT
from lookalike.images.decoding.raster import DEVIATION, MEAN, read_file
from lookalike.models import CallableModel, Model
from lookalike.models.callables import embed_each
from lookalike.models.text_engine import text_engine
from lookalike.models.weights import AUTO
from lookalike.system.arrays import Vectors

if TYPE_CHECKING:
    import torch


ImageLike: TypeAlias = "str | Path | bytes | Image.Image | npt.NDArray[Any] | torch.Tensor"


NO_DIRECTION = "the network returns numbers that are not finite, or only zeros"
"""The reason why a decoded image has no vector."""

_MAX_LENGTH = 1e15  # between this and its inverse, float32 can square vectors


def normalize(vectors: npt.NDArray[Any]) -> Vectors:
    """Scale each row to length 1, also rows whose squares overflow float32.

    Parameters
    ----------
    vectors
        (n, width), of any number type.

    Returns
    -------
    float32 (n, width). Rows without a direction become NaN: zeros, subnormal numbers, and numbers
    that are not finite.

    Examples
    --------
    >>> normalize(np.array([[3, 4]])).tolist()
    [[0.6000000238418579, 0.800000011920929]]

    """
    with np.errstate(all="ignore"):
        rows = np.asarray(vectors, np.float32)
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        scaled: Vectors = rows / lengths
        odd = ~((lengths > 1 / _MAX_LENGTH) & (lengths < _MAX_LENGTH))[:, 0]
        if odd.any():
            scaled[odd] = _normalize_extreme(vectors[odd])
    return scaled


def _normalize_extreme(vectors: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Normalise in float64, after a scaling that prevents overflow."""
    smallest = np.finfo(vectors.dtype).tiny if vectors.dtype.kind == "f" else 1
    rows = vectors.astype(np.float64)
    largest = np.abs(rows).max(axis=1, keepdims=True, initial=0)
    rows /= np.where((largest >= smallest) & np.isfinite(largest), largest, np.nan)
    unit: npt.NDArray[np.float64] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def unit_rows(vectors: npt.NDArray[Any]) -> Vectors:
    """Normalise rows, but keep rows of length 1 bit for bit; float32 (n, width)."""
    with np.errstate(over="ignore"):
        rows = vectors.astype(np.float32)
        are_unit = np.abs(np.linalg.norm(rows, axis=1, keepdims=True) - 1) < 1e-6
    return np.where(are_unit, rows, normalize(vectors))


def have_direction(vectors: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Tell for each row of floats (n, width) whether it is finite and not all zeros."""
    usable: npt.NDArray[np.bool_] = np.isfinite(vectors).all(axis=1) & vectors.any(axis=1)
    return usable


class ImageEmbedder:
    """Step 2: turns images into vectors, with a network without its last layer.

    An image is a path, the bytes of a file, a `PIL.Image`, an array (height, width[, 3 or 4]) of
    uint8 or of floats in 0..1, a uint8 tensor (3, height, width) as torchvision decodes it, or a
    float tensor (3, 224, 224) as `lookalike.images.transform()` returns it.

    Parameters
    ----------
    model : str, CallableModel or Model
        "efficientnet-lite0" (the default), "resnet18", both of which give 512 numbers, another
        network of torchvision or, as "timm:NAME", "clip:NAME", "hf:NAME" or
        "sentence-transformers:NAME", of another library; an ONNX file; a function of your own; or
        the model of an index.
    weights : str
        Bundled weights, "imagenet", or a file.
    precision : {"auto", "f32", "bf16", "int8"}
        What the network computes in; `auto` is f32 for a few images.
    normalize : bool
        Scale each vector to length 1.
    threads : int
        Number of threads; 0 for one a core.
    truncated : bool
        Embed files that were cut short too, as far as they go.

    Examples
    --------
    >>> embed = ImageEmbedder("resnet18")
    >>> embed(Image.new("RGB", (64, 48), "red")).shape
    (512,)
    >>> embed([Image.new("RGB", (64, 48), "red")] * 2).shape
    (2, 512)

    """

    def __init__(
        self,
        model: str | CallableModel | Model = AUTO,
        weights: str = AUTO,
        *,
        precision: str = "auto",
        normalize: bool = True,
        threads: int = 0,
        truncated: bool = False,
    ) -> None:
        if not isinstance(model, Model):
            model = models.at_precision(models.resolve(model, weights), precision)
        self.model = model
        self.normalize = normalize
        self.truncated = truncated
        self._threads = threads

    @property
    def width(self) -> int:
        """Numbers in a vector."""
        return self.model.width

    def __call__(self, image: "ImageLike | Sequence[ImageLike]") -> Vectors:
        """Embed an image, or a list of images.

        Parameters
        ----------
        image : str, Path, bytes, PIL.Image, array, tensor, or a list of these
            The image, or n images.

        Returns
        -------
        numpy.ndarray
            float32 (width,), or (n, width) for a list.

        Raises
        ------
        ImageError
            If an image cannot be decoded, or the network gives no vector for it.

        """
        if isinstance(image, list | tuple):
            return self._embed(image)
        vector: Vectors = self._embed([cast("ImageLike", image)])[0]
        return vector

    @property
    def batch(self) -> int:
        """Images at a time at which the network is quickest."""
        return models.engine(self.model, self._threads).batch

    def of_pixels(self, pixels: npt.NDArray[np.uint8]) -> Vectors:
        """Return the vectors, float32 (n, width), of pixels as decoded for this network.

        Pixels are uint8 (n, height, width, 3), of the shape `model.input` says.

        Those without a direction are NaN where they are normalised, and where a function of your
        own fails.
        """
        vectors, _ = embed_each(models.engine(self.model, self._threads), pixels)
        return normalize(vectors) if self.normalize else vectors

    def embed_text(self, texts: str | Sequence[str]) -> Vectors:
        """Embed words into the space of the images, with a network that has a text side.

        Parameters
        ----------
        texts : str or list of str
            A text, or n texts. What is longer than the network takes is cut.

        Returns
        -------
        numpy.ndarray
            float32 (width,), or (n, width) for a list.

        Raises
        ------
        LookalikeError
            If the network embeds no words, or its tokenizer is not installed.
        """
        given = [texts] if isinstance(texts, str) else list(texts)
        if not all(isinstance(text, str) and text.strip() for text in given):
            raise LookalikeError("a text without words: give at least one word")
        run = text_engine(self.model, self._threads)
        vectors = run(given) if given else np.empty((0, self.width), np.float32)
        if self.normalize:
            vectors = normalize(vectors)
        if not have_direction(vectors).all():
            raise LookalikeError("the network gives no vector for this text: change its words")
        return cast("Vectors", vectors[0]) if isinstance(texts, str) else vectors

    def _embed(self, batch: Sequence[ImageLike]) -> Vectors:
        vectors = np.empty((len(batch), self.width), np.float32)
        run = models.engine(self.model, self._threads)
        for start in range(0, len(batch), run.batch):
            some = batch[start : start + run.batch]
            made = run(
                np.stack([to_pixels(image, self.truncated, self.model.input) for image in some])
            )
            vectors[start : start + run.batch] = normalize(made) if self.normalize else made
        if not have_direction(vectors).all():
            raise ImageError(NO_DIRECTION)
        return vectors

    def __repr__(self) -> str:
        return f"ImageEmbedder({self.model.backbone!r}, {self.model.weights!r}, width={self.width})"


def to_pixels(
    image: ImageLike, truncated: bool = False, preprocessing: images.Preprocessing = DEFAULT
) -> npt.NDArray[np.uint8]:
    """Convert any kind of image to pixels.

    Parameters
    ----------
    image
        An image as `ImageEmbedder` takes it.
    truncated
        Decode the readable part of a file that was cut short.
    preprocessing
        That of the network.

    Returns
    -------
    uint8 (height, width, 3), by default (224, 224, 3).

    Raises
    ------
    ImageError
        If the image cannot be read.
    TypeError
        If it is no image.

    """
    if isinstance(image, str | os.PathLike):
        image = read_file(image)
    if isinstance(image, bytes | bytearray | memoryview):
        return images.decode_pixels(bytes(image), truncated, preprocessing)[0]
    if isinstance(image, Image.Image):
        return images.resize(images.to_upright_rgb(image), preprocessing)
    if hasattr(image, "detach"):  # a torch tensor, recognised without importing torch
        return _tensor_pixels(image.detach().cpu().numpy(), preprocessing)
    if isinstance(image, np.ndarray):
        return _array_pixels(image, preprocessing)
    raise TypeError(f"not an image: {type(image).__name__}")


def _array_pixels(
    array: npt.NDArray[Any], preprocessing: images.Preprocessing
) -> npt.NDArray[np.uint8]:
    return images.resize(images.to_upright_rgb(Image.fromarray(_as_bytes(array))), preprocessing)


def _as_bytes(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise ImageError(f"an array of shape {array.shape}, not (height, width[, 3 or 4])")
    if array.size == 0:
        raise ImageError(f"an array without pixels, of shape {array.shape}")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.dtype == np.uint8:
        return array
    if not np.issubdtype(array.dtype, np.floating):
        raise ImageError(f"an array of {array.dtype}, neither uint8 nor floats in 0..1")
    if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
        raise ImageError("an array of floats outside 0..1")
    return np.asarray(np.rint(array * 255), np.uint8)


def _tensor_pixels(
    tensor: npt.NDArray[Any], preprocessing: images.Preprocessing
) -> npt.NDArray[np.uint8]:
    if tensor.ndim != 3 or tensor.shape[0] not in (1, 3):
        raise ImageError(f"a tensor of shape {tensor.shape}, not (3, height, width)")
    channels_last = tensor.transpose(1, 2, 0)
    if tensor.dtype == np.uint8:
        return _array_pixels(channels_last, preprocessing)
    if preprocessing.current() != DEFAULT:
        raise ImageError(
            f"a float tensor, but this network takes images as {preprocessing.name}, not as "
            "lookalike.images.transform() makes them: give pictures as uint8"
        )
    if tensor.shape != (3, images.SIDE, images.SIDE):
        raise ImageError(
            f"a float tensor of shape {tensor.shape}: lookalike.images.transform() gives "
            f"(3, {images.SIDE}, {images.SIDE}); give other pictures as uint8"
        )
    # The transform started from integers: undoing it and rounding restores them exactly.
    values = (channels_last * np.array(DEVIATION) + np.array(MEAN)) * 255
    whole = np.rint(values)
    if not (np.abs(values - whole).max() < 0.01 and whole.min() >= 0 and whole.max() <= 255):
        raise ImageError("a tensor that is neither uint8 nor normalised as transform() does")
    return np.asarray(whole, np.uint8)
