"""One line on stderr that says how far a long job is; nothing where stderr is no terminal."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Move(Protocol):
    """Takes how much is done, of how much if that is known, and what else there is to say."""

    def __call__(self, done: int, total: int | None, note: str = "") -> None:
        """Show it."""


@contextmanager
def progress_line(text: str, unit: str = "") -> Iterator[Move]:
    """Give a function that moves the line on. With a `unit` counts and a rate are shown as well."""
    if not sys.stderr.isatty():
        yield lambda done, total, note="": None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:,.0f} {unit}/s" if task.speed else "")

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    counts = (MofNCompleteColumn(), Rate()) if unit else ()
    times = (TimeElapsedColumn(), TextColumn("gone,"), TimeRemainingColumn(), TextColumn("left"))
    noted = TextColumn("{task.fields[note]}")
    console = Console(stderr=True)
    with Progress(*columns, *counts, *times, noted, console=console, transient=True) as bar:
        line = bar.add_task(text, total=None, note="")
        yield lambda done, total, note="": bar.update(line, completed=done, total=total, note=note)


def say(text: str) -> None:
    """Write a line to stderr, if that is a terminal."""
    if sys.stderr.isatty():
        print(text, file=sys.stderr)  # noqa: T201 - for whoever waits
