"""Bring back what was set aside: the journal says what was done, and each step is reversed."""

import os
from collections.abc import Callable
from contextlib import suppress

from lookalike.analysis.cleanup.file_moves import (
    PART,
    is_copy,
    is_empty,
    is_moved,
    is_reserved,
    leads_to,
    move,
    short_errors,
)
from lookalike.analysis.cleanup.journal import JOURNAL, Entry, entries, journal
from lookalike.errors import LookalikeError, is_full_disk, one_line
from lookalike.images import encode_path
from lookalike.system.paths import Name, local_path


def undo(folder: Name, report: Callable[[str], None] = lambda line: None) -> int:
    """Move images back, and remove copies and links; return the number of images.

    A copy is removed only where the original exists with the same bytes, a link only where it still
    leads to the original. When all images are back, the journal and all empty folders are removed.

    Parameters
    ----------
    folder : str or Path
    report : callable
        Called with a line for each image that cannot be put back.

    Raises
    ------
    LookalikeError
        Where images could not be put back, after all others were.
    """
    folder = local_path(folder).absolute()
    if not (folder / JOURNAL).is_file():
        raise LookalikeError(f"{folder} has no {JOURNAL}: nothing to undo")
    restored = failed = 0
    with short_errors(folder), journal(folder):
        for entry in entries(folder):
            try:
                restored += _undo_one(entry)
            except (OSError, LookalikeError) as error:
                if is_full_disk(error):
                    raise
                failed += 1
                report(f"{encode_path(entry.origin)} was not put back: {one_line(error)}")
        if failed:
            raise LookalikeError(
                f"{failed:,} images were not put back, {restored:,} were: free their old paths "
                f"and undo {folder} again"
            )
        (folder / JOURNAL).unlink()
    for place, _, _ in os.walk(folder, topdown=False):
        with suppress(OSError):  # not empty
            os.rmdir(place)
    return restored


def _undo_one(entry: Entry) -> bool:
    """Undo one entry; return whether a file was changed. Raises `LookalikeError`."""
    how, origin, target = entry
    at_target, at_origin = os.path.lexists(target), os.path.lexists(origin)
    if how == "link":
        if leads_to(target, origin):
            os.unlink(target)
            return True
        return False
    with suppress(OSError):
        os.unlink(os.path.join(os.path.dirname(target), PART))
    if is_empty(target):  # reserved by a killed run
        os.unlink(target)
        return False
    if at_target and at_origin and (is_moved if how == "move" else is_copy)(origin, target):
        os.unlink(target)
        return True
    if how == "copy":
        if at_target:
            raise LookalikeError(f"it is missing or changed, so {encode_path(target)} stays")
        return False
    if not at_target:
        if at_origin:
            return False
        raise LookalikeError(f"it is missing from {encode_path(target)} as well")
    if at_origin and not is_reserved(origin):
        raise LookalikeError("another file has taken its path")
    os.makedirs(os.path.dirname(origin), exist_ok=True)
    move(target, origin)
    return True
