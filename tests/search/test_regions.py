"""Search over regions, against exact search of all rows."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from helpers.clusters import clustered, ids
from helpers.command import run
from helpers.segments import Floats, collection_of, grown
from lookalike import Index, LookalikeError, Neighbor
from lookalike.search import row_lookup, searcher
from lookalike.search.exact import exact
from lookalike.search.regions import Regions, build_regions, open_regions
from lookalike.search.rows import Rows
from lookalike.storage import EmbeddingTable, commits
from lookalike.storage.region_folders import REGIONS, region_folders

ROWS, QUERIES = 3000, 60
HALF = 5e-4
"""How far half precision moves a vector of length 1."""


@pytest.fixture(scope="module")
def vectors() -> Floats:
    return clustered(ROWS + QUERIES)


@pytest.fixture(scope="module")
def made(vectors: Floats, tmp_path_factory: pytest.TempPathFactory) -> EmbeddingTable:
    """An index with regions of some hundred rows, which the tests copy."""
    folder = tmp_path_factory.mktemp("cars") / "cars.index"
    table = collection_of(vectors[:ROWS], folder, [700, 1, 1299, 1000])
    built = build_regions(table, spark=False, max_region_rows=400)
    assert (built.rows, built.added) == (ROWS, ROWS) and built.files > 7
    return table


@pytest.fixture
def table(made: EmbeddingTable, tmp_path: Path) -> EmbeddingTable:
    """A copy that may be changed."""
    shutil.copytree(made.path, tmp_path / "cars.index")
    return EmbeddingTable.open(tmp_path / "cars.index")


@pytest.fixture(autouse=True)
def used_for_few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searcher, "EXACT_UP_TO", 100)
    monkeypatch.setattr(row_lookup, "EXACT_UP_TO", 100)


def opened(table: EmbeddingTable) -> Regions:
    regions = open_regions(table)
    assert regions is not None
    return regions


def found_by(
    regions: Regions, query: Floats, k: int = 10, without: int | None = None
) -> list[Neighbor]:
    answer = regions.nearest(query, k, 0.98, without)
    assert answer is not None
    return answer[0]


def recall(table: EmbeddingTable, queries: Floats) -> float:
    """Compare with exact search of the version that is open."""
    regions, rows = opened(table), Rows(table.segments)
    shares = []
    for query in queries:
        wanted, found = exact(rows, query, 10), found_by(regions, query)
        assert [one.rank for one in found] == list(range(1, 11))
        near = {one.number: one.distance for one in wanted}
        assert all(abs(one.distance - near.get(one.number, one.distance)) < HALF for one in found)
        assert {one.number for one in found} <= set(rows.ids.tolist())
        shares.append(len(near.keys() & {one.number for one in found}) / 10)
    return float(np.mean(shares))


def test_it_reaches_the_recall_that_it_states(made: EmbeddingTable, vectors: Floats) -> None:
    assert recall(made, vectors[ROWS:]) >= 0.97
    stated = opened(made).profile.recall
    assert all(one is not None and one > 0.9 for one in stated)


def test_neighbours_have_all_that_rows_have(made: EmbeddingTable, vectors: Floats) -> None:
    rows = Rows(made.segments)
    for one in found_by(opened(made), vectors[7], 5, without=7):
        (at,) = rows.find(np.array([one.number])).tolist()
        assert (one.path, one.label) == (rows.paths[at].as_py(), rows.labels[at].as_py())
        assert (one.id, one.content_hash) == (one.number, rows.hashes[at].as_py())
        assert one.number != 7
    assert found_by(opened(made), vectors[7], 1)[0].number == 7


@pytest.mark.parametrize("k", [1, 40, ROWS])
def test_any_number_of_neighbours(made: EmbeddingTable, vectors: Floats, k: int) -> None:
    found = found_by(opened(made), vectors[ROWS], k)
    assert len(ids(found)) == len(set(ids(found))) == k
    distances = [one.distance for one in found]
    assert distances == sorted(distances)


def test_a_query_far_from_all_rows(made: EmbeddingTable, vectors: Floats) -> None:
    rows = Rows(made.segments)
    far = -vectors[:ROWS].mean(axis=0)
    query = (far / np.linalg.norm(far)).astype(np.float32)
    wanted = set(ids(exact(rows, query, 10)))
    assert len(wanted & set(ids(found_by(opened(made), query)))) >= 8


def test_rows_that_came_later_are_found_at_once(table: EmbeddingTable, vectors: Floats) -> None:
    later = grown(table, vectors[ROWS:])
    found = found_by(opened(later), vectors[ROWS + 3], 3)
    assert (found[0].number, found[0].distance, found[0].path) == (ROWS + 3, 0.0, f"{ROWS + 3}.jpg")
    assert found[0].content_hash == f"{ROWS + 3:032x}"
    assert recall(later, vectors[ROWS:]) >= 0.97
    assert found_by(opened(table), vectors[ROWS + 3], 1)[0].number < ROWS, "an older version"


def test_rows_that_are_gone_are_not_found(table: EmbeddingTable, vectors: Floats) -> None:
    nearest = ids(found_by(opened(table), vectors[ROWS], 10))
    gone = np.array(sorted(nearest[:4]))
    smaller = commits.remove(table, lambda _: gone, "remove")
    assert ids(found_by(opened(smaller), vectors[ROWS], 6)) == nearest[4:]
    assert recall(smaller, vectors[ROWS:]) >= 0.97


def test_a_whole_file_that_is_gone(table: EmbeddingTable, vectors: Floats) -> None:
    smaller = commits.remove(table, lambda _: np.arange(701, 2000), "remove")
    assert recall(smaller, vectors[ROWS:]) >= 0.97


def test_merged_segments_change_nothing(table: EmbeddingTable, vectors: Floats) -> None:
    later = grown(table, vectors[ROWS:], [20, 40])
    later = commits.remove(later, lambda _: np.array([5, ROWS + 1]), "remove")
    merged = commits.compact(later, 2)
    assert len(merged.files()) < len(later.files())
    for version in (later, merged):
        assert recall(version, vectors[ROWS:]) >= 0.97
        assert ROWS + 1 not in ids(found_by(opened(version), vectors[ROWS + 1], 40))
        assert 5 not in ids(found_by(opened(version), vectors[5], 40))
        assert ROWS in ids(found_by(opened(version), vectors[ROWS], 1))


def test_added_rows_are_added_to_the_regions(table: EmbeddingTable, vectors: Floats) -> None:
    later = commits.remove(grown(table, vectors[ROWS:]), lambda _: np.array([9, 11]), "remove")
    built = build_regions(later, spark=False)
    assert (built.added, built.rows, built.version) == (QUERIES, ROWS + QUERIES - 2, later.version)
    regions = opened(later)
    assert (regions.changes.count, len(regions.header.folders)) == (0, 2)
    assert found_by(regions, vectors[ROWS + 3], 1)[0].number == ROWS + 3
    assert 9 not in ids(found_by(regions, vectors[9], 40))
    assert recall(later, vectors[ROWS:]) >= 0.97
    assert build_regions(later, spark=False).added == 0, "nothing is left to add"
    assert len(region_folders(later.path)) == 2
    later = commits.remove(later, lambda _: np.array([13, ROWS + 3]), "remove")
    for number in (9, 11, 13):
        assert number not in ids(found_by(opened(later), vectors[number], 40))
    assert ROWS + 3 not in ids(found_by(opened(later), vectors[ROWS + 3], 40))


def test_an_index_that_has_doubled_gets_new_cells(table: EmbeddingTable) -> None:
    more = clustered(2 * ROWS, seed=5)
    later = grown(table, more, [ROWS, ROWS])
    assert open_regions(later) is None, "most rows came later"
    built = build_regions(later, spark=False, max_region_rows=700)
    assert (built.added, built.rows) == (3 * ROWS, 3 * ROWS)
    assert len(opened(later).header.folders) == 1
    assert recall(later, more[:20]) >= 0.97


def test_crowds_of_equal_rows_are_divided(tmp_path: Path, vectors: Floats) -> None:
    crowd = np.concatenate([vectors[:1000], np.repeat(vectors[:1], 1500, axis=0)])
    table = collection_of(crowd, tmp_path / "crowd.index", [1000, 1500])
    built = build_regions(table, spark=False, max_region_rows=300)
    assert built.files >= 2500 / 400
    found = found_by(opened(table), vectors[0], 20)
    assert all(one.distance < HALF for one in found)
    assert ids(found) == [0, *range(1000, 1019)], "the first of those that are equal"
    assert recall(table, vectors[100:1000:50]) >= 0.95


def test_vectors_of_any_length(tmp_path: Path, vectors: Floats) -> None:
    import pyarrow as pa

    import lookalike

    given = vectors[:1500] * 10.0 ** np.random.default_rng(0).uniform(4, 6)
    rows = pa.table({"name": [f"row {n}" for n in range(1500)], "v": list(given)})
    index = lookalike.create_index(
        rows, tmp_path / "own.index", embedding_column="v", id_column="name", metric="l2"
    )
    index.build_regions(spark=False)
    found = index.search(id="row 7", k=5)
    assert found.engine == "approximate"
    exactly = index.search(id="row 7", k=5, engine="exact")
    assert [one.id for one in found] == [one.id for one in exactly]
    assert np.allclose([o.distance for o in found], [o.distance for o in exactly], rtol=1e-5)
    with pytest.raises(LookalikeError, match="no embedded row with the key 'row x'"):
        index.search(id="row x")


def test_the_index_searches_by_ranges(table: EmbeddingTable, vectors: Floats) -> None:
    index = Index(table)
    found = index.search(vectors[ROWS], k=10)
    assert found.engine == "approximate" and found.candidates is not None
    assert list(found) == found_by(opened(table), vectors[ROWS])
    by_id = index.search(id=12, k=4)
    assert 12 not in ids(list(by_id)) and by_id.query.label is None
    assert "rows" not in index._searcher.__dict__, "no row was mapped"
    with pytest.raises(LookalikeError, match="no embedded row with the id 98765"):
        index.search(id=98765)
    assert "rows" not in index._searcher.__dict__


@pytest.mark.parametrize(
    "options",
    [
        {"label": "make 3"},
        {"path": "1*.jpg"},
        {"where": "id % 7 = 2"},
        {"within": 0.7},
        {"engine": "exact"},
        {"recall": 1.0},
    ],
)
def test_what_regions_cannot_do_is_done_without(
    table: EmbeddingTable, vectors: Floats, options: dict[str, object], tmp_path: Path
) -> None:
    plain = tmp_path / "plain.index"
    shutil.copytree(table.path, plain, ignore=shutil.ignore_patterns(REGIONS))
    for query in vectors[ROWS : ROWS + 5]:
        found, wanted = (
            Index(EmbeddingTable.open(path)).search(query, k=10, **options)  # type: ignore[call-overload]
            for path in (table.path, plain)
        )
        assert (list(found), found.engine) == (list(wanted), wanted.engine)


def test_an_older_version_and_another_index_do_not_use_them(
    table: EmbeddingTable, tmp_path: Path, vectors: Floats
) -> None:
    shutil.rmtree(table.path / REGIONS)
    grown(table, vectors[ROWS:])
    later = EmbeddingTable.open(table.path)
    build_regions(later, spark=False)
    assert open_regions(EmbeddingTable.open(table.path, 0)) is None
    other = collection_of(vectors[:ROWS], tmp_path / "other.index", [ROWS])
    shutil.copytree(table.path / REGIONS, other.path / REGIONS)
    assert open_regions(grown(other, vectors[ROWS:])) is None


def test_too_few_rows(tmp_path: Path, vectors: Floats) -> None:
    table = collection_of(vectors[:9], tmp_path / "few.index", [9])
    with pytest.raises(LookalikeError, match="regions need 22"):
        build_regions(table, spark=False)


def files_of(table: EmbeddingTable, pattern: str) -> Sequence[Path]:
    return sorted((table.path / REGIONS).glob(f"*/{pattern}"))


@pytest.mark.parametrize("pattern", ["*.region", "cells.npz", "layout.npz", "profile.json"])
@pytest.mark.parametrize("how", ["cut", "gone", "other bytes"])
def test_damage_is_said_in_one_line_and_repaired(
    table: EmbeddingTable, vectors: Floats, pattern: str, how: str
) -> None:
    for file in files_of(table, pattern):
        if how == "gone":
            file.unlink()
        elif how == "cut":
            file.write_bytes(file.read_bytes()[:-9])
        else:
            content = np.frombuffer(file.read_bytes(), np.uint8).copy()
            content[len(content) // 3 : len(content) // 2] ^= 0x55
            file.write_bytes(content.tobytes())
    with pytest.raises(LookalikeError, match="`lookalike regions INDEX --anew`") as raised:
        for query in vectors[ROWS:]:
            found_by(opened(table), query)
    assert "\n" not in str(raised.value)
    checked = Index(table).check()
    assert checked.counts == {"signatures": 1}
    assert Index(table).repair().ok
    assert not region_folders(table.path)
    assert open_regions(table) is None


def test_info_tells_of_them(table: EmbeddingTable) -> None:
    about = Index(table).info()["regions"]
    assert about is not None and about.pop("recall") >= 0.95
    assert about == {"version": table.version, "rows": ROWS}
    assert "3,000 rows of version" in run("info", table.path).out
    for file in files_of(table, "profile.json"):
        file.write_text("{}")
    assert "reason" in (Index(table).info()["regions"] or {})


def test_damaged_regions_are_made_anew(table: EmbeddingTable, vectors: Floats) -> None:
    for file in files_of(table, "*.region"):
        file.unlink()
    with pytest.raises(LookalikeError, match="is missing"):
        found_by(opened(table), vectors[0])
    assert build_regions(table, spark=False, anew=True).added == ROWS
    assert recall(table, vectors[ROWS : ROWS + 5]) > 0.9, "of two of a version the later one"


def test_a_whole_index_is_whole(table: EmbeddingTable) -> None:
    assert Index(table).check().ok


def test_vacuum_deletes_what_no_version_needs(table: EmbeddingTable, vectors: Floats) -> None:
    (first,) = region_folders(table.path)
    later = grown(table, vectors[ROWS:])
    build_regions(later, spark=False)
    second, _ = region_folders(later.path)
    (later.path / REGIONS / "7-0123456789abcdef").mkdir()  # of a killed build
    (later.path / REGIONS / "7-0123456789abcdef" / "x.region").write_bytes(b"x")
    Index(later).vacuum(0)
    assert region_folders(later.path) == [second, first], "the second needs files of the first"
    assert not (later.path / REGIONS / "7-0123456789abcdef").exists()
    now = EmbeddingTable.open(later.path)
    assert recall(now, vectors[ROWS : ROWS + 10]) > 0.9
    build_regions(now, spark=False, anew=True)
    Index(now).vacuum(0)
    (third,) = region_folders(later.path)
    assert third not in (first, second)
    assert recall(EmbeddingTable.open(later.path), vectors[ROWS : ROWS + 10]) > 0.9
