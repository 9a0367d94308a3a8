"""What each stage of a run on Spark took: Spark's event log, and all processes beside it.

Spark itself counts the CPU time of its JVM alone, not that of Python workers. So all processes are
looked at while they run, and the times at which stages began and ended divide what was seen.
"""

import json
import threading
import time
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from measure import MEMORY_SHARE, Process, bytes_in, cpu_by_process, memory_of, tree

PAUSE_S = 0.2  # between two looks at the processes
DISK_PAUSE_S = 2.0  # between two looks at the disk
ROLES = ("driver", "jvm", "workers")
"""The first Python process, the JVM it starts, and the Python processes that the JVM starts."""


def event_log_settings(folder: Path) -> dict[str, str]:
    """Return the environment in which Spark writes an event log into a new folder."""
    (folder / "events").mkdir(parents=True)
    settings = {
        "spark.eventLog.enabled": "true",
        "spark.eventLog.dir": f"file://{(folder / 'events').absolute()}",
        "spark.eventLog.compress": "false",
        "spark.eventLog.rolling.enabled": "false",
    }
    lines = [f"{key} {value}\n" for key, value in settings.items()]
    (folder / "spark-defaults.conf").write_text("".join(lines))
    return {"SPARK_CONF_DIR": str(folder.absolute())}


@dataclass
class Stage:
    """One stage of Spark. Times are seconds since 1970, bytes are those of all its tasks."""

    number: int
    execution: int = -1  # the query of Spark SQL that it belongs to
    name: str = ""
    started: float = 0.0
    ended: float = 0.0
    tasks: int = 0
    read: int = 0  # bytes of a shuffle
    written: int = 0  # bytes of a shuffle
    spilled: int = 0  # bytes to disk
    jvm_cpu_s: float = 0.0  # of tasks alone, by Spark's own count
    longest_task_s: float = 0.0
    cpu: dict[str, float] = field(default_factory=dict)  # seconds, for each of `ROLES`

    def told(self, rows: int) -> dict[str, Any]:
        """Say what it took."""
        return {
            "stage": self.name,
            "tasks": self.tasks,
            "seconds": round(self.ended - self.started, 2),
            "longest_task_s": round(self.longest_task_s, 2),
            "cpu_seconds": {role: round(seconds, 2) for role, seconds in self.cpu.items()},
            "cpu_us_a_row": round(sum(self.cpu.values()) / rows * 1e6, 2),
            "spark_cpu_s": round(self.jvm_cpu_s, 2),
            "read_mb": round(self.read / 2**20, 1),
            "written_mb": round(self.written / 2**20, 1),
            "spilled_mb": round(self.spilled / 2**20, 1),
        }


def stages_in(folder: Path, seen: "Processes") -> list[Stage]:
    """Return the stages that Spark has logged in a folder, and the CPU time seen in each."""
    found: dict[int, Stage] = {}
    executions: dict[int, int] = {}
    for event in _events(folder / "events"):
        if event["Event"] == "SparkListenerJobStart":
            execution = int(event["Properties"].get("spark.sql.execution.id", -1))
            executions.update(dict.fromkeys(event["Stage IDs"], execution))
        elif event["Event"] == "SparkListenerTaskEnd" and event.get("Task Metrics"):
            stage = found.setdefault(event["Stage ID"], Stage(event["Stage ID"]))
            _add_task(stage, event["Task Info"], event["Task Metrics"])
        elif event["Event"] == "SparkListenerStageCompleted":
            about = event["Stage Info"]
            stage = found.setdefault(about["Stage ID"], Stage(about["Stage ID"]))
            stage.name, stage.tasks = about["Stage Name"], about["Number of Tasks"]
            stage.started = about["Submission Time"] / 1000
            stage.ended = about["Completion Time"] / 1000
    stages = sorted((one for one in found.values() if one.ended), key=lambda one: one.started)
    for stage in stages:
        stage.cpu = seen.cpu_between(stage.started, stage.ended)
        stage.execution = executions.get(stage.number, -1)
    return stages


def _events(folder: Path) -> Iterator[dict[str, Any]]:
    for file in sorted(folder.rglob("*")):
        if file.is_file() and not file.name.startswith("."):
            with file.open(encoding="utf-8") as lines:
                yield from map(json.loads, lines)


def _add_task(stage: Stage, about: dict[str, Any], metrics: dict[str, Any]) -> None:
    read, written = metrics["Shuffle Read Metrics"], metrics["Shuffle Write Metrics"]
    stage.read += read["Remote Bytes Read"] + read["Local Bytes Read"]
    stage.written += written["Shuffle Bytes Written"]
    stage.spilled += metrics["Disk Bytes Spilled"]
    stage.jvm_cpu_s += metrics["Executor CPU Time"] / 1e9
    seconds = (about["Finish Time"] - about["Launch Time"]) / 1000
    stage.longest_task_s = max(stage.longest_task_s, seconds)


