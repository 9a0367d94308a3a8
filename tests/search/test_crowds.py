"""Rows so near to each other that the leading directions do not tell them apart."""

import numpy as np
import pytest

from helpers.clusters import clustered
from helpers.segments import Floats
from lookalike.search.cell_search import CellSearch
from lookalike.search.cells import Cells, Rotation
from lookalike.search.knn import effort as module
from lookalike.search.knn import survey
from lookalike.search.knn.effort import choose_effort
from lookalike.search.knn.sample import SampledRows
from lookalike.search.knn.survey import Truth, draw_queries, find_true

K = 10


@pytest.fixture(scope="module")
def rows() -> Floats:
    usual = clustered(6000)
    ball = usual[0] + 1e-3 * np.random.default_rng(0).normal(size=(3000, usual.shape[1]))
    mixed = np.random.default_rng(1).permutation(np.concatenate([usual, ball]))
    found: Floats = (mixed / np.linalg.norm(mixed, axis=1, keepdims=True)).astype(np.float32)
    return found


@pytest.fixture
def known(rows: Floats, monkeypatch: pytest.MonkeyPatch) -> tuple[Truth, CellSearch]:
    monkeypatch.setattr(survey, "MAX_RANK", 100)
    monkeypatch.setattr(module, "MAX_RANK", 100)
    rotation = Rotation.fit(rows, 32)
    truth = find_true(
        SampledRows(rows, "cosine"), rotation, draw_queries(rows), K, 1, True, rows.mean(axis=0)
    )
    return truth, CellSearch(Cells.fit(rotation, truth.sample, len(rows)))


def test_a_few_rows_are_compared_with_all(rows: Floats, known: tuple[Truth, CellSearch]) -> None:
    assert choose_effort(*known, len(rows), K, 0.98) is None


def test_of_many_rows_a_crowd_does_not_decide(
    rows: Floats, known: tuple[Truth, CellSearch], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_EXACT_ROWS", 1_000)
    truth, search = known
    effort = choose_effort(truth, search, len(rows), K, 0.98)
    assert effort is not None and effort.recall is not None
    assert effort.late_rank == 1.0  # nobody looks through the whole crowd
    assert effort.candidates <= 100
    crowded = truth.squared[:, -1] < 0.01
    assert 0.2 < crowded.mean() < 0.5
    assert effort.recall < 0.95  # of all: it is not said that the crowd is found
    probed = module._are_probed(truth, search.through(effort.probing.parts), effort.probing)
    assert np.mean((probed & (truth.ranks <= effort.candidates))[~crowded]) > 0.97


def test_rows_without_directions_are_compared_with_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_EXACT_ROWS", 1_000)
    monkeypatch.setattr(survey, "MAX_RANK", 100)
    monkeypatch.setattr(module, "MAX_RANK", 100)
    rows = np.random.default_rng(0).normal(size=(6000, 200)).astype(np.float32)
    rotation = Rotation.fit(rows, 32)
    truth = find_true(
        SampledRows(rows, "l2"), rotation, draw_queries(rows), K, 1, True, rows.mean(axis=0)
    )
    search = CellSearch(Cells.fit(rotation, truth.sample, len(rows)))
    assert choose_effort(truth, search, len(rows), K, 0.98) is None
