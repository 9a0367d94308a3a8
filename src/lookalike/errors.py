"""The one exception that lookalike raises on purpose, and what others mean by theirs."""

import errno
import re

_FULL = re.compile(
    r"no space left on device|disk quota exceeded|\d+ requested and \d+ written", re.IGNORECASE
)  # the last is NumPy


class LookalikeError(Exception):
    """A problem the caller can solve. The message is one line and says what to do next."""


def is_full_disk(error: BaseException) -> bool:
    """Say whether something failed for want of room on a disk, whichever library says so."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return bool(_FULL.search(str(error)))


def is_forbidden(error: BaseException) -> bool:
    """Say whether something failed for want of the right to do it, whichever library says so."""
    return isinstance(error, PermissionError) or "permission denied" in str(error).lower()


def forbidden(what: object) -> LookalikeError:
    """Return the error for something that may not be read."""
    return LookalikeError(f"{what} may not be read: ask who owns it for the right to")


def full_disk(what: object) -> LookalikeError:
    """Return the error for it; `what` lies on the disk."""
    return LookalikeError(
        f"the disk is full ({what}): make room and run the same command again, it goes on from "
        "what is there"
    )
