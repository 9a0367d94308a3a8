"""What holds of search whatever the collection: properties, tried on many drawn ones."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lookalike.hashing.cells import Cells, Rotation
from lookalike.hashing.signatures import Effort, Signatures
from lookalike.neighbors.held import Held, HeldCells, Region
from lookalike.search import Rows, approximate, exact, exact_many
from segments import Floats, in_pieces, reference

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
    homes = [cells.home(one.vectors) for one in rows.segments]
    codes = [cells.sign(one.vectors, home) for one, home in zip(rows.segments, homes, strict=True)]
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
    assert found[0].distance == 0, "a vector finds itself or its like"
    assert approximate(rows, signatures, vectors[own], k, effort) == (found, compared)
    again = approximate(rows, signed(vectors, rows), vectors[own], k, effort)
    assert again == (found, compared), "made anew, signatures are the same"
    without = approximate(rows, signatures, vectors[own], k, effort, without=int(rows.ids[own]))[0]
    assert int(rows.ids[own]) not in {one.id for one in without}
    assert len(without) == min(k, len(vectors) - 1)


@slow
@given(collections(least=30), collections(), st.integers(1, 12))
def test_adding_and_removing_leaves_results_as_before(
    made: tuple[Floats, list[int]], more: tuple[Floats, list[int]], k: int
) -> None:
    vectors, sizes = made
    added = np.resize(more[0], (len(more[0]), vectors.shape[1])).astype(np.float32)
    before = in_pieces(vectors, sizes)
    after = in_pieces(np.concatenate([vectors, added]), [*sizes, len(added)])
    ids = Rows(before).ids
    grown = Rows(after)
    for segment, old in zip(after, before, strict=False):
        segment.ids = old.ids
    after[-1].ids = np.arange(len(added)) + 10**6
    cells = signed(vectors, Rows(before)).cells

    def of(rows: Rows) -> Signatures:
        homes = [cells.home(one.vectors) for one in rows.segments]
        signs = [cells.sign(a.vectors, b) for a, b in zip(rows.segments, homes, strict=True)]
        return Signatures(cells, homes, signs)

    effort = Effort(2, 20)
    for query in vectors[:3]:
        alone = approximate(Rows(before), of(Rows(before)), query, k, effort)
        assert exact(grown, query, k)[0].distance <= exact(Rows(before), query, k)[0].distance
        assert approximate(Rows(after[:-1]), of(Rows(after[:-1])), query, k, effort) == alone
        together = exact(grown, query, len(vectors) + len(added))
        assert {one.id for one in together} == {*ids.tolist(), *after[-1].ids.tolist()}


@slow
@given(collections(least=30), st.integers(1, 12), st.booleans())
def test_rows_that_a_task_holds(made: tuple[Floats, list[int]], k: int, own: bool) -> None:
    vectors, sizes = made
    segments = Rows(in_pieces(vectors, sizes)).segments
    ids = np.concatenate([segment.ids for segment in segments])
    without = ids[:5] if own else None
    found, distances = Held.of(segments).nearest(vectors[:5], k, without)
    for query, some, far in zip(range(5), found, distances, strict=True):
        left = int(ids[query]) if own else None
        wanted = reference(segments, vectors[query], k, left)
        kept = np.isfinite(far)
        assert kept.sum() == len(wanted) == len(set(some[kept].tolist()))
        scale = max(float(np.linalg.norm(vectors, axis=1).max()), 1.0)
        assert np.allclose(far[kept], [one for _, one in wanted], atol=2e-3 * scale)
    rotation = Rotation.fit(vectors)
    cells = Cells.fit(rotation, rotation(vectors), 1500)
    for segment in segments:
        segment.derived = lambda _kind, _of, make, segment=segment: make(segment)  # type: ignore
    everything = HeldCells(segments, cells, Region(0, len(cells), 0, 1), k + own)
    number = np.repeat(np.arange(5), len(cells))
    looks = number, np.tile(np.arange(len(cells)), 5)
    by_cells = everything.nearest_in(vectors[:5], k, without, looks, len(vectors))
    assert np.array_equal(np.isfinite(by_cells[1]), np.isfinite(distances))
    there = np.isfinite(distances)
    assert np.allclose(by_cells[1][there], distances[there], atol=2e-3 * scale)
