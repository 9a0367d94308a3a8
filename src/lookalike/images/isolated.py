"""Decode in a process of its own: what crashes or hangs a decoder costs that image, not the job.

Decoders are written in C, and a file that was made to, or is damaged in the right place, can end
the process they run in or keep it for ever. `IsolatedDecoder` gives what
`decoding.decode_pixels` and `decoding.thumbnail` give, with two more reasons.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NoReturn, TypeAlias

import numpy as np
import numpy.typing as npt

from lookalike.errors import LookalikeError
from lookalike.images import decoding
from lookalike.images.decoding import SIDE, BadImage
from lookalike.images.decoding_process import (
    HEADER,
    JPEG,
    LARGE,
    PIXELS,
    READY,
    REASON,
    REQUEST,
    ROOM,
)

MAX_SECONDS = 60.0
"""Of wall time, for one image. A photo takes some thousandths, the largest pictures seconds."""
START_SECONDS = 60.0
"""For a process to start: an overloaded machine and a network file system can be slow."""
STOPPED_SECONDS = 5.0
"""Past its time, from which on it is not the image that is to blame."""
_LONGEST = 64 * 2**20  # bytes of an answer: of a process that an image has taken over, no more

Decoded: TypeAlias = tuple[npt.NDArray[np.uint8], tuple[int, int]]
Decode: TypeAlias = Callable[[bytes], Decoded]

# Modules come from where the caller has them, however it came by its path. Two empty packages
# take the place of the real ones, whose imports the process does not need and would wait for.
_START = """
import json, sys, types
sys.path[:], packages, limits = json.loads(sys.argv[1])
for name, folder in packages.items():
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [folder]
from lookalike.images.decoding_process import serve
serve(*limits)
"""


@contextmanager
def decoder(isolated: bool, expendable: bool = False) -> Iterator[Decode]:
    """Give a function that decodes as `decoding.decode_pixels` does, for any number of threads.

    It does so in processes apart if `isolated`, else in this one. `expendable` says of this one
    that it may be lost: a decode over `MAX_SECONDS` then ends it by SIGALRM. That is for the
    workers of Spark, which tries their task again; with one thread, where no handler is set.
    """
    if isolated:
        with IsolatedDecoder() as processes:
            yield processes.decode_pixels
    elif expendable and hasattr(signal, "SIGALRM"):
        yield _decode_or_die
    else:
        yield decoding.decode_pixels


def _decode_or_die(data: bytes) -> Decoded:
    if signal.getsignal(signal.SIGALRM) != signal.SIG_DFL:
        return decoding.decode_pixels(data)
    signal.setitimer(signal.ITIMER_REAL, MAX_SECONDS)
    try:
        return decoding.decode_pixels(data)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


class IsolatedDecoder:
    """Decodes in processes apart: one for each thread that calls at the same time.

    >>> with IsolatedDecoder() as decoder:                      # doctest: +SKIP
    ...     pixels, (width, height) = decoder.decode_pixels(Path("photo.jpg").read_bytes())

    Processes start when they are needed and end with `close`, or when this process ends in
    whatever way: they read from a socket, and that closes. An image may take `seconds`
    (`MAX_SECONDS`) and have `most` pixels.
    """

    def __init__(self, seconds: float | None = None, most: int = decoding.MAX_PIXELS) -> None:
        self._limits = (MAX_SECONDS if seconds is None else seconds, most)
        self._lock = threading.Lock()
        self._all: set[_Process] = set()
        self._idle: list[_Process] = []
        self._closed = False

    def decode_pixels(self, data: bytes) -> Decoded:
        """Decode and resize: uint8 (224, 224, 3), and width and height of the upright image.

        Raises `BadImage` with the reasons of `decoding.decode_pixels`, if the process was ended by
        a signal, or if it took too long; `LookalikeError` if no process can be started.
        """
        (width, height), rest = self._decode(data, 0)
        return np.frombuffer(rest, np.uint8).reshape(SIDE, SIDE, 3), (width, height)

    def thumbnail(self, data: bytes, side: int) -> bytes:
        """Decode to a small JPEG as `decoding.thumbnail` does; raises what `decode_pixels` does."""
        return bytes(self._decode(data, side)[1])

    def _decode(self, data: bytes, side: int) -> tuple[tuple[int, int], memoryview]:
        while True:
            process = self._take()
            try:
                decoded = process.decode(data, side)
            except _Ended as ended:
                self._discard(process)
                # Who has decoded others before may have been ended by what they left behind, or
                # by anybody while it waited. An image is to blame for the end of a new one.
                if process.is_new and not self._closed:
                    raise BadImage(f"the decoder crashed ({ended})") from None
            except TimeoutError:
                self._discard(process)
                # Long past the time, this very process did not run: Ctrl-Z, and later `fg`.
                if process.overdue() < STOPPED_SECONDS:
                    raise BadImage(f"decoding took over {self._limits[0]:g} s") from None
            except BadImage:
                self._put_back(process)
                raise
            except BaseException:  # interrupted, with half an answer on the way
                self._discard(process)
                raise
            else:
                self._put_back(process)
                return decoded

    def _take(self) -> "_Process":
        with self._lock:
            if self._closed:
                raise LookalikeError("this decoder is closed: make another")
            if self._idle:
                return self._idle.pop()
            self._all.add(process := _Process(*self._limits))
        try:
            process.get_ready()
        except BaseException:
            self._discard(process)
            raise
        return process

    def _put_back(self, process: "_Process") -> None:
        process.is_new = False
        with self._lock:
            if not self._closed:
                self._idle.append(process)
                return
        process.end()

    def _discard(self, process: "_Process") -> None:
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


class _Ended(Exception):
    """A process has ended; the message says by what."""


class _Process:
    """One process that decodes, and the socket to it. One thread at a time talks to it."""

    def __init__(self, seconds: float, most: int) -> None:
        """Start it, without waiting until it has; `LookalikeError` if there is no way to."""
        self.is_new = True
        self._seconds = seconds
        package = Path(__file__).parent
        packages = {"lookalike": str(package.parent), "lookalike.images": str(package)}
        given = json.dumps([[*map(str, sys.path)], packages, [seconds, most]])
        # What reserves memory for threads that will never be.
        alone = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}
        self._until = 0.0
        self._socket, theirs = socket.socketpair()
        try:
            self._said = tempfile.TemporaryFile()  # noqa: SIM115 - until the process is ready
            self._process = subprocess.Popen(
                [sys.executable or "python3", "-c", _START, given],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=self._said.fileno(),
                env=os.environ | alone,
            )
        except OSError as error:
            self._socket.close()
            raise LookalikeError(f"no process to decode images starts ({error})") from None
        finally:
            theirs.close()

    def get_ready(self) -> None:
        """Wait until the process can decode; `LookalikeError` if it ends, or does not begin."""
        with self._said:
            try:
                self._allow(START_SECONDS)
                if self._answer()[0] == READY:
                    return
                why = "something else answers"
            except (_Ended, TimeoutError) as error:
                self._said.seek(0)
                said = self._said.read().decode(errors="replace").strip()
                why = said.splitlines()[-1] if said else str(error)
        raise LookalikeError(f"no process to decode images starts ({why})")

    def decode(self, data: bytes, side: int) -> tuple[tuple[int, int], memoryview]:
        """Hand an image over and wait for the answer: two numbers and bytes.

        Raises `BadImage`, or `TimeoutError` or `_Ended`, after which the process is of no use.
        """
        self._allow(self._seconds)
        self._send(REQUEST.pack(len(data), side), data)
        kind, one, two, rest = self._answer()
        # Large ones decode one at a time in all threads and processes of this one. The lock is
        # taken here: if the process that it is taken for ends, so does this block.
        with decoding.large if kind == LARGE else nullcontext():
            if kind == LARGE:
                self._allow(self._seconds)
                self._send(b"!")
                kind, one, two, rest = self._answer()
        if kind == REASON:
            raise BadImage(str(rest, errors="surrogatepass"))
        return (one, two), rest

    def overdue(self) -> float:
        """Return the seconds since it should have answered."""
        return time.monotonic() - self._until

    def kill(self) -> None:
        """End the process; any thread may. Who waits for its answer gets `_Ended`."""
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        """End the process and close the socket to it, which no other thread may be using."""
        self.kill()
        self._socket.close()

    def _allow(self, seconds: float) -> None:
        self._until = time.monotonic() + seconds

    def _left(self) -> float:
        return max(self._until - time.monotonic(), 0.001)  # 0 would mean: do not wait at all

    def _send(self, *parts: bytes) -> None:
        self._socket.settimeout(self._left())
        try:
            sent = self._socket.sendmsg(parts)
            for part in parts:  # all at once where they fit: each piece wakes the process
                if sent < len(part):
                    self._socket.sendall(memoryview(part)[sent:])
                sent = max(sent - len(part), 0)
        except (BrokenPipeError, ConnectionResetError):
            self._raise_end()

    def _answer(self) -> tuple[bytes, int, int, memoryview]:
        """Wait for a header and return what is in it, and what came with it."""
        buffer = memoryview(bytearray(HEADER.size + ROOM))
        got = self._receive(buffer, HEADER.size)
        kind, one, two = HEADER.unpack(buffer[: HEADER.size])
        size = HEADER.size + {PIXELS: ROOM, JPEG: one, REASON: one}.get(kind, 0)
        if size > _LONGEST:
            self.kill()
            raise _Ended("an endless answer")
        if size > len(buffer):
            buffer, begun = memoryview(bytearray(size)), buffer
            buffer[:got] = begun[:got]
        self._receive(buffer[got:], size - got)
        return kind, one, two, buffer[HEADER.size : size]

    def _receive(self, buffer: memoryview, least: int) -> int:
        """Read at least so many bytes into a buffer; return how many."""
        got = 0
        while got < least:
            self._socket.settimeout(self._left())
            try:
                count = self._socket.recv_into(buffer[got:])
            except ConnectionResetError:
                count = 0
            if not count:
                self._raise_end()
            got += count
        return got

    def _raise_end(self) -> NoReturn:
        try:
            code = self._process.wait(5)
        except subprocess.TimeoutExpired:
            raise _Ended("silent") from None
        if code == -signal.SIGALRM:  # it has looked at the time itself
            raise TimeoutError
        if code >= 0:
            raise _Ended(f"exit code {code}")
        known = {entry.value: entry.name for entry in signal.Signals}
        raise _Ended(known.get(-code, f"signal {-code}"))
