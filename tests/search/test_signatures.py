"""Signatures: estimates against distances, search by them against exact search, odd collections."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from helpers.clusters import WIDTH, clustered, ids
from helpers.segments import Floats, in_pieces, reference, unit
from lookalike import LookalikeError
from lookalike.search.approximate import approximate
from lookalike.search.cells import MEAN_CELL_ROWS, Cells, Rotation
from lookalike.search.exact import exact, exact_many, within
from lookalike.search.filters import Filter
from lookalike.search.rows import Rows
from lookalike.search.signatures import Effort, Signatures


@pytest.fixture(scope="module")
def vectors() -> Floats:
    return clustered(6000)


@pytest.fixture(scope="module")
def rotation(vectors: Floats) -> Rotation:
    return Rotation.fit(vectors[::2], 64)


@pytest.fixture(scope="module")
def cells(vectors: Floats, rotation: Rotation) -> Cells:
    return Cells.fit(rotation, rotation(vectors), len(vectors))


def signatures_of(cells: Cells, parts: Sequence[Floats]) -> Signatures:
    homes = [cells.assign(part) for part in parts]
    codes = [cells.encode(part, home) for part, home in zip(parts, homes, strict=True)]
    return Signatures(cells, homes, codes)


def signed(cells: Cells, rows: Rows) -> Signatures:
    return signatures_of(cells, [segment.vectors for segment in rows.segments])


# --- the rotation ---------------------------------------------------------------------------------


def test_a_rotation_turns_and_does_not_stretch(vectors: Floats) -> None:
    whole = Rotation.fit(vectors, WIDTH)
    assert np.allclose(whole.directions @ whole.directions.T, np.eye(WIDTH), atol=1e-4)
    some, others = whole(vectors[:50]), whole(vectors[50:100])
    wanted = np.linalg.norm(vectors[:50] - vectors[50:100], axis=1)
    assert np.allclose(np.linalg.norm(some - others, axis=1), wanted, atol=1e-4)
    assert np.allclose(whole(vectors).mean(axis=0), 0, atol=1e-3)


def test_fewer_directions_are_the_leading_ones(vectors: Floats, rotation: Rotation) -> None:
    assert rotation.directions.shape == (64, WIDTH)
    kept = rotation(vectors).var(axis=0).sum() / vectors.var(axis=0).sum()
    anyhow = np.linalg.qr(np.random.default_rng(0).normal(size=(WIDTH, 64)))[0]
    assert kept > 0.85 > (vectors @ anyhow).var(axis=0).sum() / vectors.var(axis=0).sum()


def test_cells_are_the_same_for_the_same_sample(vectors: Floats, tmp_path: Path) -> None:
    def fitted(some: Floats) -> Cells:
        rotation = Rotation.fit(some)
        return Cells.fit(rotation, rotation(some), 3000)

    one, two = fitted(vectors[:500]), fitted(vectors[:500].copy())
    assert one.fingerprint == two.fingerprint != fitted(vectors[:501]).fingerprint
    one.save(tmp_path / "cells.npz")
    again = Cells.load(tmp_path / "cells.npz")
    assert (again.fingerprint, again.rows) == (one.fingerprint, 3000)
    assert list(tmp_path.iterdir()) == [tmp_path / "cells.npz"]


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04", b"not an archive"])
def test_damaged_cells(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "cells.npz").write_bytes(content)
    with pytest.raises(LookalikeError, match="no cells in"):
        Cells.load(tmp_path / "cells.npz")


def test_a_crowd_gets_more_cells(rotation: Rotation) -> None:
    crowd = clustered(1, seed=1) + 0.02 * unit((12_000, WIDTH), 2)
    vectors = np.concatenate([clustered(6000), crowd])
    rotated = rotation(vectors)
    cells = Cells.fit(rotation, rotated, len(vectors))
    held = np.bincount(cells.nearest(rotated, 1)[:, 0], minlength=len(cells))
    assert len(cells) == pytest.approx(18_000 / MEAN_CELL_ROWS, rel=0.1)
    assert held.sum() == 18_000 and held.max() < 8 * MEAN_CELL_ROWS


def test_home_is_the_nearest_cell(vectors: Floats, cells: Cells) -> None:
    rotated = cells.rotation(vectors[:50])
    distances = np.linalg.norm(rotated[:, None] - cells.centres[None], axis=2)
    assert np.array_equal(cells.assign(vectors[:50]), distances.argmin(axis=1))
    nearest = cells.nearest(rotated, 5)
    assert np.array_equal(nearest, distances.argsort(axis=1)[:, :5])
    assert cells.nearest(rotated, 10_000).shape == (50, len(cells))


@pytest.mark.parametrize(
    "sample",
    [np.zeros((50, 8)), np.ones((50, 8)), np.eye(8)[:3], np.eye(8)[:1], np.eye(8).repeat(9, 0)],
    ids=["zeros", "equal", "three", "one", "copies"],
)
def test_samples_with_hardly_a_direction(sample: npt.NDArray[np.float64]) -> None:
    rotation = Rotation.fit(sample.astype(np.float32), 8)
    assert np.isfinite(rotation.directions).all() and np.isfinite(rotation.offset).all()
    assert np.allclose(rotation.directions @ rotation.directions.T, np.eye(8), atol=1e-3)


# --- signatures -----------------------------------------------------------------------------------


def test_a_signature_is_small_and_stays(vectors: Floats, cells: Cells) -> None:
    homes = cells.assign(vectors)
    codes = cells.encode(vectors, homes)
    assert (codes.shape, codes.dtype.name) == ((6000, 64 // 8 + 8), "uint8")
    again = cells.encode(vectors[100:110], homes[100:110])
    assert np.array_equal(codes[100:110, :8], again[:, :8]), "signs, whatever is signed beside"
    numbers, others = (one[:, 8:].copy().view(np.float32) for one in (codes[100:110], again))
    assert np.allclose(numbers, others, rtol=1e-4)


def test_estimates_are_near_to_distances(vectors: Floats, cells: Cells) -> None:
    signatures = signatures_of(cells, [vectors])
    rotated = cells.rotation(vectors)
    estimates, rows = signatures.nearest(vectors[:20], 6000, len(cells))
    for query, some, found in zip(rotated[:20], estimates, rows, strict=True):
        assert sorted(found) == list(range(6000))
        assert (np.diff(some) >= 0).all()
        distances = ((rotated[found] - query) ** 2).sum(axis=1)
        assert np.corrcoef(some, distances)[0, 1] > 0.8
        assert abs((some - distances).mean()) < 0.05 * distances.mean()


def test_only_near_cells_are_looked_into(vectors: Floats, cells: Cells) -> None:
    signatures = signatures_of(cells, [vectors])
    homes = cells.assign(vectors)
    near = cells.nearest(cells.rotation(vectors[:20]), 3)
    for some, looked_into in zip(signatures.nearest(vectors[:20], 6000, 3)[1], near, strict=True):
        found = some[some >= 0]
        assert sorted(found) == np.flatnonzero(np.isin(homes, looked_into)).tolist()


def test_places_count_the_cells_nearest_first(vectors: Floats, cells: Cells) -> None:
    signatures = signatures_of(cells, [vectors])
    for query in vectors[:5]:
        _, (found,), (near,) = signatures.nearest_with_cells(query[None], 6000, 7)
        rows = found[found >= 0]
        places = signatures.cell_ranks(rows, near)
        assert np.array_equal(near[places - 1], signatures.assignments[rows])
        assert set(places.tolist()) == set(range(1, 8))
        assert signatures.cell_ranks(rows[:0], near).shape == (0,)


@pytest.mark.parametrize("cut", [[6000], [1, 31, 32, 33, 0, 5903], [2000] * 3], ids=str)
def test_parts_are_one_whole(vectors: Floats, cells: Cells, cut: list[int]) -> None:
    whole = signatures_of(cells, [vectors])
    split = signatures_of(cells, np.split(vectors, np.cumsum(cut)[:-1]))
    assert len(split) == len(whole) == 6000
    some, all_ = split.nearest(vectors[:9], 50, 8), whole.nearest(vectors[:9], 50, 8)
    assert np.allclose(some[0], all_[0], atol=1e-4) and np.array_equal(some[1], all_[1])


def test_only_allowed_rows(vectors: Floats, cells: Cells) -> None:
    signatures = signatures_of(cells, [vectors])
    allowed = np.random.default_rng(1).random(6000) < 0.1
    for mask, count in ((allowed, 30), (allowed, 6000), (~allowed, 30)):
        estimates, rows = signatures.nearest(vectors[:3], count, len(cells), mask)
        for own, some in zip(estimates, rows, strict=True):
            found = some[some >= 0]
            assert len(found) == min(count, mask.sum()) == len(set(found))
            assert mask[found].all()
            assert (np.diff(own[: len(found)]) >= 0).all()


def test_no_rows(cells: Cells) -> None:
    estimates, rows = Signatures(cells, [], []).nearest(unit((2, WIDTH), 0), 5, 3)
    assert estimates.shape == rows.shape == (2, 0)


# --- search by them -------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [[6000], [17, 0, 3000, 2983]], ids=str)
def test_most_neighbours_are_found(vectors: Floats, cells: Cells, sizes: list[int]) -> None:
    rows = Rows(in_pieces(vectors, sizes))
    signatures = signed(cells, rows)
    queries = clustered(6100)[6000:]
    shares = []
    for query in queries:
        found, compared = approximate(rows, signatures, query, 10, Effort(8, 150))
        assert compared == 150
        wanted = exact(rows, query, 10)
        assert len(found) == len(set(ids(found))) == 10
        assert (found, compared) == approximate(rows, signatures, query, 10, Effort(8, 150))
        distances = dict(zip(rows.ids.tolist(), rows.squared_distances(query), strict=True))
        assert all(one.distance == float(distances[one.id]) ** 0.5 for one in found)
        shares.append(len(set(ids(found)) & set(ids(wanted))) / 10)
    assert np.mean(shares) > 0.97


def test_a_row_finds_itself_or_leaves_itself_out(vectors: Floats, cells: Cells) -> None:
    rows = Rows(in_pieces(vectors, [2500, 3500]))
    signatures = signed(cells, rows)
    for row in range(0, 6000, 97):
        own = int(rows.ids[row])
        first, *rest = approximate(rows, signatures, vectors[row], 6, Effort(3, 60))[0]
        assert (first.id, first.distance) == (own, 0.0)
        assert own not in ids(
            approximate(rows, signatures, vectors[row], 5, Effort(3, 60), without=own)[0]
        )
        assert len(rest) == 5


def test_few_candidates_are_enough_for_k(vectors: Floats, cells: Cells) -> None:
    rows = Rows(in_pieces(vectors, [6000]))
    signatures = signed(cells, rows)
    for k, count in ((50, 1), (1, 1), (6000, 10), (10_000, 1)):
        assert len(approximate(rows, signatures, vectors[0], k, Effort(1, count))[0]) == min(
            k, 6000
        )


@pytest.mark.parametrize("share", [0.5, 0.05, 0.001, 0.0])
def test_filters(vectors: Floats, cells: Cells, share: float) -> None:
    rows = Rows(in_pieces(vectors, [1000, 5000]))
    signatures = signed(cells, rows)
    allowed = np.random.default_rng(3).random(6000) < share
    wanted = set(rows.ids[allowed].tolist())
    for query in clustered(6010)[6000:]:
        some = exact(rows, query, 10, allowed=allowed)
        found, _ = approximate(rows, signatures, query, 10, Effort(10, 200), allowed=allowed)
        assert len(some) == len(found) == min(10, len(wanted))
        assert set(ids(some)) <= wanted and set(ids(found)) <= wanted
        order = np.argsort(rows.squared_distances(query), kind="stable")
        assert ids(some) == [number for number in rows.ids[order].tolist() if number in wanted][:10]


def test_within_a_distance(vectors: Floats) -> None:
    rows = Rows(in_pieces(vectors, [1000, 5000]))
    everyone = exact(rows, vectors[5], 6000)
    middle = everyone[100].distance
    assert ids(within(rows, vectors[5], middle)) == ids(
        [one for one in everyone if one.distance <= middle]
    )
    assert ids(within(rows, vectors[5], middle, 7)) == ids(everyone[:7])
    for near in everyone[::300]:
        assert near in within(rows, vectors[5], near.distance), "as far as it is said to be"
    assert ids(within(rows, vectors[5], 0)) == [everyone[0].id]
    assert within(rows, vectors[5], 0, without=everyone[0].number) == []
    odd = rows.ids % 2 == 1
    some = within(rows, vectors[5], middle, allowed=odd)
    assert ids(some) == [one.id for one in everyone[:101] if one.id % 2]


def test_many_at_once(vectors: Floats) -> None:
    segments = in_pieces(vectors, [0, 1000, 5000, 0])
    queries = clustered(6050)[6000:]
    squared, found = exact_many(Rows(segments), queries, 10)
    for query, own, some in zip(queries, squared, found, strict=True):
        wanted = reference(segments, query, 10)
        assert [int(Rows(segments).ids[row]) for row in some] == [number for number, _ in wanted]
        assert np.allclose(np.sqrt(own), [d for _, d in wanted], atol=1e-3)
    assert exact_many(Rows(in_pieces(vectors[:3], [3])), queries, 5)[1][0, 3:].tolist() == [-1, -1]


def test_paths_and_labels() -> None:
    rows = Rows(
        in_pieces(unit((30, 8), 0), [10, 20])
    )  # ids are 0, 3, 6 to 87; odd ones have labels

    def left(labels: list[str] | None, globs: list[str] | None) -> list[int]:
        mask = rows.chosen(Filter.of(labels, globs))
        assert mask is not None
        return sorted(rows.ids[mask].tolist())

    assert rows.chosen(Filter()) is None
    assert left(["make 3", "make 87", "nobody"], None) == [3, 87]
    assert left(None, ["1*.jpg"]) == [12, 15, 18]
    assert left(None, ["[36].jpg", "8?.jpg"]) == [3, 6, 81, 84, 87]
    assert left(["make 3", "make 81"], ["8*"]) == [81]
    assert left(None, ["*"]) == sorted(rows.ids.tolist())
    assert left(None, ["*1*.j*g"]) == [12, 15, 18, 21, 51, 81]
    assert left(None, ["[!1-9]*"]) == [0]
    assert left(None, ["**"]) == left(None, ["?*"]) == sorted(rows.ids.tolist())
    with pytest.raises(LookalikeError, match="no glob for paths"):
        left(None, ["[z-a].jpg"])
    assert left(None, ["*.JPG"]) == left([], None) == left(None, []) == []


# --- odd collections ------------------------------------------------------------------------------


def heap_of_copies() -> Floats:
    return np.repeat(unit((1, WIDTH), 0), 5000, axis=0)


def zeros() -> Floats:
    return np.zeros((5000, WIDTH), np.float32)


def one_huge() -> Floats:
    vectors = clustered(5000)
    vectors[77] *= 1e6
    return vectors


def half_copies() -> Floats:
    vectors = clustered(5000)
    vectors[::2] = vectors[0]
    return vectors


@pytest.mark.parametrize("make", [heap_of_copies, zeros, one_huge, half_copies])
def test_odd_collections_get_right_answers(make: Callable[[], Floats]) -> None:
    vectors = make()
    rows = Rows(in_pieces(vectors, [1200, 3800]))
    rotation = Rotation.fit(vectors[:1000], 64)
    signatures = signed(Cells.fit(rotation, rotation(vectors[:1000]), 5000), rows)
    for query in (vectors[0], vectors[1], clustered(5001)[5000]):
        found, compared = approximate(rows, signatures, query, 12, Effort(10, 100))
        wanted = exact(rows, query, 12)
        assert len(found) == len(set(ids(found))) == 12
        shared = set(ids(found)) & set(ids(wanted))
        assert len(shared) >= 9, "copies are found by their ids, the others mostly"
        if make in (heap_of_copies, zeros):
            assert (found, compared) == (wanted, None)
    (own,), _ = approximate(rows, signatures, vectors[77], 1, Effort(2, 50))
    assert own.distance == 0


@pytest.mark.parametrize("count", [1, 2, 3])
def test_three_images(count: int) -> None:
    vectors = unit((count, WIDTH), 0)
    rows = Rows(in_pieces(vectors, [count]))
    rotation = Rotation.fit(vectors)
    signatures = signed(Cells.fit(rotation, rotation(vectors), count), rows)
    query = unit((1, WIDTH), 1)[0]
    assert approximate(rows, signatures, query, 5, Effort(1, 10)) == (exact(rows, query, 5), None)
