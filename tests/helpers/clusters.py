"""Vectors in heaps, as embeddings lie, and rows that are added to them."""

import numpy as np

from helpers.segments import Floats
from lookalike import Neighbor
from lookalike.models.embedder import normalize

WIDTH = 96


def clustered(rows: int, seed: int = 0, width: int = WIDTH) -> Floats:
    """Unit vectors in 40 heaps of a few dimensions each, as embeddings lie."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(40, width))
    spread = rng.normal(size=(40, 12, width)) * 0.25
    heap = rng.integers(40, size=rows)
    inner = rng.normal(size=(rows, 1, 12))
    vectors = centres[heap] + (inner @ spread[heap])[:, 0] + rng.normal(size=(rows, width)) * 0.05
    scaled: Floats = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return scaled


def ids(found: list[Neighbor]) -> list[int]:
    return [one.number for one in found]


def near_copies(of: Floats, count: int, directions: int = 12) -> Floats:
    """Vectors close around one, that differ from each other in a few directions."""
    rng = np.random.default_rng(0)
    spread = rng.normal(size=(directions, len(of))) / len(of) ** 0.5
    return normalize((of + 0.01 * rng.normal(size=(count, directions)) @ spread).astype("f4"))


def in_other_directions(rows: Floats, count: int) -> Floats:
    """Vectors in heaps, as others lie, along the directions in which `rows` differ least."""
    least = np.linalg.eigh(np.cov(rows.T))[1][:, : rows.shape[1] // 3]
    return normalize((clustered(count, 1, least.shape[1]) @ least.T).astype("f4"))


KINDS = ("near copies", "other directions", "like the rest")


def addition(kind: str, rows: Floats, count: int) -> Floats:
    if kind == "near copies":
        return near_copies(rows[0], count)
    if kind == "other directions":
        return in_other_directions(rows, count)
    return clustered(len(rows) + count, 0, rows.shape[1])[len(rows) :]
