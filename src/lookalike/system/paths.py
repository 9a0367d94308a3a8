"""What people give: names of files and texts, checked where they come in."""

import os
import re
from pathlib import Path

from lookalike.errors import LookalikeError

# `Path` makes one slash of two. Windows names disks by one letter.
_URI = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)
_NOT_TEXT = re.compile("[\ud800-\udfff]")


Name = str | os.PathLike[str]
"""What a file or folder may be given as."""


def local_path(given: Name) -> Path:
    """Return a path on this machine's disks.

    Raises `LookalikeError` for a URI, which would be taken for folders of that name, and for what
    no file can be called.
    """
    name = os.fsdecode(given)
    if not name:
        raise LookalikeError("an empty name: give a path")
    if "\0" in name:
        raise LookalikeError(f"{name!r} is no path: leave the null character out")
    if _URI.match(name):
        scheme, _, rest = name.partition(":")
        below = rest.lstrip("/")
        if scheme.lower() == "file":
            raise LookalikeError(f"file:///{below} is a URI: give the path, /{below}")
        raise LookalikeError(
            f"{scheme}://{below} is a URI, which cannot be used here: give a path on this machine"
        )
    return Path(name)


def is_text(given: str) -> bool:
    """Say whether a text can be written as UTF-8: bytes of a command line may not be."""
    return _NOT_TEXT.search(given) is None
