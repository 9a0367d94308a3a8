"""Files for the tasks of Spark: on a disk that all machines share, or through a store."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from lookalike.storage.remote.copies import LocalCopy, copy_at, open_copy
from lookalike.system.cache import cache_folder
from lookalike.system.files import new_file
from lookalike.system.store import StoreError

WORK = "_work"
"""The folder of an index in a store with files that the tasks of a running job read."""


@dataclass(frozen=True)
class SharedFile:
    """A file that tasks read, as the driver knows it.

    With `uri`, that of an index in a store, the store holds it too, under `name`.
    """

    file: Path
    uri: str = ""
    name: str = ""

    def local(self) -> Path:
        """Return a local file with the content, which is fetched once on each machine."""
        if not self.uri or self.file.is_relative_to(cache_folder()):
            return self.file
        copy = open_copy(self.uri)
        fetched = copy.folder.parent / self.name
        if not fetched.exists():
            fetched.parent.mkdir(parents=True, exist_ok=True)
            with new_file(fetched, lasting=False) as part:
                copy.store.download(self.name, part)
        return fetched


@contextmanager
def sharing(*files: Path) -> Iterator[list[SharedFile]]:
    """Yield files for tasks; those beside an index in a store are put there for that time."""
    shared: list[tuple[LocalCopy, str]] = []

    def share(file: Path) -> SharedFile:
        copy = _copy_around(file)
        if copy is None:
            return SharedFile(file)
        name = f"{WORK}/{uuid.uuid4().hex}/{file.name}"
        copy.store.put(name, file)
        shared.append((copy, name))
        return SharedFile(file, copy.store.uri, name)

    try:
        yield [share(file) for file in files]
    finally:
        for copy, name in shared:
            with suppress(OSError, StoreError):  # a vacuum deletes what is left
                copy.store.delete([name])


def _copy_around(file: Path) -> LocalCopy | None:
    """Return the local copy of an index that a file lies in."""
    return next(filter(None, map(copy_at, file.parents)), None)
