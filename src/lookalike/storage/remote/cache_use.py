"""The cache as the place of local copies, without which an index in a store cannot be used."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from lookalike.errors import LookalikeError, full_disk, is_full_disk, one_line
from lookalike.system.cache import cache_folder
from lookalike.system.uris import is_uri

_CANNOT_WRITE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)


@contextmanager
def using_cache() -> Iterator[None]:
    """Turn what the disk of the cache does not allow in the block into one line.

    Errors of a store pass.
    """
    try:
        yield
    except OSError as error:
        if is_uri(str(error.filename or "")):
            raise
        if is_full_disk(error):
            raise full_disk(cache_folder()) from None
        if error.errno in _CANNOT_WRITE:
            raise LookalikeError(
                f"{cache_folder()} cannot be written to ({one_line(error)}): set LOOKALIKE_CACHE "
                "to a folder for the local copies of indexes in stores"
            ) from None
        raise
