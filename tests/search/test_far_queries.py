"""Queries that lie far from all rows, as words do from images: the promised recall is kept."""

from pathlib import Path

import numpy as np
import pytest

from helpers.segments import Floats, collection_of
from lookalike.search.exact import exact_many
from lookalike.search.searcher import Searcher

ROWS, WIDTH, QUERIES, K = 15_000, 96, 100, 10


def in_a_cone(count: int, axis: Floats, subjects: Floats, spread: float, seed: int) -> Floats:
    """Draw unit vectors about an axis: what a picture or a text is about, and noise."""
    rng = np.random.default_rng(seed)
    noise = spread * rng.standard_normal((count, WIDTH)) / WIDTH**0.5
    vectors = axis + subjects[rng.integers(0, len(subjects), count)] + noise
    units: Floats = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return units


@pytest.mark.parametrize("recall", [0.9, 0.98])
def test_words_find_what_exact_search_finds(recall: float, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    axes = rng.standard_normal((2, WIDTH)).astype(np.float32)
    axes *= 1.2 / np.linalg.norm(axes, axis=1, keepdims=True)
    plane = rng.standard_normal((24, WIDTH)) / WIDTH**0.5
    subjects = (rng.standard_normal((800, 24)) @ plane / 24**0.5).astype(np.float32)
    images = in_a_cone(ROWS, axes[0], subjects, 0.5, 1)
    texts = in_a_cone(QUERIES, axes[1], subjects, 0.6, 2)
    ready = Searcher(collection_of(images, tmp_path / "x.index", [ROWS]))
    true = exact_many(ready.rows, texts, K)[1]
    right = compared = 0
    for text, rows in zip(texts, true, strict=True):
        found, engine, looked_at = ready.nearest(text, K, engine="approximate", recall=recall)
        right += len({one.id for one in found} & set(ready.rows.ids[rows].tolist()))
        compared += looked_at if engine == "approximate" else ROWS
        assert found[0].distance > ready.profile.reach  # none is as near as images are
    assert right / (QUERIES * K) >= recall - 0.01
    assert compared < 0.5 * QUERIES * ROWS
