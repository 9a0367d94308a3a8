"""The names of columns of a user's table that an index keeps."""

from collections.abc import Sequence

from lookalike.errors import LookalikeError
from lookalike.images.inputs.kept_columns import UNKNOWN, Kept
from lookalike.storage.schema import KEY, ROW, is_column_name


def check_names(names: Sequence[str]) -> Kept:
    """Return columns to keep, without types. Raises `LookalikeError` for names it cannot have."""
    if isinstance(names, str):
        raise LookalikeError(f"`keep_columns` is {names!r}: give a list of columns")
    seen = {name.lower() for name in (*ROW.names, KEY)}
    for name in names:
        if name.lower() in seen:
            raise LookalikeError(
                f"`keep_columns` has {name!r}, which an index has itself, or twice: rename the "
                "column"
            )
        if not is_column_name(name):
            raise LookalikeError(
                f"`keep_columns` has {name!r}: rename the column, without spaces, quotes and any "
                "of ,;{}()=, and no underscore first"
            )
        seen.add(name.lower())
    return tuple((name, UNKNOWN) for name in names)
