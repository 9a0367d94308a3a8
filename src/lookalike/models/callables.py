"""A function of one's own as the model: from pixels to vectors, with a name and a version."""

import os
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from lookalike.errors import ImageError, LookalikeError, one_line
from lookalike.images import Preprocessing
from lookalike.images.decoding.preprocessing import MAX_SIDE
from lookalike.system.arrays import Pixels, Vectors
from lookalike.system.extras import is_installed

PREFIX = "callable:"
"""Begins the names of models that are functions."""
MAX_WIDTH = 65_536
"""Most numbers in a vector; networks have hundreds or thousands."""
_MAX_NAME = 100  # characters
_INSTALLED = ("stdlib", "platstdlib", "purelib", "platlib")

Function: TypeAlias = Callable[[Pixels], "npt.NDArray[Any]"]


@dataclass(frozen=True, eq=False)
class CallableModel:
    """A function of your own as the model of an index.

    Two with the same name, version and preprocessing count as the same model: give another
    version whenever its vectors change. The index stores these names, not the function: give it
    again to `open_index` to search with images or to add some. On Spark it is sent to the workers
    by cloudpickle.

    Parameters
    ----------
    function : callable
        Maps images, uint8 (n, height, width, 3) in RGB, to vectors, float32 (n, d), the same d for
        any n. One thread of a process calls it at a time.
    name, version : str
        Identify the function.
    size : int or (int, int)
        The side of the images in pixels, or their height and width. Images are resized to it.
    preprocessing : Preprocessing, optional
        How images are resized and cropped, instead of `size`.
    batch : int
        The most images in a call.

    Examples
    --------
    >>> def means(images):
    ...     return images.mean((1, 2), dtype="float32")
    >>> model = CallableModel(means, name="mean colour", version="1", size=32)
    >>> [len(vector) for vector in model.function(np.zeros((2, 32, 32, 3), np.uint8))]
    [3, 3]
    """

    function: Function
    name: str
    version: str
    size: int | tuple[int, int] = 224
    preprocessing: Preprocessing | None = None
    batch: int = 16
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise LookalikeError(f"a {type(self.function).__name__} is no function of images")
        for what in ("name", "version"):
            value = getattr(self, what)
            if not (isinstance(value, str) and value.isprintable() and 0 < len(value) <= _MAX_NAME):
                raise LookalikeError(
                    f"the {what} {str(value)[:40]!r} of a CallableModel: give a text of 1 to "
                    f"{_MAX_NAME} printable characters"
                )
        if not (isinstance(self.batch, int) and self.batch > 0):
            raise LookalikeError(f"`batch` is {self.batch!r}: give 1 or more images")
        if not isinstance(self.preprocessing, Preprocessing | None):
            raise LookalikeError(
                f"`preprocessing` is {str(self.preprocessing)[:40]!r}: give a "
                "lookalike.images.Preprocessing, or leave it out and set `size`"
            )
        try:
            _ = self.input
        except (ValueError, TypeError):
            raise LookalikeError(
                f"`size` is {self.size!r}: give 1 to {MAX_SIDE} pixels, or (height, width)"
            ) from None

    @property
    def input(self) -> Preprocessing:
        """How images are resized and cropped."""
        if self.preprocessing is not None:
            return self.preprocessing.current()
        high, wide = (self.size, self.size) if isinstance(self.size, int) else self.size
        return Preprocessing("squash", (int(high), int(wide)), "bilinear", (int(high), int(wide)))

    def identity(self) -> list[str]:
        """Return what tells it from other functions."""
        return ["callable", self.name, self.version]

    def __reduce__(self) -> tuple[Any, ...]:
        rest = (self.name, self.version, self.size, self.preprocessing, self.batch)
        return _unpickled, (pickled(self), *rest)


def pickled(model: CallableModel) -> bytes:
    """Pickle a function: by value if its module is no installed one, which workers may lack.

    Raises `LookalikeError` for one that cannot be pickled.
    """
    import pickle

    try:
        if not is_installed("pyspark"):
            return pickle.dumps(model.function)
        from pyspark import cloudpickle

        with suppress(Exception), _by_value(_own_module(model.function)):
            return cast("bytes", cloudpickle.dumps(model.function))  # type: ignore[no-untyped-call]
        return cast("bytes", cloudpickle.dumps(model.function))  # type: ignore[no-untyped-call]
    except Exception as error:
        raise LookalikeError(
            f"the function {model.name!r} cannot be sent to other processes "
            f"({one_line(error)[:200]}): load what it needs inside of it, or set `spark=False`"
        ) from None