def parts_of(stages: list[Stage]) -> dict[str, list[Stage]]:
    """Divide the stages of a search: survey, route, search and merge.

    The last query that shuffles finds the neighbours: what only writes to a shuffle routes rows,
    what reads one and writes to the next searches, and what only reads merges.
    """
    parts: dict[str, list[Stage]] = {"survey": [], "route": [], "search": [], "merge": []}
    last = max((one.execution for one in stages if one.written), default=-1)
    for stage in stages:
        if stage.execution < last:
            parts["survey"].append(stage)
        elif not stage.read:
            parts["route"].append(stage)
        else:
            parts["search" if stage.written else "merge"].append(stage)
    return parts


class Processes(threading.Thread):
    """Looks at a process that runs Spark, and at all it starts, until it has ended.

    Attributes
    ----------
    peaks : dict
        Bytes: of the driver and of the JVM (`Rss`), of the largest worker (`Rss`), of all (`Pss`),
        of all without mapped files (`Pss_Anon`), and what a folder held.

    """

    def __init__(self, pid: int, folder: Path) -> None:
        super().__init__(daemon=True)
        self.pid, self.folder = pid, folder
        self.peaks: dict[str, int] = dict.fromkeys(
            ("driver", "jvm", "worker", "all", "all_without_files", "disk"), 0
        )
        self.ended = threading.Event()
        self._times: list[float] = []
        self._cpu: list[dict[str, float]] = []
        self._last: dict[Process, tuple[str, float]] = {}

    def run(self) -> None:
        """Look until told that it has ended."""
        memory_due = disk_due = 0.0
        disk = bytes_in(self.folder)
        while not self.ended.wait(PAUSE_S):
            self._look_at_cpu()
            before = time.perf_counter()
            if before >= memory_due:
                self._look_at_memory()
                after = time.perf_counter()
                memory_due = after + (after - before) / MEMORY_SHARE
            if before >= disk_due:
                self.peaks["disk"] = max(self.peaks["disk"], bytes_in(self.folder) - disk)
                after = time.perf_counter()
                disk_due = after + max((after - before) / MEMORY_SHARE, DISK_PAUSE_S)

    def cpu_between(self, start: float, stop: float) -> dict[str, float]:
        """Return CPU seconds for each of `ROLES` between two times."""
        begun, ended = self._at(start), self._at(stop)
        return {role: ended[role] - begun[role] for role in ROLES}

    def cpu(self) -> dict[str, float]:
        """Return CPU seconds for each of `ROLES`, in all."""
        return self._at(float("inf"))

    def _at(self, moment: float) -> dict[str, float]:
        """Return CPU seconds up to a moment, between the looks before and after it."""
        place = bisect_left(self._times, moment)
        if place == len(self._times):
            return self._cpu[-1] if self._cpu else dict.fromkeys(ROLES, 0.0)
        later = self._cpu[place]
        if place == 0:
            return later
        earlier, start = self._cpu[place - 1], self._times[place - 1]
        share = (moment - start) / (self._times[place] - start)
        return {role: earlier[role] + share * (later[role] - earlier[role]) for role in ROLES}

    def _look_at_cpu(self) -> None:
        for process, seconds in cpu_by_process(self.pid).items():
            known = self._last.get(process)
            role = "jvm" if known and known[0] == "jvm" else self._role(process[0])
            self._last[process] = role, seconds
        sums = dict.fromkeys(ROLES, 0.0)
        for role, seconds in self._last.values():
            sums[role] += seconds
        self._times.append(time.time())
        self._cpu.append(sums)

    def _look_at_memory(self) -> None:
        held = {pid: memory_of(pid) for pid in tree(self.pid)}
        for pid, one in held.items():
            role = self._role(pid).removesuffix("s")
            self.peaks[role] = max(self.peaks[role], one["Rss"])
        for name, kind in (("all", "Pss"), ("all_without_files", "Pss_Anon")):
            self.peaks[name] = max(self.peaks[name], sum(one[kind] for one in held.values()))

    def _role(self, pid: int) -> str:
        if pid == self.pid:
            return "driver"
        try:
            name = Path(f"/proc/{pid}/comm").read_text().strip()
        except OSError:
            return "workers"  # ended meanwhile
        return "jvm" if name in ("java", "bash", "sh", "spark-submit", "spark-class") else "workers"
