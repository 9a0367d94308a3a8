"""A model for Spark tasks: a file that each worker process reads once.

A model has tens of megabytes: too many for the function of each task. Spark Connect has no
broadcast variables.
"""

import hashlib
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Self

from lookalike.errors import LookalikeError
from lookalike.models import Model
from lookalike.storage.remote.shared_files import SharedFile, sharing
from lookalike.system.files import new_file


@dataclass(frozen=True)
class SharedModel:
    """A pickled model for the driver and all workers.

    Tasks carry the hash of its content: they unpickle nothing else.
    """

    file: SharedFile
    digest: str

    @classmethod
    @contextmanager
    def sharing(cls, model: Model, folder: Path) -> Iterator[Self]:
        """Write a model into a folder for the block, without its text side: tasks do not use it."""
        content = pickle.dumps(replace(model, text=None), pickle.HIGHEST_PROTOCOL)
        digest = _digest(content)
        file = folder / f"{digest}.model"
        with new_file(file) as part:
            part.write_bytes(content)
            part.chmod(0o644)  # workers may be of another user
        try:
            with sharing(file) as (shared,):
                yield cls(shared, digest)
        finally:
            file.unlink(missing_ok=True)

    def load(self) -> Model:
        """Return the model, in a task. Raises `LookalikeError` if its file is not as written."""
        return _load(self.file, self.digest)


@lru_cache(1)
def _load(shared: SharedFile, digest: str) -> Model:
    try:
        file = shared.local()
        content = file.read_bytes()
    except OSError as error:
        file = shared.file
        raise LookalikeError(
            f"a worker of Spark cannot read {file} ({error.strerror}): choose an `out` on a disk "
            "that all workers share"
        ) from None
    if _digest(content) != digest:
        raise LookalikeError(f"{file} was changed by another program: run the same command again")
    model: Model = pickle.loads(content)
    return model


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()
