"""Lay out an index in a separate process, so that the server stays quick and small."""

import io
import os
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress

from lookalike.analysis.map.cache import save_layout, unpack
from lookalike.analysis.map.tsne import Layout
from lookalike.errors import LookalikeError
from lookalike.storage import EmbeddingTable
from lookalike.system.untrusted import read_arrays

DONE, FAILED = "done", "failed"
"""The words before the arrays of a layout, and before the reason for none."""
_ENVIRONMENT = {"OMP_WAIT_POLICY": "passive"}
"""Waiting threads sleep; beside a busy server this halves the CPU time."""


class Job:
    """A process that lays out an index, at low priority, and saves the layout.

    It ends with `stop`, or when this process ends in any way and so closes its pipe. Raises
    `LookalikeError` if the process cannot start.

    Examples
    --------
    >>> job = Job(table)  # doctest: +SKIP
    >>> while not job.ended():  # doctest: +SKIP
    ...     print(*job.progress())
    """

    def __init__(self, table: EmbeddingTable) -> None:
        self._table = table
        self._progress = (0.0, "comparing images")
        self._layout: Layout | None = None
        self._failed: str | None = None
        self._stopped = False
        arguments = [str(table.path.absolute()), str(table.version)]
        try:
            self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed after the process
            self._process = subprocess.Popen(
                [sys.executable or "python3", "-P", "-m", "lookalike.analysis.map", *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                env=os.environ | _ENVIRONMENT | {"PYTHONPATH": _path()},
            )
        except OSError as error:
            raise LookalikeError(f"no map: its process does not start ({error})") from None
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int:
        """The id of the process."""
        return self._process.pid

    def progress(self) -> tuple[float, str]:
        """Return the progress, from 0 to 1, and the current step."""
        return self._progress

    def ended(self) -> bool:
        """Tell whether the process has ended."""
        return not self._thread.is_alive()

    def result(self) -> Layout | None:
        """Return the layout, which is saved too; None before the end."""
        return self._layout

    def failed(self) -> str | None:
        """Return the reason for a failure in one line; None without one."""
        return self._failed

    def wait(self, seconds: float | None = None) -> None:
        """Wait for the end, at most `seconds`."""
        self._thread.join(seconds)

    def stop(self) -> None:
        """Kill the process if it still runs."""
        self._stopped = True
        self._process.kill()
        self._thread.join()

    def _listen(self) -> None:
        """Read the output of the process until it ends."""
        layout = None
        with self._stderr, self._process as process:
            with suppress(ValueError):  # it ended within a line
                layout = self._read_output(process)
            if layout is None:
                with suppress(subprocess.TimeoutExpired):  # it closes its output first
                    process.wait(5)
            process.kill()
            if layout is None and not (self._stopped or self._failed):
                self._stderr.seek(0)
                said = self._stderr.read().decode(errors="replace").strip()
                why = said.splitlines()[-1] if said else _exit_reason(process.wait())
                self._failed = f"no map ({why}): try again"
        if layout is not None:
            save_layout(self._table, layout)
            self._progress, self._layout = (1.0, self._progress[1]), layout

    def _read_output(self, process: "subprocess.Popen[bytes]") -> Layout | None:
        assert process.stdout is not None
        for line in process.stdout:
            word, _, rest = line.decode(errors="replace").strip().partition(" ")
            if word == DONE:
                return unpack(read_arrays(io.BytesIO(process.stdout.read())))
            if word == FAILED:
                self._failed = rest
            else:
                self._progress = (float(word), rest)
        return None


def _path() -> str:
    """Return the import path of this process, without the current folder."""
    return os.pathsep.join(filter(None, sys.path))


def _exit_reason(code: int) -> str:
    """Describe the end of a process that wrote no reason."""
    if code >= 0:
        return f"its process ended with exit code {code}"
    name = next((entry.name for entry in signal.Signals if entry == -code), f"signal {-code}")
    return f"its process was ended by {name}, perhaps out of memory"
