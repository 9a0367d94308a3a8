"""The exceptions that lookalike raises on purpose, and what others mean by theirs."""

import errno
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

_FULL = re.compile(
    r"no space left on device|disk quota exceeded|\d+ requested and \d+ written", re.IGNORECASE
)  # the last is NumPy


_shown_names: dict[str, str] = {}


def show_as(place: str, name: str) -> None:
    """Let the messages of errors show `name` for a folder, such as the URI of a local copy."""
    _shown_names[place] = name


class LookalikeError(Exception):
    """A problem the caller can solve. The message is one line and says what to do next."""

    def __str__(self) -> str:
        text = super().__str__()
        for place, name in _shown_names.items():
            text = text.replace(place, name)
        return text


class ImageError(LookalikeError, ValueError):
    """Why an input did not become pixels: one line, fit for a table of skipped inputs."""


class Unreadable(LookalikeError):
    """Something cannot be read now and may be whole: nobody deletes it, or makes it again."""

    def __init__(self, what: object, error: BaseException) -> None:
        super().__init__(
            f"{what} cannot be read now ({one_line(error)}): see to that and try again"
        )


def one_line(error: BaseException) -> str:
    """Return the reason that an exception gives, without all that follows its first line."""
    reason = getattr(error, "strerror", None) or str(error)
    return (str(reason).strip().splitlines() or [type(error).__name__])[0]


def either(names: Sequence[str]) -> str:
    """Join names for a message: `a, b or c`."""
    return f"{', '.join(names[:-1])} or {names[-1]}"


def is_full_disk(error: BaseException) -> bool:
    """Tell whether something failed for want of room on a disk, whichever library says so."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return bool(_FULL.search(str(error)))


_OF_PLACES = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)


def says_nothing(error: BaseException) -> bool:
    """Tell whether something failed for a reason that says nothing of the file: it may be whole.

    For want of memory, of open files, of rights; because a disk was away.
    """
    if isinstance(error, OSError):
        return error.errno is not None and error.errno not in _OF_PLACES
    return isinstance(error, MemoryError)


def is_forbidden(error: BaseException) -> bool:
    """Tell whether something failed for want of the right to do it, whichever library says so."""
    return isinstance(error, PermissionError) or "permission denied" in str(error).lower()


def forbidden(what: object) -> LookalikeError:
    """Return the error for something that may not be read."""
    return LookalikeError(f"{what} may not be read: ask who owns it for the right to")


@contextmanager
def writing_to(place: object, advice: str) -> Iterator[None]:
    """Make an `OSError` in the block a `LookalikeError` of one line, which ends in an advice."""
    try:
        yield
    except OSError as error:
        if is_full_disk(error):
            raise full_disk(place) from None
        raise LookalikeError(
            f"{place} cannot be written to ({one_line(error)}): {advice}"
        ) from None


def full_disk(what: object) -> LookalikeError:
    """Return the error for it; `what` lies on the disk."""
    return LookalikeError(
        f"the disk is full ({what}): make room and run the same command again, it goes on from "
        "what is there"
    )
