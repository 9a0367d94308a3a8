"""The folder of a saved `NearestNeighborsModel`: its rows and their index."""

import os
import shutil
from pathlib import Path

from lookalike.errors import LookalikeError, writing_to
from lookalike.system.paths import local_path

PARTS = ("items", "index")


def local_folder(path: str) -> Path:
    """Return the folder of a path or of a `file:` URI.

    Raises
    ------
    LookalikeError
        For another URI: an index lives on a disk.

    """
    if path[:6].lower() == "file:/":
        path = "/" + path[5:].lstrip("/")
    return local_path(path).absolute()


def check_data(folder: Path) -> None:
    """Raise `LookalikeError` unless the data of a model is in its folder."""
    for part in PARTS:
        if not (folder / part).is_dir():
            raise LookalikeError(f"the data of the model is gone from {folder}: fit it again")


def copy_data(source: Path, target: Path) -> None:
    """Copy rows and index into the folder of a saved model; on one disk, files are linked.

    Raises
    ------
    LookalikeError
        If Spark has written the rest elsewhere.

    """
    if not (target / "metadata").is_dir():
        raise LookalikeError(
            f"Spark saves to another file system than {target}: save to file://{target}, on a disk "
            "that all workers share"
        )
    with writing_to(target, "save the model elsewhere"):
        for part in PARTS:
            shutil.copytree(source / part, target / part, copy_function=_link)


def _link(source: str, target: str) -> str:
    """Link a data file, which never changes; copy another one, or to another disk."""
    if source.endswith(".parquet"):
        try:
            os.link(source, target)
            return target
        except OSError:
            pass
    return str(shutil.copy2(source, target))
