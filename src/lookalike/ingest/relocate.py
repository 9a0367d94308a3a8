"""Record the new root of moved images, after a check of some of them."""

import contextlib
import dataclasses
import os

from lookalike import images
from lookalike.errors import ImageError, LookalikeError
from lookalike.search.rows import Rows, draw
from lookalike.storage import EmbeddingTable
from lookalike.system.paths import Name, local_path

_MAX_CHECKED_IMAGES = 20
"""Images to look for before the new root is refused."""


def relocate(table: EmbeddingTable, root: Name) -> EmbeddingTable:
    """Record the new root of the images; return the table with that root.

    Raises `LookalikeError` if none of some images drawn at random is found there.
    """
    if not table.has_pictures:
        raise LookalikeError(f"{table.path} has no pictures: index again with `path_column`")
    moved = os.fspath(root)
    if table.source.kind == "files" or "://" not in moved:
        moved = os.path.abspath(local_path(root))
        if table.source.kind == "files" and os.path.isfile(moved):
            raise LookalikeError(
                f"{images.encode_path(moved)} is not a folder: give the one with the images"
            )
    source = dataclasses.replace(table.source, root=moved)
    rows = Rows(table.segments)
    paths = rows.paths.take(draw(len(rows), _MAX_CHECKED_IMAGES)).to_pylist()
    if paths and not any(_is_there(source, path) for path in paths):
        raise LookalikeError(
            f"{images.full_path(source, paths[0])} and others are missing: choose another folder"
        )
    return table.move(moved)


def _is_there(source: images.Source, path: str) -> bool:
    with contextlib.suppress(ImageError):
        images.read(source, path)
        return True
    return False
