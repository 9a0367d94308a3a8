"""The files of the newest version of a Delta table, on a disk or in a store."""

import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa

from lookalike.errors import LookalikeError, one_line
from lookalike.images.inputs.source import is_uri
from lookalike.system.store import open_store
from lookalike.system.uris import split_uri

LOG = "_delta_log"
_VERSION = re.compile(r"\d{20}\.(json|checkpoint\.)")
_OF_LOG = re.compile(r"\d{20}\.(json|checkpoint\.[.\w-]+)$|_last_checkpoint$")


def is_delta(path: str) -> bool:
    """Tell whether a local folder is a Delta table: its log has a version."""
    try:
        names = os.listdir(os.path.join(path, LOG))
    except OSError:
        return False
    return any(map(_VERSION.match, names))


def delta_files(path: str) -> Iterator[str]:
    """Yield the files of the newest version of a Delta table, in order: absolute paths.

    Raises `LookalikeError` where it cannot be read, or needs Spark.
    """
    for name in _names(path, path):
        yield os.path.join(path, name)


def delta_names(uri: str) -> frozenset[str] | None:
    """Return the files of the newest version of a Delta table at a URI: names relative to it.

    None if there is no such table, as at a glob. Raises `LookalikeError` as `delta_files`.
    """
    scheme, _, path = split_uri(uri)
    if scheme == "file":
        return frozenset(_names(path, uri)) if is_delta(path) else None
    log = open_store(uri.rstrip("/")).below(LOG)
    listed = (name for batch in log.list(1) for name in batch["name"].to_pylist())
    names = [name for name in listed if _OF_LOG.match(name)]
    if not any(map(_VERSION.match, names)):
        return None
    with tempfile.TemporaryDirectory(prefix="lookalike-") as folder:
        copied = Path(folder, LOG)
        copied.mkdir()
        for name in names:
            log.download(name, copied / name)
        return frozenset(_names(folder, uri))


def _names(path: str, shown: str) -> list[str]:
    """Return the files of the newest version in the log below a folder, in order."""
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    try:
        table = DeltaTable(path)
        features = set(table.protocol().reader_features or ())
        encoded = pa.table(table.get_add_actions())["path"].to_pylist()
    except (DeltaError, OSError) as error:
        raise LookalikeError(f"{shown} cannot be read ({one_line(error)}): restore it") from None
    if odd := sorted(features & {"deletionVectors", "columnMapping"}):
        raise LookalikeError(
            f"{shown} uses {' and '.join(odd)} of Delta: read it with Spark and give the DataFrame"
        )
    names = sorted(map(unquote, encoded))
    for name in names:
        inner = os.path.normpath(name)
        if is_uri(name) or os.path.isabs(inner) or inner.startswith(".."):
            raise LookalikeError(f"{shown} names a file outside it ({name}): copy the table")
    return [os.path.normpath(name) for name in names]
