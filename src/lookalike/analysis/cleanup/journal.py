"""The journal of images set aside: `aside.csv`, a line per image, written before it is moved."""

import csv
import fcntl
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from lookalike.errors import LookalikeError
from lookalike.images import decode_path, encode_path
from lookalike.system.files import sync_folder

JOURNAL = "aside.csv"
_HEADER = ("how", "from", "to")


class Entry(NamedTuple):
    """A line of the journal: the action, the path of the image, and its path after the action."""

    how: str
    origin: str
    target: str


@contextmanager
def journal(folder: Path) -> Iterator[Callable[[Entry], None]]:
    """Lock the journal; yield a function that appends an entry and syncs it to disk."""
    with open(folder / JOURNAL, "ab", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LookalikeError(f"{folder} is busy: try again later") from None

        def append(row: tuple[str, ...], on_disk: bool) -> None:
            line = io.StringIO()
            csv.writer(line, lineterminator="\n").writerow(row)
            data = line.getvalue().encode()
            while data:  # a full disk writes a part, then fails
                data = data[file.write(data) or 0 :]
            if on_disk:
                os.fsync(file.fileno())

        def write(entry: Entry) -> None:
            below = os.path.relpath(entry.target, folder)
            append((entry.how, encode_path(entry.origin), encode_path(below)), entry.how == "move")

        with open(folder / JOURNAL, "rb") as before:
            whole = sum(len(line) for line in before if line.endswith(b"\n"))
        # A partial last line is from a kill or a full disk; its action did not start.
        file.truncate(whole)
        if not whole:
            append(_HEADER, True)
            sync_folder(folder)
        yield write


def entries(folder: Path) -> Iterator[Entry]:
    """Yield the entries. Raises `LookalikeError` for a damaged line."""
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
