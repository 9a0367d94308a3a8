"""Decode in a process of its own: what crashes or hangs a decoder costs that image, not the job.

Decoders are written in C, and a file that was made to, or is damaged in the right place, can end
the process they run in or keep it for ever. `IsolatedDecoder` gives what
`decoding` and `identity` give, with two more reasons.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from lookalike.errors import ImageError, LookalikeError
from lookalike.images import decoding, identity
from lookalike.images.decoding import SIDE
from lookalike.images.decoding_process import DIGEST, EMBED, VIEW
from lookalike.images.identity import View
from lookalike.images.reasons import PIXELS_LIMIT
from lookalike.images.remote import Ended, Process

MAX_SECONDS = 60.0
"""Of wall time, for one image. A photo takes some thousandths, the largest pictures seconds."""
STOPPED_SECONDS = 5.0
"""Past its time, from which on it is not the image that is to blame."""

Decoded: TypeAlias = tuple[npt.NDArray[np.uint8], tuple[int, int]]
Decode: TypeAlias = Callable[[bytes], Decoded]


class Viewer(Protocol):
    """What makes of the bytes of a file what is to be seen in it, for any number of threads."""

    def decode_pixels(self, data: bytes) -> Decoded:
        """Do what `decoding.decode_pixels` does."""

    def view(self, data: bytes) -> View:
        """Do what `identity.view` does."""

    def digest(self, data: bytes) -> bytes:
        """Do what `identity.digest` does."""


@contextmanager
def decoder(isolated: bool, expendable: bool = False, truncated: bool = False) -> Iterator[Decode]:
    """Give a function that decodes as `decoding.decode_pixels` does, where `viewer` says."""
    with viewer(isolated, expendable, truncated) as made:
        yield made.decode_pixels


@contextmanager
def viewer(isolated: bool, expendable: bool = False, truncated: bool = False) -> Iterator[Viewer]:
    """Give what decodes, for any number of threads.

    It does so in processes apart if `isolated`, else in this one. `expendable` says of this one
    that it may be lost: a decode over `MAX_SECONDS` then ends it by SIGALRM. That is for the
    workers of Spark, which tries their task again; with one thread, where no handler is set.
    `truncated` takes files that were cut short too, as far as they go.
    """
    if isolated:
        with IsolatedDecoder(truncated=truncated) as processes:
            yield processes
    else:
        yield _Here(expendable and hasattr(signal, "SIGALRM"), truncated)


class _Here:
    """Decodes in this process, which ends where a decode takes too long if it is expendable."""

    def __init__(self, expendable: bool, truncated: bool) -> None:
        self._expendable, self._truncated = expendable, truncated

    def decode_pixels(self, data: bytes) -> Decoded:
        with self._limit():
            return decoding.decode_pixels(data, self._truncated)

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
    """Decodes in processes apart: one for each thread that calls at the same time.

    >>> with IsolatedDecoder() as decoder:                      # doctest: +SKIP
    ...     pixels, (width, height) = decoder.decode_pixels(Path("photo.jpg").read_bytes())

    Processes start when they are needed and end with `close`, or when this process ends in
    whatever way: they read from a socket, and that closes. An image may take `seconds`
    (`MAX_SECONDS`) and have `most` pixels. `truncated` takes files that were cut short too.
    """

    def __init__(
        self, seconds: float | None = None, most: int = PIXELS_LIMIT, truncated: bool = False
    ) -> None:
        self._limits = (MAX_SECONDS if seconds is None else seconds, most, truncated)
        self._lock = threading.Lock()
        self._all: set[Process] = set()
        self._idle: list[Process] = []
        self._closed = False

    def decode_pixels(self, data: bytes) -> Decoded:
        """Decode and resize: uint8 (224, 224, 3), and width and height of the upright image.

        Raises `ImageError` with the reasons of `decoding.decode_pixels`, if the process was ended
        by a signal, or if it took too long; `LookalikeError` if no process can be started.
        """
        (width, height), rest = self._decode(data, EMBED)
        return np.frombuffer(rest, np.uint8).reshape(SIDE, SIDE, 3), (width, height)

    def thumbnail(self, data: bytes, side: int) -> bytes:
        """Decode to a small JPEG as `decoding.thumbnail` does; raises what `decode_pixels` does."""
        return bytes(self._decode(data, side)[1])

    def view(self, data: bytes) -> View:
        """Decode to a view as `identity.view` does; raises what `decode_pixels` does."""
        return View.unpacked(self._decode(data, VIEW)[1])

    def digest(self, data: bytes) -> bytes:
        """Return what `identity.digest` does; raises what `decode_pixels` does."""
        return bytes(self._decode(data, DIGEST)[1])

    def _decode(self, data: bytes, wanted: int) -> tuple[tuple[int, int], memoryview]:
        while True:
            process = self._take()
            try:
                decoded = process.decode(data, wanted)
            except Ended as ended:
                self._discard(process)
                # Who has decoded others before may have been ended by what they left behind, or
                # by anybody while it waited. An image is to blame for the end of a new one.
                if process.is_new and not self._closed:
                    raise ImageError(f"the decoder crashed ({ended})") from None
            except TimeoutError:
                self._discard(process)
                # Long past the time, this very process did not run: Ctrl-Z, and later `fg`.
                if process.overdue() < STOPPED_SECONDS:
                    raise ImageError(f"decoding took over {self._limits[0]:g} s") from None
            except ImageError:
                self._put_back(process)
                raise
            except BaseException:  # interrupted, with half an answer on the way
                self._discard(process)
                raise
            else:
                self._put_back(process)
                return decoded

    def _take(self) -> "Process":
        with self._lock:
            if self._closed:
                raise LookalikeError("this decoder is closed: make another")
            if self._idle:
                return self._idle.pop()
            self._all.add(process := Process(*self._limits))
        try:
            process.get_ready()
        except BaseException:
            self._discard(process)
            raise
        return process

    def _put_back(self, process: "Process") -> None:
        process.is_new = False
        with self._lock:
            if not self._closed:
                self._idle.append(process)
                return
        process.end()

    def _discard(self, process: "Process") -> None:
        process.end()
        with self._lock:
            self._all.discard(process)

    def close(self) -> None:
        """End all processes, also those that decode; whoever waits for one gets an error."""
        with self._lock:
            self._closed = True
            processes, idle = list(self._all), self._idle
        for process in processes:
            process.kill()
        for process in idle:
            process.end()

    def __enter__(self) -> "IsolatedDecoder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
