"""The journal of images set aside: `aside.csv`, a line for each before anything happens to it."""

import csv
import fcntl
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from lookalike.errors import LookalikeError
from lookalike.files import sync_folder
from lookalike.images import decode_path, encode_path

JOURNAL = "aside.csv"
_HEADER = ("how", "from", "to")


class Entry(NamedTuple):
    """A line of the journal: what is done, where the image is or was, where it comes to be."""

    how: str
    origin: str
    target: str


@contextmanager
def journal(folder: Path) -> Iterator[Callable[[Entry], None]]:
    """Have the journal alone; give a function that has an entry on the disk when it returns."""
    with open(folder / JOURNAL, "ab", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LookalikeError(f"{folder} is busy: try again later") from None

        def append(row: tuple[str, ...], on_disk: bool) -> None:
            line = io.StringIO()
            csv.writer(line, lineterminator="\n").writerow(row)
            data = line.getvalue().encode()
            while data:  # a full disk takes a part, then says so
                data = data[file.write(data) or 0 :]
            if on_disk:
                os.fsync(file.fileno())

        def write_down(entry: Entry) -> None:
            below = os.path.relpath(entry.target, folder)
            append((entry.how, encode_path(entry.origin), encode_path(below)), entry.how == "move")

        with open(folder / JOURNAL, "rb") as before:
            whole = sum(len(line) for line in before if line.endswith(b"\n"))
        # A kill or a full disk may have left less than a line, about which nothing was done.
        file.truncate(whole)
        if not whole:
            append(_HEADER, True)
            sync_folder(folder)
        yield write_down


def entries(folder: Path) -> Iterator[Entry]:
    """Read the journal, one line at a time."""
    with open(folder / JOURNAL, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                how, origin, below = next(csv.reader([line.decode()]))
            except (ValueError, csv.Error):
                raise _damaged(folder, number) from None
            if number == 1:
                continue
            origin, below = decode_path(origin), decode_path(below)
            known = how in ("copy", "move", "link") and os.path.isabs(origin)
            if not known or "\0" in origin + below or not _is_below(below):
                raise _damaged(folder, number)
            yield Entry(how, origin, os.path.join(folder, below))


def _is_below(path: str) -> bool:
    return not os.path.isabs(path) and path == os.path.normpath(path) and path.split("/")[0] != ".."


def _damaged(folder: Path, line: int) -> LookalikeError:
    return LookalikeError(f"line {line} of {folder / JOURNAL} is damaged: correct it by hand")
