"""Read the bytes of one image again, wherever it lies."""

import hashlib
import os
import posixpath

from lookalike.errors import ImageError
from lookalike.images.decoding import raster
from lookalike.images.inputs import archives, file_opening, parquet_shard
from lookalike.images.inputs.source import (
    _URI,
    OUTSIDE,
    Source,
    _is_below_uri,
    _is_remote,
    decode_path,
    encode_path,
    full_path,
    is_inside,
)


def content_hash(data: bytes) -> str:
    """Return the BLAKE2b hash of a file's content, 32 hexadecimal digits."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def read(source: Source, path: str) -> bytes:
    """Return the bytes of one image of a source.

    Parameters
    ----------
    source
        The source.
    path
        The encoded path of the image below the root, `FILE#ROW` for a table, or
        `FILE#MEMBER` for an archive.

    Raises
    ------
    ImageError
        If it is unreadable, or the path leads out of the folders of the source.

    """
    if not source.has_pictures:
        raise ImageError(f"the {source.kind} were indexed without pictures")
    name, row = path, ""
    if source.kind == "table":
        name, _, row = path.rpartition("#")
    elif source.kind == "archive":
        name, _ = archives.split_member(path)
    if not is_inside(source, name):
        raise ImageError(OUTSIDE)
    place = full_path(source, name)
    if source.kind in ("files", "vectors"):
        return raster.read_file(place)
    try:
        if source.kind == "archive":
            return archives.read_member(source, path)
        if source.kind == "uri":
            return file_opening.read_whole(place)
        return _read_cell(source, name, int(row))
    except ImageError:
        raise
    except Exception as error:  # remote file systems raise anything
        raise ImageError(f"unreadable: {' '.join(str(error).split())[:200]}") from None


def _read_cell(source: Source, table: str, row: int) -> bytes:
    with file_opening.open_file(full_path(source, table)) as file:
        content, name = parquet_shard.Shard(file, source.image_column or "image").cell(row)
    if content is not None:
        return content
    if name is None:
        raise ImageError("empty cell")
    return read_beside(source, table, name)


def read_beside(source: Source, table: str, name: str) -> bytes:
    """Return the bytes of a file that a cell of a table names.

    Parameters
    ----------
    source
        The table.
    table
        The encoded path of the Parquet file.
    name
        The file, relative to the Parquet file or to the root.

    Raises
    ------
    ImageError
        If there is no such file, or it is outside the root.

    """
    outside = ImageError("its cell names a file outside the folder of the table")
    if _URI.match(name) or "\0" in name:
        raise outside
    if _is_remote(source):
        return _read_beside_uri(source, decode_path(table), name, outside)
    if os.path.isabs(name):
        places = [os.path.relpath(name, source.root)]
    else:
        places = [os.path.normpath(os.path.join(os.path.dirname(decode_path(table)), name)), name]
    inside = [place for place in places if is_inside(source, encode_path(place))]
    if not inside:
        raise outside
    there = (place for place in inside if os.path.lexists(os.path.join(source.root, place)))
    return raster.read_file(os.path.join(source.root, next(there, inside[0])))


def _read_beside_uri(source: Source, table: str, name: str, outside: ImageError) -> bytes:
    scheme, _, path = table.partition(":/")
    place = f"{scheme}:/{posixpath.normpath(posixpath.join(posixpath.dirname(path), name))}"
    root = source.root
    if parquet_shard.is_parquet(root):  # a file or a glob
        root = root.rpartition("/")[0]
    if not _is_below_uri(root, place):
        raise outside
    return file_opening.read_whole(place)
