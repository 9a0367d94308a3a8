"""Check names of files and texts that users give."""

import os
import re
from pathlib import Path

from lookalike.errors import LookalikeError

# One slash: `Path` merges two. Two letters or more: Windows names disks by one.
_URI = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)
_NOT_TEXT = re.compile("[\ud800-\udfff]")


Name = str | os.PathLike[str]
"""The name of a file or folder, as users may give it."""


def local_path(given: Name) -> Path:
    """Return the path of a local file or folder.

    Raises `LookalikeError` for a URI, an empty name, or a name with a null character.
    """
    name = os.fsdecode(given)
    if not name:
        raise LookalikeError("an empty name: give a path")
    if "\0" in name:
        raise LookalikeError(f"{name!r} is not a path: remove the null character")
    if _URI.match(name):
        scheme, _, rest = name.partition(":")
        below = rest.lstrip("/")
        if scheme.lower() == "file":
            raise LookalikeError(f"file:///{below} is a URI: give the path, /{below}")
        raise LookalikeError(
            f"{scheme}://{below} is a URI, but only a local path can be used here: give one"
        )
    return Path(name)


def is_text(given: str) -> bool:
    """Tell whether a text can be encoded as UTF-8: bytes of a command line may not."""
    return _NOT_TEXT.search(given) is None
