"""Decode in separate processes: an image that crashes or hangs a decoder costs that image alone.

Decoders are written in C. A damaged or malicious file can crash the process they run in, or hang
it. `IsolatedDecoder` has the functions of `decoding` and `identity`, and two more reasons.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from lookalike.errors import ImageError, LookalikeError
from lookalike.images.decoding import identity, raster
from lookalike.images.decoding._sandbox_client import DecoderProcess, ProcessEnded
from lookalike.images.decoding._sandbox_worker import DIGEST, EMBED, VIEW
from lookalike.images.decoding.identity import View
from lookalike.images.decoding.preprocessing import DEFAULT, Preprocessing
from lookalike.images.decoding.reasons import PIXELS_LIMIT

MAX_SECONDS = 60.0
"""Wall time for one image. Photos take milliseconds, the largest images seconds."""
SUSPENDED_SECONDS = 5.0
"""A process that is overdue by more than this was suspended; the image is not to blame."""

Decoded: TypeAlias = tuple[npt.NDArray[np.uint8], tuple[int, int]]
"""uint8 (height, width, 3), by default (224, 224, 3), and width and height of the upright image."""
Decode: TypeAlias = Callable[[bytes], Decoded]


class Decoder(Protocol):
    """Decodes files, for any number of threads, as `decoding` and `identity` do."""

    def decode_pixels(self, data: bytes, preprocessing: Preprocessing = DEFAULT) -> Decoded:
        """Do what `raster.decode_pixels` does."""

    def view(self, data: bytes) -> View:
        """Do what `identity.view` does."""

    def digest(self, data: bytes) -> bytes:
        """Do what `identity.digest` does."""


@contextmanager
def open_decoder(
    isolated: bool, expendable: bool = False, truncated: bool = False
) -> Iterator[Decoder]:
    """Yield a decoder for any number of threads.

    Parameters
    ----------
    isolated
        Decode in separate processes, else in this one.
    expendable
        This process may be killed, as a Spark worker whose task is retried: SIGALRM ends it if a
        decode takes over `MAX_SECONDS`. It needs one thread and no handler of that signal.
    truncated
        Decode the readable part of files that were cut short.

    """
    if isolated:
        with IsolatedDecoder(truncated=truncated) as processes:
            yield processes
    else:
        yield _InProcessDecoder(expendable and hasattr(signal, "SIGALRM"), truncated)


class _InProcessDecoder:
    """Decodes in this process, which ends if it is expendable and a decode takes too long."""

    def __init__(self, expendable: bool, truncated: bool) -> None:
        self._expendable, self._truncated = expendable, truncated

    def decode_pixels(self, data: bytes, preprocessing: Preprocessing = DEFAULT) -> Decoded:
        with self._limit():
            return raster.decode_pixels(data, self._truncated, preprocessing)

    def view(self, data: bytes) -> View:
        with self._limit():
            return identity.view(data, self._truncated)

    def digest(self, data: bytes) -> bytes:
        with self._limit():
            return identity.digest(data, self._truncated)

    @contextmanager
    def _limit(self) -> Iterator[None]:
        if not self._expendable or signal.getsignal(signal.SIGALRM) != signal.SIG_DFL:
            yield
            return
        signal.setitimer(signal.ITIMER_REAL, MAX_SECONDS)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)


class IsolatedDecoder:
    """Decodes in separate processes: one for each thread that calls at the same time.

    Processes start on demand. They end with `close`, or when this process ends in any way, since
    that closes the socket they read from.

    Parameters
    ----------
    max_seconds
        Wall time for one image, `MAX_SECONDS` by default.
    max_pixels
        Larger images are refused.
    truncated
        Decode the readable part of files that were cut short.

    Examples
    --------
    >>> with IsolatedDecoder() as decoder:                      # doctest: +SKIP
    ...     pixels, (width, height) = decoder.decode_pixels(Path("photo.jpg").read_bytes())

    """

    def __init__(
        self,
        max_seconds: float | None = None,
        max_pixels: int = PIXELS_LIMIT,
        truncated: bool = False,
    ) -> None:
        self._limits = (MAX_SECONDS if max_seconds is None else max_seconds, max_pixels, truncated)
        self._lock = threading.Lock()
        self._all: set[DecoderProcess] = set()
        self._idle: list[DecoderProcess] = []
        self._closed = False

    def decode_pixels(self, data: bytes, preprocessing: Preprocessing = DEFAULT) -> Decoded:
        """Do what `raster.decode_pixels` does.

        Returns
        -------
        uint8 (height, width, 3), by default (224, 224, 3), and the size of the upright image.

        Raises
        ------
        ImageError
            If the image cannot be decoded, crashes the process, or takes too long.
        LookalikeError
            If no process can be started.

        """
        size, pixels = self._decode(data, EMBED, preprocessing)
        return np.frombuffer(pixels, np.uint8).reshape(preprocessing.shape), size

    def thumbnail(self, data: bytes, side: int) -> bytes:
        """Do what `raster.thumbnail` does; raise what `decode_pixels` does."""
        return bytes(self._decode(data, side)[1])

    def view(self, data: bytes) -> View:
        """Do what `identity.view` does; raise what `decode_pixels` does."""
        return View.unpacked(self._decode(data, VIEW)[1])

    def digest(self, data: bytes) -> bytes:
        """Do what `identity.digest` does; raise what `decode_pixels` does."""
        return bytes(self._decode(data, DIGEST)[1])

    def _decode(
        self, data: bytes, task: int, preprocessing: Preprocessing = DEFAULT
    ) -> tuple[tuple[int, int], memoryview]:
        while True:
            process = self._take()
            try:
                decoded = process.decode(data, task, preprocessing)
            except ProcessEnded as ended:
                self._discard(process)
                # A used process may have been damaged by an earlier image, or killed while it
                # waited: try again. If a new process crashes, this image is to blame.
                if process.is_new and not self._closed:
                    raise ImageError(f"the decoder crashed ({ended})") from None
            except TimeoutError:
                self._discard(process)
                # After Ctrl-Z and `fg`, the process is long overdue: try again.
                if process.overdue_seconds() < SUSPENDED_SECONDS:
                    raise ImageError(f"decoding took over {self._limits[0]:g} s") from None
            except ImageError:
                self._put_back(process)
                raise
            except BaseException:  # interrupted in the middle of an answer
                self._discard(process)
                raise
            else:
                self._put_back(process)
                return decoded

    def _take(self) -> DecoderProcess:
        with self._lock:
            if self._closed:
                raise _closed_error()
            if self._idle:
                return self._idle.pop()
            self._all.add(process := DecoderProcess(*self._limits))
        try:
            process.wait_until_ready()
        except BaseException:
            self._discard(process)
            if self._closed:  # `close` has killed it while it started
                raise _closed_error() from None
            raise
        return process

    def _put_back(self, process: DecoderProcess) -> None:
        process.is_new = False
        with self._lock:
            if not self._closed:
                self._idle.append(process)
                return
        process.close()

    def _discard(self, process: DecoderProcess) -> None:
        process.close()
        with self._lock:
            self._all.discard(process)

    def close(self) -> None:
        """End all processes. A thread that waits for one gets an error."""
        with self._lock:
            self._closed = True
            processes, idle = list(self._all), self._idle
        for process in processes:
            process.kill()
        for process in idle:
            process.close()

    def __enter__(self) -> "IsolatedDecoder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _closed_error() -> LookalikeError:
    return LookalikeError("this decoder is closed: create another")
