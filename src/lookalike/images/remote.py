"""One process that decodes, as seen from the one that asks: its start, its socket, its end."""

import json
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
from lookalike.images import decoding
from lookalike.images.decoding_process import (
    BYTES,
    HEADER,
    LARGE,
    PIXELS,
    READY,
    REASON,
    REQUEST,
    ROOM,
)

START_SECONDS = 60.0
"""For a process to start: an overloaded machine and a network file system can be slow."""
_LONGEST = 64 * 2**20  # bytes of an answer: of a process that an image has taken over, no more

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


class Ended(Exception):
    """A process has ended; the message says by what."""


class Process:
    """One process that decodes, and the socket to it. One thread at a time talks to it."""

    def __init__(self, seconds: float, most: int, truncated: bool) -> None:
        """Start it, without waiting until it has; `LookalikeError` if there is no way to."""
        self.is_new = True
        self._seconds = seconds
        package = Path(__file__).parent
        packages = {"lookalike": str(package.parent), "lookalike.images": str(package)}
        given = json.dumps([[*map(str, sys.path)], packages, [seconds, most, truncated]])
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
            except (Ended, TimeoutError) as error:
                self._said.seek(0)
                said = self._said.read().decode(errors="replace").strip()
                why = said.splitlines()[-1] if said else str(error)
        raise LookalikeError(f"no process to decode images starts ({why})")

    def decode(self, data: bytes, wanted: int) -> tuple[tuple[int, int], memoryview]:
        """Hand an image over and wait for the answer: two numbers and bytes.

        Raises `ImageError`, or `TimeoutError` or `Ended`, after which the process is of no use.
        """
        self._allow(self._seconds)
        self._send(REQUEST.pack(len(data), wanted), data)
        kind, one, two, rest = self._answer()
        # Large ones decode one at a time in all threads and processes of this one. The lock is
        # taken here: if the process that it is taken for ends, so does this block.
        with decoding.large if kind == LARGE else nullcontext():
            if kind == LARGE:
                self._allow(self._seconds)
                self._send(b"!")
                kind, one, two, rest = self._answer()
        if kind == REASON:
            raise ImageError(str(rest, errors="surrogatepass"))
        return (one, two), rest

    def overdue(self) -> float:
        """Return the seconds since it should have answered."""
        return time.monotonic() - self._until

    def kill(self) -> None:
        """End the process; any thread may. Who waits for its answer gets `Ended`."""
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
        size = HEADER.size + {PIXELS: ROOM, BYTES: one, REASON: one}.get(kind, 0)
        if size > _LONGEST:
            self.kill()
            raise Ended("an endless answer")
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
            raise Ended("silent") from None
        if code == -signal.SIGALRM:  # it has looked at the time itself
            raise TimeoutError
        if code >= 0:
            raise Ended(f"exit code {code}")
        known = {entry.value: entry.name for entry in signal.Signals}
        raise Ended(known.get(-code, f"signal {-code}"))
