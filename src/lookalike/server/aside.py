"""Images that the page sets aside: moved into a folder with a journal, and put back."""

import os
import re
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastapi import HTTPException

from lookalike import images
from lookalike.analysis.cleanup.journal import JOURNAL, entries
from lookalike.analysis.cleanup.unchanged_files import set_chosen_aside
from lookalike.analysis.cleanup.undo import undo
from lookalike.errors import LookalikeError
from lookalike.server.refresher import log
from lookalike.server.snapshot import Snapshot

_NAME = re.compile(r"[0-9]{8}-[0-9]{6}(-[0-9]{1,4})?")


class AsideFolder:
    """The folder beside an index with what was set aside: a folder with a journal each time."""

    def __init__(self, folder: Path, is_allowed: bool) -> None:
        self._folder, self.is_allowed = folder, is_allowed
        self._lock = threading.Lock()
        self._moved: tuple[tuple[tuple[str, int], ...], frozenset[str]] = ((), frozenset())

    def check_allowed(self) -> None:
        """Raise `HTTPException` where the server changes nothing."""
        if not self.is_allowed:
            raise HTTPException(403, "this server changes nothing: start it with `--allow-changes`")

    def apply(self, snapshot: Snapshot, chosen: list[tuple[int, int | None]]) -> dict[str, Any]:
        """Set images aside; each with the image that is kept for it, if it is a duplicate."""
        with self._lock:
            name = self._new_name()
            try:
                aside = set_chosen_aside(snapshot.table, chosen, "move", self._folder / name)
            except LookalikeError as error:
                log.error("%s", error)  # it names folders: not for the response
                raise HTTPException(
                    409, "nothing was set aside, or not all: see the log of the server"
                ) from None
            finally:
                self._remove_if_empty(name)
            return {"name": name if aside.done else None, **asdict(aside)}

    def undo(self, name: str) -> int:
        """Put back what was set aside under a name; return the number of images."""
        with self._lock:
            if name not in self.names():
                raise HTTPException(404, "nothing was set aside under this name")
            try:
                restored = undo(self._folder / name, lambda line: log.error("%s", line))
                with suppress(OSError):  # not empty
                    self._folder.rmdir()
                return restored
            except LookalikeError as error:
                log.error("%s", error)
                raise HTTPException(
                    409, "some images were not put back: see the log of the server, and try again"
                ) from None

    def names(self) -> list[str]:
        """Return the names under which images were set aside, the newest first."""
        try:
            found = os.listdir(self._folder)
        except OSError:
            return []
        names = [name for name in found if _NAME.fullmatch(name)]
        return sorted((n for n in names if (self._folder / n / JOURNAL).is_file()), reverse=True)

    def listed(self) -> list[dict[str, Any]]:
        """Return each name with its number of images."""
        return [
            {"name": name, "images": sum(1 for _ in entries(self._folder / name))}
            for name in self.names()
        ]

    def moved(self) -> frozenset[str]:
        """Return the places from which images were moved."""
        files = [self._folder / name / JOURNAL for name in self.names()]
        key = tuple((file.parent.name, file.stat().st_mtime_ns) for file in files)
        if key != self._moved[0]:
            places = {entry.origin for file in files for entry in entries(file.parent)}
            self._moved = key, frozenset(places)
        return self._moved[1]

    def is_aside(self, snapshot: Snapshot, number: int) -> bool:
        """Tell whether an image has been moved by this folder's journals."""
        row = snapshot.find(number)
        moved = self.moved()
        if not moved or row is None or snapshot.table.source.kind != "files":
            return False
        place = images.full_path(snapshot.table.source, snapshot.rows.paths[row].as_py())
        return os.fsdecode(place) in moved

    def _new_name(self) -> str:
        base = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
        number, name = 1, base
        while (self._folder / name).exists():
            number += 1
            name = f"{base}-{number}"
        return name

    def _remove_if_empty(self, name: str) -> None:
        """Remove a journal without entries, and folders without files."""
        folder = self._folder / name
        with suppress(OSError):  # not empty
            if (folder / JOURNAL).is_file() and next(entries(folder), None) is None:
                (folder / JOURNAL).unlink()
            folder.rmdir()
            self._folder.rmdir()
