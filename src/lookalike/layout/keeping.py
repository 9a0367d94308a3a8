"""Layouts in the folder for what can be made again, one a collection."""

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from lookalike.cache import cache_folder, keeping
from lookalike.files import new_file
from lookalike.layout.placing import MOST, Layout, drawn
from lookalike.search import Rows
from lookalike.storage import EmbeddingTable
from lookalike.untrusted import read_arrays

Arrays: TypeAlias = dict[str, npt.NDArray[Any]]

METHOD = 1
"""Goes up when images would be laid out otherwise: what was kept before is not used."""
_BYTES = MOST * 16 + 2**16  # of a file at most


def kept(collection: EmbeddingTable) -> Layout | None:
    """Return the layout of this version; None where there is none, or a damaged one."""
    layout = _read(_file(collection))
    ids = Rows(collection.segments).ids
    return layout if layout and np.array_equal(layout.ids, ids[drawn(ids)]) else None


def kept_before(collection: EmbeddingTable) -> Layout | None:
    """Return the layout of another version of the same collection, if there is one."""
    with suppress(OSError):
        for file in sorted(_folder().glob(f"{_of(collection)}-{METHOD}-*.npz")):
            if file != _file(collection) and (layout := _read(file)):
                return layout
    return None


def keep(collection: EmbeddingTable, layout: Layout) -> None:
    """Keep the layout of this version instead of another's, whole or not at all.

    Where the folder cannot be written to, it is made again when it is next asked for.
    """
    file = _file(collection)
    with keeping():
        file.parent.mkdir(parents=True, exist_ok=True)
        with new_file(file) as part, part.open("wb") as opened:
            np.savez(opened, allow_pickle=False, **packed(layout))
        for other in file.parent.glob(f"{_of(collection)}-*.npz"):
            if other != file:
                other.unlink(missing_ok=True)


def packed(layout: Layout) -> Arrays:
    """Return a layout as arrays."""
    return {"ids": layout.ids, "points": layout.points, "later": np.array([layout.later])}


def unpacked(arrays: Arrays) -> Layout:
    """Return the layout that was packed; `ValueError` for anything else."""
    try:
        ids, points, later = (arrays[name] for name in ("ids", "points", "later"))
    except KeyError:
        raise ValueError("no layout") from None
    shapes = points.shape == (len(ids), 2) and ids.ndim == later.size == 1
    types = f"{ids.dtype} {points.dtype} {later.dtype}" == "int64 float32 int64"
    # Written so that what is no number fails as well.
    if not (shapes and types and bool((np.abs(points) <= 1).all())):
        raise ValueError("no layout")
    return Layout(ids, points, int(later.item()))


def _read(file: Path) -> Layout | None:
    with suppress(OSError, ValueError):  # not there, or damaged
        if file.stat().st_size <= _BYTES:
            return unpacked(read_arrays(file))
    return None


def _folder() -> Path:
    return cache_folder() / "layouts"


def _file(collection: EmbeddingTable) -> Path:
    """Name the file of a version by the method and by the segments that it has."""
    segments = _digest(*(segment.file.stem for segment in collection.segments))
    return _folder() / f"{_of(collection)}-{METHOD}-{segments}.npz"


def _of(collection: EmbeddingTable) -> str:
    return _digest(collection.identity)


def _digest(*names: str) -> str:
    return hashlib.blake2b(
        "\n".join(names).encode(errors="backslashreplace"), digest_size=8
    ).hexdigest()
