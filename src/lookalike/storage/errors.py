"""Errors about a table of embeddings, each a line that says what to do next."""

import re
from pathlib import Path

from lookalike.errors import LookalikeError, forbidden, is_forbidden

RESTORE = "restore it, or index the images again into another `out`"


class Conflict(Exception):
    """Another writer has made the next version: look at that one, and try again."""


class Busy(LookalikeError):
    """A table that others write into, or that another process has to itself."""


class ReadOnly(LookalikeError):
    """A table that this process may not write into."""


def damaged(path: Path, error: Exception) -> LookalikeError:
    """Return the error for an index that cannot be opened."""
    if is_forbidden(error):
        return forbidden(getattr(error, "filename", None) or path)
    if needs_upgrade(error):
        return LookalikeError(
            f"{path} was changed by a newer program ({kind_and_text(error)}): upgrade to open it"
        )
    return LookalikeError(f"{path} is a damaged index: {kind_and_text(error)}; {RESTORE}")


def no_longer_kept(path: Path, version: int) -> LookalikeError:
    """Return the error for a version whose data files are deleted."""
    return LookalikeError(
        f"version {version} of {path} is no longer kept: open the newest one (`Index.refresh`), or "
        f"one that `lookalike info {path} --history` shows"
    )


def needs_upgrade(error: Exception) -> bool:
    """Tell whether something failed because a later version of Delta is needed for it."""
    from deltalake.exceptions import DeltaError

    return isinstance(error, DeltaError) and bool(
        re.search(r"unsupported|not supported|table features", str(error), re.IGNORECASE)
    )


def kind_and_text(error: Exception) -> str:
    """Return type and text of an error, shortened."""
    return f"{type(error).__name__} {' '.join(str(error).split())[:200]}"


def upgraded_meanwhile(path: Path) -> LookalikeError:
    """Return the error for vectors of a model that the index has no longer."""
    return LookalikeError(f"{path} got another model meanwhile: run the same command again")
