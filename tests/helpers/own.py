"""Vectors of a user's own, in crowds, with keys and labels; and the truth about them."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lookalike.system.arrays import Floats, Vectors

WIDTH = 24


def crowds(count: int, width: int = WIDTH, seed: int = 0) -> Vectors:
    """Draw vectors around some centres, of any length, all far from the origin."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(12, width)) * 30 + 50
    drawn = centres[rng.integers(0, 12, count)] + rng.normal(size=(count, width)) * 4
    vectors: Vectors = drawn.astype(np.float32)
    return vectors


def table_of(vectors: Any, keys: Any = None, **columns: Any) -> pa.Table:
    """Return vectors as a table `sku, kind, v`, and more columns."""
    count = len(vectors)
    names = keys if keys is not None else [f"sku-{number:04}" for number in range(count)]
    kinds = [f"kind {number % 5}" for number in range(count)]
    lists = pa.array(
        [None if one is None else list(one) for one in vectors], pa.list_(pa.float32())
    )
    return pa.table({"sku": names, "kind": kinds, "v": lists, **columns})


def write_table(file: Path, table: pa.Table, rows: int = 100) -> Path:
    """Write a table to a Parquet file in small row groups."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file, row_group_size=rows)
    return file


def distances(vectors: Vectors, metric: str) -> Floats:
    """Return all distances of vectors by a metric, (n, n): brute force in double precision."""
    rows = vectors.astype(np.float64)
    if metric == "cosine":
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    squared: Floats = ((rows[:, None] - rows[None]) ** 2).sum(axis=2)
    return np.sqrt(squared)
