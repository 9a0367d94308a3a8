"""Save layouts in the cache folder, one per table."""

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from lookalike.analysis.map.tsne import MAX_IMAGES, Layout, draw_images
from lookalike.search.rows import Rows
from lookalike.storage import EmbeddingTable
from lookalike.system.cache import cache_folder, ignore_cache_errors
from lookalike.system.files import new_file
from lookalike.system.untrusted import read_arrays

Arrays: TypeAlias = dict[str, npt.NDArray[Any]]

METHOD_VERSION = 1
"""Version of the method; layouts of another version are not used."""
_MAX_FILE_BYTES = MAX_IMAGES * 16 + 2**16


def load_layout(table: EmbeddingTable) -> Layout | None:
    """Return the layout of this version; None where it is missing or damaged."""
    layout = _read(_file(table))
    ids = Rows(table.segments).ids
    return layout if layout and np.array_equal(layout.ids, ids[draw_images(ids)]) else None


def load_older_layout(table: EmbeddingTable) -> Layout | None:
    """Return the layout of another version of the index; None without one."""
    with suppress(OSError):
        for file in sorted(_folder().glob(f"{_prefix(table)}-{METHOD_VERSION}-*.npz")):
            if file != _file(table) and (layout := _read(file)):
                return layout
    return None


def save_layout(table: EmbeddingTable, layout: Layout) -> None:
    """Save the layout of this version, atomically, and delete those of other versions.

    Does nothing where the folder is read-only.
    """
    file = _file(table)
    with ignore_cache_errors():
        file.parent.mkdir(parents=True, exist_ok=True)
        with new_file(file) as part, part.open("wb") as opened:
            np.savez(opened, allow_pickle=False, **pack(layout))
        for other in file.parent.glob(f"{_prefix(table)}-*.npz"):
            if other != file:
                other.unlink(missing_ok=True)


def pack(layout: Layout) -> Arrays:
    """Return the arrays of a layout."""
    return {"ids": layout.ids, "points": layout.points, "later": np.array([layout.later])}


def unpack(arrays: Arrays) -> Layout:
    """Return the layout of packed arrays. Raises `ValueError` for anything else."""
    try:
        ids, points, later = (arrays[name] for name in ("ids", "points", "later"))
    except KeyError:
        raise ValueError("no layout") from None
    shapes = points.shape == (len(ids), 2) and ids.ndim == later.size == 1
    types = f"{ids.dtype} {points.dtype} {later.dtype}" == "int64 float32 int64"
    # NaN fails this comparison too.
    if not (shapes and types and bool((np.abs(points) <= 1).all())):
        raise ValueError("no layout")
    return Layout(ids, points, int(later.item()))


def _read(file: Path) -> Layout | None:
    with suppress(OSError, ValueError):  # missing or damaged
        if file.stat().st_size <= _MAX_FILE_BYTES:
            return unpack(read_arrays(file))
    return None


def _folder() -> Path:
    return cache_folder() / "layouts"


def _file(table: EmbeddingTable) -> Path:
    """Return the file of a version, named by the method and by its segments."""
    return _folder() / f"{_prefix(table)}-{METHOD_VERSION}-{names_of(table)[1]}.npz"


def _prefix(table: EmbeddingTable) -> str:
    return names_of(table)[0]


def names_of(table: EmbeddingTable) -> tuple[str, str]:
    """Return names for files in the cache: one of the index, one of the rows of this version."""
    return _digest(table.identity), _digest(*(segment.file.stem for segment in table.segments))


def _digest(*names: str) -> str:
    return hashlib.blake2b(
        "\n".join(names).encode(errors="backslashreplace"), digest_size=8
    ).hexdigest()
