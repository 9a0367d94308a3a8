"""Long work in a separate process of low priority, so that a server stays quick and small."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import BinaryIO

import faiss

from lookalike.errors import LookalikeError
from lookalike.system.resources import cores

DONE, FAILED = "done", "failed"
"""The words before what was made, and before the reason for nothing."""
_ENVIRONMENT = {"OMP_WAIT_POLICY": "passive"}
"""Waiting threads sleep; beside a busy server this halves the CPU time."""

Move = Callable[[float, str], None]
"""Says how far the work is: a share from 0 to 1, and the current step."""


class BackgroundJob:
    """A process that makes something from an index: `python -m MODULE ARGUMENTS`.

    It ends with `stop`, or when this process ends in any way and so closes its pipe. Raises
    `LookalikeError` if the process cannot start.

    Parameters
    ----------
    made : str
        What it makes, for errors.
    module : str
        A module whose main function calls `run_job`.
    arguments : str
        The arguments of the module.
    """

    def __init__(self, made: str, module: str, *arguments: str) -> None:
        self._made = made
        self._progress = (0.0, "comparing images")
        self._failed: str | None = None
        self._stopped = False
        try:
            self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed after the process
            self._process = subprocess.Popen(
                [sys.executable or "python3", "-P", "-m", module, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                env=os.environ | _ENVIRONMENT | {"PYTHONPATH": _path()},
            )
        except OSError as error:
            raise LookalikeError(f"no {made}: its process does not start ({error})") from None
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

    def _take(self, content: bytes) -> None:
        """Take what the process made. Raises `ValueError` for anything else."""

    def _finish(self) -> None:
        """Do what follows once the process has ended well."""

    def _listen(self) -> None:
        """Read the output of the process until it ends."""
        is_made = False
        with self._stderr, self._process as process:
            with suppress(ValueError):  # it ended within a line
                is_made = self._read_output(process)
            if not is_made:
                with suppress(subprocess.TimeoutExpired):  # it closes its output first
                    process.wait(5)
            process.kill()
            if not is_made and not (self._stopped or self._failed):
                self._stderr.seek(0)
                said = self._stderr.read().decode(errors="replace").strip()
                why = said.splitlines()[-1] if said else _exit_reason(process.wait())
                self._failed = f"no {self._made} ({why}): try again"
        if is_made:
            self._finish()
            self._progress = (1.0, self._progress[1])

    def _read_output(self, process: "subprocess.Popen[bytes]") -> bool:
        assert process.stdout is not None
        for line in process.stdout:
            word, _, rest = line.decode(errors="replace").strip().partition(" ")
            if word == DONE:
                self._take(process.stdout.read())
                return True
            if word == FAILED:
                self._failed = rest
            else:
                self._progress = (float(word), rest)
        return False


def run_job(work: Callable[[Move], bytes]) -> None:
    """Do the work of a `BackgroundJob`: this is its process, which writes what the work returns."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all processes
    threading.Thread(target=_exit_with_caller, daemon=True).start()
    if hasattr(os, "nice"):
        os.nice(10)
    faiss.omp_set_num_threads(cores())
    warnings.simplefilter("ignore")
    # Keep the output of libraries out of the answers.
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)
        try:
            content = work(_writing_to(out))
        except LookalikeError as error:
            out.write(f"{FAILED} {error}\n".encode(errors="replace"))
        else:
            out.write(f"{DONE}\n".encode())
            out.write(content)


def _writing_to(out: BinaryIO) -> Move:
    lock = threading.Lock()

    def move(share: float, doing: str) -> None:
        with lock:
            out.write(f"{share:.3f} {doing}\n".encode())
            out.flush()

    return move


def _path() -> str:
    """Return the import path of this process, without the current folder."""
    return os.pathsep.join(filter(None, sys.path))


def _exit_reason(code: int) -> str:
    """Describe the end of a process that wrote no reason."""
    if code >= 0:
        return f"its process ended with exit code {code}"
    name = next((entry.name for entry in signal.Signals if entry == -code), f"signal {-code}")
    return f"its process was ended by {name}, perhaps out of memory"


def _exit_with_caller() -> None:
    os.read(0, 1)
    os._exit(1)