def _own_module(function: Function) -> ModuleType | None:
    """Return the module of a function if it belongs to no installed package."""
    name = getattr(function, "__module__", None) or type(function).__module__
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None)
    installed = {os.path.realpath(sysconfig.get_path(kind)) for kind in _INSTALLED}
    if not file or any(os.path.realpath(file).startswith(f"{at}{os.sep}") for at in installed):
        return None
    return module


@contextmanager
def _by_value(module: ModuleType | None) -> Iterator[None]:
    from pyspark import cloudpickle

    if module is None or module.__name__ in cloudpickle.list_registry_pickle_by_value():  # type: ignore[no-untyped-call]
        yield
        return
    cloudpickle.register_pickle_by_value(module)  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        cloudpickle.unregister_pickle_by_value(module)  # type: ignore[no-untyped-call]


def _unpickled(data: bytes, *rest: Any) -> CallableModel:
    import pickle

    return CallableModel(pickle.loads(data), *rest)


def checked(given: Any) -> CallableModel:
    """Return a `CallableModel`; raise `LookalikeError`, which shows how to make one."""
    if isinstance(given, CallableModel):
        return given
    if callable(given):
        name = getattr(given, "__name__", type(given).__name__)
        raise LookalikeError(
            f"the function {name} has no name and version, which identify its vectors: "
            f'set `model` to lookalike.CallableModel({name}, name="{name}", version="1")'
        )
    raise LookalikeError(
        f"a {type(given).__name__} is no model: give a name, a file or a lookalike.CallableModel"
    )


def no_function_error(backbone: str, version: str) -> LookalikeError:
    """Return the error for an index whose function is needed and was not given."""
    name = backbone.removeprefix(PREFIX)
    return LookalikeError(
        f"this index was made with the function {name!r}, version {version!r}, and needs "
        "it: use open_index(path, model=lookalike.CallableModel(...)) in Python"
    )


class CallableEngine:
    """Calls a function, one thread at a time, and checks what it returns."""

    def __init__(self, model: CallableModel, width: int | None) -> None:
        self.batch = model.batch
        self._model, self._width = model, width

    def __call__(self, pixels: Pixels) -> Vectors:
        """Embed a batch of any size: float32 (n, width). Raises `ImageError` if that fails."""
        parts = [
            self._call(pixels[at : at + self.batch]) for at in range(0, len(pixels), self.batch)
        ]
        return np.concatenate(parts)

    def each(self, pixels: Pixels) -> tuple[Vectors, dict[int, str]]:
        """Embed a batch, and image by image if that fails.

        Returns
        -------
        float32 (n, width), NaN for images that fail, and the reason for each of these by its place.
        """
        try:
            return self(pixels), {}
        except ImageError:
            vectors = np.full((len(pixels), self._width or 1), np.nan, np.float32)
        reasons: dict[int, str] = {}
        for at in range(len(pixels)):
            try:
                vectors[at] = self(pixels[at : at + 1])[0]
            except ImageError as error:
                reasons[at] = str(error)
        return vectors, reasons

    def _call(self, pixels: Pixels) -> Vectors:
        name = self._model.name
        with self._model._lock:  # of the model, which several engines may call
            try:
                given: Any = self._model.function(pixels)
                if hasattr(given, "detach"):  # a tensor
                    given = given.detach().cpu().numpy()
                vectors = np.asarray(given)
            except Exception as error:
                detail = one_line(error)
                kind = type(error).__name__
                reason = f"{kind}: {detail}" if detail else kind
                raise ImageError(f"the function {name!r} failed: {reason[:300]}") from None
        wanted = f"({len(pixels)}, {self._width or 'd'})"
        if (
            vectors.ndim != 2
            or len(vectors) != len(pixels)
            or not 0 < vectors.shape[1] <= MAX_WIDTH
            or self._width not in (None, vectors.shape[1])
            or vectors.dtype.kind not in "fiu"
        ):
            raise ImageError(
                f"the function {name!r} returned {vectors.dtype} {vectors.shape}, "
                f"not float32 {wanted}"
            )
        return np.array(vectors, np.float32)  # a copy: it may use its buffer again


def embed_each(run: Callable[[Pixels], Vectors], pixels: Pixels) -> tuple[Vectors, dict[int, str]]:
    """Run an engine; return the vectors, and the reasons of images for which a function failed."""
    return run.each(pixels) if isinstance(run, CallableEngine) else (run(pixels), {})


def find_width(model: CallableModel) -> int:
    """Return the width of a function's vectors, found by one call with two images of noise."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2, *model.input.shape), np.uint8)
    try:
        return int(CallableEngine(model, None)(pixels).shape[1])
    except ImageError as error:
        raise LookalikeError(
            f"{error}; it was called with uint8 {pixels.shape} and has to return float32 (2, d)"
        ) from None
