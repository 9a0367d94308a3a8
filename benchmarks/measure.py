"""What benchmarks share: run a command, say what it cost, and on which machine.

Memory and live CPU time come from /proc, so they are 0 on systems other than Linux.
"""

import contextlib
import os
import platform
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

PAUSE_S = 0.1  # between two looks at a running command
MEMORY_SHARE = 1 / 40  # of one core at most goes into adding up memory, 30 ms a time beside a JVM
PATIENCE_S = 10.0  # with what a command leaves behind
LAST_LINES = 15  # of a failed command's error output

Process = tuple[int, int]  # its number and when it started: numbers come again


@dataclass(frozen=True)
class Run:
    """What a command and all it started took. `seconds` end when the command itself does."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int


def timed(command: list[str], environment: dict[str, str] | None = None) -> Run:
    """Run a command with `environment` added to this one's; what it prints is thrown away.

    Neither source of CPU seconds sees everything: the system's own sum leaves out processes that
    nobody waits for, as nobody does for Spark's JVM; looking now and then leaves out what ended
    between two looks. The larger of both is the nearer. Raises `SystemExit` if the command fails.
    """
    with tempfile.TemporaryFile() as errors:
        started = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env={**os.environ, **(environment or {})},
        )
        watch = _Watch(process.pid)
        watch.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - started
        finally:
            watch.ended.set()
            watch.join()
        code = process.returncode = os.waitstatus_to_exitcode(status)
        if code:
            told = _last_lines(errors)
            raise SystemExit(f"{' '.join(command)} failed with exit code {code}\n{told}")
    looked = sum(watch.cpu.values())
    return Run(seconds, max(usage.ru_utime + usage.ru_stime, looked), watch.peak)


class _Watch(threading.Thread):
    """Looks at a process and its descendants until it has ended, and so have they."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid = pid
        self.ended = threading.Event()
        self.peak = 0
        self.cpu: dict[Process, float] = {}

    def run(self) -> None:
        memory_due = 0.0
        while True:
            before = time.perf_counter()
            # CPU time only ever grows, so that the last look is the one that counts.
            self.cpu.update(_cpu_of(tree(self.pid)))
            if before >= memory_due:
                self.peak = max(self.peak, memory_of_tree(self.pid))
                after = time.perf_counter()
                memory_due = after + (after - before) / MEMORY_SHARE
            if self.ended.wait(PAUSE_S):
                break
        self._see_off()

    def _see_off(self) -> None:
        """Wait for what was left behind: it is part of the cost, and would disturb what is next."""
        give_up = time.perf_counter() + PATIENCE_S
        while time.perf_counter() < give_up:
            alive = _cpu_of(pid for pid, _ in self.cpu)
            alive = {process: cpu for process, cpu in alive.items() if process in self.cpu}
            if not alive:
                return
            self.cpu.update(alive)
            time.sleep(PAUSE_S)


def tree(pid: int) -> Iterator[int]:
    """Give a process and its living descendants."""
    yield pid
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from tree(int(child))
    except OSError:
        pass  # ended meanwhile


def memory_of_tree(pid: int) -> int:
    """Proportional set size of a process and its descendants, in bytes."""
    return sum(memory_of(each)["Pss"] for each in tree(pid))


def memory_of(pid: int) -> dict[str, int]:
    """Bytes that a process holds: `Rss` all, `Pss` its share, `Pss_Anon` without mapped files."""
    held = dict.fromkeys(("Rss", "Pss", "Pss_Anon"), 0)
    with contextlib.suppress(OSError):  # ended meanwhile
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in held:
                held[name] = int(rest.split()[0]) * 1024
    return held


def peak_of_tree(pid: int) -> int:
    """Add up the most that a process and each of its living descendants ever held, in bytes.

    What they share counts in each, and they need not have peaked at once: an upper bound. But it
    costs nothing, where adding up while somebody computes would cost them a tenth of a core.
    """
    return sum(_bytes_in(f"/proc/{each}/status", "VmHWM:") for each in tree(pid))


def _bytes_in(file: str, field: str) -> int:
    """Read one field, in kilobytes, of what the kernel says of a process."""
    try:
        lines = Path(file).read_text().splitlines()
    except OSError:
        return 0  # ended meanwhile
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def cpu_of_tree(pid: int) -> float:
    """CPU seconds so far of a process and its living descendants, in all their threads."""
    return sum(_cpu_of(tree(pid)).values())


def spent_by_tree(pid: int) -> float:
    """CPU seconds so far of a process and all it started, also of those that have ended.

    What ended counts once its parent has waited for it, as the JVM of Spark is waited for by
    nobody until the end, but Python waits for its commands and Spark's daemon for its workers.
    """
    return sum(_cpu_of(tree(pid), with_ended=True).values())


def cpu_by_process(pid: int) -> dict[Process, float]:
    """CPU seconds so far of a process and each of its living descendants."""
    return _cpu_of(tree(pid))


def _cpu_of(pids: Iterable[int], with_ended: bool = False) -> dict[Process, float]:
    """CPU seconds so far of each of these processes that is alive, or with their ended children."""
    ticks_per_second = os.sysconf("SC_CLK_TCK")
    seconds = {}
    for pid in pids:
        try:
            line = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            continue  # ended meanwhile
        # The name, in parentheses, may hold spaces and parentheses itself. In proc(5) the fields
        # after it begin with number 3, the state; wanted are 14 and 15, utime and stime, 16 and 17,
        # the same of ended children, and 22, starttime.
        fields = line.rpartition(")")[2].split()
        if fields[0] == "Z":  # ended too; in some containers it is never cleared away
            continue
        ticks = sum(map(int, fields[11:15] if with_ended else fields[11:13]))
        seconds[pid, int(fields[19])] = ticks / ticks_per_second
    return seconds


def _last_lines(file: IO[Any]) -> str:
    """Return the end of what was written to a binary file."""
    file.seek(max(0, file.seek(0, os.SEEK_END) - 10_000))
    lines: list[str] = file.read().decode(errors="replace").splitlines()
    return "\n".join(lines[-LAST_LINES:])


class Contestant:
    """A process that lives through all turns and does something whenever it is told to.

    It calls `answer` once when it is ready and once for every line that it reads.
    """

    def __init__(self, command: list[str], environment: dict[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        self.ready = self._answer()

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    def tell(self, line: str) -> str:
        """Send it a line; return its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self._answer()

    def dismiss(self) -> None:
        """End it."""
        self._process.communicate()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("answer "):
                return line.removeprefix("answer ").strip()
        raise SystemExit(f"a contestant died with exit code {self._process.wait()}")


def answer(what: Any) -> None:
    """Answer whoever started this contestant."""
    print("answer", what, flush=True)  # noqa: T201


def bytes_in(folder: Path) -> int:
    """Add up the files of a folder, in bytes, while others may write and delete there."""
    held = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # gone meanwhile
                held += os.lstat(f"{parent}/{name}").st_size
    return held


def machine() -> dict[str, Any]:
    """Describe what figures were measured on."""
    return {"cores": os.cpu_count(), "processor": processor()}


def processor() -> str:
    """Name the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
