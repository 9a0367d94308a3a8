"""Processes with caches of their own, which share an index in a store as machines do."""

import json
import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

from helpers import machine_program

MAX_SECONDS = 120
"""For a task: a machine that takes longer hangs."""


class Machine:
    """A process that runs `machine_program`, with a cache that outlives it."""

    def __init__(self, cache: Path, address: str) -> None:
        self.cache, self.address = cache, address
        self._process: subprocess.Popen[str] | None = None
        self._is_killed = False

    def start(self) -> None:
        """Start its process, without waiting for it; where one runs do nothing."""
        if self._process is not None and not self._is_killed:
            return
        self.close()
        given = {"LOOKALIKE_CACHE": str(self.cache), "AWS_ENDPOINT_URL": self.address}
        given["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        self._process = subprocess.Popen(
            [sys.executable, machine_program.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | given,
        )
        self._is_ready = False

    def begin(self, task: str, **given: Any) -> None:
        """Begin a task; `end` waits for it."""
        self.start()
        assert self._process is not None and self._process.stdin is not None
        if not self._is_ready:
            self._is_ready = self.end() == {"result": "ready"}
        self._process.stdin.write(json.dumps({"task": task, **given}) + "\n")
        self._process.stdin.flush()

    def end(self) -> dict[str, Any]:
        """Return what was said of the task that was begun; nothing, where it was killed in it."""
        assert self._process is not None and self._process.stdout is not None
        assert select.select([self._process.stdout], [], [], MAX_SECONDS)[0], "it hangs"
        line = self._process.stdout.readline()
        said: dict[str, Any] = json.loads(line) if line.endswith("\n") else {}
        return said

    def do(self, task: str, **given: Any) -> dict[str, Any]:
        """Do a task."""
        self.begin(task, **given)
        return self.end()

    def kill(self) -> None:
        """Kill its process, whatever it does."""
        if self._process is not None:
            self._is_killed = True
            self._process.kill()

    def close(self) -> None:
        """End its process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process, self._is_killed = None, False
