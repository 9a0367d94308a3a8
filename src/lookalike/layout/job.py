"""A layout made in a process of its own, so that whoever asks stays quick and gets memory back."""

import io
import os
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress

from lookalike.errors import LookalikeError
from lookalike.layout.keeping import keep, unpacked
from lookalike.layout.placing import Layout
from lookalike.storage import EmbeddingTable
from lookalike.untrusted import read_arrays

DONE, FAILED = "done", "failed"
"""What a process says once the layout follows, or why there is none."""
_ENVIRONMENT = {"OMP_WAIT_POLICY": "passive"}
"""Threads sleep while they wait for each other: beside a busy server it takes half the CPU time."""


class Job:
    """Lays out a collection, at low priority, and keeps the layout.

    >>> job = Job(collection)                                   # doctest: +SKIP
    >>> while not job.ended(): print(*job.progress())

    The process ends with `stop`, or when this one ends in whatever way: it reads from a pipe, and
    that closes. Raises `LookalikeError` if none can be started.
    """

    def __init__(self, collection: EmbeddingTable) -> None:
        self._collection = collection
        self._progress = (0.0, "comparing images")
        self._layout: Layout | None = None
        self._failed: str | None = None
        self._stopped = False
        arguments = [str(collection.path.absolute()), str(collection.version)]
        try:
            self._said = tempfile.TemporaryFile()  # noqa: SIM115 - until the process has ended
            self._process = subprocess.Popen(
                [sys.executable or "python3", "-P", "-m", "lookalike.layout", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                env=os.environ | _ENVIRONMENT | {"PYTHONPATH": _path()},
            )
        except OSError as error:
            raise LookalikeError(f"no map: no process starts to make it ({error})") from None
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int:
        """The number of the process."""
        return self._process.pid

    def progress(self) -> tuple[float, str]:
        """Return how far it is, from 0 to 1, and with what."""
        return self._progress

    def ended(self) -> bool:
        """Say whether there is a result, or a reason why there is none."""
        return not self._thread.is_alive()

    def result(self) -> Layout | None:
        """Return the layout; None until it is there. By then it is kept as well."""
        return self._layout

    def failed(self) -> str | None:
        """Return in a line why there will be no layout; None unless that is so."""
        return self._failed

    def wait(self, seconds: float | None = None) -> None:
        """Wait until it has ended, or so long."""
        self._thread.join(seconds)

    def stop(self) -> None:
        """End the process, if it still runs."""
        self._stopped = True
        self._process.kill()
        self._thread.join()

    def _listen(self) -> None:
        """Hear what the process says until it ends."""
        layout = None
        with self._said, self._process as process:
            with suppress(ValueError):  # it ended in the middle of a word
                layout = self._heard(process)
            if layout is None:
                with suppress(subprocess.TimeoutExpired):  # its output ends before it does
                    process.wait(5)
            process.kill()
            if layout is None and not (self._stopped or self._failed):
                self._said.seek(0)
                said = self._said.read().decode(errors="replace").strip()
                why = said.splitlines()[-1] if said else _ended(process.wait())
                self._failed = f"no map ({why}): ask again to try again"
        if layout is not None:
            keep(self._collection, layout)
            self._progress, self._layout = (1.0, self._progress[1]), layout

    def _heard(self, process: "subprocess.Popen[bytes]") -> Layout | None:
        assert process.stdout is not None
        for line in process.stdout:
            word, _, rest = line.decode(errors="replace").strip().partition(" ")
            if word == DONE:
                return unpacked(read_arrays(io.BytesIO(process.stdout.read())))
            if word == FAILED:
                self._failed = rest
            else:
                self._progress = (float(word), rest)
        return None


def _path() -> str:
    """Name where this package was found, and what it imports; never where one happens to be."""
    return os.pathsep.join(filter(None, sys.path))


def _ended(code: int) -> str:
    """Say how a process has ended that said nothing."""
    if code >= 0:
        return f"its process ended with exit code {code}"
    name = next((entry.name for entry in signal.Signals if entry == -code), f"signal {-code}")
    return f"its process was ended by {name}, perhaps for want of memory"
