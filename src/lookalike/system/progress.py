"""Progress of long jobs, shown only if it is turned on.

>>> from lookalike.system.progress import show_progress
>>> show_progress()             # one line on a terminal, as on the command line
>>> show_progress(None)         # nothing: the default
"""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Task


logger = logging.getLogger(__name__)


class OnProgress(Protocol):
    """Takes the number of items done, the total if known, and a short note."""

    def __call__(self, done: int, total: int | None, note: str = "") -> None:
        """Show the progress."""


Display = Callable[[str, str], AbstractContextManager[OnProgress]]
"""Shows one job; takes its name and the unit of its items, "" without a unit."""


@contextmanager
def terminal_line(text: str, unit: str) -> Iterator[OnProgress]:
    """Show one line on stderr until the job ends; show nothing if it is no terminal."""
    if not sys.stderr.isatty():
        yield _ignore
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, Task
    from rich.table import Column
    from rich.text import Text

    class Figures(ProgressColumn):
        max_refresh = 0.5

        def render(self, task: Task) -> Text:
            return Text(_format_progress(task, unit), no_wrap=True, overflow="ellipsis")

    class Job(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(task.description, no_wrap=True, overflow="ellipsis")

    columns = (Job(), BarColumn(bar_width=16), Figures(table_column=Column(ratio=1)))
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, expand=True) as bar:
        line = bar.add_task(text, total=None, note="")
        yield lambda done, total, note="": bar.update(line, completed=done, total=total, note=note)


def _format_progress(task: "Task", unit: str) -> str:
    """Return the progress as text, most important first: the end may be cut off."""
    parts = []
    if task.total:
        parts.append(f"{task.percentage:.0f}%")
    parts.append(_format_time(task.elapsed or 0))
    if task.time_remaining is not None and not task.finished:
        parts.append(f"{_format_time(task.time_remaining)} left")
    if unit:
        total = f"/{task.total:,.0f}" if task.total else ""
        parts.append(f"{task.completed:,.0f}{total} {unit}")
    if unit and task.speed:
        parts.append(f"{task.speed:,.0f}/s")
    if note := task.fields["note"]:
        parts.append(note)
    return "  ".join(parts)


def _format_time(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _ignore(done: int, total: int | None, note: str = "") -> None:
    """Show nothing."""


_display: Display | None = None


def show_progress(display: Display | None = terminal_line) -> None:
    """Show the progress of long jobs in this process from now on; with None, show nothing.

    Parameters
    ----------
    display
        A function that takes the name and the unit of a job, and returns a context manager that
        yields an `OnProgress`. The default shows one line on a terminal.

    """
    global _display
    _display = display


@contextmanager
def progress_line(text: str, unit: str = "") -> Iterator[OnProgress]:
    """Yield a function that shows the progress of a job; with a `unit`, counts and a rate too.

    The duration is logged as a debugging message.
    """
    began = time.perf_counter()
    logger.debug("%s: started", text)
    if _display is None:
        yield _ignore
    else:
        with _display(text, unit) as move:
            yield move
    logger.debug("%s: done in %.1f s", text, time.perf_counter() - began)
