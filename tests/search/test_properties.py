"""What holds of search whatever the collection: properties, tried on many drawn ones."""

from functools import cache
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.clusters import KINDS, addition, clustered
from helpers.partitions import partition_of
from helpers.segments import Floats, Piece, in_pieces, reference
from lookalike.search.approximate import approximate
from lookalike.search.cells import Cells, Rotation
from lookalike.search.exact import exact, exact_many
from lookalike.search.knn.partitions import Partition
from lookalike.search.recall import RecallProfile, measure_profile, sample_queries
from lookalike.search.rows import Neighbor, Rows
from lookalike.search.signatures import Effort, Signatures
from lookalike.storage import Segment

slow = settings(deadline=None, max_examples=40)


@st.composite
def collections(draw: st.DrawFn, least: int = 1) -> tuple[Floats, list[int]]:
    """Vectors, with copies, zeros and long ones among them, and how they are cut into segments."""
    count = draw(st.integers(least, 400))
    width = draw(st.sampled_from([1, 3, 16, 65]))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    vectors = rng.normal(size=(count, width)).astype(np.float32)
    if draw(st.booleans()):
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    copies = draw(st.integers(0, count))
    vectors[rng.integers(count, size=copies)] = vectors[0]
    if draw(st.booleans()):
        vectors[rng.integers(count)] = 0
    if draw(st.booleans()):
        vectors[rng.integers(count)] *= 1000
    cuts = sorted(draw(st.lists(st.integers(0, count), max_size=4)))
    return vectors, np.diff([0, *cuts, count]).tolist()


def signed(vectors: Floats, rows: Rows) -> Signatures:
    rotation = Rotation.fit(vectors)
    cells = Cells.fit(rotation, rotation(vectors), max(len(vectors), 1500))
    homes = [cells.assign(one.vectors) for one in rows.segments]
    codes = [cells.encode(a.vectors, b) for a, b in zip(rows.segments, homes, strict=True)]
    return Signatures(cells, homes, codes)


@slow
@given(collections(), st.integers(1, 30), st.integers(0, 10**6))
def test_exact_search_is_the_reference(made: tuple[Floats, list[int]], k: int, seed: int) -> None:
    vectors, sizes = made
    segments = in_pieces(vectors, sizes)
    rng = np.random.default_rng(seed)
    query = vectors[rng.integers(len(vectors))] + rng.choice([0, 0.1]) * rng.normal(
        size=vectors.shape[1]
    )
    query = query.astype(np.float32)
    found = exact(Rows(segments), query, k)
    wanted = reference(segments, query, k)
    assert len(found) == len({one.id for one in found}) == min(k, len(vectors))
    # Where two are as good as equally far, their order may be either.
    assert np.allclose([one.distance for one in found], [far for _, far in wanted], rtol=1e-4)
    many, _ = exact_many(Rows(segments), query[None], k)
    scale = max(float(np.linalg.norm(vectors, axis=1).max()), 1.0)
    assert np.allclose(
        np.sqrt(np.maximum(many[0, : len(wanted)], 0)),
        [far for _, far in wanted],
        atol=2e-3 * scale,
    )


@slow
@given(collections(least=30), st.integers(1, 12), st.integers(0, 10**6))
def test_approximate_search(made: tuple[Floats, list[int]], k: int, seed: int) -> None:
    vectors, sizes = made
    rows = Rows(in_pieces(vectors, sizes))
    signatures = signed(vectors, rows)
    own = int(np.random.default_rng(seed).integers(len(vectors)))
    effort = Effort(3, 10)
    found, compared = approximate(rows, signatures, vectors[own], k, effort)
    assert len(found) == len({one.id for one in found}) == k, "k of them, each once"
    assert [one.distance for one in found] == sorted(one.distance for one in found)
    every = Effort(3, len(vectors))  # candidates: whatever the signatures say of so few directions
    nearest = approximate(rows, signatures, vectors[own], k, every)[0][0]
    assert nearest.distance == 0, "a vector finds itself or its like"
    assert approximate(rows, signatures, vectors[own], k, effort) == (found, compared)
    again = approximate(rows, signed(vectors, rows), vectors[own], k, effort)
    assert again == (found, compared), "made anew, signatures are the same"
    without = approximate(rows, signatures, vectors[own], k, effort, without=int(rows.ids[own]))[0]
    assert int(rows.ids[own]) not in {one.id for one in without}
    assert len(without) == min(k, len(vectors) - 1)


