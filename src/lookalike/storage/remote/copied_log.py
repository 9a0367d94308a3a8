"""The copied log of an index in a store: brought up to date, and mended where it is damaged."""

import fcntl
import json
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from lookalike.images.inputs.location import INDEX_FILES
from lookalike.storage.remote.cache_use import using_cache
from lookalike.system.files import delete_folder_at_once, new_file
from lookalike.system.store import Store, StoredObject, StoreError

LOG = "_delta_log"
DESCRIPTION = INDEX_FILES[0]
TRANSFERS = 8  # requests at once
ORIGIN = "origin.json"
_SEEN = "newest"  # the newest commit when it was compared with that of the store
_LOCK = "lock"
BESIDE = (ORIGIN, _SEEN, _LOCK)
"""Names of files beside the folder."""
_COMMIT = re.compile(r"\d{20}\.json")
OF_LOG = re.compile(r"\d{20}\.(json|checkpoint[.0-9a-f-]*\.(parquet|json))|_last_checkpoint")


@dataclass(frozen=True)
class CopiedLog:
    """The log and the description of an index in the `store`, in the `folder` of its copy."""

    store: Store
    folder: Path

    def prepare(self) -> None:
        """Make the folder, and write down beside it of what it is a copy."""
        with using_cache():
            self.folder.mkdir(parents=True, exist_ok=True)
            origin = self.folder.parent / ORIGIN
            if not origin.exists():
                with new_file(origin, lasting=False) as part:
                    part.write_text(json.dumps({"uri": self.store.uri}))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Let one process at a time change what was copied of the log."""
        self.prepare()
        with (self.folder.parent / _LOCK).open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def pull(self, *, description: bool = False) -> None:
        """Bring the log and the description up to date, as `pull` does.

        Where another index has taken the place of the copied one, or none is there any more, what
        was copied goes first. Raises `StoreError` where the store cannot be read.
        """
        with self._locked(), using_cache():
            newest = max(self._commits(), default=None)
            listed = self._listed(newest)
            if newest is not None and not self._is_same(newest, listed):
                delete_folder_at_once(self.folder)
                self.folder.mkdir(exist_ok=True)
                newest, listed = None, self._listed(None)
            log = self.folder / LOG
            whole = _before_gap(listed, newest)
            fresh = [name for name in whole if not is_as(log / name, *listed[name][:2])]
            # A description is there before the first commit, and changes before a later one.
            if description or newest is None or fresh:
                self._fetch_description()
            if not fresh:
                return
            log.mkdir(exist_ok=True)
            for name, content in self._contents(fresh):
                if _COMMIT.fullmatch(name) and len(content) != listed[name].size:
                    raise StoreError(
                        f"{self.store.uri}/{LOG}/{name} did not come whole: run the same command "
                        "again"
                    )
                _write(log / name, content, listed[name].modified)

    def _contents(self, names: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """Yield files of the log in the store with their contents."""
        with ThreadPoolExecutor(TRANSFERS) as pool:
            contents = pool.map(lambda name: self.store.get(f"{LOG}/{name}"), names)
            yield from zip(names, contents, strict=True)

    def mend_log(self) -> bool:
        """Make what was copied of the log as it is in the store; return whether it was not."""
        with self._locked(), using_cache():
            listed = self._listed(None)
            log = self.folder / LOG
            log.mkdir(exist_ok=True)
            mended = False
            for name, content in self._contents(list(listed)):
                if not (log / name).exists() or (log / name).read_bytes() != content:
                    _write(log / name, content, listed[name].modified)
                    mended = True
            for file in log.iterdir():
                if file.name not in listed and not _COMMIT.fullmatch(file.name):
                    file.unlink(missing_ok=True)
                    mended = True
            return mended

    def _commits(self) -> list[str]:
        with suppress(FileNotFoundError):
            return [name for name in os.listdir(self.folder / LOG) if _COMMIT.fullmatch(name)]
        return []

    def _listed(self, newest: str | None) -> dict[str, StoredObject]:
        """Return the files of the log, from the commit `newest` on, in order."""
        listed = self.store.below(LOG).list(1, newest and newest.removesuffix(".json"))
        rows = (row for batch in listed for row in batch.to_pylist())
        found = {
            row["name"]: StoredObject(row["size"], row["modified"], row["etag"])
            for row in rows
            if OF_LOG.fullmatch(row["name"])
        }
        return dict(sorted(found.items()))

    def _is_same(self, newest: str, listed: dict[str, StoredObject]) -> bool:
        """Tell whether the store has the newest commit that was copied."""
        seen, file = self.folder.parent / _SEEN, self.folder / LOG / newest
        about = listed.get(newest)
        now = f"{newest} {about and about.etag}"
        with suppress(FileNotFoundError):
            if about and about.etag and seen.read_text() == now:
                return True
        # Times may be whole seconds: another index may have been made in the same one.
        try:
            if self.store.get(f"{LOG}/{newest}") != file.read_bytes():
                return False
        except FileNotFoundError:
            return False
        if about is None:  # the listing is older
            return True
        set_time(file, about.modified)  # this process may have written it
        _write(seen, now.encode(), None)
        return True

    def _fetch_description(self) -> None:
        with suppress(FileNotFoundError):
            _write(self.folder / DESCRIPTION, self.store.get(DESCRIPTION), None)

    def newest(self) -> int:
        """Return the newest version that was copied, -1 if there is none."""
        return max((int(name[:20]) for name in self._commits()), default=-1)


def _before_gap(listed: dict[str, StoredObject], newest: str | None) -> list[str]:
    """Return the listed files of a log, after the commit `newest`, up to the first gap.

    A store may list an object before an older one.
    """
    commits = [name for name in listed if _COMMIT.fullmatch(name)]
    numbers = [int(name[:20]) for name in ([newest] if newest else []) + commits]
    for before, number in pairwise(numbers):
        if number > before + 1:
            return [name for name in listed if name[:20] <= f"{before:020}"]
    return list(listed)


def is_as(file: Path, size: int, modified: int) -> bool:
    """Tell whether a local file has the size and the time of its object."""
    with suppress(OSError):
        status = file.stat()
        return (status.st_size, status.st_mtime_ns) == (size, modified)
    return False


def set_time(file: Path, modified: int) -> None:
    """Give a local file the time of its object."""
    os.utime(file, ns=(modified, modified))


def _write(file: Path, content: bytes, modified: int | None) -> None:
    with new_file(file, lasting=False) as part:
        part.write_bytes(content)
        if modified is not None:
            set_time(part, modified)
