"""Collections that would blow up hashing by buckets: right answers, in bounded time and space."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from helpers.clusters import clustered
from helpers.segments import Floats, collection_of, unit
from lookalike import Index
from lookalike.search.exact import exact
from lookalike.search.searcher import Searcher

MANY = 100_000
WIDTH = 32


def copies() -> Floats:
    return np.repeat(unit((1, WIDTH), 0), MANY, axis=0)


def zeros() -> Floats:
    return np.zeros((MANY, WIDTH), np.float32)


def one_huge() -> Floats:
    vectors = clustered(MANY, width=WIDTH)
    vectors[77] *= 1e6
    return vectors


def nine_tenths_copies() -> Floats:
    vectors = clustered(MANY, width=WIDTH)
    vectors[: MANY * 9 // 10] = vectors[-1]
    return vectors


_LONG = [
    pytest.param(make, marks=pytest.mark.long) for make in (nine_tenths_copies, zeros, one_huge)
]


@pytest.mark.parametrize("make", [copies, *_LONG])
def test_a_hundred_thousand(
    make: Callable[[], Floats], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOOKALIKE_CACHE", str(tmp_path / "cache"))
    vectors = make()
    collection = collection_of(vectors, tmp_path / "odd.index", [50_000, 30_000, 20_000])
    ready = Searcher(collection)
    shares = []
    for row in (0, 77, *range(MANY - 10_000, MANY, 700)):
        wanted = exact(ready.rows, vectors[row], 10)
        for engine in ("auto", "approximate"):
            found, *_ = ready.nearest(vectors[row], 10, engine=engine)
            assert len({one.id for one in found}) == 10
            far = np.array([one.distance for one in found])
            near = np.array([one.distance for one in wanted])
            assert (far >= near).all()
            shares.append(np.isin(far, near).mean())
            assert far[0] == 0, "itself, or a copy"
    assert np.mean(shares) > 0.95
    table = Index(collection).kneighbors(k=5, engine="approximate").write(tmp_path / "out")
    assert table.count() == 5 * MANY
    rows = pq.read_table(tmp_path / "out").to_pandas()
    assert (rows.groupby("query_id")["neighbor_id"].nunique() == 5).all()
    assert (rows["query_id"] != rows["neighbor_id"]).all()
    found_of = rows.set_index(["query_id", "rank"])["distance"]
    same = 0
    for row in range(0, MANY, 4999):
        nearest = exact(ready.rows, vectors[row], 5, without=row)
        same += sum(
            abs(found_of[row, rank] - one.distance) < 1e-3 for rank, one in enumerate(nearest, 1)
        )
    assert same >= 0.95 * 5 * len(range(0, MANY, 4999))
    written = sum(file.stat().st_size for file in (tmp_path / "out").iterdir())
    assert written < 2 * vectors.nbytes
