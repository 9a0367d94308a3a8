"""The files of a Delta table on a local disk."""

import os
import re
from collections.abc import Iterator
from urllib.parse import unquote

import pyarrow as pa

from lookalike.errors import LookalikeError, one_line
from lookalike.images.inputs.source import is_uri

_VERSION = re.compile(r"\d{20}\.(json|checkpoint\.)")


def is_delta(path: str) -> bool:
    """Tell whether a local folder is a Delta table: its log has a version."""
    try:
        names = os.listdir(os.path.join(path, "_delta_log"))
    except OSError:
        return False
    return any(map(_VERSION.match, names))


def delta_files(path: str) -> Iterator[str]:
    """Yield the files of the newest version of a Delta table, in order: absolute paths.

    Raises `LookalikeError` where it cannot be read, or needs Spark.
    """
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    try:
        table = DeltaTable(path)
        features = set(table.protocol().reader_features or ())
        names = pa.table(table.get_add_actions())["path"].to_pylist()  # percent-encoded
    except (DeltaError, OSError) as error:
        raise LookalikeError(f"{path} cannot be read ({one_line(error)}): restore it") from None
    if odd := sorted(features & {"deletionVectors", "columnMapping"}):
        raise LookalikeError(
            f"{path} uses {' and '.join(odd)} of Delta: read it with Spark and give the DataFrame"
        )
    for name in sorted(map(unquote, names)):
        file = os.path.normpath(os.path.join(path, name))
        if is_uri(name) or not file.startswith(f"{path}/"):
            raise LookalikeError(f"{path} names a file outside it ({name}): copy the table")
        yield file