@slow
@given(collections(least=30), collections(), st.integers(1, 12), st.integers(0, 10**6))
def test_adding_and_removing_leaves_results_as_before(
    made: tuple[Floats, list[int]], more: tuple[Floats, list[int]], k: int, seed: int
) -> None:
    """Rows that are far from all others come, anywhere among them, and go again."""
    vectors, sizes = made
    before = Rows(in_pieces(vectors, sizes))
    far = np.resize(more[0], (len(more[0]), vectors.shape[1])).astype(np.float64) + 1e-3
    far *= 1e5 / np.linalg.norm(far, axis=1, keepdims=True)
    order = np.random.default_rng(seed).permutation(len(vectors) + len(far))
    all_ids = np.concatenate([before.ids, np.arange(len(far)) + 10**6])[order]
    cut = len(order) // 3
    mixed = in_pieces(np.concatenate([vectors, far])[order], [cut, len(order) - cut])
    left = []
    for segment, some in zip(mixed, np.split(all_ids, [cut]), strict=True):
        segment.ids = some
        left.append(Piece(segment.vectors[some < 10**6], some[some < 10**6]))
    grown, again = Rows(mixed), Rows(cast("list[Segment]", left))
    cells = signed(vectors, before).cells

    def of(rows: Rows) -> Signatures:
        homes = [cells.assign(one.vectors) for one in rows.segments]
        signs = [cells.encode(a.vectors, b) for a, b in zip(rows.segments, homes, strict=True)]
        return Signatures(cells, homes, signs)

    def told(found: list[Neighbor]) -> list[tuple[int, float]]:
        return [(one.number, one.distance) for one in found]

    effort = Effort(2, 20)
    few, many, same = of(before), of(grown), of(again)
    for query in vectors[:3]:
        wanted = [distance for _, distance in reference(before.segments, query, k)]
        for rows in (grown, again):
            found = [one.distance for one in exact(rows, query, k)]
            assert np.allclose(found, wanted, rtol=1e-4)
        alone, compared = approximate(before, few, query, k, effort)
        once_more, as_many = approximate(again, same, query, k, effort)
        assert as_many == compared
        together, beside = approximate(grown, many, query, k, effort)
        held = np.count_nonzero(few.nearest(query[None], len(before), effort.cells)[1] >= 0)
        if compared is not None:
            assert told(once_more) == told(alone)
        if compared is not None and beside is not None and held >= k:
            assert told(together) == told(alone)
        distances = dict(zip(grown.ids.tolist(), grown.squared_distances(query), strict=True))
        assert all(one.distance**2 == pytest.approx(distances[one.id]) for one in together)


@cache
def base(width: int) -> tuple[Floats, Signatures, RecallProfile]:
    """Rows that were there before, their signatures, and what these are worth."""
    vectors = clustered(5000, 0, width)
    rows = Rows(in_pieces(vectors, [5000]))
    signatures = signed(vectors, rows)
    return vectors, signatures, measure_profile(signatures, sample_queries(rows, 200), 5000, 5000)


@settings(deadline=None, max_examples=10)
@given(
    st.sampled_from(KINDS),
    st.sampled_from([16, 96, 384]),
    st.sampled_from([60, 700]),
    st.sampled_from([1, 5, 50]),
    st.sampled_from([0.9, 0.98, 0.999]),
    st.sampled_from([1, 50]),
)
def test_what_is_added_is_found_without_being_measured(
    kind: str, width: int, count: int, k: int, recall: float, segments: int
) -> None:
    vectors, signatures, measured = base(width)
    added = addition(kind, vectors, count)
    sizes = [len(part) for part in np.array_split(added, segments)]
    rows = Rows(in_pieces(np.concatenate([vectors, added]), [len(vectors), *sizes]))
    cells = signatures.cells
    homes = [cells.assign(one.vectors) for one in rows.segments]
    signs = [cells.encode(a.vectors, b) for a, b in zip(rows.segments, homes, strict=True)]
    grown = Signatures(cells, homes, signs)
    effort = measured.effort(recall, k)
    if effort is None:  # left to exact search
        return
    shares = []
    for query in (*added[:: count // 30], *vectors[:30]):
        found = {one.id for one in approximate(rows, grown, query, k, effort)[0]}
        shares.append(len(found & {one.id for one in exact(rows, query, k)}) / k)
    assert np.mean(shares) >= recall - 0.03


@slow
@given(collections(least=30), st.integers(1, 12), st.booleans())
def test_rows_that_a_task_holds(made: tuple[Floats, list[int]], k: int, own: bool) -> None:
    vectors, sizes = made
    segments = Rows(in_pieces(vectors, sizes)).segments
    ids = np.concatenate([segment.ids for segment in segments])
    without = ids[:5] if own else None
    found, distances = Partition.load(segments).nearest(vectors[:5], k, without)
    for query, some, far in zip(range(5), found, distances, strict=True):
        left = int(ids[query]) if own else None
        wanted = reference(segments, vectors[query], k, left)
        kept = np.isfinite(far)
        assert kept.sum() == len(wanted) == len(set(some[kept].tolist()))
        scale = max(float(np.linalg.norm(vectors, axis=1).max()), 1.0)
        assert np.allclose(far[kept], [one for _, one in wanted], atol=2e-3 * scale)
    rotation = Rotation.fit(vectors)
    cells = Cells.fit(rotation, rotation(vectors), 1500)
    rows = np.concatenate([segment.vectors for segment in segments])
    everything = partition_of(rows, cells, k + own, ids)
    number = np.repeat(np.arange(5), len(cells))
    looks = number, np.tile(np.arange(len(cells)), 5)
    by_cells = everything.nearest_in_cells(vectors[:5], k, without, looks, len(vectors))
    assert np.array_equal(np.isfinite(by_cells[1]), np.isfinite(distances))
    there = np.isfinite(distances)
    assert np.allclose(by_cells[1][there], distances[there], atol=2e-3 * scale)
