"""Progress for programs: a line of JSON for each event, or a file of figures for Prometheus.

>>> import lookalike
>>> from lookalike.system.progress_events import json_lines, prometheus_file
>>> lookalike.show_progress(json_lines())                       # on stderr
>>> lookalike.show_progress(prometheus_file("lookalike.prom"))
>>> lookalike.show_progress(None)
"""

import itertools
import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from lookalike.errors import LookalikeError
from lookalike.system.extras import require
from lookalike.system.progress import Display, OnProgress

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 1.0
"""Time between two reports of one job, at least."""

_numbers = itertools.count(1)


@dataclass
class Job:
    """A job as it stands."""

    name: str
    unit: str
    number: int = field(default_factory=lambda: next(_numbers))
    started: float = field(default_factory=time.monotonic)
    done: int = 0
    total: int | None = None
    note: str = ""

    @property
    def seconds(self) -> float:
        """Seconds since its start."""
        return time.monotonic() - self.started


Report = Callable[[str, Job], None]
"""Takes an event, which is "start", "progress", "end" or "failed", and the job."""


def _display(report: Report) -> Display:
    """Return what shows a job by reports: the first and the last, and one a second between."""

    @contextmanager
    def show(text: str, unit: str) -> Iterator[OnProgress]:
        job = Job(text, unit)
        reported = job.started

        def move(done: int, total: int | None, note: str = "") -> None:
            nonlocal reported
            job.done, job.total, job.note = done, total, note
            if time.monotonic() - reported >= INTERVAL_SECONDS:
                reported = time.monotonic()
                report("progress", job)

        report("start", job)
        try:
            yield move
        except BaseException:
            report("failed", job)
            raise
        report("end", job)

    return show


def json_lines(stream: TextIO | None = None) -> Display:
    """Return a display for `show_progress` that writes each event as a line of JSON.

    An event has `event` ("start", "progress", "end" or "failed"), `job`, the number of the job in
    this process, `name`, `unit` ("" where nothing is counted), `seconds` since its start, `done`,
    `total` (null if it is not known), `note`, and `time`, seconds since 1970.

    Parameters
    ----------
    stream : text file, optional
        stderr by default.

    Examples
    --------
    >>> import io, json, lookalike
    >>> from lookalike.system.progress import progress_line
    >>> events = io.StringIO()
    >>> lookalike.show_progress(json_lines(events))
    >>> with progress_line("embedding", "images") as move:
    ...     move(3, 10)
    >>> lookalike.show_progress(None)
    >>> last = json.loads(events.getvalue().splitlines()[-1])
    >>> last["event"], last["name"], last["done"], last["total"]
    ('end', 'embedding', 3, 10)
    """
    lock = threading.Lock()

    def report(event: str, job: Job) -> None:
        about = {
            "event": event,
            "job": job.number,
            "name": job.name,
            "unit": job.unit,
            "seconds": round(job.seconds, 3),
            "done": job.done,
            "total": job.total,
            "note": job.note,
            "time": round(time.time(), 3),
        }
        with lock:
            print(json.dumps(about), file=stream or sys.stderr, flush=True)

    return _display(report)


def prometheus_file(file: str | Path) -> Display:
    """Return a display for `show_progress` that keeps a file of figures up to date.

    The textfile collector of Prometheus' node exporter reads such files
    (https://github.com/prometheus/node_exporter#textfile-collector). For each `job` there are
    `lookalike_job_done`, `lookalike_job_total` (-1 if it is not known), `lookalike_job_seconds` and
    `lookalike_job_running`, and `lookalike_job_failures`. The file is replaced as a whole.

    Parameters
    ----------
    file : str or Path
        It should end in `.prom`.

    Raises
    ------
    LookalikeError
        If it cannot be written. Later, a file that cannot be written is a warning.
    """
    require("Progress for Prometheus", "prometheus_client")
    from prometheus_client import CollectorRegistry, Counter, Gauge, write_to_textfile

    registry, lock, warned = CollectorRegistry(), threading.Lock(), False

    def gauge(name: str, text: str) -> Gauge:
        return Gauge(f"lookalike_job_{name}", text, ("job", "unit"), registry=registry)

    done = gauge("done", "Items that are done.")
    total = gauge("total", "Items in all, -1 if that is not known.")
    seconds = gauge("seconds", "Seconds since the job began, or that it took.")
    running = gauge("running", "1 while the job runs.")
    failures = Counter(
        "lookalike_job_failures", "Jobs that failed.", ("job", "unit"), registry=registry
    )

    def report(event: str, job: Job) -> None:
        nonlocal warned
        names = (job.name, job.unit)
        with lock:
            done.labels(*names).set(job.done)
            total.labels(*names).set(-1 if job.total is None else job.total)
            seconds.labels(*names).set(job.seconds)
            running.labels(*names).set(event in ("start", "progress"))
            failures.labels(*names).inc(event == "failed")
            try:
                write_to_textfile(str(file), registry)
            except OSError as error:
                if not warned:
                    logger.warning("%s cannot be written: %s", file, error)
                warned = True

    try:
        write_to_textfile(str(file), registry)
    except OSError as error:
        raise LookalikeError(
            f"{file} cannot be written ({error.strerror}): choose another file"
        ) from None
    return _display(report)
