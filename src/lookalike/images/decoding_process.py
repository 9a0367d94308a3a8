"""A process that decodes and can do nothing else: images come in, pixels or reasons go out.

`isolated.IsolatedDecoder` starts it and is its only caller. Its standard input is one end of a
socket, and the answers go back through it, so that nothing a library prints gets among them. An
image comes as a `REQUEST` and its bytes. The answer is a `HEADER`, then the pixels, other bytes or
the text of the reason. Of this package only what decodes is imported: the process starts in a tenth
of a second.
"""

import os
import signal
from contextlib import suppress
from struct import Struct
from typing import BinaryIO, TypeAlias

import numpy as np

from lookalike.errors import ImageError
from lookalike.images import decoding, identity

REQUEST = Struct("=QI")
"""Bytes of the image; pixels a side of the JPEG that is wanted, or one of the following."""
EMBED, VIEW, DIGEST = 0, 2**32 - 1, 2**32 - 2
"""Wanted are pixels to embed, an `identity.View`, an `identity.digest`."""
HEADER = Struct("=cII")
"""What comes, and two numbers: width and height, or the bytes of the rest and 0."""
READY, PIXELS, BYTES, REASON, LARGE = b"r", b"p", b"y", b"b", b"l"
"""Started; decoded, in one way or another; not decoded; a large one, to be decoded once the
caller sends a byte."""

ROOM = decoding.SIDE**2 * 3
"""Bytes of the pixels, which is more than any reason takes."""

MAX_MEMORY = 4 * 2**30
"""Bytes of addresses: the largest picture there may be takes 2 GB, its file half of one."""


def serve(seconds: float, most: int, truncated: bool) -> None:
    """Answer until the other end of the socket closes. A decode ends after `seconds`, by SIGALRM.

    Images of over `most` pixels are not decoded; of truncated ones what there is, if `truncated`.

    The caller has an eye on the time as well; but if it was killed, nobody else ends a decode that
    hangs.
    """
    _confine()
    with suppress(BrokenPipeError, ConnectionResetError), open(0, "rb", closefd=False) as requests:
        decoding.large = turn = _Turn(requests, seconds)
        decoding.MAX_PIXELS = most
        _tell(READY)
        while request := requests.read(REQUEST.size):
            size, wanted = REQUEST.unpack(request)
            data = requests.read(size)
            turn.budget(seconds)
            try:
                answer = _answer(data, wanted, truncated)
            except ImageError as error:
                reason = str(error).encode(errors="surrogatepass")
                answer = (REASON, len(reason), 0, memoryview(reason))
            turn.budget(0)
            del data
            _tell(*answer)


Answer: TypeAlias = tuple[bytes, int, int, memoryview]


def _answer(data: bytes, wanted: int, truncated: bool) -> Answer:
    if wanted == EMBED:
        pixels, size = decoding.decode_pixels(data, truncated)
        return PIXELS, *size, np.ascontiguousarray(pixels).data.cast("B")
    if wanted == VIEW:
        made = identity.view(data, truncated).packed()
    elif wanted == DIGEST:
        made = identity.digest(data, truncated)
    else:
        made = decoding.thumbnail(data, wanted, truncated)
    return BYTES, len(made), 0, memoryview(made)


def _tell(kind: bytes, one: int = 0, two: int = 0, rest: bytes | memoryview = b"") -> None:
    header = HEADER.pack(kind, one, two)
    sent = os.writev(0, [header, rest])  # at once where it fits: each piece wakes the caller
    while sent < HEADER.size + len(rest):
        sent += os.write(0, rest[sent - HEADER.size :])


class _Turn:
    """Takes the place of the lock for large pictures: the caller has it, and is asked for it."""

    def __init__(self, requests: BinaryIO, seconds: float) -> None:
        self._requests, self._seconds = requests, seconds

    def budget(self, seconds: float) -> None:
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, seconds)

    def __enter__(self) -> None:
        self.budget(0)  # to wait for another picture takes none of this one's time
        _tell(LARGE)
        if not self._requests.read(1):
            raise SystemExit
        self.budget(self._seconds)

    def __exit__(self, *_: object) -> None:
        pass  # the caller knows by the answer


def _confine() -> None:
    """Bound what a decoder can take, say nothing, and leave Ctrl-C to the caller."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal tells all processes
    if hasattr(signal, "SIGALRM"):
        # Whatever the caller's are: both are inherited.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
    with suppress(ImportError, ValueError, OSError):  # not every system has or obeys these
        import resource

        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        room = MAX_MEMORY if hard == resource.RLIM_INFINITY else min(MAX_MEMORY, hard)
        resource.setrlimit(resource.RLIMIT_AS, (room, hard))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # no gigabytes on the disk at a crash
    # Until here the caller hears why there is no start; from here on libraries only warn.
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 2)
    os.close(silence)
