"""The folder for what can be made again; how files and folders come whole or not at all."""

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from platformdirs import user_cache_path


def cache_folder() -> Path:
    """Return `LOOKALIKE_CACHE`, or the platform's own place for caches. It may not exist yet."""
    chosen = os.environ.get("LOOKALIKE_CACHE")
    return Path(chosen) if chosen else user_cache_path("lookalike")


@contextmanager
def new_file(file: Path) -> Iterator[Path]:
    """Give a name to write to, which becomes `file` when the block ends without an error.

    An older `file` stays until then. Raises `OSError`.
    """
    part = file.with_name(f".{uuid.uuid4().hex}-{file.name}")
    try:
        yield part
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Give a folder to fill, which becomes `folder` when the block ends without an error.

    If `folder` is there by then, made by another process, that one stays. Raises `OSError`.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield staging
        staging.chmod(0o755)
        try:
            os.rename(staging, folder)
        except OSError:
            if not folder.exists():
                raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
