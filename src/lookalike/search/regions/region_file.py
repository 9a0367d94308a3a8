"""Write the file of one region: signatures, vectors and rows, in the order of cells (`layout`)."""

import hashlib
import io
import itertools
import os
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lookalike.search.cells import Cells
from lookalike.search.regions.layout import Shape
from lookalike.storage.region_folders import REGIONS
from lookalike.storage.remote.copies import open_copy
from lookalike.system.arrays import Numbers, Vectors
from lookalike.system.files import sync_folder

BLOCK_BYTES = 2**25
"""Bytes of vectors in memory beside the rows themselves, as float32."""
SUFFIX = ".region"


@dataclass(frozen=True)
class Home:
    """The rows of a region in any order: cells int32 (n,), ids, vectors (n, width) and columns."""

    cells: npt.NDArray[np.int32]
    ids: Numbers
    vectors: npt.NDArray[Any]
    rows: pa.Table


@dataclass(frozen=True)
class Target:
    """Where the files of a folder go: into the folder on a disk, or into a store (`uri`)."""

    path: str
    name: str
    uri: str = ""

    @contextmanager
    def file(self) -> Iterator["_Written"]:
        """Yield a file to write; it gets its name, the hash of its content, when the block ends."""
        if self.uri:
            memory = io.BytesIO()
            written = _Written(memory)
            yield written
            content = memory.getvalue()
            object_ = f"{REGIONS}/{self.name}/{written.name}"
            open_copy(self.uri).put(object_, content)
            return
        folder = Path(self.path, REGIONS, self.name)
        part = folder / f".{uuid.uuid4().hex}.part"
        try:
            with part.open("wb") as opened:
                written = _Written(opened)
                yield written
                opened.flush()
                os.fsync(opened.fileno())
            part.rename(folder / written.name)
            sync_folder(folder)
        finally:
            part.unlink(missing_ok=True)


class _Written:
    """A file that is written from its begin to its end, and hashed meanwhile."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.bytes = 0
        self._hash = hashlib.blake2b(digest_size=16)

    def write(self, content: bytes | memoryview) -> None:
        self.file.write(content)
        self._hash.update(content)
        self.bytes += len(content)

    @property
    def name(self) -> str:
        return f"{self._hash.hexdigest()}{SUFFIX}"


def blocks(count: int, width: int) -> Iterator[slice]:
    """Cut rows of a width into blocks of `BLOCK_BYTES`."""
    step = max(BLOCK_BYTES // (4 * width), 1)
    return (slice(start, start + step) for start in range(0, count, step))


def write_region(home: Home, cells: Cells, shape: Shape, target: Target) -> dict[str, Any]:
    """Write the rows of a region to a file; return what a layout needs to know of it.

    Returns
    -------
    dict
        `name`, `rows`, `bytes`, and as bytes an entry a cell: `cell` (int32, rising), `count`
        (int32), `place` (int64) and `size` (int32) of its rows, `signature_check` and `rows_check`
        (uint32).
    """
    order = np.lexsort((home.ids, home.cells))
    assigned, ids = home.cells[order], home.ids[order]
    codes = np.empty((len(ids), shape.code_bytes), np.uint8)
    checks = np.empty(len(ids), np.uint32)
    for block in blocks(len(ids), shape.width):
        vectors = np.ascontiguousarray(home.vectors[order[block]])
        codes[block] = cells.encode(vectors.astype(np.float32), assigned[block])
        checks[block] = [zlib.crc32(vector) for vector in vectors]
    cell, starts = np.unique(assigned, return_index=True)
    bounds = list(itertools.pairwise([*starts.tolist(), len(ids)]))
    signature_checks, rows_checks, places, sizes = [], [], [], []
    with target.file() as file:
        for start, stop in bounds:
            parts: list[npt.NDArray[Any]] = [codes[start:stop], ids[start:stop], checks[start:stop]]
            signatures = b"".join(one.tobytes() for one in parts)
            signature_checks.append(zlib.crc32(signatures))
            file.write(signatures)
        file.write(bytes(shape.vectors_at(len(ids)) - file.bytes))
        for block in blocks(len(ids), shape.width):
            file.write(np.ascontiguousarray(home.vectors[order[block]]).data.cast("B"))
        rows = home.rows.take(pa.array(order)).combine_chunks().to_batches()
        for start, stop in bounds:
            message = rows[0].slice(start, stop - start).serialize()
            places.append(file.bytes)
            sizes.append(message.size)
            rows_checks.append(zlib.crc32(message))
            file.write(memoryview(message))
        name, size = file.name, file.bytes
    arrays: dict[str, npt.NDArray[Any]] = {
        "cell": cell.astype(np.int32),
        "count": np.array([stop - start for start, stop in bounds], np.int32),
        "place": np.array(places, np.int64),
        "size": np.array(sizes, np.int32),
        "signature_check": np.array(signature_checks, np.uint32),
        "rows_check": np.array(rows_checks, np.uint32),
    }
    told = {key: array.tobytes() for key, array in arrays.items()}
    return {"name": name, "rows": len(ids), "bytes": size, **told}


def as_stored(vectors: Vectors, shape: Shape) -> npt.NDArray[Any]:
    """Return vectors (n, width) in the type of a shape."""
    return np.ascontiguousarray(vectors, shape.numbers)
