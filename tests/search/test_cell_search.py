"""The cells near many rows at once: all compared, or those of near parts."""

import numpy as np
import pytest

from helpers.clusters import clustered
from helpers.segments import Floats
from lookalike.search import cell_search
from lookalike.search.cell_search import MIN_PARTS, CellSearch
from lookalike.search.cells import Cells, Rotation
from lookalike.search.knn.effort import choose_effort
from lookalike.search.knn.sample import SampledRows
from lookalike.search.knn.survey import find_true


@pytest.fixture(autouse=True)
def _many_are_a_hundred(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cell_search, "FLAT_CELLS", 100)


def cells_of(rows: Floats, centres: Floats) -> Cells:
    rotation = Rotation.fit(rows, 32)
    return Cells(rotation, rotation(centres), len(rows))


def test_many_cells_are_searched_in_two_steps() -> None:
    rows = clustered(6000)
    many = cells_of(rows, rows[:2000])
    rotated = many.rotation(rows[2000:2300])
    squared, found = CellSearch(many).nearest(rotated, 5)
    wanted = many.nearest(rotated, 5)
    assert np.mean([len(set(a) & set(b)) / 5 for a, b in zip(found, wanted, strict=True)]) > 0.99
    near = ((rotated[:, None] - many.centres[found]) ** 2).sum(axis=2)
    np.testing.assert_allclose(squared, near, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("most", [1, 3, 2000])
def test_all_parts_together_miss_nothing(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cell_search, "_MAX_COMPARED", 2**17)  # several blocks
    rows = np.random.default_rng(0).normal(size=(2300, 40)).astype(np.float32)
    many = cells_of(rows, rows[:2000])
    rotated = many.rotation(rows[2000:])
    search = CellSearch(many)
    assert search.parts is not None
    nearest, row, cell = search.through(len(search.parts)).within(rotated, 8.0, most)
    squared = ((rotated[:, None] - many.centres) ** 2).sum(axis=2)
    assert np.array_equal(nearest, squared.argmin(axis=1))
    assert np.array_equal(np.sort(row), row)
    limit = np.minimum(squared.min(axis=1) + 8, np.sort(squared, axis=1)[:, most - 1])
    found = np.zeros(squared.shape, bool)
    found[row, cell] = True
    sure = np.abs(squared - limit[:, None]) > 1e-3  # equal but for rounding
    assert np.array_equal(found[sure], (squared <= limit[:, None])[sure])
    assert found.sum(axis=1).mean() > 1 or most == 1


def test_the_recall_says_through_how_many_parts_to_look() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(20_000, 10)).astype(np.float32)
    many = cells_of(rows, rows[:2000])
    queries, centre = rows[-256:], np.zeros(10, np.float32)
    truth = find_true(SampledRows(rows, "l2"), many.rotation, queries, 10, 0, True, centre)
    search = CellSearch(many)
    effort = choose_effort(truth, search, len(rows), 10, 0.98)
    assert effort is not None and effort.recall is not None
    assert effort.probing.parts > MIN_PARTS
    assert effort.recall > 0.95
    home = search.within(truth.near.reshape(-1, truth.near.shape[2]), 0, 1)[0].reshape(256, 10)

    def share_probed(parts: int) -> float:
        probing = effort.probing
        rotated = many.rotation(queries)
        _, row, cell = search.through(parts).within(rotated, probing.gap, probing.max_cells)
        probed = np.zeros((256, len(many)), bool)
        probed[row, cell] = True
        return float(np.take_along_axis(probed, home, axis=1).mean())

    assert share_probed(MIN_PARTS) < 0.97 < share_probed(effort.probing.parts)
