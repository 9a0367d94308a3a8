"""The caller's side of the sandbox: start a process, send it images, end it."""

import json
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import NoReturn

from lookalike.errors import ImageError, LookalikeError
from lookalike.images.decoding import raster
from lookalike.images.decoding._sandbox_worker import (
    BYTES,
    HEADER,
    LARGE,
    PIXELS,
    PIXELS_BYTES,
    READY,
    REASON,
    REQUEST,
)
from lookalike.images.decoding.preprocessing import DEFAULT, Preprocessing

MAX_START_SECONDS = 60.0
"""Overloaded machines and network file systems are slow."""
MAX_ANSWER_BYTES = 64 * 2**20
"""Bounds what a process can send that a malicious image has taken over."""

# The process has the caller's module path. Two empty packages replace the real ones, whose imports
# it does not need and would wait for.
_START = """
import json, sys, types
sys.path[:], packages, limits = json.loads(sys.argv[1])
for name, folder in packages.items():
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [folder]
from lookalike.images.decoding._sandbox_worker import serve
serve(*limits)
"""


class ProcessEnded(Exception):
    """A process has ended. The message names the signal or exit code."""


class DecoderProcess:
    """A sandbox process and the socket to it, for one thread at a time.

    The parameters are those of `_sandbox_worker.serve`. The constructor does not wait for the
    process to start; it raises `LookalikeError` if it cannot be started.
    """

    def __init__(self, max_seconds: float, max_pixels: int, truncated: bool) -> None:
        self.is_new = True
        self._max_seconds = max_seconds
        package = Path(__file__).parents[2]
        names = ("lookalike", "lookalike.images", "lookalike.images.decoding")
        packages = {name: str(package.joinpath(*name.split(".")[1:])) for name in names}
        limits = [max_seconds, max_pixels, truncated]
        arguments = json.dumps([[*map(str, sys.path)], packages, limits])
        # Else libraries reserve memory for threads that never start.
        one_thread = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}
        self._deadline = 0.0
        self._socket, theirs = socket.socketpair()
        try:
            self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - until the process is ready
            self._process = subprocess.Popen(
                [sys.executable or "python3", "-c", _START, arguments],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=self._stderr.fileno(),
                env=os.environ | one_thread,
            )
        except OSError as error:
            self._socket.close()
            raise LookalikeError(f"cannot start a process to decode images ({error})") from None
        finally:
            theirs.close()

    def wait_until_ready(self) -> None:
        """Wait until the process can decode; raise `LookalikeError` if it ends or hangs."""
        with self._stderr:
            try:
                self._set_deadline(MAX_START_SECONDS)
                if self._receive_answer()[0] == READY:
                    return
                why = "unexpected answer"
            except (ProcessEnded, TimeoutError) as error:
                self._stderr.seek(0)
                lines = self._stderr.read().decode(errors="replace").strip().splitlines()
                why = lines[-1] if lines else str(error)
        raise LookalikeError(f"cannot start a process to decode images ({why})")

    def decode(
        self, data: bytes, task: int, preprocessing: Preprocessing = DEFAULT
    ) -> tuple[tuple[int, int], memoryview]:
        """Send an image and wait for the answer: two numbers and bytes.

        Raises `ImageError` for a bad image. After `TimeoutError` or `ProcessEnded`, the process is
        unusable.
        """
        self._set_deadline(self._max_seconds)
        name = b"" if preprocessing == DEFAULT else preprocessing.name.encode()
        pixels_bytes = math.prod(preprocessing.shape)
        self._send(REQUEST.pack(len(data), task, len(name)) + name, data)
        kind, one, two, rest = self._receive_answer(pixels_bytes)
        # All threads and processes decode one large image at a time. The lock is held on this
        # side, so that it is released if the process ends.
        with raster.large_image_lock if kind == LARGE else nullcontext():
            if kind == LARGE:
                self._set_deadline(self._max_seconds)
                self._send(b"!")
                kind, one, two, rest = self._receive_answer(pixels_bytes)
        if kind == REASON:
            raise ImageError(str(rest, errors="surrogatepass"))
        return (one, two), rest

    def overdue_seconds(self) -> float:
        """Return the seconds since the deadline of the last answer."""
        return time.monotonic() - self._deadline

    def kill(self) -> None:
        """Kill the process, from any thread. A thread that waits for it gets `ProcessEnded`."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Kill the process and close its socket, which no other thread may be using."""
        self.kill()
        self._socket.close()

    def _set_deadline(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds

    def _set_timeout(self) -> None:
        self._socket.settimeout(max(self._deadline - time.monotonic(), 0.001))  # 0: do not wait

    def _send(self, *parts: bytes) -> None:
        self._set_timeout()
        try:
            sent = self._socket.sendmsg(parts)
            for part in parts:  # in one piece if they fit: each piece wakes the process
                if sent < len(part):
                    self._socket.sendall(memoryview(part)[sent:])
                sent = max(sent - len(part), 0)
        except (BrokenPipeError, ConnectionResetError):
            self._raise_end()

    def _receive_answer(
        self, pixels_bytes: int = PIXELS_BYTES
    ) -> tuple[bytes, int, int, memoryview]:
        """Wait for an answer; return the fields of its header, and its bytes."""
        buffer = memoryview(bytearray(HEADER.size + PIXELS_BYTES))
        received = self._receive(buffer, HEADER.size)
        kind, one, two = HEADER.unpack(buffer[: HEADER.size])
        size = HEADER.size + {PIXELS: pixels_bytes, BYTES: one, REASON: one}.get(kind, 0)
        if size > MAX_ANSWER_BYTES:
            self.kill()
            raise ProcessEnded("an answer that is too long")
        if size > len(buffer):
            buffer, start = memoryview(bytearray(size)), buffer
            buffer[:received] = start[:received]
        self._receive(buffer[received:], size - received)
        return kind, one, two, buffer[HEADER.size : size]

    def _receive(self, buffer: memoryview, min_bytes: int) -> int:
        """Read at least `min_bytes` into a buffer; return the number of bytes read."""
        received = 0
        while received < min_bytes:
            self._set_timeout()
            try:
                count = self._socket.recv_into(buffer[received:])
            except ConnectionResetError:
                count = 0
            if not count:
                self._raise_end()
            received += count
        return received

    def _raise_end(self) -> NoReturn:
        try:
            code = self._process.wait(5)
        except subprocess.TimeoutExpired:
            raise ProcessEnded("no answer") from None
        if code == -signal.SIGALRM:  # the process has watched its own time
            raise TimeoutError
        if code >= 0:
            raise ProcessEnded(f"exit code {code}")
        names = {entry.value: entry.name for entry in signal.Signals}
        raise ProcessEnded(names.get(-code, f"signal {-code}"))
