"""The sandbox process: it receives images, and sends pixels or reasons back.

`sandbox.IsolatedDecoder` starts it and is its only caller. Its standard input is a socket, which
also takes the answers, so that nothing a library prints can mix with them. A request is a `REQUEST`
and the bytes of an image. An answer is a `HEADER`, then pixels, other bytes or the text of a
reason. The process imports only decoders, and starts in a tenth of a second.
"""

import os
import signal
from contextlib import suppress
from struct import Struct
from typing import BinaryIO, TypeAlias

import numpy as np

from lookalike.errors import ImageError
from lookalike.images.decoding import identity, raster
from lookalike.images.decoding.preprocessing import DEFAULT, Preprocessing

REQUEST = Struct("=QIH")
"""The size of the image in bytes, the task, which is a value below or the side of a thumbnail, and
the size of the name of a preprocessing in bytes, 0 for the default. The name comes first."""
EMBED, VIEW, DIGEST = 0, 2**32 - 1, 2**32 - 2
"""Tasks: return pixels to embed, an `identity.View`, an `identity.digest`."""
HEADER = Struct("=cII")
"""The kind of answer, and two numbers: width and height of pixels, else the size in bytes and 0."""
READY, PIXELS, BYTES, REASON, LARGE = b"r", b"p", b"y", b"b", b"l"
"""Kinds of answers. `LARGE` asks the caller for a byte before a large image is decoded."""

PIXELS_BYTES = raster.SIDE**2 * 3
"""Size of the pixels by default, larger than any reason."""

MAX_MEMORY_BYTES = 4 * 2**30
"""Address space: the largest image takes 2 GB, its file half a gigabyte."""


def serve(max_seconds: float, max_pixels: int, truncated: bool) -> None:
    """Answer requests until the caller closes the socket.

    Parameters
    ----------
    max_seconds
        SIGALRM ends the process if a decode takes longer. The caller watches the time too, but may
        be killed before.
    max_pixels
        Larger images are refused.
    truncated
        Decode the readable part of a file that was cut short.

    """
    _restrict_process()
    with suppress(BrokenPipeError, ConnectionResetError), open(0, "rb", closefd=False) as requests:
        raster.large_image_lock = lock = _CallerLock(requests, max_seconds)
        raster.MAX_PIXELS = max_pixels
        _send(READY)
        while request := requests.read(REQUEST.size):
            size, task, name_size = REQUEST.unpack(request)
            name = requests.read(name_size)
            data = requests.read(size)
            lock.set_timer(max_seconds)
            try:
                answer = _decode(data, task, truncated, name)
            except ImageError as error:
                reason = str(error).encode(errors="surrogatepass")
                answer = (REASON, len(reason), 0, memoryview(reason))
            lock.set_timer(0)
            del data
            _send(*answer)


Answer: TypeAlias = tuple[bytes, int, int, memoryview]


def _decode(data: bytes, task: int, truncated: bool, name: bytes) -> Answer:
    if task == EMBED:
        preprocessing = Preprocessing.parse(name.decode()) if name else DEFAULT
        pixels, size = raster.decode_pixels(data, truncated, preprocessing)
        return PIXELS, *size, np.ascontiguousarray(pixels).data.cast("B")
    if task == VIEW:
        result = identity.view(data, truncated).packed()
    elif task == DIGEST:
        result = identity.digest(data, truncated)
    else:
        result = raster.thumbnail(data, task, truncated)
    return BYTES, len(result), 0, memoryview(result)


def _send(kind: bytes, one: int = 0, two: int = 0, rest: bytes | memoryview = b"") -> None:
    header = HEADER.pack(kind, one, two)
    sent = os.writev(0, [header, rest])  # in one piece if it fits: each piece wakes the caller
    while sent < HEADER.size + len(rest):
        sent += os.write(0, rest[sent - HEADER.size :])


class _CallerLock:
    """The lock for large images, held by the caller on behalf of this process."""

    def __init__(self, requests: BinaryIO, max_seconds: float) -> None:
        self._requests, self._max_seconds = requests, max_seconds

    def set_timer(self, seconds: float) -> None:
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, seconds)

    def __enter__(self) -> None:
        self.set_timer(0)  # waiting for the lock does not count
        _send(LARGE)
        if not self._requests.read(1):
            raise SystemExit
        self.set_timer(self._max_seconds)

    def __exit__(self, *_: object) -> None:
        pass  # the answer tells the caller


def _restrict_process() -> None:
    """Limit memory, ignore Ctrl-C, which the caller handles, and silence libraries."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGALRM"):
        # Both are inherited from the caller.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
    with suppress(ImportError, ValueError, OSError):  # not on every system
        import resource

        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        soft = min(MAX_MEMORY_BYTES, hard) if hard != resource.RLIM_INFINITY else MAX_MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # no core dumps of gigabytes
    # Until here the caller reads stderr for start errors; from here on libraries only warn.
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 2)
    os.close(devnull)
