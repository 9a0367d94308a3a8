"""Open a table of vectors by its name and content, on a local disk or in a store."""

import glob
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lookalike import images
from lookalike.errors import LookalikeError, one_line
from lookalike.images.inputs.delta import delta_files, delta_names, is_delta
from lookalike.images.inputs.location import fixed_part, matches
from lookalike.images.inputs.parquet_shard import is_parquet
from lookalike.images.inputs.source import is_uri
from lookalike.images.inputs.store_listing import list_shards
from lookalike.ingest.vectors.csv_table import CsvTable
from lookalike.ingest.vectors.in_memory import open_array
from lookalike.ingest.vectors.tables import OwnTable, ParquetTable
from lookalike.system.paths import local_path
from lookalike.system.uris import split_uri


def open_files(given: Sequence[str], embedding: str | None) -> OwnTable:
    """Open a table: Parquet at a URI; Parquet, Delta, CSV or `.npy` on a local disk.

    Parameters
    ----------
    given
        A file, folder or glob; or several Parquet files.
    embedding
        The column of vectors.

    Raises
    ------
    LookalikeError
        If there is no such table, or it cannot be read.

    """
    given = [_without_scheme(name) for name in given]
    if any(map(is_uri, given)):
        if len(given) > 1:
            raise LookalikeError("one URI at a time: use a glob that covers them")
        return _open_uri(given[0])
    paths = [os.path.abspath(local_path(name)) for name in given]
    if len(paths) == 1 and os.path.isfile(paths[0]):
        if paths[0].lower().endswith(".npy"):
            return open_array(_map_array(paths[0]), paths[0])
        if paths[0].lower().endswith(".csv"):
            return CsvTable(paths[0], os.path.dirname(paths[0]), embedding or "")
    if len(paths) == 1 and is_delta(paths[0]):
        return ParquetTable(paths[0], paths[0], tuple(delta_files(paths[0])))
    found: set[str] = set()
    for path in paths:
        below = set(_parquet_files(path))
        if not below:
            problem = "has no Parquet files" if os.path.lexists(path) else "does not exist"
            raise LookalikeError(f"{images.encode_path(path)} {problem}: name a table of vectors")
        found |= below
    files = sorted(found)
    if len(paths) == 1:
        root = paths[0] if os.path.isdir(paths[0]) else fixed_part(os.path.dirname(paths[0]))
        return ParquetTable(paths[0], root, tuple(files))
    return ParquetTable(
        None, os.path.commonpath([os.path.dirname(file) for file in files]), tuple(files)
    )


def _without_scheme(name: str) -> str:
    """Return the path in a URI of the local disk; other names as they are."""
    if not is_uri(name):
        return name
    scheme, host, path = split_uri(name)
    return path if scheme == "file" and not host else name


def _open_uri(uri: str) -> ParquetTable:
    """Open Parquet files of a store: a folder, a file or a glob."""
    place = uri.rstrip("/")
    files = [images.decode_path(shard.path) for shard in list_shards(uri, is_parquet)]
    if not files:
        raise LookalikeError(f"{uri} has no Parquet files: name a table of vectors in Parquet")
    is_folder = files[0].startswith(f"{place}/")
    if is_folder and (named := delta_names(place)) is not None:
        files = [file for file in files if file.removeprefix(f"{place}/") in named]
    # The text before the first difference: `commonpath` would merge the slashes of a URI.
    root = place if is_folder else os.path.commonprefix(files).rpartition("/")[0]  # noqa: RUF071
    return ParquetTable(uri, root, tuple(files))


def _parquet_files(path: str) -> Iterator[str]:
    if os.path.isfile(path):
        yield path
    elif os.path.isdir(path):
        for folder, folders, names in os.walk(path):
            if "_delta_log" in folders:  # whose older versions have files, too
                raise LookalikeError(
                    f"{images.encode_path(folder)} is a Delta table: name it, and nothing else"
                )
            folders[:] = sorted(
                one for one in folders if not one.startswith(".") and (one[0] != "_" or "=" in one)
            )
            yield from (os.path.join(folder, name) for name in sorted(names) if is_parquet(name))
    elif glob.has_magic(path):
        for one in matches(path, is_parquet):
            yield from _parquet_files(one)


def _map_array(file: str) -> npt.NDArray[Any]:
    try:
        return np.lib.format.open_memmap(file, mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise LookalikeError(
            f"{file} is no array of NumPy ({one_line(error)}): save it again"
        ) from None
