"""The nearest rows of one DataFrame to those of another, without an index."""

from typing import Any

import numpy as np
import pytest

import lookalike
from helpers.clusters import clustered
from helpers.segments import Floats
from lookalike import LookalikeError
from lookalike.search.knn import join
from lookalike.spark import session

ROWS = 2500


def frame_of(vectors: Floats, names: Any) -> Any:
    rows = [(name, vector.tolist()) for name, vector in zip(names, vectors, strict=True)]
    kind = "string" if isinstance(rows[0][0], str) else "bigint"
    return session().createDataFrame(rows, f"id {kind}, embedding array<float>")


def told(found: Any) -> dict[Any, list[Any]]:
    rows = found.to_spark().toArrow().sort_by([("query_id", "ascending"), ("rank", "ascending")])
    neighbors: dict[Any, list[Any]] = {}
    for query, neighbor in zip(
        rows["query_id"].to_pylist(), rows["neighbor_id"].to_pylist(), strict=True
    ):
        neighbors.setdefault(query, []).append(neighbor)
    return neighbors


def true_neighbors(items: Floats, query: Floats, k: int) -> list[int]:
    near: list[int] = np.argsort(np.linalg.norm(items - query, axis=1), kind="stable")[:k].tolist()
    return near


@pytest.mark.parametrize("kind", ["exact", "approximate"])
def test_names_and_numbers_are_found(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = clustered(ROWS + 200)
    items = frame_of(vectors[:ROWS], [f"item-{number}" for number in range(ROWS)])
    asked = frame_of(vectors[ROWS:], range(10**12, 10**12 + 200))
    if kind == "approximate":
        monkeypatch.setattr(join, "EXACT_UP_TO", 100)
    found = lookalike.nearest(asked, items, k=5, recall=0.95)
    assert (found.plan.routing is not None) == (kind == "approximate")
    neighbors = told(found)
    assert sorted(neighbors) == list(range(10**12, 10**12 + 200))
    shares = []
    for number in range(200):
        wanted = {
            f"item-{row}" for row in true_neighbors(vectors[:ROWS], vectors[ROWS + number], 5)
        }
        own = neighbors[10**12 + number]
        assert len(set(own)) == 5
        shares.append(len(wanted & set(own)) / 5)
    assert np.mean(shares) >= (1 if kind == "exact" else 0.94)
    recall = found.recall
    assert recall is not None and (recall == 1) == (kind == "exact") and recall > 0.9


def test_vectors_of_any_length_are_compared_as_they_are() -> None:
    vectors = np.array([[1, 0], [2, 0], [900, 0], [0, 5]], np.float32)
    frame = frame_of(vectors, range(4))
    near = told(lookalike.nearest(frame, frame, k=2, metric="l2"))
    assert near == {0: [0, 1], 1: [1, 0], 2: [2, 1], 3: [3, 0]}
    near = told(lookalike.nearest(frame, frame, k=4))
    assert near[3] == [3, 0, 1, 2], "of length 1 the first three are equal"


def test_queries_with_one_id_are_told_apart() -> None:
    items = frame_of(np.eye(3, dtype=np.float32), [10, 11, 12])
    asked = frame_of(np.eye(3, dtype=np.float32)[:2], [7, 7])
    rows = lookalike.nearest(asked, items, k=1).to_spark().collect()
    assert sorted((row.query_id, row.neighbor_id) for row in rows) == [(7, 10), (7, 11)]


def test_no_rows_have_no_neighbours() -> None:
    some = frame_of(np.eye(3, dtype=np.float32), [1, 2, 3])
    none = some.where("id > 5")
    assert told(lookalike.nearest(none, some)) == told(lookalike.nearest(some, none)) == {}
    empty = session().createDataFrame([(4, None)], "id bigint, embedding array<float>")
    assert sorted(told(lookalike.nearest(some.union(empty), some, k=1))) == [1, 2, 3]


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        ([[1.0]], "the queries have vectors of another width than 2"),
        ([[0.0, 0.0]], "the queries have vectors of zeros"),
        ([[float("nan"), 1.0]], "not finite"),
    ],
)
def test_vectors_that_cannot_be_compared(vectors: list[list[float]], message: str) -> None:
    items = frame_of(np.eye(2, dtype=np.float32), [1, 2])
    asked = session().createDataFrame([(1, vectors[0])], "id bigint, embedding array<float>")
    with pytest.raises(LookalikeError, match=message):
        lookalike.nearest(asked, items)
    unnamed = session().createDataFrame([(None, [1.0, 0.0])], "id bigint, embedding array<float>")
    with pytest.raises(LookalikeError, match="the queries have rows without an id"):
        lookalike.nearest(unnamed, items)


def test_what_is_refused() -> None:
    items = frame_of(np.eye(2, dtype=np.float32), [1, 2])
    with pytest.raises(LookalikeError, match="two Spark DataFrames, not list"):
        lookalike.nearest([], items)  # type: ignore[arg-type]
    with pytest.raises(LookalikeError, match="the items have no column 'v', but id, embedding"):
        lookalike.nearest(items, items, column="v")
    with pytest.raises(LookalikeError, match="unknown metric 'dot'"):
        lookalike.nearest(items, items, metric="dot")  # type: ignore[arg-type]
    with pytest.raises(LookalikeError, match="`recall` is 2"):
        lookalike.nearest(items, items, recall=2)
